package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/bccsp/bccsptest"
)

func TestTokenPIN(t *testing.T) {
	cfg := bccsptest.Config(t)
	dir := t.TempDir()
	file := func(name, pin string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(pin+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	run := func(stdin string, args ...string) error {
		cmd := tokenPINCommand()
		cmd.Flags().String("output", "text", "")
		cmd.SetArgs(append([]string{"--module", cfg.Module, "--token", cfg.TokenLabel}, args...))
		cmd.SetIn(strings.NewReader(stdin))
		cmd.SetOut(&strings.Builder{})
		cmd.SetErr(&strings.Builder{})
		return cmd.Execute()
	}
	old, next := file("pin", bccsptest.PIN), file("next", "second PIN")
	for name, c := range map[string]struct {
		stdin string
		args  []string
		want  string
	}{
		"no new PIN":           {"", []string{"--pin-file", old}, "--new-pin-file"},
		"two new PINs":         {"", []string{"--pin-file", old, "--new-pin-file", next, "--new-pin-env", "X"}, "several sources"},
		"stdin and a file":     {"", []string{"--stdin", "--pin-file", old}, "give it alone"},
		"stdin of one line":    {"old\n", []string{"--stdin"}, "new PIN"},
		"stdin of empty lines": {"\n\n", []string{"--stdin"}, "empty"},
		"replace of what":      {"", []string{"--stdin", "--replace"}, "--replace needs"},
		"profile's rules":      {"", []string{"--pin-file", old, "--new-pin-file", file("short", "abc"), "--profile", "softhsm-2.6"}, "4 to 255 bytes"},
		"the old PIN":          {bccsptest.PIN + "\n" + bccsptest.PIN, []string{"--stdin"}, "choose another"},
	} {
		if err := run(c.stdin, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
	if err := run("", "--pin-file", old, "--new-pin-file", next, "--replace", "--profile", "softhsm-2.6"); err != nil {
		t.Fatal(err)
	}
	if pin, err := os.ReadFile(old); err != nil || string(pin) != "second PIN\n" {
		t.Errorf("--pin-file holds %q, %v", pin, err)
	}
	if _, err := os.Stat(next); err == nil {
		t.Error("--new-pin-file is still there")
	}
	t.Setenv("THIRD_PIN", "third PIN")
	if err := run("", "--pin-file", old, "--new-pin-env", "THIRD_PIN"); err != nil {
		t.Error(err)
	}
	if err := run("third PIN\r\nfourth PIN\n", "--stdin"); err != nil {
		t.Error(err)
	}
	cfg.PIN.File = file("pin", "fourth PIN")
	bccsptest.OpenWith(t, cfg)
}
