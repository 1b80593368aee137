package ledger

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/ledger/seal"
)

// checkSplit checks a ledger that was made by version 2 or 3, of some blocks.
func checkSplit(t *testing.T, dir string, k *seal.Keyring, blocks int) {
	t.Helper()
	l := openTest(t, dir, k)
	if got, want := forms(t, l), strings.Repeat("1", blocks); got != want {
		t.Errorf("forms are %s", got)
	}
	for n := range uint64(blocks) {
		b, err := l.readBlock(n)
		if err != nil {
			t.Fatal(err)
		}
		want := fabricBlock(t, min(n, fabricBlocks-1))
		if !proto.Equal(b.Data, want.Data) || b.Header.Number != n {
			t.Errorf("block %d is another one", n)
		}
	}
	if blocks == fabricBlocks {
		checkWhole(t, l)
	}
	set, err := l.private.open(keptRow(t, l.private.store, fixtureTx), l.private.keptPlace(fixtureTx, uint64(blocks)))
	if want := "private value of the fixture"; err != nil || !strings.Contains(string(set.NsPvtRwset[0].CollectionPvtRwset[0].Rwset), want) {
		t.Errorf("the private writes that wait are %v, %v", set, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, formatFile)); err != nil || string(b) != "strongroom ledger 4\nchannel mychannel\n" {
		t.Errorf("FORMAT is %q, %v", b, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 6 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
	if found, files := fixtureGrams(t).find(t, dir); len(found) > 0 || files < 10 {
		t.Errorf("of %d files these are readable: %q", files, found)
	}
	commitOne(t, l, 2)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openTest(t, dir, k)
	if l.Height() != uint64(blocks)+2 {
		t.Errorf("height is %d", l.Height())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// The namespace's values can be shredded, the older versions' keys notwithstanding.
	if _, err := k.Shred(testChannel, "kv"); err != nil {
		t.Fatal(err)
	}
	l = openTest(t, dir, k)
	if b, err := l.Block(fabricBlocks - 1); !errors.Is(err, seal.ErrShredded) {
		t.Errorf("after shredding: %v, %v", b, err)
	}
	if set, err := l.private.open(keptRow(t, l.private.store, fixtureTx), l.private.keptPlace(fixtureTx, uint64(blocks))); err != nil || len(set.NsPvtRwset) > 0 {
		t.Errorf("after shredding private writes are %v, %v", set, err)
	}
}

func TestUpgradeTo4(t *testing.T) {
	dir, k := version2(t)
	checkSplit(t, dir, k, fabricBlocks)
	dir, k = version3(t)
	checkSplit(t, dir, k, fabricBlocks+40)
}

// An upgrade that stops at any step is done again at the next start.
func TestUpgradeTo4Interrupted(t *testing.T) {
	const blocks = fabricBlocks + 40
	begin := func(t *testing.T, l *Ledger) {
		t.Helper()
		form, err := l.beginSplit(folderForm{version: formatWhole, channel: testChannel})
		if err != nil || form.height != blocks {
			t.Fatalf("%+v, %v", form, err)
		}
	}
	for name, stop := range map[string]func(t *testing.T, l *Ledger){
		"half of the folders": func(t *testing.T, l *Ledger) {
			for _, name := range []string{blocksSplit, privateByKey} {
				if err := os.MkdirAll(filepath.Join(l.config.Dir, name), 0o700); err != nil {
					t.Fatal(err)
				}
				touch(t, filepath.Join(l.config.Dir, name, "half"))
			}
		},
		"before FORMAT": func(t *testing.T, l *Ledger) {
			if err := errors.Join(l.splitBlocks(blocks), l.splitPrivate()); err != nil {
				t.Fatal(err)
			}
		},
		"after FORMAT": begin,
		"blocks gone": func(t *testing.T, l *Ledger) {
			begin(t, l)
			if err := os.RemoveAll(filepath.Join(l.config.Dir, "blocks")); err != nil {
				t.Fatal(err)
			}
		},
		"blocks in place": func(t *testing.T, l *Ledger) {
			begin(t, l)
			if err := errors.Join(os.RemoveAll(filepath.Join(l.config.Dir, "blocks")),
				os.Rename(filepath.Join(l.config.Dir, blocksSplit), filepath.Join(l.config.Dir, "blocks"))); err != nil {
				t.Fatal(err)
			}
		},
		"all in place": func(t *testing.T, l *Ledger) {
			begin(t, l)
			if err := l.clearWhole(); err != nil {
				t.Fatal(err)
			}
		},
		"during the rebuild": func(t *testing.T, l *Ledger) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if opened, err := Open(ctx, l.config); !errors.Is(err, context.Canceled) {
				t.Errorf("%v, %v", opened, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, k := version3(t)
			stop(t, &Ledger{config: Config{Dir: dir, ChannelID: testChannel, Keyring: k}.withDefaults(), sealer: sealer{k, testChannel}})
			checkSplit(t, dir, k, blocks)
		})
	}
}

// Blocks that the older version had committed are not lost unnoticed.
func TestUpgradeTo4KeepsHeight(t *testing.T) {
	dir, k := version2(t)
	alter(t, logFile(dir), func(b []byte) []byte { return b[:len(b)-1] })
	for range 2 {
		if l, err := openIn(dir, k); err == nil || !strings.Contains(err.Error(), "block 11 was committed") {
			if l != nil {
				l.Close()
			}
			t.Errorf("got %v", err)
		}
	}
}
