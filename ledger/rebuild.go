package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"strongroom/ledger/disk"
)

// rebuiltSuffix marks the folder of a store that is being rebuilt.
const rebuiltSuffix = ".new"

// Rebuild makes index, state and history of a ledger that nobody has open anew, from
// its blocks and private writes, with the code that recovers a ledger, and puts them in
// the place of those that are there. Blocks that those held must all be in the
// block log. It returns the height.
//
// Crash points: the new stores grow in folders of their own; a rebuild that was
// interrupted goes on where it was when it is started again, and opening the ledger
// removes what there is of it. Each store that is complete is then exchanged with the old one in
// one step, and the old one is removed. Every mixture of old and new stores is a ledger.
func Rebuild(ctx context.Context, c Config) (height uint64, err error) {
	if err := c.Validate(); err != nil {
		return 0, err
	}
	c = c.withDefaults()
	if err := readForm(c); err != nil {
		return 0, err
	}
	c.rebuild = true
	l, err := newLedger(c)
	if err != nil {
		return 0, err
	}
	l.known = knownHeight(c)
	if err := l.open(ctx); err != nil {
		return 0, errors.Join(fmt.Errorf("rebuild the ledger of channel %q: %w", c.ChannelID, err), l.closeFiles())
	}
	height = l.end.height
	l.mu.Lock()
	l.view.release()
	l.view = nil
	l.mu.Unlock()
	if err := l.closeFiles(); err != nil {
		return 0, err
	}
	for _, name := range derivedStores {
		if err := replaceStore(c.Dir, name); err != nil {
			return 0, fmt.Errorf("put the rebuilt store %s in place: %w", name, err)
		}
	}
	return height, nil
}

// knownHeight is how many blocks the stores that are there hold. One that cannot be
// read says nothing: that is what a rebuild is for.
func knownHeight(c Config) uint64 {
	var known uint64
	for _, name := range derivedStores {
		s, _, err := openUnchanged(c, name)
		if err != nil {
			c.Logger.Warn("a store that is to be rebuilt does not say how many blocks it holds", "store", name, "error", err)
			continue
		}
		// The index keeps its savepoint in a longer row that starts the same.
		next, err := s.next()
		if err == nil {
			known = max(known, next)
		}
		if err := errors.Join(err, s.Close()); err != nil {
			c.Logger.Warn("a store that is to be rebuilt does not say how many blocks it holds", "store", name, "error", err)
		}
	}
	return known
}

// replaceStore puts a rebuilt store in the place of the old one.
func replaceStore(dir, name string) error {
	old, rebuilt := filepath.Join(dir, name), filepath.Join(dir, name+rebuiltSuffix)
	err := unix.Renameat2(unix.AT_FDCWD, rebuilt, unix.AT_FDCWD, old, unix.RENAME_EXCHANGE)
	switch {
	case errors.Is(err, unix.ENOENT): // there is no old one
		if err := os.Rename(rebuilt, old); err != nil {
			return err
		}
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS):
		// A file system that cannot exchange: a crash in between leaves no store, and
		// opening the ledger rebuilds it.
		if err := errors.Join(os.RemoveAll(old), os.Rename(rebuilt, old)); err != nil {
			return err
		}
	case err != nil:
		return fmt.Errorf("exchange %s and %s: %w", rebuilt, old, err)
	}
	return errors.Join(disk.OS.SyncDir(dir), os.RemoveAll(rebuilt), disk.OS.SyncDir(dir))
}

// dropRebuilt removes what a rebuild that did not finish left.
func (l *Ledger) dropRebuilt() error {
	if l.config.rebuild {
		return nil
	}
	for _, name := range derivedStores {
		dir := filepath.Join(l.config.Dir, name+rebuiltSuffix)
		if _, err := l.config.FS.Stat(dir); errors.Is(err, os.ErrNotExist) {
			continue
		}
		l.config.Logger.Warn("removing a store that was rebuilt in part, or is replaced", "folder", dir)
		if err := l.config.FS.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}
