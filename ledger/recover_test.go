package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"strongroom/ledger/seal"
	"strongroom/ledger/seal/sealtest"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

var errCrash = errors.New("crash")

// logFile is the first file of a ledger's block log.
func logFile(dir string) string { return filepath.Join(dir, "blocks", "000000.blocks") }

// checkWhole checks that a ledger of the whole Fabric channel is whole.
func checkWhole(t *testing.T, l *Ledger) {
	t.Helper()
	if l.Height() != fabricBlocks {
		t.Fatalf("height is %d, want %d", l.Height(), fabricBlocks)
	}
	if want := fabricCommitHashes(t)[fabricBlocks-1]; !bytes.Equal(l.CommitHash(), want) {
		t.Errorf("commit hash is %x, want %x", l.CommitHash(), want)
	}
	checkFabricState(t, l)
	for n := range uint64(fabricBlocks) {
		if _, err := l.readBlock(n); err != nil {
			t.Error(err)
		}
	}
}

// A commit that stops before any of its steps leaves a ledger that refuses further
// commits, and that is whole when it is opened again.
func TestCrashPoints(t *testing.T) {
	k := sealtest.Keyring(t)
	for _, step := range []string{"begin", "private", "append", "sync", "index", "state", "history", "publish", "end"} {
		for _, at := range []uint64{0, 5} {
			t.Run(fmt.Sprintf("%s of block %d", step, at), func(t *testing.T) {
				dir := memoryDir(t)
				l := openTest(t, dir, k)
				commitFabric(t, l, at)
				l.hook = func(s string) error {
					if s == step {
						return errCrash
					}
					return nil
				}
				b := fabricBlock(t, at)
				err := l.Commit(context.Background(), parse(t, b), asValidated(fabricFlags(t, at)))
				if !errors.Is(err, errCrash) {
					t.Fatalf("commit: %v", err)
				}
				err = l.Commit(context.Background(), parse(t, b), asValidated(fabricFlags(t, at)))
				if !errors.Is(err, ErrFailed) || !errors.Is(err, errCrash) {
					t.Errorf("next commit: %v", err)
				}
				if s, err := l.Snapshot(); err != nil {
					t.Errorf("reading after a failed commit: %v", err)
				} else {
					s.Release()
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				l = openTest(t, dir, k)
				// A block counts when it is whole in the log; whether it was synced
				// cannot be told after a crash of the process alone.
				want := at
				if step != "begin" && step != "private" && step != "append" {
					want++
				}
				if l.Height() != want {
					t.Fatalf("height is %d, want %d", l.Height(), want)
				}
				commitFabric(t, l, fabricBlocks)
				checkWhole(t, l)
			})
		}
	}
}

// Several of the stores may have got the block when the others did not.
func TestCrashBetweenStores(t *testing.T) {
	k := sealtest.Keyring(t)
	stores := []string{"index", "state", "history"}
	for mask := range 1 << len(stores) {
		t.Run(fmt.Sprintf("stores %03b", mask), func(t *testing.T) {
			dir := memoryDir(t)
			l := openTest(t, dir, k)
			commitFabric(t, l, 5)
			var mu sync.Mutex
			l.hook = func(s string) error {
				mu.Lock()
				defer mu.Unlock()
				for i, name := range stores {
					if s == name && mask&(1<<i) != 0 || s == "publish" {
						return errCrash
					}
				}
				return nil
			}
			err := l.Commit(context.Background(), parse(t, fabricBlock(t, 5)), asValidated(fabricFlags(t, 5)))
			if !errors.Is(err, errCrash) {
				t.Fatalf("commit: %v", err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = openTest(t, dir, k)
			if l.Height() != 6 {
				t.Fatalf("height is %d, want 6", l.Height())
			}
			commitFabric(t, l, fabricBlocks)
			checkWhole(t, l)
		})
	}
}

// fabricLedger makes a closed ledger of the whole Fabric channel.
func fabricLedger(t *testing.T, open func(dir string) *Ledger) string {
	t.Helper()
	dir := memoryDir(t)
	l := open(dir)
	commitFabric(t, l, fabricBlocks)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Stores that are gone, all or some, are rebuilt from the block log.
func TestRebuild(t *testing.T) {
	k := sealtest.Keyring(t)
	small := func(c *Config) { c.BlockFileSize = 100_000 }
	for _, gone := range [][]string{{"index"}, {"state"}, {"history"}, {"state", "history"}, {"index", "state", "history"}} {
		t.Run(strings.Join(gone, " "), func(t *testing.T) {
			dir := fabricLedger(t, func(dir string) *Ledger { return openTest(t, dir, k, small) })
			for _, name := range gone {
				if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			l := openTest(t, dir, k, small)
			checkWhole(t, l)
			for n := range uint64(fabricBlocks) {
				b, err := l.BlockByHash(parse(t, fabricBlock(t, n)).Hash)
				if err != nil || b.Header.Number != n {
					t.Errorf("block %d: %v", n, err)
				}
			}
		})
	}
}

// An older copy of a store is brought up to the block log.
func TestOlderStore(t *testing.T) {
	k := sealtest.Keyring(t)
	for _, name := range []string{"index", "state", "history"} {
		t.Run(name, func(t *testing.T) {
			dir, old := memoryDir(t), filepath.Join(memoryDir(t), name)
			l := openTest(t, dir, k)
			commitFabric(t, l, 5)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(old, os.DirFS(filepath.Join(dir, name))); err != nil {
				t.Fatal(err)
			}
			l = openTest(t, dir, k)
			commitFabric(t, l, fabricBlocks)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(old)); err != nil {
				t.Fatal(err)
			}
			checkWhole(t, openTest(t, dir, k))
		})
	}
}

// A record that was not written completely, of a block that nobody was told of, is
// cut, wherever the write stopped and whatever the disk holds behind.
func TestTornTail(t *testing.T) {
	k := sealtest.Keyring(t)
	dir := memoryDir(t)
	l := openTest(t, dir, k)
	commitFabric(t, l, 5)
	l.hook = func(s string) error {
		if s == "index" || s == "state" || s == "history" {
			return errCrash
		}
		return nil
	}
	info, err := os.Stat(logFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	whole := info.Size()
	if err := l.Commit(context.Background(), parse(t, fabricBlock(t, 5)), asValidated(fabricFlags(t, 5))); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	record, err := os.ReadFile(logFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	before, record := record[:whole], record[whole:]
	changed := bytes.Clone(record)
	changed[len(changed)/2] ^= 1
	for name, tail := range map[string][]byte{
		"1 byte": record[:1], "half a header": record[:frameHeader/2], "a header": record[:frameHeader],
		"half": record[:len(record)/2], "all but 1 byte": record[:len(record)-1],
		"zeros": make([]byte, len(record)), "header lost": append(make([]byte, frameHeader), record[frameHeader:]...),
		"a page lost": changed, "zeros behind half": append(bytes.Clone(record[:len(record)/2]), make([]byte, 10_000)...),
	} {
		t.Run(name, func(t *testing.T) {
			torn := memoryDir(t)
			if err := os.CopyFS(torn, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(logFile(torn), append(bytes.Clone(before), tail...), 0o600); err != nil {
				t.Fatal(err)
			}
			l := openTest(t, torn, k)
			if l.Height() != 5 {
				t.Fatalf("height is %d, want 5", l.Height())
			}
			if info, err := os.Stat(logFile(torn)); err != nil || info.Size() != whole {
				t.Errorf("block log has %d bytes (%v), want %d", info.Size(), err, whole)
			}
			commitFabric(t, l, fabricBlocks)
			checkWhole(t, l)
		})
	}
}

// What was committed once and cannot be read any more is an error that names the
// file and the place, and says what to do.
func TestDamage(t *testing.T) {
	k := sealtest.Keyring(t)
	whole := fabricLedger(t, func(dir string) *Ledger { return openTest(t, dir, k) })
	raw, err := os.ReadFile(logFile(whole))
	if err != nil {
		t.Fatal(err)
	}
	var starts []int // of the records
	for at := 0; at < len(raw); {
		starts = append(starts, at)
		n, err := frameLength(raw[at:])
		if err != nil {
			t.Fatal(err)
		}
		at += n
	}
	rebuild := []string{"index", "state", "history"}
	for name, test := range map[string]struct {
		gone   []string
		change func(raw []byte) []byte
		want   string
	}{
		"bit in the middle": {rebuild, func(b []byte) []byte { b[starts[6]+100] ^= 1; return b },
			fmt.Sprintf("byte %d: record's checksum is wrong, and a whole record follows at byte %d", starts[6], starts[7])},
		"bit in a header": {rebuild, func(b []byte) []byte { b[starts[6]] ^= 1; return b },
			fmt.Sprintf("byte %d: record does not start with SRB and a form from 1 to 3, and a whole record follows at byte %d", starts[6], starts[7])},
		"length too long": {rebuild, func(b []byte) []byte { b[starts[6]+4] |= 0x10; return b },
			fmt.Sprintf("byte %d: record is not complete, and a whole record follows", starts[6])},
		"bit in the last record": {[]string{"index"}, func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
			fmt.Sprintf("byte %d: record's checksum is wrong, and block 11 was committed", starts[11])},
		"last record cut": {nil, func(b []byte) []byte { return b[:len(b)-1] }, "it was truncated, or it is an older copy"},
		"last record gone": {[]string{"index"}, func(b []byte) []byte { return b[:starts[11]] },
			"ends at block 11, but block 11 was committed"},
		"record taken out": {rebuild, func(b []byte) []byte { return append(b[:starts[6]], b[starts[7]:]...) },
			fmt.Sprintf("byte %d: record holds block 7 where block 6 should be", starts[6])},
		"all gone": {nil, func([]byte) []byte { return nil }, "it was truncated"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := memoryDir(t)
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			for _, gone := range test.gone {
				if err := os.RemoveAll(filepath.Join(dir, gone)); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(logFile(dir), test.change(bytes.Clone(raw)), 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := openIn(dir, k)
			if err == nil {
				l.Close()
				t.Fatal("a damaged block log is accepted")
			}
			if !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), filepath.Join(dir, "blocks")) {
				t.Errorf("got %v\nwant it to name the file, and %q", err, test.want)
			}
		})
	}
}

// Damage behind the savepoints does not keep the ledger from opening; reading the
// block names the file and the place.
func TestDamageFoundByReading(t *testing.T) {
	k := sealtest.Keyring(t)
	dir := fabricLedger(t, func(dir string) *Ledger { return openTest(t, dir, k) })
	raw, err := os.ReadFile(logFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	raw[100] ^= 1
	if err := os.WriteFile(logFile(dir), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	l := openTest(t, dir, k)
	_, err = l.Block(0)
	if err == nil || !strings.Contains(err.Error(), logFile(dir)+", byte 0") {
		t.Errorf("got %v", err)
	}
}

// A state that was changed behind the ledger's back does not replay.
func TestReplayFindsChangedState(t *testing.T) {
	k := sealtest.Keyring(t)
	dir := memoryDir(t)
	l := openTest(t, dir, k)
	commitFabric(t, l, 5)
	if err := l.state.Delete(stateKey{ns: "kv", key: "a00"}.row(nil), nil); err != nil {
		t.Fatal(err)
	}
	l.hook = func(s string) error {
		if s == "state" {
			return errCrash
		}
		return nil
	}
	// The commit decides otherwise than Fabric did, on a key that is gone; what it
	// records is replaced by what Fabric recorded.
	b := parse(t, fabricBlock(t, 5))
	if err := l.Commit(context.Background(), b, asValidated(fabricFlags(t, 5))); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	l.hook = func(string) error { return nil }
	recorded := fabricFlags(t, 5)
	_, err := l.reapply(&parsedBlock{b, &storedBlock{Block: b.Proto}}, recorded, fabricCommitHashes(t)[4])
	if err == nil || !strings.Contains(err.Error(), "the state was changed") || !strings.Contains(err.Error(), filepath.Join(dir, "state")) {
		t.Errorf("got %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	k := sealtest.Keyring(t)
	for name, test := range map[string]struct {
		prepare func(t *testing.T, dir string)
		change  func(c *Config)
		want    string
	}{
		"no dir":       {nil, func(c *Config) { c.Dir = "" }, "Dir is empty"},
		"no channel":   {nil, func(c *Config) { c.ChannelID = "" }, "ChannelID has 0 bytes"},
		"no keyring":   {nil, func(c *Config) { c.Keyring = nil }, "Keyring is missing"},
		"bad size":     {nil, func(c *Config) { c.BlockFileSize = -1 }, "BlockFileSize is -1"},
		"bad limit":    {nil, func(c *Config) { c.QueryLimit = -1 }, "QueryLimit is -1"},
		"bad cache":    {nil, func(c *Config) { c.CachedBlocks = -1 }, "CachedBlocks is -1"},
		"foreign dir":  {func(t *testing.T, dir string) { touch(t, filepath.Join(dir, "notes")) }, nil, "it is no ledger"},
		"foreign file": {prepareThen(k, func(t *testing.T, dir string) { touch(t, filepath.Join(dir, "blocks", "notes")) }), nil, "notes, which is no part of it"},
		"other channel": {prepareThen(k, func(*testing.T, string) {}), func(c *Config) { c.ChannelID = "other" },
			`is the ledger of channel "mychannel"`},
		"later format": {prepareThen(k, func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "FORMAT"), []byte("strongroom ledger 99\nchannel mychannel\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}), nil, "not of a form that this version knows"},
		"log file gone": {prepareThen(k, func(t *testing.T, dir string) {
			if err := os.Rename(logFile(dir), filepath.Join(dir, "blocks", "000001.blocks")); err != nil {
				t.Fatal(err)
			}
		}), nil, "000000.blocks is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := memoryDir(t)
			if test.prepare != nil {
				test.prepare(t, dir)
			}
			change := test.change
			if change == nil {
				change = func(*Config) {}
			}
			l, err := openIn(dir, k, change)
			if err == nil {
				l.Close()
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// A ledger cannot be opened twice, nor with keys that do not belong to it.
func TestOpenOnce(t *testing.T) {
	k := sealtest.Keyring(t)
	dir := memoryDir(t)
	l := openTest(t, dir, k)
	commitFabric(t, l, 2)
	if second, err := openIn(dir, k); err == nil {
		second.Close()
		t.Error("a ledger is open twice")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if other, err := openIn(dir, sealtest.Keyring(t)); err == nil {
		other.Close()
		t.Error("a ledger opens with another keyring")
	} else if !strings.Contains(err.Error(), filepath.Join(dir, "index", "CURRENT")) || !strings.Contains(err.Error(), "if the keyring is the one that made it") {
		t.Errorf("got %v", err)
	}
}

func TestCommitRefuses(t *testing.T) {
	l := newTest(t)
	commitFabric(t, l, 3)
	for name, test := range map[string]struct {
		change func(b *commonpb.Block)
		flags  int
		want   string
	}{
		"number":   {func(b *commonpb.Block) { b.Header.Number = 5 }, 1, "it is block 5, block 3 is next"},
		"previous": {func(b *commonpb.Block) { b.Header.PreviousHash[0] ^= 1 }, 1, "its previous_hash is"},
		"flags":    {func(*commonpb.Block) {}, 2, "2 flags for 1 transactions"},
	} {
		b := fabricBlock(t, 3)
		test.change(b)
		err := l.Commit(context.Background(), parse(t, b), make([]codes, test.flags))
		if !errors.Is(err, ErrBlock) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Commit(ctx, parse(t, fabricBlock(t, 3)), make([]codes, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("commit after cancel: %v", err)
	}
	commitFabric(t, l, fabricBlocks) // none of it did harm
	checkWhole(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(context.Background(), parse(t, fabricBlock(t, 3)), make([]codes, 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("commit after close: %v", err)
	}
}

func touch(t *testing.T, name string) {
	t.Helper()
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

type codes = peerpb.TxValidationCode

// prepareThen makes a closed ledger of one block in the folder and changes it.
func prepareThen(k *seal.Keyring, change func(t *testing.T, dir string)) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		l, err := openIn(dir, k)
		if err != nil {
			t.Fatal(err)
		}
		commitFabric(t, l, 1)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		change(t, dir)
	}
}
