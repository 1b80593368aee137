package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"strongroom/ledger"
	"strongroom/ledger/ledgertest"
	"strongroom/ledger/seal"
	"strongroom/ledger/seal/sealtest"
	"strongroom/ledger/selector"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
	"strongroom/wire/rwsetpb"
)

const coll = "_implicit_org_Org1MSP"

// twins are two ledgers that get the same blocks; the namespace "a" of one is shredded.
type twins struct {
	t           *testing.T
	dir         string
	keyring     *seal.Keyring
	other, mine *ledger.Ledger
}

func newTwins(t *testing.T) *twins {
	w := &twins{t: t, dir: t.TempDir(), keyring: sealtest.Keyring(t), other: ledgertest.Open(t, channelID)}
	w.open()
	t.Cleanup(func() { ok(t, w.mine.Close()) })
	return w
}

func (w *twins) open() {
	w.t.Helper()
	var err error
	w.mine, err = ledger.Open(context.Background(), ledger.Config{Dir: w.dir, ChannelID: channelID, Keyring: w.keyring, CachedBlocks: 1})
	ok(w.t, err)
}

func (w *twins) reopen() {
	w.t.Helper()
	ok(w.t, w.mine.Close())
	w.open()
}

// run simulates on the ledger that has everything, commits to both and compares.
func (w *twins) run(do func(s *ledger.Simulator)) {
	w.t.Helper()
	w.commit(w.simulate(do))
}

type simulated struct {
	id      string
	tx      []byte
	private *rwsetpb.TxPvtReadWriteSet
}

func (w *twins) simulate(do func(s *ledger.Simulator)) simulated {
	w.t.Helper()
	s := simulate(w.t, w.other)
	do(s)
	results, pvt, err := s.Results()
	ok(w.t, err)
	tx, id := ledgertest.Envelope(w.t, channelID, "a", results)
	return simulated{id, tx, pvt}
}

func (w *twins) commit(txs ...simulated) {
	w.t.Helper()
	var envelopes [][]byte
	for _, tx := range txs {
		envelopes = append(envelopes, tx.tx)
		if tx.private != nil {
			ok(w.t, w.other.KeepPrivate(tx.id, tx.private))
			ok(w.t, w.mine.KeepPrivate(tx.id, tx.private))
		}
	}
	b := ledgertest.Next(w.t, w.other, envelopes...)
	twin, err := wire.ParseBlock(proto.Clone(b.Proto).(*commonpb.Block))
	ok(w.t, err)
	flags := [2][]peerpb.TxValidationCode{make([]peerpb.TxValidationCode, len(txs)), make([]peerpb.TxValidationCode, len(txs))}
	ok(w.t, w.other.Commit(context.Background(), b, flags[0]))
	ok(w.t, w.mine.Commit(context.Background(), twin, flags[1]))
	if !slices.Equal(flags[0], flags[1]) {
		w.t.Errorf("block %d: flags are %v, without the shredding %v", b.Number(), flags[1], flags[0])
	}
}

func put(key, value string) func(s *ledger.Simulator) {
	return func(s *ledger.Simulator) {
		for _, ns := range []string{"a", "b"} {
			if err := s.Put(ns, key, []byte(value+ns)); err != nil {
				panic(err)
			}
		}
	}
}

func policy(name string) map[string][]byte {
	return map[string][]byte{"VALIDATION_PARAMETER": []byte(name)}
}

// After a namespace was shredded its values are gone from state, history, private data
// and blocks, everything else reads as before, and the ledger decides on later
// transactions as one that has everything.
func TestShred(t *testing.T) {
	w := newTwins(t)
	for i := range 6 {
		w.run(put(fmt.Sprintf("k%d", i), "secret value of "))
	}
	w.run(func(s *ledger.Simulator) {
		ok(t, s.SetMetadata("a", "k1", policy("first")))
		ok(t, s.PutPrivate("a", coll, "p", []byte("private secret")))
		ok(t, s.PutPrivate("b", coll, "p", []byte("private value that stays")))
	})
	w.run(func(s *ledger.Simulator) { ok(t, s.Delete("a", "k5")) })
	w.run(func(s *ledger.Simulator) { ok(t, s.Put("_lifecycle", "k", []byte("of the system"))) })
	ok(t, w.mine.Close())
	s, err := w.keyring.Shred(channelID, "a")
	if err != nil || s.Keys == 0 {
		t.Fatal(s, err)
	}
	w.open()
	w.check()
	w.reopen()
	w.check()
	w.later()
	w.check()
	// All stores are rebuilt from what is left of the blocks.
	ok(t, w.mine.Close())
	for _, name := range []string{"index", "state", "history"} {
		ok(t, os.RemoveAll(filepath.Join(w.dir, name)))
	}
	w.open()
	w.check()
	w.later()
}

