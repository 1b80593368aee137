package ledger_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"strongroom/ledger"
	"strongroom/ledger/seal/sealtest"
	"strongroom/ledger/selector"
)

// Private values are compared with the hashes that the blocks give, entries of indexes with
// the values; private values are there again after a rebuild.
func TestVerifyPrivate(t *testing.T) {
	k, dir := sealtest.Keyring(t), t.TempDir()
	c := ledger.Config{Dir: dir, ChannelID: channelID, Keyring: k}
	l, err := ledger.Open(context.Background(), c)
	ok(t, err)
	for n := range 5 {
		run(t, l, func(s *ledger.Simulator) {
			ok(t, s.PutPrivate("kv", collection, fmt.Sprint("key ", n), []byte("secret")))
			ok(t, s.Put("kv", "k", []byte("v")))
		})
	}
	ok(t, l.SetIndexes("kv", []*selector.Index{index(t, "by size", `["size"]`)}))
	run(t, l, func(s *ledger.Simulator) { ok(t, s.Put("kv", "json", []byte(`{"size":3}`))) })
	untilBuilt(t, l, 1)
	ok(t, l.Close())
	for range 2 {
		v, err := ledger.Verify(context.Background(), ledger.VerifyConfig{Config: c, Scratch: t.TempDir(), ScratchKeyring: sealtest.Keyring(t)})
		ok(t, err)
		if len(v.Problems) != 0 || len(v.Notes) != 0 || v.Height != 6 {
			t.Errorf("%+v", v)
		}
		s, err := ledger.ReadStats(context.Background(), c, nil)
		ok(t, err)
		if n := s.Namespaces["kv"]; n.PrivateKeys != 5 || n.Keys != 2 {
			t.Errorf("%+v", n)
		}
		_, err = ledger.Rebuild(context.Background(), c)
		ok(t, err)
	}
	l, err = ledger.Open(context.Background(), c)
	ok(t, err)
	defer l.Close()
	if v, err := simulate(t, l).GetPrivate("kv", collection, "key 3"); err != nil || string(v) != "secret" {
		t.Errorf("%q, %v", v, err)
	}
}

// An index that lacks an entry is named.
func TestVerifyIndexes(t *testing.T) {
	k, dir := sealtest.Keyring(t), t.TempDir()
	c := ledger.Config{Dir: dir, ChannelID: channelID, Keyring: k}
	l, err := ledger.Open(context.Background(), c)
	ok(t, err)
	ok(t, l.SetIndexes("kv", []*selector.Index{index(t, "by size", `["size"]`)}))
	run(t, l, func(s *ledger.Simulator) { ok(t, s.Put("kv", "json", []byte(`{"size":3}`))) })
	untilBuilt(t, l, 1)
	ok(t, l.DropIndexEntries("kv"))
	ok(t, l.Close())
	v, err := ledger.Verify(context.Background(), ledger.VerifyConfig{Config: c, Scratch: t.TempDir(), ScratchKeyring: sealtest.Keyring(t)})
	ok(t, err)
	if len(v.Problems) != 1 || !strings.Contains(v.Problems[0].String(), `key "json": it is missing in index`) {
		t.Errorf("%v", v.Problems)
	}
}
