package ledger

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/ledger/seal/sealtest"
)

// A backup that is made while blocks are committed is a ledger of one height, with the
// private writes that waited then, and goes on from there.
func TestBackup(t *testing.T) {
	k := sealtest.Keyring(t)
	l := openTest(t, memoryDir(t), k, func(c *Config) { c.BlockFileSize = 60_000 })
	commitFabric(t, l, 8)
	if err := l.KeepPrivate("waiting", privateWrites(t, "key", "value")); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(memoryDir(t), "backup")
	committing := make(chan error, 1)
	b8 := parse(t, fabricBlock(t, 8))
	go func() { committing <- l.Commit(context.Background(), b8, asValidated(fabricFlags(t, 8))) }()
	b, err := l.Backup(context.Background(), dir)
	if err != nil || b.Height < 8 || b.Height > 9 || b.Bytes == 0 {
		t.Fatalf("%+v, %v", b, err)
	}
	if err := <-committing; err != nil {
		t.Fatal(err)
	}
	if found, files := fabricGrams(t).find(t, dir); len(found) > 0 || files < 5 {
		t.Errorf("of %d files these are readable: %q", files, found)
	}
	v := verifyIn(t, dir, k)
	if len(v.Problems) != 0 || len(v.Notes) != 3 || v.Height != b.Height {
		t.Errorf("%+v", v)
	}
	restored := openTest(t, dir, k)
	if restored.Height() != b.Height {
		t.Errorf("height is %d", restored.Height())
	}
	keptRow(t, restored.private.store, "waiting")
	commitFabric(t, restored, fabricBlocks)
	checkWhole(t, restored)
	if _, err := l.Backup(context.Background(), dir); !errors.Is(err, os.ErrExist) {
		t.Errorf("a backup over another: %v", err)
	}
}

// A backup that is interrupted is no ledger, and a bit that is flipped in one is named.
func TestBackupDamaged(t *testing.T) {
	k := sealtest.Keyring(t)
	l := openTest(t, memoryDir(t), k)
	commitFabric(t, l, fabricBlocks)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dir := filepath.Join(memoryDir(t), "backup")
	if _, err := l.Backup(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if l, err := openIn(dir, k); err == nil || !strings.Contains(err.Error(), "it is no ledger") {
		t.Errorf("%v, %v", l, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Backup(context.Background(), dir); err != nil {
		t.Fatal(err)
	}
	file := logFile(dir)
	alter(t, file, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
	if v := verifyIn(t, dir, k); len(v.Problems) == 0 || !strings.Contains(v.Problems[0].Where, file) {
		t.Errorf("%+v", v)
	}
	if l, err := openIn(dir, k); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("%v, %v", l, err)
	}
}
