package pkcs11

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// maxPIN bounds a PIN in bytes; tokens allow less.
const maxPIN = 1024

// PINSource says where a PIN comes from. Exactly one field is set. It never holds
// the PIN itself, so that configuration can be shown and logged.
type PINSource struct {
	// File is the path of a file that holds the PIN and nothing else (one line end
	// is allowed). Nobody but its owner may have access to it.
	File string `yaml:"file,omitempty"`
	// Env is the name of an environment variable.
	Env string `yaml:"env,omitempty"`
	// Credential is the name of a systemd credential: a file in the folder that
	// $CREDENTIALS_DIRECTORY names (systemd.exec(5), LoadCredential=).
	Credential string `yaml:"credential,omitempty"`
}

// Validate checks that exactly one source is named.
func (s PINSource) Validate() error {
	n := 0
	for _, v := range []string{s.File, s.Env, s.Credential} {
		if v != "" {
			n++
		}
	}
	switch {
	case n == 0:
		return errors.New("no source: set one of file, env or credential")
	case n > 1:
		return errors.New("several sources: set only one of file, env and credential")
	case s.Credential != "" && (strings.ContainsRune(s.Credential, '/') || s.Credential == "." || s.Credential == ".."):
		return fmt.Errorf("credential %q has a path: give the name alone, as LoadCredential= has it", s.Credential)
	}
	return nil
}

// String names the source, never the PIN.
func (s PINSource) String() string {
	switch {
	case s.File != "":
		return fmt.Sprintf("file %q", s.File)
	case s.Env != "":
		return fmt.Sprintf("environment variable %q", s.Env)
	case s.Credential != "":
		return fmt.Sprintf("systemd credential %q", s.Credential)
	}
	return "no source"
}

// Read returns the PIN. The caller wipes it with clear.
func (s PINSource) Read() ([]byte, error) {
	pin, _, err := s.readStamped()
	return pin, err
}

// stamp tells a file with a PIN from one that took its place or was written again. It
// says nothing of the PIN.
type stamp struct {
	device, inode uint64
	changed       int64 // in Unix nanoseconds
	size          int64
}

func (s PINSource) readStamped() ([]byte, stamp, error) {
	if err := s.Validate(); err != nil {
		return nil, stamp{}, err
	}
	pin, of, err := s.read()
	if err == nil {
		pin, err = s.check(pin)
	}
	return pin, of, err
}

// check takes the line end off.
func (s PINSource) check(pin []byte) ([]byte, error) {
	if n := len(pin); n > 0 && pin[n-1] == '\n' {
		pin = bytes.TrimSuffix(pin[:n-1], []byte{'\r'})
	}
	switch {
	case len(pin) == 0:
		return nil, fmt.Errorf("%s is empty: put the token's PIN there", s)
	case len(pin) > maxPIN || bytes.ContainsAny(pin, "\x00\n"):
		clear(pin)
		return nil, fmt.Errorf("%s does not hold a PIN: one line of at most %d bytes is needed", s, maxPIN)
	}
	return pin, nil
}

func (s PINSource) read() ([]byte, stamp, error) {
	switch {
	case s.Env != "":
		v, ok := os.LookupEnv(s.Env)
		if !ok {
			return nil, stamp{}, fmt.Errorf("%s is not set: export it, or name another source", s)
		}
		return []byte(v), stamp{}, nil
	case s.Credential != "":
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return nil, stamp{}, fmt.Errorf("%s: $CREDENTIALS_DIRECTORY is not set: start the service by systemd with LoadCredential=%s:…", s, s.Credential)
		}
		return s.readFile(filepath.Join(dir, s.Credential), 0o007)
	}
	return s.readFile(s.File, 0o077)
}

// readFile reads a PIN file that must give no access by the forbidden mode bits.
func (s PINSource) readFile(path string, forbidden os.FileMode) ([]byte, stamp, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, stamp{}, fmt.Errorf("%s: %w", s, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, stamp{}, fmt.Errorf("%s: %w", s, err)
	}
	if !info.Mode().IsRegular() {
		return nil, stamp{}, fmt.Errorf("%s is not a regular file", s)
	}
	if info.Mode().Perm()&forbidden != 0 {
		return nil, stamp{}, fmt.Errorf("%s has mode %#o: others could read the PIN: chmod 600 it", s, info.Mode().Perm())
	}
	if info.Size() > maxPIN+2 {
		return nil, stamp{}, fmt.Errorf("%s does not hold a PIN: it has %d bytes", s, info.Size())
	}
	pin := make([]byte, info.Size())
	n, err := f.ReadAt(pin, 0)
	if n < len(pin) {
		clear(pin)
		return nil, stamp{}, fmt.Errorf("%s: %w", s, err)
	}
	of := stamp{changed: info.ModTime().UnixNano(), size: info.Size()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		of.device, of.inode = uint64(sys.Dev), sys.Ino
	}
	return pin, of, nil
}

// refusedPINs remembers the tokens of this process that refused a PIN.
var refusedPINs struct {
	sync.Mutex
	tokens map[string]bool // by module path and serial number
}

func pinWasRefused(module, serial string) bool {
	refusedPINs.Lock()
	defer refusedPINs.Unlock()
	return refusedPINs.tokens[module+"\x00"+serial]
}

func notePINRefused(module, serial string) {
	refusedPINs.Lock()
	defer refusedPINs.Unlock()
	if refusedPINs.tokens == nil {
		refusedPINs.tokens = make(map[string]bool)
	}
	refusedPINs.tokens[module+"\x00"+serial] = true
}
