package seal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"strongroom/bccsp"
)

// rewrapSuffix marks the folder beside a keyring in which it is wrapped anew, and
// afterwards the one that holds the keys as they were wrapped before.
const rewrapSuffix = ".rewrapped"

// Rewrap unwraps every data key of the keyring in a folder with one wrapping key, wraps
// it with another, and puts the result in the keyring's place in one step. It returns
// the number of keys. The keyring must not be open: ErrInUse. A keyring that is wrapped
// with the other key already is left as it is, and 0 is returned. No data key is
// changed: what they sealed opens as before.
//
// Crash points: the new keyring grows in a folder of its own, complete and on the disk
// before the exchange, which either happened or did not. What lies in the folder
// beside the keyring counts for nothing: the next opening, or Rewrap, wipes it.
func Rewrap(ctx context.Context, dir string, from, to bccsp.KeyWrapper) (n int, err error) {
	if from.WrappingKeyID() == to.WrappingKeyID() {
		return 0, fmt.Errorf("keyring %s: the new wrapping key is the old one, %q", dir, to.WrappingKeyID())
	}
	if _, err := os.Stat(dir); err != nil {
		return 0, fmt.Errorf("keyring: %w", err)
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := wipeRewrapped(dir); err != nil {
		return 0, err
	}
	files, err := listTerms(dir, true)
	if err != nil {
		return 0, err
	}
	if len(files) > 0 && files[len(files)-1].WrappingKeyID == to.WrappingKeyID() {
		return 0, nil
	}
	next := dir + rewrapSuffix
	if err := os.Mkdir(next, 0o700); err != nil {
		return 0, fmt.Errorf("keyring: %w", err)
	}
	nextLock, err := lockFolder(next)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, nextLock.Close()) }()
	k := &Keyring{dir: dir, wrapper: to}
	for _, f := range files {
		if f, err = k.rewrap(ctx, f, from); err != nil {
			return 0, err
		}
		if err := writeTerm(next, f); err != nil {
			return 0, err
		}
	}
	record, err := readShredRecord(dir)
	if err != nil {
		return 0, err
	}
	if len(record.content) > 0 {
		if err := writeFile(next, filepath.Join(next, shredName), record.content); err != nil {
			return 0, err
		}
	}
	parent := filepath.Dir(filepath.Clean(dir))
	if err := syncFolder(parent); err != nil {
		return 0, fmt.Errorf("keyring: %w", err)
	}
	if err := unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE); err != nil {
		return 0, fmt.Errorf("keyring: exchange %s and %s: %w; the file system must be able to exchange folders", next, dir, err)
	}
	if err := syncFolder(parent); err != nil {
		return 0, fmt.Errorf("keyring: %w", err)
	}
	return len(files), wipeRewrapped(dir)
}

// rewrap wraps one key anew, after it saw that the key is the one that belongs to the file.
func (k *Keyring) rewrap(ctx context.Context, f termFile, from bccsp.KeyWrapper) (termFile, error) {
	if f.WrappingKeyID != from.WrappingKeyID() {
		return f, otherWrappingKey(k.dir, f, from)
	}
	key, err := from.UnwrapKey(ctx, f.Wrapped)
	if err != nil {
		return f, fmt.Errorf("data key of term %d: unwrap: %w", f.Term, err)
	}
	defer clear(key)
	if len(key) != keySize {
		return f, fmt.Errorf("data key of term %d has %d bytes, %d are needed", f.Term, len(key), keySize)
	}
	aead, err := newAEAD(key)
	if err != nil {
		return f, fmt.Errorf("data key of term %d: %w", f.Term, err)
	}
	if err := (&term{id: f.Term, aead: aead}).prove(f); err != nil {
		return f, fmt.Errorf("keyring file %s: %w", termPath(k.dir, f.Term), err)
	}
	f.Wrapped, err = k.wrap(ctx, f.Term, key)
	f.WrappingKeyID = k.wrapper.WrappingKeyID()
	return f, err
}

// wipeRewrapped overwrites and removes what a rewrapping left beside a keyring.
func wipeRewrapped(dir string) error {
	old := dir + rewrapSuffix
	entries, err := os.ReadDir(old)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	for _, e := range entries {
		if err := wipe(filepath.Join(old, e.Name())); err != nil {
			return err
		}
	}
	if err := os.Remove(old); err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	return nil
}
