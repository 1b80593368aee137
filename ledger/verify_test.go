package ledger

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/syndtr/goleveldb/leveldb/util"

	"strongroom/ledger/rwset"
	"strongroom/ledger/seal"
	"strongroom/ledger/seal/sealtest"
	"strongroom/wire"
)

// verifyIn verifies a ledger in a folder.
func verifyIn(t *testing.T, dir string, k *seal.Keyring, change ...func(*VerifyConfig)) *Verification {
	t.Helper()
	c := VerifyConfig{Config: Config{Dir: dir, ChannelID: testChannel, Keyring: k}, Scratch: memoryDir(t), ScratchKeyring: sealtest.Keyring(t)}
	for _, f := range change {
		f(&c)
	}
	v, err := Verify(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// fullLedger is a ledger with blocks of both forms, tables and journals, and private
// writes that wait; nobody has it open.
func fullLedger(t *testing.T) (dir string, k *seal.Keyring) {
	t.Helper()
	dir, k = version2(t)
	l := openTest(t, dir, k, func(c *Config) { c.BlockFileSize = 300_000 })
	for _, s := range []*store{l.index.store, l.state, l.history, l.private.store} {
		if err := s.CompactRange(util.Range{}); err != nil {
			t.Fatal(err)
		}
	}
	commitOne(t, l, 20)
	if err := l.KeepPrivate("waiting", privateWrites(t, "key", "value")); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, k
}

func fingerprint(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(name)
		all[name] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A ledger that nobody touched has no problem, each block is shown to the caller, and
// nothing on the disk is changed by looking.
func TestVerify(t *testing.T) {
	dir, k := fullLedger(t)
	before := fingerprint(t, dir)
	var blocks uint64
	v := verifyIn(t, dir, k, func(c *VerifyConfig) {
		c.Block = func(_ context.Context, b *wire.Block) ([]string, error) {
			if b.Number() != blocks || len(b.Proto.Metadata.Metadata) == 0 {
				t.Errorf("block %d comes as number %d", b.Number(), blocks)
			}
			blocks++
			return nil, nil
		}
	})
	if len(v.Problems) != 0 || len(v.Notes) != 0 || v.Height != fabricBlocks+20 || blocks != v.Height || v.Rows < 300 {
		t.Errorf("%+v", v)
	}
	after := fingerprint(t, dir)
	for name, content := range before {
		if after[name] != content {
			t.Errorf("%s was changed", name)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d files were %d", len(after), len(before))
	}
}

// What the caller finds in a block is a problem of it.
func TestVerifyBlockProblems(t *testing.T) {
	dir, k := fullLedger(t)
	v := verifyIn(t, dir, k, func(c *VerifyConfig) {
		c.Block = func(_ context.Context, b *wire.Block) ([]string, error) {
			if b.Number() == 3 {
				return []string{"nobody signed it"}, nil
			}
			return nil, nil
		}
	})
	if len(v.Problems) != 1 || *v.Problems[0].Block != 3 || v.Problems[0].What != "nobody signed it" || !strings.Contains(v.Problems[0].Where, "000000.blocks, byte ") {
		t.Errorf("%v", v.Problems)
	}
}

// One flipped bit in any file of the ledger is found, and the file named.
func TestVerifyFlippedBits(t *testing.T) {
	whole, k := fullLedger(t)
	files := 0
	for name, content := range fingerprint(t, whole) {
		if len(content) == 0 {
			continue // a LOCK
		}
		rel, err := filepath.Rel(whole, name)
		if err != nil {
			t.Fatal(err)
		}
		files++
		for _, at := range []int{0, len(content) / 3, len(content) / 2, len(content) - 1} {
			dir := memoryDir(t)
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, rel)
			alter(t, file, func(b []byte) []byte { b[at] ^= 0x10; return b })
			v := verifyIn(t, dir, k)
			said := fmt.Sprint(v.Problems, v.Notes)
			// The end of a journal or of the block log may be a write that a crash tore.
			tail := strings.HasSuffix(rel, ".log") || strings.Contains(rel, "MANIFEST") || strings.HasSuffix(rel, ".blocks")
			if len(v.Problems) == 0 && !(tail && len(v.Notes) > 0) || !strings.Contains(said, file) {
				t.Errorf("%s, byte %d of %d: %s", rel, at, len(content), said)
			}
		}
	}
	if files < 15 {
		t.Errorf("only %d files", files)
	}
}

// Genuine bytes in the wrong place, rows that are missing or too many, and a store or
// log that is older than the rest are found and named.
func TestVerifyTampered(t *testing.T) {
	whole, k := fullLedger(t)
	a00, a02 := stateKey{ns: "kv", key: "a00"}, stateKey{ns: "kv", key: "a02"}
	swap := func(t *testing.T, l *Ledger) {
		first, err := l.state.get(a00.row(nil))
		if err != nil {
			t.Fatal(err)
		}
		put(t, l.state, a02.row(nil), first)
	}
	for name, c := range map[string]struct {
		change func(t *testing.T, l *Ledger)
		want   string
	}{
		"value of another key": {swap, `namespace "kv" key "a02": open state`},
		"value of its own, sealed anew": {func(t *testing.T, l *Ledger) {
			v, err := l.view.lookup(a00)
			if err != nil {
				t.Fatal(err)
			}
			v.bytes = append(v.bytes, '!')
			row, err := l.sealer.seal(nil, a00, v)
			if err != nil {
				t.Fatal(err)
			}
			put(t, l.state, a00.row(nil), row)
		}, `namespace "kv" key "a00": its value or metadata`},
		"version": {func(t *testing.T, l *Ledger) {
			v, err := l.view.lookup(a00)
			if err != nil {
				t.Fatal(err)
			}
			v.version = rwset.Height{Block: 4, Tx: 40}
			row, err := l.sealer.seal(nil, a00, v)
			if err != nil {
				t.Fatal(err)
			}
			put(t, l.state, a00.row(nil), row)
		}, `key "a00": it has version 4:40, the blocks give`},
		"missing value": {func(t *testing.T, l *Ledger) { remove(t, l.state, a00.row(nil)) }, `key "a00": the row is missing`},
		"value too many": {func(t *testing.T, l *Ledger) {
			put(t, l.state, stateKey{ns: "kv", key: "never written"}.row(nil), []byte("x"))
		}, `namespace "kv" key "never written": the row is not one that the blocks give`},
		"private value without a hash": {func(t *testing.T, l *Ledger) {
			pk := privateKey{"kv", "c", "k"}
			at := rwset.Height{Block: 5}
			row, err := l.sealer.sealPrivate(pk, &value{bytes: []byte("v"), version: at})
			if err != nil {
				t.Fatal(err)
			}
			put(t, l.state, pk.row(nil), row)
		}, `collection "c" key "k": its hash is missing`},
		"entry of no index": {func(t *testing.T, l *Ledger) {
			put(t, l.state, append((&stateIndex{ns: "kv", number: 9}).prefix(), "xa00"...), []byte{3})
		}, "state: "},
		"history": {func(t *testing.T, l *Ledger) {
			rows := l.history.NewIterator(prefixRange(historyPrefix(nil, "kv", "a00"), "", ""), nil)
			defer rows.Release()
			if !rows.Next() {
				t.Fatal(rows.Error())
			}
			remove(t, l.history, bytes.Clone(rows.Key()))
		}, `history: `},
		"place of a block": {func(t *testing.T, l *Ledger) {
			v, err := l.index.get(numberKey(3))
			if err != nil {
				t.Fatal(err)
			}
			put(t, l.index.store, numberKey(4), v)
		}, "row of block 4: block 4 is at"},
		"code of a transaction": {func(t *testing.T, l *Ledger) {
			key := txKey(parse(t, fabricBlock(t, 5)).Txs[0].TxID())
			v, err := l.index.get(key)
			if err != nil {
				t.Fatal(err)
			}
			v[len(v)-1] ^= 1
			put(t, l.index.store, key, v)
		}, "index: "},
		"private writes moved": {func(t *testing.T, l *Ledger) {
			put(t, l.private.store, append(keptPrefix("other"), make([]byte, 8)...), append([]byte{0}, keptRow(t, l.private.store, "waiting")...))
		}, "private: "},
	} {
		t.Run(name, func(t *testing.T) {
			dir := memoryDir(t)
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			l := openTest(t, dir, k)
			c.change(t, l)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			v := verifyIn(t, dir, k)
			if len(v.Problems) != 1 || !strings.Contains(v.Problems[0].String(), c.want) {
				t.Fatalf("got %v, want one problem with %q", v.Problems, c.want)
			}
			if strings.HasPrefix(c.want, "private") || strings.Contains(c.want, "collection") {
				return
			}
			// A rebuild mends what follows from the blocks.
			if _, err := Rebuild(context.Background(), Config{Dir: dir, ChannelID: testChannel, Keyring: k}); err != nil {
				t.Fatal(err)
			}
			if v := verifyIn(t, dir, k); len(v.Problems) != 0 || len(v.Notes) != 0 {
				t.Errorf("after the rebuild: %+v", v)
			}
		})
	}
}

func put(t *testing.T, s *store, key, row []byte) {
	t.Helper()
	if err := s.Put(key, row, synced); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, s *store, key []byte) {
	t.Helper()
	if err := s.Delete(key, synced); err != nil {
		t.Fatal(err)
	}
}

// A block log that was cut between two records looks whole; the stores tell.
func TestVerifyTruncated(t *testing.T) {
	dir, k := fullLedger(t)
	v := verifyIn(t, dir, k)
	if len(v.Problems) != 0 {
		t.Fatal(v.Problems)
	}
	l := openTest(t, dir, k)
	last, err := l.index.location(l.Height() - 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	alter(t, blockFile(filepath.Join(dir, "blocks"), last.File), func(b []byte) []byte { return b[:last.Offset] })
	v = verifyIn(t, dir, k)
	if len(v.Problems) != 3 || !strings.Contains(v.Problems[0].What, "the log has 31 blocks, store index holds 32") {
		t.Errorf("%v", v.Problems)
	}
	if _, err := Rebuild(context.Background(), Config{Dir: dir, ChannelID: testChannel, Keyring: k}); err == nil || !strings.Contains(err.Error(), "block 31 was committed") {
		t.Errorf("a rebuild gives %v", err)
	}
	// Without the stores that know, the ledger is whole, and shorter.
	for _, name := range derivedStores {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if height, err := Rebuild(context.Background(), Config{Dir: dir, ChannelID: testChannel, Keyring: k}); err != nil || height != 31 {
		t.Errorf("%d, %v", height, err)
	}
	if v := verifyIn(t, dir, k); len(v.Problems) != 0 || v.Height != 31 {
		t.Errorf("%+v", v)
	}
}

// A rebuild that was interrupted goes on when it is started again; opening the ledger
// takes its rests away.
func TestRebuildInterrupted(t *testing.T) {
	dir, k := fullLedger(t)
	c := Config{Dir: dir, ChannelID: testChannel, Keyring: k}
	ctx, cancel := context.WithCancel(context.Background())
	c.Progress = func(what string, block, of uint64) {
		if what == "applying blocks again" {
			cancel()
		}
	}
	if _, err := Rebuild(ctx, c); err == nil {
		t.Fatal("it was not interrupted")
	}
	if _, err := os.Stat(filepath.Join(dir, "index"+rebuiltSuffix)); err != nil {
		t.Fatal(err)
	}
	if v := verifyIn(t, dir, k); len(v.Problems) != 0 {
		t.Errorf("a rebuild in part disturbs the ledger: %v", v.Problems)
	}
	first := ""
	c.Progress = func(what string, _, _ uint64) { first += what } // is told of block 0
	if height, err := Rebuild(context.Background(), c); err != nil || height != fabricBlocks+20 {
		t.Fatal(height, err)
	}
	if first != "" {
		t.Errorf("it did not go on where it was, but began again with %s", first)
	}
	if v := verifyIn(t, dir, k); len(v.Problems) != 0 {
		t.Errorf("%v", v.Problems)
	}
	if err := os.CopyFS(filepath.Join(dir, "state"+rebuiltSuffix), os.DirFS(filepath.Join(dir, "state"))); err != nil {
		t.Fatal(err)
	}
	l := openTest(t, dir, k)
	if _, err := os.Stat(filepath.Join(dir, "state"+rebuiltSuffix)); !os.IsNotExist(err) {
		t.Errorf("%v", err)
	}
	if got, err := Rebuild(context.Background(), c); err == nil {
		t.Errorf("a ledger that is open was rebuilt: %d", got)
	}
	if l.Height() != fabricBlocks+20 {
		t.Error(l.Height())
	}
}

// Stats are the same of a ledger in use and of one at rest, and count what is there.
func TestStats(t *testing.T) {
	dir, k := fullLedger(t)
	c := Config{Dir: dir, ChannelID: testChannel, Keyring: k}
	folders := map[string]string{"provenance": memoryDir(t)}
	touch(t, filepath.Join(folders["provenance"], "statement"))
	rest, err := ReadStats(context.Background(), c, folders)
	if err != nil {
		t.Fatal(err)
	}
	l := openTest(t, dir, k)
	live, err := l.Stats(context.Background(), folders)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Stats{rest, live} {
		if s.Height != fabricBlocks+20 || s.Plain != 0 || s.Compressed != fabricBlocks+20 || s.Format != formatNow || len(s.Parts) != 6 {
			t.Errorf("%+v", s)
		}
		if kv := s.Namespaces["kv"]; kv.Keys == 0 || kv.Bytes == 0 || s.Namespaces["_lifecycle"].PrivateKeys == 0 {
			t.Errorf("%+v", s.Namespaces)
		}
		var sum, terms uint64
		for _, p := range s.Parts {
			sum += uint64(p.Bytes)
		}
		for _, n := range s.Terms {
			terms += n
		}
		var keys uint64
		for _, n := range s.Namespaces {
			keys += n.Keys + n.PrivateKeys
		}
		if int64(sum) != s.Bytes || terms != keys+s.Height || s.Terms[0] != 0 || s.Transactions < 80 {
			t.Errorf("%+v", s)
		}
	}
	if fmt.Sprint(rest.Namespaces, rest.Terms, rest.Transactions) != fmt.Sprint(live.Namespaces, live.Terms, live.Transactions) {
		t.Errorf("at rest %+v, in use %+v", rest, live)
	}
	if _, err := ReadStats(context.Background(), c, nil); err == nil {
		t.Error("a ledger in use was read")
	}
}

// Of a ledger with a shredded namespace all is verified that is left, and the stats say so.
func TestVerifyShredded(t *testing.T) {
	dir, k := fullLedger(t)
	if _, err := k.Shred(testChannel, "kv"); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		v := verifyIn(t, dir, k)
		if len(v.Problems) > 0 || v.Height < fabricBlocks+20 || !strings.Contains(strings.Join(v.Notes, "\n"), `values of namespaces ["kv"] are shredded`) {
			t.Errorf("%+v", v)
		}
	}
	check()
	l := openTest(t, dir, k)
	commitOne(t, l, 2)
	s, err := l.Stats(context.Background(), nil)
	if err != nil || len(s.Shredded) != 1 || s.Shredded[0].Namespace != "kv" || s.Namespaces["kv"].Keys == 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	check()
	if _, err := Rebuild(context.Background(), Config{Dir: dir, ChannelID: testChannel, Keyring: k}); err != nil {
		t.Fatal(err)
	}
	check()
	l = openTest(t, dir, k)
	row, err := l.sealer.seal(nil, stateKey{ns: "kv", key: "a00"}, &value{gone: true, version: rwset.Height{Block: 1}})
	if err != nil {
		t.Fatal(err)
	}
	put(t, l.state, stateKey{ns: "kv", key: "a00"}.row(nil), row)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if v := verifyIn(t, dir, k); len(v.Problems) != 1 || !strings.Contains(v.Problems[0].What, "it has version 1:0") {
		t.Errorf("%+v", v)
	}
}
