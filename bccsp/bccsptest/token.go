// Package bccsptest serves tests of everything that needs a token: real SoftHSM tokens
// of the test process, identities whose keys live in them, and the conformance suite
// that every driver and every device must pass.
package bccsptest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"strongroom/bccsp/pkcs11"
)

// WrappingKeyLabel is the label of the wrapping key in the tokens of this package.
const WrappingKeyLabel = "wrapping"

// PIN and SOPIN are the PINs of the tokens of this package.
const (
	PIN   = "test-user-pin"
	SOPIN = "test-so-pin"
)

// folderPrefix begins the names of the folders that hold test tokens; the process
// number follows.
const folderPrefix = "strongroom-softhsm-"

var process struct {
	once   sync.Once
	err    error
	module string
	folder string
	pin    string // path of a file with PIN

	tokens atomic.Int64 // number of tokens made, for their labels

	shared struct {
		sync.Mutex
		token *pkcs11.Token
	}
}

// Module is the path of the SoftHSM library: $SOFTHSM2_MODULE, or where packages put
// it. The test fails when there is none.
func Module(t testing.TB) string {
	t.Helper()
	path, err := findModule()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func findModule() (string, error) {
	if path := os.Getenv("SOFTHSM2_MODULE"); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("SOFTHSM2_MODULE: %w", err)
		}
		return path, nil
	}
	for _, path := range []string{
		"/usr/lib/softhsm/libsofthsm2.so",
		"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
		"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
		"/usr/lib64/pkcs11/libsofthsm2.so",
		"/usr/lib64/softhsm/libsofthsm2.so",
		"/usr/local/lib/softhsm/libsofthsm2.so",
		"/opt/homebrew/lib/softhsm/libsofthsm2.so",
	} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("SoftHSM is not installed: run `apt-get install softhsm2` (or the like on %s), or set SOFTHSM2_MODULE to the path of libsofthsm2.so", runtime.GOOS)
}

// Config returns the configuration of a fresh SoftHSM token with a name of its own: an
// initialized token that no Token has open, and that has no keys. WrappingKeyLabel is
// not set.
func Config(t testing.TB) pkcs11.Config {
	t.Helper()
	setUp(t)
	label := fmt.Sprintf("test-%d", process.tokens.Add(1))
	if _, err := pkcs11.InitToken(process.module, label, []byte(SOPIN), []byte(PIN)); err != nil {
		t.Fatalf("make token %q: %v", label, err)
	}
	return pkcs11.Config{
		Module:     process.module,
		TokenLabel: label,
		PIN:        pkcs11.PINSource{File: process.pin},
	}
}

// setUp makes the one SoftHSM configuration of this process. SoftHSM reads it when
// the first token is opened.
func setUp(t testing.TB) {
	t.Helper()
	process.once.Do(func() { process.err = makeFolder() })
	if process.err != nil {
		t.Fatal(process.err)
	}
}

func makeFolder() (err error) {
	if process.module, err = findModule(); err != nil {
		return err
	}
	sweep()
	process.folder, err = os.MkdirTemp("", folderPrefix+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return err
	}
	tokens := filepath.Join(process.folder, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		return err
	}
	process.pin = filepath.Join(process.folder, "pin")
	if err := os.WriteFile(process.pin, []byte(PIN+"\n"), 0o600); err != nil {
		return err
	}
	conf := filepath.Join(process.folder, "softhsm2.conf")
	text := "directories.tokendir = " + tokens + "\nobjectstore.backend = file\nlog.level = ERROR\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Setenv("SOFTHSM2_CONF", conf)
}

// sweep removes the folders of test processes that have ended: a process does not
// learn when its last test is over.
func sweep() {
	folders, err := filepath.Glob(filepath.Join(os.TempDir(), folderPrefix+"*"))
	if err != nil {
		return
	}
	for _, folder := range folders {
		number, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(folder), folderPrefix), "-")
		pid, err := strconv.Atoi(number)
		if err != nil || pid <= 0 {
			continue
		}
		if syscall.Kill(pid, 0) == syscall.ESRCH {
			os.RemoveAll(folder)
		}
	}
}

// Open opens a fresh token that has a wrapping key, and closes it when the test ends.
// The test fails, it is never skipped, where SoftHSM is missing.
func Open(t testing.TB) *pkcs11.Token {
	t.Helper()
	token := OpenWith(t, Config(t))
	if err := token.GenerateWrappingKey(context.Background(), WrappingKeyLabel); err != nil {
		t.Fatal(err)
	}
	return token
}

// OpenWith opens a token with a configuration, Config's with changes as a rule, and
// closes it when the test ends.
func OpenWith(t testing.TB, cfg pkcs11.Config) *pkcs11.Token {
	t.Helper()
	token, err := pkcs11.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Errorf("close token: %v", err)
		}
	})
	return token
}

// OpenShared returns one token with a wrapping key that all tests of this process
// share. It stays open to the end. Tests name their keys apart, by t.Name() say.
func OpenShared(t testing.TB) *pkcs11.Token {
	t.Helper()
	process.shared.Lock()
	defer process.shared.Unlock()
	if process.shared.token == nil {
		token, err := pkcs11.Open(context.Background(), Config(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := token.GenerateWrappingKey(context.Background(), WrappingKeyLabel); err != nil {
			t.Fatal(err)
		}
		process.shared.token = token
	}
	return process.shared.token
}
