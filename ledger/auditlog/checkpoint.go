package auditlog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"strongroom/ledger/translog"
)

// leaves gives records by number, for a tree that must be computed again. In order it
// reads each segment once.
func leaves(dir string, o Opener) (get translog.Leaves, done func() error) {
	var r *Reader
	done = func() error {
		if r == nil {
			return nil
		}
		return r.Close()
	}
	return func(number uint64) ([]byte, error) {
		if r == nil || r.next != number {
			if err := done(); err != nil {
				return nil, err
			}
			var err error
			if r, err = OpenReader(dir, o, number); err != nil {
				return nil, err
			}
		}
		s, err := r.Next()
		if err != nil {
			return nil, fmt.Errorf("record %d: %w", number, err)
		}
		if s.Number != number {
			return nil, fmt.Errorf("record %d is not kept any more", number)
		}
		return s.Line, nil
	}, done
}

// openTree opens the Merkle tree over the records and holds it against the latest
// checkpoint.
func (l *Log) openTree(ctx context.Context) (err error) {
	get, done := leaves(l.cfg.Dir, l.cfg.Keyring)
	defer func() { err = errors.Join(err, done()) }()
	tree, err := translog.Open(l.cfg.Dir, l.size, get)
	if err != nil {
		return err
	}
	note, c, err := ReadCheckpoint(l.cfg.Dir)
	if err != nil {
		return err
	}
	if c != nil {
		if err := l.holds(tree, c); err != nil {
			return err
		}
		if err := l.verify(ctx, note, c); err != nil {
			return err
		}
		l.signed, l.origin, l.note = c.Size, c.Origin, note
	}
	l.tree = tree
	return nil
}

// ReadCheckpoint reads the latest checkpoint of the log in a folder, nil if none was
// signed yet. It does not check the signature.
func ReadCheckpoint(dir string) (note []byte, c *translog.Checkpoint, err error) {
	path := filepath.Join(dir, checkpointName)
	note, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if c, err = translog.ParseText(note); err != nil {
		return nil, nil, fmt.Errorf("%s: %w: restore it from a backup", path, err)
	}
	return note, c, nil
}

// verify checks a checkpoint of this node's key in the token. What a former key signed
// cannot be checked here; that the key changed is recorded with the next checkpoint.
func (l *Log) verify(ctx context.Context, note []byte, c *translog.Checkpoint) error {
	key := l.cfg.Current().PublicKey()
	if c.Origin != Origin(key.ID().String()) {
		return nil
	}
	c, sig, err := translog.ParseNote(note, key.SPKI())
	if err == nil {
		digest := sha256.Sum256(c.Text())
		err = l.cfg.Verifier.Verify(ctx, key, digest[:], sig)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: restore it from a backup", filepath.Join(l.cfg.Dir, checkpointName), err)
	}
	return nil
}

// holds checks that the log continues a checkpoint.
func (l *Log) holds(tree *translog.Log, c *translog.Checkpoint) error {
	if c.Size > tree.Size() {
		return fmt.Errorf("%s has %d records, its checkpoint was signed over %d: records were removed: restore them from a backup", l.cfg.Dir, tree.Size(), c.Size)
	}
	root, err := translog.Root(tree, c.Size)
	if err != nil {
		return err
	}
	if root != c.Root {
		return fmt.Errorf("the records in %s were changed since their checkpoint over %d was signed: restore them from a backup", l.cfg.Dir, c.Size)
	}
	return nil
}

// grow hands records that are on disk to the tree.
func (l *Log) grow(lines [][]byte) {
	hashes := make([]translog.Hash, len(lines))
	for i, line := range lines {
		hashes[i] = translog.LeafHash(line)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.size += uint64(len(lines))
	l.grown = append(l.grown, hashes...)
}

// checkpoints signs the log as it grows, until ctx ends.
func (l *Log) checkpoints(ctx context.Context) {
	ticker := time.NewTicker(checkpointEvery)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := l.checkpoint(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			l.cfg.Logger.Error("no checkpoint of the audit log: it is tried again each second", "error", err)
		}
		failing = err != nil
	}
}

