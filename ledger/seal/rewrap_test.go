package seal

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// rewrapFixture is a closed keyring with keys of several owners, and what they sealed.
func rewrapFixture(t *testing.T, w *boxWrapper) (dir string, sealed map[Place][]byte) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "keyring")
	k, err := OpenKeyring(context.Background(), dir, w)
	if err != nil {
		t.Fatal(err)
	}
	sealed = map[Place][]byte{}
	for _, p := range []Place{placeIn("c", "a"), placeIn("c", "b"), {Kind: KindOutline, Channel: "c"}, {Kind: KindPackage}} {
		sealed[p] = sealIn(t, k, p)
	}
	if _, err := k.Shred("c", "gone"); err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, sealed
}

func checkRewrapped(t *testing.T, dir string, w *boxWrapper, sealed map[Place][]byte) {
	t.Helper()
	k := openTest(t, dir, w)
	for p, b := range sealed {
		if got, err := k.Open(nil, b, p); err != nil || string(got) != "secret" {
			t.Errorf("%s: %q, %v", p, got, err)
		}
	}
	if !k.IsShredded("c", "gone") {
		t.Error("the record of shredded namespaces is gone")
	}
	if _, err := os.Stat(dir + rewrapSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder is left beside the keyring: %v", err)
	}
}

// All keys are under the new wrapping key, what they sealed opens, and the old wrapping
// key is refused by name.
func TestRewrap(t *testing.T) {
	from, to := newBoxWrapper(t, "old"), newBoxWrapper(t, "new")
	dir, sealed := rewrapFixture(t, from)
	before := wrappedOf(t, dir, 1)
	n, err := Rewrap(context.Background(), dir, from, to)
	if err != nil || n != 4 {
		t.Fatal(n, err)
	}
	if found := filesWith(t, dir, before); len(found) > 0 {
		t.Errorf("a key is still as it was wrapped before: %q", found)
	}
	if n, err := Rewrap(context.Background(), dir, from, to); n != 0 || err != nil {
		t.Errorf("a second time: %d, %v", n, err)
	}
	if _, err := OpenKeyring(context.Background(), dir, from); !errors.Is(err, ErrOtherWrappingKey) || !strings.Contains(err.Error(), `needs "new"`) {
		t.Errorf("with the old wrapping key: %v", err)
	}
	checkRewrapped(t, dir, to, sealed)
}

// A rewrapping that fails or stops anywhere leaves a keyring that opens with the old
// key, or, from the exchange on, with the new one; and it can be done again.
func TestRewrapInterrupted(t *testing.T) {
	fault := errors.New("token is gone")
	for name, stop := range map[string]func(t *testing.T, dir string, from, to *boxWrapper) (exchanged bool){
		"new token fails": func(t *testing.T, dir string, from, to *boxWrapper) bool {
			to.fail = fault
			if _, err := Rewrap(context.Background(), dir, from, to); !errors.Is(err, fault) {
				t.Error(err)
			}
			to.fail = nil
			return false
		},
		"new token lies": func(t *testing.T, dir string, from, to *boxWrapper) bool {
			to.swap = true
			if _, err := Rewrap(context.Background(), dir, from, to); err == nil || !strings.Contains(err.Error(), "unwraps another key") {
				t.Error(err)
			}
			to.swap = false
			return false
		},
		"half of the folder": func(t *testing.T, dir string, _, _ *boxWrapper) bool {
			if err := os.Mkdir(dir+rewrapSuffix, 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir+rewrapSuffix, "term-0000000001"), "half")
			return false
		},
		"after the exchange": func(t *testing.T, dir string, from, to *boxWrapper) bool {
			old := filepath.Join(t.TempDir(), "old")
			if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			if _, err := Rewrap(context.Background(), dir, from, to); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(dir+rewrapSuffix, os.DirFS(old)); err != nil {
				t.Fatal(err)
			}
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := newBoxWrapper(t, "old"), newBoxWrapper(t, "new")
			dir, sealed := rewrapFixture(t, from)
			if stop(t, dir, from, to) {
				checkRewrapped(t, dir, to, sealed)
				return
			}
			checkRewrapped(t, dir, from, sealed)
		})
		t.Run(name+", done again", func(t *testing.T) {
			from, to := newBoxWrapper(t, "old"), newBoxWrapper(t, "new")
			dir, sealed := rewrapFixture(t, from)
			stop(t, dir, from, to)
			if _, err := Rewrap(context.Background(), dir, from, to); err != nil {
				t.Fatal(err)
			}
			checkRewrapped(t, dir, to, sealed)
		})
	}
}

func TestRewrapRefuses(t *testing.T) {
	from, to := newBoxWrapper(t, "old"), newBoxWrapper(t, "new")
	dir, _ := rewrapFixture(t, from)
	if _, err := Rewrap(context.Background(), dir, from, from); err == nil || !strings.Contains(err.Error(), "is the old one") {
		t.Error(err)
	}
	if _, err := Rewrap(context.Background(), dir, newBoxWrapper(t, "another"), to); !errors.Is(err, ErrOtherWrappingKey) {
		t.Error(err)
	}
	k := openTest(t, dir, from)
	if _, err := Rewrap(context.Background(), dir, from, to); !errors.Is(err, ErrInUse) {
		t.Error(err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
}
