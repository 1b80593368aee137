package documented

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestLines(t *testing.T) {
	dir := t.TempDir()
	page := strings.Join([]string{
		"Type `tool key list` or, once, `tool key make|drop --force`.",
		"",
		"    $ FOO=1 bin/tool key list \\",
		"      --wide | less --chop",
		"    other tool key gone",
		"```sh",
		"tool key gone --wide   # no such command",
		"tool key list --narrow",
		"```",
	}, "\n")
	if err := os.WriteFile(filepath.Join(dir, "page.md"), []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(*cobra.Command, []string) {}
	root, key := &cobra.Command{Use: "tool"}, &cobra.Command{Use: "key"}
	list := &cobra.Command{Use: "list", Run: run}
	list.Flags().Bool("wide", false, "")
	drop := &cobra.Command{Use: "drop", Run: run}
	drop.Flags().Bool("force", false, "")
	key.AddCommand(list, drop)
	root.AddCommand(key)

	var got []string
	for _, l := range lines(t, dir, "tool") {
		for _, words := range alternatives(l.words) {
			s := "fine"
			if err := check(root, words); err != nil {
				s = err.Error()
			}
			got = append(got, s)
		}
	}
	want := []string{
		"fine",
		`"tool key" has no command "make"`,
		"fine",
		"fine",
		`"tool key" has no command "gone"`,
		`"tool key list" has no flag --narrow`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
