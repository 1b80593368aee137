package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"strongroom/acl"
	"strongroom/acl/bundles"
	examples "strongroom/examples/policy"
	"strongroom/policy"
	"strongroom/policy/bundle"
)

func policyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Write, test and sign the rules of a security team"}
	cmd.AddCommand(policyInitCommand(), policyCheckCommand(), policyFormatCommand(), policyTestCommand(), policySignCommand(), policyLogCommand(),
		policyExplainCommand(), policySimulateCommand(), policyDiffCommand(), policyPushCommand())
	return cmd
}

// readBundle reads a folder of rules, or an archive whatever its signature.
// unnumbered says that a folder may lack a .manifest.
func readBundle(path string, revision uint64, unnumbered bool) (bundle.Contents, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	files, err := bundles.ReadContents(context.Background(), path)
	if err != nil {
		return nil, err
	}
	if revision == 0 && unnumbered && files[".manifest"] == nil {
		revision = 1
	}
	if revision != 0 {
		if info.Mode().IsRegular() {
			return nil, errors.New("--revision: the archive has a revision of its own: build it with the right one")
		}
		if files[".manifest"], err = bundle.Manifest(revision); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func policyInitCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "init DIR",
		Short:   "Write a starter bundle: every access layer and an endorsement guard, with tests",
		Example: "  strongroom policy init policy && strongroom policy test policy",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := args[0]
			if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
				return fmt.Errorf("%s is not empty: name a new folder", dir)
			} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			if err := os.CopyFS(dir, examples.Files); err != nil {
				return err
			}
			return show(cmd, map[string]string{"folder": dir}, func(w io.Writer) {
				fmt.Fprintf(w, "folder\t%s\nnext\tchange its names to yours, then: strongroom policy test %s\n", dir, dir)
			})
		},
	}
}

// checked is what `policy check` prints.
type checked struct {
	Revision    uint64   `json:"revision"`
	Layers      []string `json:"layers"`
	Endorsement bool     `json:"endorsement"`
	Tests       int      `json:"tests"`
}

func policyCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check PATH",
		Short: "Check a folder of rules or an archive as a node does: form, schema, built-ins, tests",
		Long: `Checks whether a node would take the rules: Rego of version 1 in strict mode, the
allowed built-in functions alone, fields that the input has, defaults that refuse,
and the tests. It does not look at a signature.`,
		Example: "  strongroom policy check policy",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := readBundle(args[0], 0, true)
			if err != nil {
				return err
			}
			c, err := checkBundle(cmd.Context(), files)
			if err != nil {
				return err
			}
			return show(cmd, c, func(w io.Writer) {
				fmt.Fprintf(w, "layers\t%s\nendorsement guard\t%t\ntests\t%d passed\n", strings.Join(c.Layers, " "), c.Endorsement, c.Tests)
			})
		},
	}
}

func checkBundle(ctx context.Context, files bundle.Contents) (*checked, error) {
	b, err := bundle.Read(files)
	if err != nil {
		return nil, err
	}
	rules, err := bundles.Compile(ctx, b, 0)
	if err != nil {
		return nil, err
	}
	c := &checked{Revision: b.Revision, Layers: []string{}, Endorsement: rules.Endorse != nil, Tests: len(rules.Tests)}
	for _, l := range acl.Layers() {
		if rules.Layers[l] != nil {
			c.Layers = append(c.Layers, string(l))
		}
	}
	return c, nil
}

func policyFormatCommand() *cobra.Command {
	var write bool
	cmd := &cobra.Command{
		Use:     "fmt PATH",
		Short:   "List the .rego files that are not in Rego's usual form, or bring them into it",
		Long:    "Without --write it changes nothing, and fails if a file is listed.",
		Example: "  strongroom policy fmt --write policy",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var changed []string
			err := filepath.WalkDir(args[0], func(file string, d fs.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() || filepath.Ext(file) != ".rego" {
					return err
				}
				source, err := os.ReadFile(file)
				if err != nil {
					return err
				}
				formatted, err := policy.Format(file, source)
				if err != nil || bytes.Equal(source, formatted) {
					return err
				}
				changed = append(changed, file)
				if !write {
					return nil
				}
				info, err := d.Info()
				if err != nil {
					return err
				}
				return os.WriteFile(file, formatted, info.Mode().Perm())
			})
			if err != nil {
				return err
			}
			if err := show(cmd, map[string][]string{"files": append([]string{}, changed...)}, func(w io.Writer) {
				for _, file := range changed {
					fmt.Fprintln(w, file)
				}
			}); err != nil {
				return err
			}
			if len(changed) > 0 && !write {
				return fmt.Errorf("%d files are not in the usual form: strongroom policy fmt --write %s", len(changed), args[0])
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&write, "write", false, "bring the files into form")
	return cmd
}

// tested is what `policy test` prints.
type tested struct {
	Tests    []policy.TestResult   `json:"tests"`
	Coverage []policy.FileCoverage `json:"coverage,omitempty"`
}

func policyTestCommand() *cobra.Command {
	var coverage bool
	cmd := &cobra.Command{
		Use:     "test PATH",
		Short:   "Run the tests of a folder of rules or an archive",
		Example: "  strongroom policy test --coverage policy",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := readBundle(args[0], 0, true)
			if err != nil {
				return err
			}
			b, err := bundle.Read(files)
			if err != nil {
				return err
			}
			var r tested
			if r.Tests, r.Coverage, err = policy.Coverage(cmd.Context(), b.Rego, b.Data); err != nil {
				return err
			}
			if !coverage {
				r.Coverage = nil
			}
			if err := show(cmd, r, func(w io.Writer) { printTests(w, r) }); err != nil {
				return err
			}
			failed := slices.DeleteFunc(slices.Clone(r.Tests), func(t policy.TestResult) bool { return t.Passed })
			switch {
			case len(r.Tests) == 0:
				return errors.New("there is no test: write rules named test_… in files named *_test.rego")
			case len(failed) > 0:
				return fmt.Errorf("%d of %d tests failed", len(failed), len(r.Tests))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&coverage, "coverage", false, "say which lines no test reached")
	return cmd
}

func printTests(w io.Writer, r tested) {
	for _, t := range r.Tests {
		verdict := "ok"
		if !t.Passed {
			verdict = "FAILED"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", verdict, t.Name, t.Location)
		if !t.Passed {
			fmt.Fprintf(w, "\t%s\t\n", strings.ReplaceAll(t.Detail, "\n", "; "))
		}
	}
	for _, c := range r.Coverage {
		missing := ""
		if len(c.NotCovered) > 0 {
			missing = "not reached: " + strings.Join(c.NotCovered, ", ")
		}
		fmt.Fprintf(w, "%.0f %%\t%s\t%s\n", c.Percent, c.File, missing)
	}
}
