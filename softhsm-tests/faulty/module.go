// Package faulty builds a PKCS #11 module for tests: it passes every call on to a real
// module and errs as it is told, as devices do at night.
package faulty

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

//go:embed c/module.c
var source []byte

// Module is a built module. Its methods may be called from many goroutines.
type Module struct {
	// Path is the library, for pkcs11.Config.Module.
	Path string
	real string
}

// Rule says what befalls calls of one function.
type Rule struct {
	Function string // as "C_Sign", "*" for every function
	From     uint   // number of the first call that it befalls, from 1, since Set
	Count    uint   // how many calls from there on, 0 for all
	Action   Action
	Arg      uint64 // CK_RV or milliseconds
}

// Action is a fault.
type Action string

// The faults. All but Return and Lose let the call go on to the real module.
const (
	Return   Action = "return"   // answers Arg, a CK_RV
	Sleep    Action = "sleep"    // for Arg milliseconds
	Hang     Action = "hang"     // until the next Set
	Drop     Action = "drop"     // closes all sessions of the real module
	Logout   Action = "logout"   // logs the user out
	Renumber Action = "renumber" // Drop, and all numbers of objects name the neighbours of those they named
	Lose     Action = "lose"     // the token is gone for Arg milliseconds, and comes back with C_Initialize
	Corrupt  Action = "corrupt"  // flips a bit of a signature (C_Sign)
)

// Build compiles the module into dir, on top of the real one. Each build has a name of
// its own, and shares nothing with others.
func Build(dir, real string) (*Module, error) {
	work, err := os.MkdirTemp(dir, "faulty-")
	if err != nil {
		return nil, err
	}
	code, lib := filepath.Join(work, "module.c"), filepath.Join(work, "faulty.so")
	if err := os.WriteFile(code, source, 0o600); err != nil {
		return nil, err
	}
	out, err := exec.Command("gcc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O2", "-o", lib, code, "-ldl", "-lpthread").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("gcc (run `apt-get install gcc libc6-dev`): %w\n%s", err, out)
	}
	if err := os.WriteFile(lib+".module", []byte(real), 0o600); err != nil {
		return nil, err
	}
	m := &Module{Path: lib, real: real}
	return m, m.Set()
}

// BuildCopy is Build on a copy of the real module: the process then has two real modules
// that know nothing of each other, as two devices have.
func BuildCopy(dir, real string) (*Module, error) {
	body, err := os.ReadFile(real)
	if err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(dir, "copy-")
	if err != nil {
		return nil, err
	}
	second := filepath.Join(work, filepath.Base(real))
	if err := os.WriteFile(second, body, 0o700); err != nil {
		return nil, err
	}
	return Build(dir, second)
}

// Set replaces the rules. Calls that hang go on.
func (m *Module) Set(rules ...Rule) error {
	if err := os.Remove(m.Path + ".control.fired"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// The time makes the file another one for the module, whatever the rules.
	text := fmt.Sprintf("# 0 0 %d 0\n", time.Now().UnixNano())
	for _, r := range rules {
		arg := r.Arg
		text += fmt.Sprintf("%s %d %d %s %x\n", r.Function, r.From, r.Count, r.Action, arg)
	}
	next := m.Path + ".control.next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(next, m.Path+".control")
}

// Fired tells how often each function met a fault since Set; sleeping is not counted.
func (m *Module) Fired() (map[string]int, error) {
	body, err := os.ReadFile(m.Path + ".control.fired")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	fired := make(map[string]int)
	for line := range strings.Lines(string(body)) {
		name, _, _ := strings.Cut(line, " ")
		fired[name]++
	}
	return fired, nil
}
