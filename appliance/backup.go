package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"strongroom/ledger"
)

// Backup is what a backup of a running peer holds.
type Backup struct {
	Target   string             `json:"target"`
	Channels []*ledger.BackedUp `json:"channels"`
}

// notBackedUp are what of a peer's data folder a backup leaves out: the ordering service's
// logs, which only a stopped node can be copied with, and the socket.
var notBackedUp = []string{"channels", "keyring", "ordering", adminDir}

// backup copies the peer's data folder, as it can be restored, into a folder that is not
// there yet.
//
// Crash points: all is written to TARGET.partial, which becomes TARGET when it is on the
// disk as a whole. A partial one is the operator's to remove.
//
// Order: of each channel first the statements, of which there are then none beyond the
// blocks; the keyring last, so that it has every key that sealed what was copied.
func (p *peer) backup(ctx context.Context, target string, say func(format string, args ...any)) (*Backup, error) {
	data, err := filepath.Abs(p.config.Data)
	if err != nil {
		return nil, err
	}
	switch rel, err := filepath.Rel(data, target); {
	case !filepath.IsAbs(target) || filepath.Clean(target) != target:
		return nil, fmt.Errorf("target %q is no absolute path", target)
	case err == nil && rel != ".." && !strings.HasPrefix(rel, "../"):
		return nil, fmt.Errorf("target %s lies in the data folder: name another", target)
	}
	if _, err := os.Lstat(target); !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("target %s is there already: a backup overwrites nothing", target)
	}
	partial := target + ".partial"
	if err := os.Mkdir(partial, 0o700); err != nil {
		return nil, fmt.Errorf("%w: remove what an interrupted backup left", err)
	}
	b := &Backup{Target: target}
	if err := os.Mkdir(filepath.Join(partial, "channels"), 0o700); err != nil {
		return nil, err
	}
	for _, id := range p.channels.ids() {
		j, ok := p.channels.get(id)
		if !ok {
			continue
		}
		say("channel %s", id)
		to := filepath.Join(partial, "channels", id)
		if err := copyStatements(ctx, filepath.Join(to, "provenance"), filepath.Join(p.channels.dir, id, "provenance")); err != nil {
			return nil, fmt.Errorf("channel %q: %w", id, err)
		}
		done, err := j.ledger.Backup(ctx, filepath.Join(to, "ledger"))
		if err != nil {
			return nil, fmt.Errorf("channel %q: %w", id, err)
		}
		b.Channels = append(b.Channels, done)
		say("channel %s: %d blocks, %d bytes", id, done.Height, done.Bytes)
	}
	entries, err := os.ReadDir(data)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if slices.Contains(notBackedUp, e.Name()) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if err := copyTree(ctx, filepath.Join(partial, e.Name()), filepath.Join(data, e.Name())); err != nil {
			return nil, err
		}
	}
	if err := copyTree(ctx, filepath.Join(partial, "keyring"), filepath.Join(data, "keyring")); err != nil {
		return nil, err
	}
	if err := errors.Join(syncTree(partial), os.Rename(partial, target), syncFolder(filepath.Dir(target))); err != nil {
		return nil, err
	}
	return b, nil
}

// copyStatements copies statements, and before them what was made of them: a checkpoint
// of the transparency log is never ahead of the statements that are copied.
func copyStatements(ctx context.Context, to, from string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	statements := func(e fs.DirEntry) bool { return strings.HasSuffix(e.Name(), ".jsonl") }
	slices.SortStableFunc(entries, func(a, b fs.DirEntry) int {
		switch {
		case statements(a) == statements(b):
			return 0
		case statements(b):
			return -1
		}
		return 1
	})
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, e := range entries {
		if err := copyTree(ctx, filepath.Join(to, e.Name()), filepath.Join(from, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// copyTree copies a file, or a folder with what is in it. Files that are put in place by
// renaming may come and go meanwhile: temporary ones are left out, and files that grow are
// copied as far as they are, whose readers know how to cut their end.
func copyTree(ctx context.Context, to, from string) error {
	return filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) || err == nil && strings.HasSuffix(name, ".tmp") {
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			return os.Mkdir(target, 0o700)
		case !d.Type().IsRegular():
			return nil
		}
		return copyOne(target, name)
	})
}

func copyOne(to, from string) error {
	in, err := os.Open(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

// syncTree has the names in all folders of a tree on the disk.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return syncFolder(name)
	})
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
