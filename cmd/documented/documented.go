// Package documented holds the documentation against the command lines: what a page
// tells its reader to type must exist. It serves the tests of the commands.
package documented

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Commands fails the test for every command line in the Markdown pages below the folder
// dir that names a subcommand or a flag that root does not have. The pages in design
// folders are left out: their blocks are formats.
func Commands(t *testing.T, root *cobra.Command, dir string) {
	t.Helper()
	found := lines(t, dir, root.Name())
	if len(found) == 0 {
		t.Errorf("no page below %s shows %q", dir, root.Name())
	}
	for _, l := range found {
		for _, words := range alternatives(l.words) {
			if err := check(root, words); err != nil {
				t.Errorf("%s:%d: %q: %v", l.file, l.number, strings.Join(l.words, " "), err)
			}
		}
	}
}

// line is a command line as a page shows it, without the program's name.
type line struct {
	file   string
	number int
	words  []string
}

// lines finds the command lines of a program: lines of a block of code that begin with
// it, and spans of code.
func lines(t *testing.T, dir, program string) []line {
	t.Helper()
	span := regexp.MustCompile("`([^`]+)`")
	var out []line
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || d.Name() == "design" || path != dir && strings.HasPrefix(d.Name(), ".")):
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".md":
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var code []string
		fenced, from := false, 0
		for i, s := range strings.Split(string(text), "\n") {
			if strings.HasPrefix(s, "```") {
				fenced = !fenced
				continue
			}
			if len(code) == 0 {
				from = i + 1
			}
			if fenced || strings.HasPrefix(s, "    ") {
				if open, more := strings.CutSuffix(s, "\\"); more {
					code = append(code, open)
					continue
				}
				code = append(code, s+"\n")
			}
			if !strings.HasPrefix(s, "    ") {
				for _, m := range span.FindAllStringSubmatch(s, -1) {
					code = append(code, m[1]+"\n")
				}
			}
			for _, one := range strings.Split(strings.Join(code, ""), "\n") {
				if words := commandLine(one, program); words != nil {
					out = append(out, line{path, from, words})
				}
			}
			code = nil
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// commandLine gives the words after the program's name, up to what belongs to the shell;
// nil if the line runs something else.
func commandLine(s, program string) []string {
	words := strings.Fields(s)
	for len(words) > 0 && (words[0] == "$" || words[0] == "sudo" || strings.Contains(words[0], "=")) {
		words = words[1:]
	}
	if len(words) < 2 || strings.TrimPrefix(filepath.ToSlash(words[0]), "bin/") != program {
		return nil
	}
	words = words[1:]
	if end := slices.IndexFunc(words, func(w string) bool {
		return slices.Contains([]string{"#", "|", "||", "&&", ">", "2>", "<", "&", ";"}, w)
	}); end >= 0 {
		words = words[:end]
	}
	return words
}

// alternatives gives one line for each choice in a word like check|test.
func alternatives(words []string) [][]string {
	for i, w := range words {
		if !regexp.MustCompile(`^[a-z-]+(\|[a-z-]+)+$`).MatchString(w) {
			continue
		}
		var out [][]string
		for _, choice := range strings.Split(w, "|") {
			out = append(out, alternatives(slices.Concat(words[:i], []string{choice}, words[i+1:]))...)
		}
		return out
	}
	return [][]string{words}
}

var flagWord = regexp.MustCompile(`^\[?(--[a-z][a-z0-9-]*)`)

// check says what of the words root does not have.
func check(root *cobra.Command, words []string) error {
	cmd := root
	for len(words) > 0 && cmd.HasSubCommands() && !strings.HasPrefix(words[0], "-") {
		name := strings.TrimRight(words[0], ".,;:)")
		i := slices.IndexFunc(cmd.Commands(), func(c *cobra.Command) bool { return c.Name() == name || c.HasAlias(name) })
		if i < 0 {
			if name == strings.ToUpper(name) || name == "…" || name == "help" || name == "completion" {
				break
			}
			return fmt.Errorf("%q has no command %q", cmd.CommandPath(), name)
		}
		cmd, words = cmd.Commands()[i], words[1:]
	}
	for _, w := range words {
		m := flagWord.FindStringSubmatch(w)
		if m == nil {
			continue
		}
		name := strings.TrimPrefix(m[1], "--")
		if cmd.Flags().Lookup(name) == nil && cmd.InheritedFlags().Lookup(name) == nil && name != "help" && name != "version" {
			return fmt.Errorf("%q has no flag --%s", cmd.CommandPath(), name)
		}
	}
	return nil
}