// check compares what the two ledgers give for what was there before the shredding.
func (w *twins) check() {
	t := w.t
	t.Helper()
	mine, err := w.mine.Snapshot()
	ok(t, err)
	defer mine.Release()
	other, err := w.other.Snapshot()
	ok(t, err)
	defer other.Release()
	gone := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, seal.ErrShredded) || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range 5 {
		key := fmt.Sprintf("k%d", i)
		_, err := mine.Get("a", key)
		gone("get "+key, err)
		got, err1 := mine.Version("a", key)
		want, err2 := other.Version("a", key)
		if err1 != nil || err2 != nil || *got != *want {
			t.Errorf("version of %s is %s, want %s, %v, %v", key, got, want, err1, err2)
		}
		if got, err := mine.Get("b", key); err != nil || string(got) != "secret value of b" {
			t.Errorf("%s of b is %q, %v", key, got, err)
		}
		history, err := mine.History("a", key)
		ok(t, err)
		_, err = history.Next()
		gone("history of "+key, err)
		history.Close()
		if history, err = mine.History("b", key); err != nil {
			t.Fatal(err)
		}
		if m, err := history.Next(); err != nil || string(m.GetValue()) != "secret value of b" {
			t.Errorf("history of %s of b: %v, %v", key, m, err)
		}
		history.Close()
	}
	if got, err := mine.Get("a", "k5"); got != nil || err != nil {
		t.Errorf("a deleted key is %q, %v", got, err)
	}
	rows, err := mine.Range("a", "", "")
	ok(t, err)
	_, err = rows.Next()
	gone("range", err)
	rows.Close()
	if got, err := mine.GetMetadata("a", "k1"); err != nil || string(got["VALIDATION_PARAMETER"]) != "first" {
		t.Errorf("metadata is %q, %v", got, err)
	}
	if got, err := mine.Private("b", coll, "p"); err != nil || string(got) != "private value that stays" {
		t.Errorf("private value of b is %q, %v", got, err)
	}
	if got, err := mine.Private("a", coll, "p"); got != nil || !errors.Is(err, seal.ErrShredded) && !errors.Is(err, ledger.ErrNoPrivateData) {
		t.Errorf("private value of a is %q, %v", got, err)
	}
	for n := range uint64(9) {
		want, err := w.other.Block(n)
		ok(t, err)
		got, err := w.mine.Block(n)
		gone("block", err)
		if got != nil {
			t.Errorf("block %d is %v", n, got)
		}
		outline, err := w.mine.Outline(n)
		if err != nil || !proto.Equal(outline.Header, want.Header) || !proto.Equal(outline.Metadata, want.Metadata) ||
			bytes.Contains(outline.Data.Data[0], []byte("value of a")) || len(outline.Data.Data[0]) != len(want.Data.Data[0]) {
			t.Errorf("outline of block %d is %v, %v", n, outline, err)
		}
	}
	if !bytes.Equal(w.mine.CommitHash(), w.other.CommitHash()) {
		t.Errorf("commit hash is %x, want %x", w.mine.CommitHash(), w.other.CommitHash())
	}
}

// later commits what reads and writes the shredded namespace.
func (w *twins) later() {
	t := w.t
	t.Helper()
	current := w.simulate(func(s *ledger.Simulator) {
		_, err := s.Get("a", "k0")
		ok(t, err)
		ok(t, s.Put("a", "new", []byte("later")))
	})
	stale := w.simulate(func(s *ledger.Simulator) {
		_, err := s.Get("a", "new")
		ok(t, err)
		ok(t, s.Put("b", "stale", []byte("never")))
	})
	query := w.simulate(func(s *ledger.Simulator) {
		rows, err := s.Range("a", "k", "l")
		ok(t, err)
		for kv, err := rows.Next(); kv != nil; kv, err = rows.Next() {
			ok(t, err)
		}
		ok(t, s.Put("b", "counted", []byte("yes")))
	})
	w.commit(current, stale, query)
	snapshot, err := w.mine.Snapshot()
	ok(t, err)
	defer snapshot.Release()
	if got, err := snapshot.Get("a", "new"); err != nil || string(got) != "later" {
		t.Errorf("what came later is %q, %v", got, err)
	}
	if got, err := snapshot.Get("b", "counted"); err != nil || string(got) != "yes" {
		t.Errorf("the range query was not valid: %q, %v", got, err)
	}
	if b, err := w.mine.Block(w.mine.Height() - 1); err != nil || b == nil {
		t.Error(err)
	}
}

