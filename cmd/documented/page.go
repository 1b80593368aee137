package documented

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write the pages of commands anew")

// Page fails the test if file is not the reference page of root's commands. With the
// flag -update it writes the page.
func Page(t *testing.T, root *cobra.Command, file string) {
	t.Helper()
	root.InitDefaultHelpFlag()
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s.\nWritten by `go test ./cmd/%s -update` from the program itself: `%s COMMAND --help` says the same.\n",
		root.Name(), root.Short, root.Name(), root.Name())
	reference(&b, root)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != b.String() {
		t.Errorf("%s is not what the commands say of themselves (%v): write it with go test ./cmd/%s -update", file, err, root.Name())
	}
}

// reference writes the commands below cmd, in their order, and cmd itself if it runs.
func reference(b *strings.Builder, cmd *cobra.Command) {
	if cmd.Hidden || cmd.Name() == "help" || cmd.Name() == "completion" {
		return
	}
	if cmd.Runnable() && cmd.HasParent() || !cmd.HasSubCommands() {
		fmt.Fprintf(b, "\n## %s\n\n", strings.TrimSuffix(cmd.UseLine(), " [flags]"))
		if cmd.Long == "" {
			fmt.Fprintf(b, "%s.\n", cmd.Short)
		} else {
			fmt.Fprintf(b, "```text\n%s\n```\n", strings.TrimSpace(cmd.Long)) // laid out for a terminal
		}
		if cmd.Example != "" {
			fmt.Fprintf(b, "\n```sh\n%s\n```\n", outdent(cmd.Example))
		}
		flags(b, cmd.LocalNonPersistentFlags())
	}
	for _, sub := range cmd.Commands() {
		reference(b, sub)
	}
}

func flags(b *strings.Builder, set *pflag.FlagSet) {
	first := true
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		if first {
			fmt.Fprint(b, "\n| flag | |\n|---|---|\n")
			first = false
		}
		name, usage := pflag.UnquoteUsage(f)
		if name != "" {
			name = " " + name
		}
		if f.DefValue != "" && f.DefValue != "[]" && f.DefValue != "false" && f.DefValue != "0" {
			usage += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		fmt.Fprintf(b, "| `--%s%s` | %s |\n", f.Name, name, strings.ReplaceAll(strings.ReplaceAll(usage, "\n", " "), "|", "\\|"))
	})
}

// outdent takes off the indentation that examples have.
func outdent(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], "  ")
	}
	return strings.Join(lines, "\n")
}