func (l *Log) lastCheckpoint(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastCheckpoint)
	defer cancel()
	if err := l.checkpoint(ctx); err != nil {
		l.cfg.Logger.Error("no last checkpoint of the audit log: the next start signs one", "error", err)
	}
}

// checkpoint signs one if there are records that the latest does not cover. Calls must
// not run beside each other.
//
// Crash points: it is written after its records were on disk; until it is, the one
// before stays.
func (l *Log) checkpoint(ctx context.Context) error {
	by := l.cfg.Current()
	origin := Origin(by.PublicKey().ID().String())
	c, err := l.unsigned(origin)
	if err != nil || c == nil {
		return err
	}
	sig, err := by.SignCheckpoint(ctx, c.Origin, c.Size, c.Root)
	if err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	note := c.Note(by.PublicKey().SPKI(), sig)
	if err := translog.WriteFile(filepath.Join(l.cfg.Dir, checkpointName), note); err != nil {
		return err
	}
	if l.note != nil && l.origin != origin {
		l.own(Act{Name: "audit.key-changed", Subject: origin, Details: map[string]string{"checkpoint": string(l.note)}})
	}
	l.signed, l.origin, l.note = c.Size, origin, note
	return nil
}

// unsigned brings the tree up to the records on disk, and returns the checkpoint to sign,
// nil if the latest covers everything.
func (l *Log) unsigned(origin string) (_ *translog.Checkpoint, err error) {
	l.mu.Lock()
	size, grown := l.size, l.grown
	l.grown = nil
	l.mu.Unlock()
	for i := 0; i < len(grown) && l.tree != nil; i++ {
		if err := l.tree.AppendHash(grown[i]); err != nil {
			l.cfg.Logger.Error("a tile of the audit log cannot be written: it is computed again", "error", err)
			l.tree = nil
		}
	}
	if l.tree == nil {
		get, done := leaves(l.cfg.Dir, l.cfg.Keyring)
		defer func() { err = errors.Join(err, done()) }()
		if l.tree, err = translog.Open(l.cfg.Dir, size, get); err != nil {
			return nil, err
		}
	}
	if size == l.signed && (origin == l.origin || size == 0) {
		return nil, nil
	}
	root, err := translog.Root(l.tree, size)
	if err != nil {
		return nil, err
	}
	return &translog.Checkpoint{Origin: origin, Size: size, Root: root}, nil
}

// prune removes segments that are older than Config.Keep, but never the last two: the
// tree's edge may have to be computed from them. Their hashes stay in the tree.
func (l *Log) prune() {
	if l.cfg.Keep == 0 {
		return
	}
	now := l.cfg.Now()
	if now.Sub(l.writer.pruned) < time.Minute {
		return
	}
	l.writer.pruned = now
	removed, from, to, err := l.writer.prune(now.Add(-l.cfg.Keep))
	if err != nil {
		l.cfg.Logger.Error("old segments of the audit log cannot be removed", "error", err)
	}
	if removed == 0 {
		return
	}
	l.cfg.Logger.Info("removed old records of the audit log", "from", from, "to", to)
	l.own(Act{Name: "audit.pruned", Details: map[string]string{"from": fmt.Sprint(from), "to": fmt.Sprint(to), "keep": l.cfg.Keep.String()}})
}

// prune removes what was written before a time.
func (w *writer) prune(before time.Time) (removed int, from, to uint64, err error) {
	firsts, err := segments(w.dir)
	if err != nil {
		return 0, 0, 0, err
	}
	for i := 0; i+2 < len(firsts) && firsts[i+1]+translog.TileWidth <= firsts[len(firsts)-1]; i++ {
		path := filepath.Join(w.dir, segmentName(firsts[i]))
		info, err := os.Stat(path)
		if err != nil || info.ModTime().After(before) {
			return removed, from, to, err
		}
		if err := os.Remove(path); err != nil {
			return removed, from, to, err
		}
		if removed == 0 {
			from = firsts[i]
		}
		removed, to = removed+1, firsts[i+1]-1
	}
	return removed, from, to, nil
}