// Metadata for a key whose value is gone is written, and survives a rebuild. No
// commit hash can be made from then on.
func TestShredMetadata(t *testing.T) {
	w := newTwins(t)
	w.run(put("k1", "secret value of "))
	w.run(put("k2", "secret value of "))
	ok(t, w.mine.Close())
	if _, err := w.keyring.Shred(channelID, "a"); err != nil {
		t.Fatal(err)
	}
	w.open()
	w.run(func(s *ledger.Simulator) { ok(t, s.SetMetadata("a", "k1", policy("later"))) })
	check := func() {
		t.Helper()
		s, err := w.mine.Snapshot()
		ok(t, err)
		defer s.Release()
		if got, err := s.GetMetadata("a", "k1"); err != nil || string(got["VALIDATION_PARAMETER"]) != "later" {
			t.Errorf("metadata is %q, %v", got, err)
		}
		if _, err := s.Get("a", "k1"); !errors.Is(err, seal.ErrShredded) {
			t.Error(err)
		}
		if v, err := s.Version("a", "k1"); err != nil || v.Block != 2 {
			t.Errorf("version is %s, %v", v, err)
		}
		if w.mine.CommitHash() != nil {
			t.Errorf("commit hash is %x", w.mine.CommitHash())
		}
	}
	check()
	ok(t, w.mine.Close())
	ok(t, os.RemoveAll(filepath.Join(w.dir, "state")))
	w.open()
	check()
	w.run(put("k3", "value of "))
	s, err := w.mine.Snapshot()
	ok(t, err)
	defer s.Release()
	if got, err := s.Get("a", "k3"); err != nil || string(got) != "value of a" {
		t.Errorf("k3 is %q, %v", got, err)
	}
}

// A token that is away when a namespace needs its first key stops the commit before
// anything happened; the same block can be committed later.
func TestCommitWithoutToken(t *testing.T) {
	wrapper := sealtest.NewWrapper(t, "wrapping key of a test")
	k := sealtest.KeyringIn(t, t.TempDir(), wrapper)
	l, err := ledger.Open(context.Background(), ledger.Config{Dir: t.TempDir(), ChannelID: channelID, Keyring: k})
	ok(t, err)
	t.Cleanup(func() { ok(t, l.Close()) })
	fill(t, l, "kv", 1)
	s := simulate(t, l)
	ok(t, s.Put("other", "k", []byte("v")))
	results, _, err := s.Results()
	ok(t, err)
	envelope, _ := ledgertest.Envelope(t, channelID, "other", results)
	b := ledgertest.Next(t, l, envelope)
	flags := make([]peerpb.TxValidationCode, 1)
	wrapper.Fail = errors.New("token is away")
	if err := l.Commit(context.Background(), b, flags); !errors.Is(err, ledger.ErrNoKeys) || !errors.Is(err, wrapper.Fail) {
		t.Errorf("got %v", err)
	}
	wrapper.Fail = nil
	ok(t, l.Commit(context.Background(), b, flags))
	if l.Height() != 2 {
		t.Errorf("height is %d", l.Height())
	}
}

// The indexes of a shredded namespace, which hold parts of its values, go with it, and
// a rich query says that values are gone rather than leave them out.
func TestShredIndexes(t *testing.T) {
	dir, keyring := t.TempDir(), sealtest.Keyring(t)
	open := func() *ledger.Ledger {
		t.Helper()
		l, err := ledger.Open(context.Background(), ledger.Config{Dir: dir, ChannelID: channelID, Keyring: keyring})
		ok(t, err)
		return l
	}
	l := open()
	fillJSON(t, l, 40)
	ok(t, l.SetIndexes("kv", []*selector.Index{index(t, "n", `["n"]`)}))
	for {
		list, err := l.Indexes()
		ok(t, err)
		if len(list) == 1 && list[0].Ready {
			break
		}
		time.Sleep(time.Millisecond)
	}
	ok(t, l.Close())
	if _, err := keyring.Shred(channelID, "kv"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l = open()
		if list, err := l.Indexes(); err != nil || len(list) > 0 {
			t.Errorf("indexes are %v, %v", list, err)
		}
		ok(t, l.SetIndexes("kv", []*selector.Index{index(t, "n", `["n"]`)}))
		ok(t, l.CheckIndexes())
		s := simulate(t, l)
		rows, err := s.Query(context.Background(), "kv", `{"selector":{"n":3}}`)
		if err == nil {
			_, err = rows.Next()
		}
		if !errors.Is(err, seal.ErrShredded) {
			t.Errorf("got %v", err)
		}
		ok(t, l.Close())
	}
}
