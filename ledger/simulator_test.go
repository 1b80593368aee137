package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"strongroom/ledger"
	"strongroom/ledger/ledgertest"
	"strongroom/ledger/rwset"
	"strongroom/ledger/seal/sealtest"
	"strongroom/wire"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/peerpb"
	"strongroom/wire/rwsetpb"
)

// run simulates, commits what came of it, and returns the flag.
func run(t *testing.T, l *ledger.Ledger, do func(s *ledger.Simulator)) peerpb.TxValidationCode {
	t.Helper()
	s := simulate(t, l)
	do(s)
	results, pvt, err := s.Results()
	if err != nil {
		t.Fatal(err)
	}
	envelope, id := ledgertest.Envelope(t, channelID, "kv", results)
	if pvt != nil {
		if err := l.KeepPrivate(id, pvt); err != nil {
			t.Fatal(err)
		}
	}
	return ledgertest.Commit(t, l, envelope)[0]
}

func simulate(t *testing.T, l *ledger.Ledger) *ledger.Simulator {
	t.Helper()
	s, err := l.NewSimulator("tx of a test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Done)
	return s
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fill puts n keys k000… into a namespace.
func fill(t *testing.T, l *ledger.Ledger, ns string, n int) {
	t.Helper()
	run(t, l, func(s *ledger.Simulator) {
		for i := range n {
			ok(t, s.Put(ns, fmt.Sprintf("k%03d", i), fmt.Appendf(nil, "v%d", i)))
		}
	})
}

func results(t *testing.T, s *ledger.Simulator) *wire.ReadWriteSet {
	t.Helper()
	raw, _, err := s.Results()
	if err != nil {
		t.Fatal(err)
	}
	set, err := wire.ParseReadWriteSet(raw)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// read reads up to n keys of an iterator.
func read(t *testing.T, it rwset.KVIterator, n int) []string {
	t.Helper()
	var keys []string
	for range n {
		kv, err := it.Next()
		if err != nil {
			t.Fatal(err)
		}
		if kv == nil {
			break
		}
		keys = append(keys, kv.Key)
	}
	return keys
}

func TestSimulatorDoesNotSeeItsWrites(t *testing.T) {
	l := ledgertest.Open(t, channelID)
	fill(t, l, "kv", 3)
	s := simulate(t, l)
	ok(t, s.Put("kv", "k001", []byte("new")))
	ok(t, s.Put("kv", "k0015", []byte("new")))
	ok(t, s.Delete("kv", "k002"))
	if v, err := s.Get("kv", "k001"); err != nil || string(v) != "v1" {
		t.Errorf("get after put: %q, %v, want the committed value", v, err)
	}
	it, err := s.Range("kv", "", "")
	ok(t, err)
	if diff := cmp.Diff([]string{"k000", "k001", "k002"}, read(t, it, 10)); diff != "" {
		t.Errorf("range after writes (-want +got):\n%s", diff)
	}
}

func TestSimulatorRecords(t *testing.T) {
	l := ledgertest.Open(t, channelID)
	fill(t, l, "kv", 120)
	v0 := func(i int) *kvrwsetpb.Version { return &kvrwsetpb.Version{} }
	s := simulate(t, l)
	for _, key := range []string{"k001", "absent"} {
		if _, err := s.Get("kv", key); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.GetMultiple("kv", []string{"k002", "none"}); err != nil || string(got[0]) != "v2" || got[1] != nil {
		t.Errorf("GetMultiple: %q, %v", got, err)
	}
	ok(t, s.Put("kv", "empty", []byte{}))
	ok(t, s.Put("kv", "", []byte("empty key")))
	ok(t, s.Put("kv", "\x00composite\x00a\x00", []byte("c")))
	ok(t, s.SetMetadata("kv", "k003", map[string][]byte{"b": {2}, "a": {1}}))
	ok(t, s.SetMetadata("kv", "k004", nil))
	unread, err := s.Range("kv", "k01", "k02")
	ok(t, err)
	part, err := s.Range("kv", "k01", "k02")
	ok(t, err)
	if got := read(t, part, 2); len(got) != 2 {
		t.Errorf("read %q", got)
	}
	whole, err := s.Range("kv", "k117", "")
	ok(t, err)
	if got := read(t, whole, 100); len(got) != 3 {
		t.Errorf("read %q", got)
	}
	_ = unread
	want := &wire.ReadWriteSet{Namespaces: []wire.NamespaceSet{{Namespace: "kv", KV: &kvrwsetpb.KVRWSet{
		Reads: []*kvrwsetpb.KVRead{{Key: "absent"}, {Key: "k001", Version: v0(1)}, {Key: "k002", Version: v0(2)}, {Key: "none"}},
		RangeQueriesInfo: []*kvrwsetpb.RangeQueryInfo{
			{StartKey: "k01"},
			{StartKey: "k01", EndKey: "k011", ReadsInfo: rawReads("k010", "k011")},
			{StartKey: "k117", EndKey: "", ItrExhausted: true, ReadsInfo: rawReads("k117", "k118", "k119")},
		},
		Writes: []*kvrwsetpb.KVWrite{
			{Key: "", Value: []byte("empty key")}, {Key: "\x00composite\x00a\x00", Value: []byte("c")}, {Key: "empty", IsDelete: true},
		},
		MetadataWrites: []*kvrwsetpb.KVMetadataWrite{
			{Key: "k003", Entries: []*kvrwsetpb.KVMetadataEntry{{Name: "a", Value: []byte{1}}, {Name: "b", Value: []byte{2}}}},
			{Key: "k004"},
		},
	}}}}
	if diff := cmp.Diff(want, results(t, s), protocmp.Transform()); diff != "" {
		t.Errorf("read/write set (-want +got):\n%s", diff)
	}
	if _, _, err := s.Results(); err == nil {
		t.Error("results are given twice")
	}
}

func rawReads(keys ...string) *kvrwsetpb.RangeQueryInfo_RawReads {
	reads := &kvrwsetpb.QueryReads{}
	for _, k := range keys {
		reads.KvReads = append(reads.KvReads, &kvrwsetpb.KVRead{Key: k, Version: &kvrwsetpb.Version{}})
	}
	return &kvrwsetpb.RangeQueryInfo_RawReads{RawReads: reads}
}

// A range of many results is recorded as a summary, and a phantom in it is found.
func TestLongRange(t *testing.T) {
	l := ledgertest.Open(t, channelID)
	fill(t, l, "kv", 600)
	scan := func() *ledger.Simulator {
		s := simulate(t, l)
		it, err := s.Range("kv", "", "")
		ok(t, err)
		if got := read(t, it, 1000); len(got) != 600 {
			t.Fatalf("%d keys", len(got))
		}
		ok(t, s.Put("out", "x", []byte("1")))
		return s
	}
	s := scan()
	summary := results(t, s).Namespaces[0].KV.RangeQueriesInfo[0].GetReadsMerkleHashes()
	if summary.GetMaxDegree() != 50 || summary.GetMaxLevel() != 1 || len(summary.GetMaxLevelHashes()) != 12 {
		t.Errorf("summary is %v", summary)
	}
	for _, change := range []struct {
		key   string
		value []byte
		want  peerpb.TxValidationCode
	}{
		{"k", []byte("before"), peerpb.TxValidationCode_PHANTOM_READ_CONFLICT},
		{"k300", []byte("changed"), peerpb.TxValidationCode_PHANTOM_READ_CONFLICT},
		{"z", []byte("behind"), peerpb.TxValidationCode_PHANTOM_READ_CONFLICT},
	} {
		s := scan()
		raw, _, err := s.Results()
		ok(t, err)
		stale, _ := ledgertest.Envelope(t, channelID, "kv", raw)
		write := simulate(t, l)
		ok(t, write.Put("kv", change.key, change.value))
		raw, _, err = write.Results()
		ok(t, err)
		other, _ := ledgertest.Envelope(t, channelID, "kv", raw)
		again := scan()
		raw, _, err = again.Results()
		ok(t, err)
		fresh, _ := ledgertest.Envelope(t, channelID, "kv", raw)
		got := ledgertest.Commit(t, l, fresh, other, stale)
		if diff := cmp.Diff([]peerpb.TxValidationCode{0, 0, change.want}, got); diff != "" {
			t.Errorf("write of %q (-want +got):\n%s", change.key, diff)
		}
		// Back to 600 keys.
		run(t, l, func(s *ledger.Simulator) {
			if change.key != "k300" {
				ok(t, s.Delete("kv", change.key))
			}
		})
	}
}

func TestPages(t *testing.T) {
	l := ledgertest.Open(t, channelID)
	fill(t, l, "kv", 7)
	s := simulate(t, l)
	var pages [][]string
	for bookmark := ""; ; {
		it, err := s.RangePage("kv", "k001", "k006", 2, bookmark)
		ok(t, err)
		pages = append(pages, read(t, it, 2))
		if bookmark = it.Bookmark(); bookmark == "" {
			break
		}
	}
	if diff := cmp.Diff([][]string{{"k001", "k002"}, {"k003", "k004"}, {"k005"}}, pages); diff != "" {
		t.Errorf("pages (-want +got):\n%s", diff)
	}
	if err := s.Put("kv", "a", []byte("1")); err == nil || !strings.Contains(err.Error(), "already performed a paginated query. Writes are not allowed") {
		t.Errorf("write after pages: %v", err)
	}
	s = simulate(t, l)
	ok(t, s.Put("kv", "a", []byte("1")))
	if _, err := s.RangePage("kv", "", "", 2, ""); err == nil || !strings.Contains(err.Error(), "only in a read-only transaction") {
		t.Errorf("pages after a write: %v", err)
	}
	if _, err := s.RangePage("kv", "", "", 0, ""); err == nil || !strings.Contains(err.Error(), "page size is 0") {
		t.Errorf("pages of no size: %v", err)
	}
}

func TestQueryLimit(t *testing.T) {
	l, err := ledger.Open(context.Background(), ledger.Config{
		Dir: t.TempDir(), ChannelID: channelID, Keyring: sealtest.Keyring(t), QueryLimit: 5,
	})
	ok(t, err)
	defer l.Close()
	fill(t, l, "kv", 7)
	s := simulate(t, l)
	it, err := s.Range("kv", "", "")
	ok(t, err)
	if got := read(t, it, 10); len(got) != 5 {
		t.Errorf("limit 5 gives %q", got)
	}
	info := results(t, s).Namespaces[0].KV.RangeQueriesInfo[0]
	if info.GetItrExhausted() || info.GetEndKey() != "k004" {
		t.Errorf("recorded is %v, want a range that goes on after k004", info)
	}
}

func TestSimulatorRefuses(t *testing.T) {
	l := ledgertest.Open(t, channelID)
	s := simulate(t, l)
	for name, err := range map[string]error{
		`key "\xff" is not valid UTF-8`:         s.Put("kv", "\xff", []byte("v")),
		`namespace "\xff" is not valid UTF-8`:   s.Put("\xff", "k", []byte("v")),
		"only an organization's implicit":       s.PutPrivate("kv", "shared", "k", []byte("v")),
		"collection \"_implicit_org_\"":         s.PutPrivate("kv", "_implicit_org_", "k", []byte("v")),
		"purging private data is not supported": s.PurgePrivate("kv", collection, "k"),
	} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %q", err, name)
		}
	}
	if _, err := s.Get("kv", "\xff"); err == nil {
		t.Error("a key that is not UTF-8 is read")
	}
	it, err := s.Range("kv", "", "")
	ok(t, err)
	s.Done()
	s.Done()
	for name, err := range map[string]error{"put": s.Put("kv", "k", nil), "next": second(it.Next()), "get": second(s.Get("kv", "k"))} {
		if !errors.Is(err, ledger.ErrDone) {
			t.Errorf("%s after done: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// A simulation sees the height at which it began, whatever is committed meanwhile.
func TestSimulatorSeesOneHeight(t *testing.T) {
	l := ledgertest.Open(t, channelID)
	fill(t, l, "kv", 3)
	s := simulate(t, l)
	snapshot, err := l.Snapshot()
	ok(t, err)
	defer snapshot.Release()
	run(t, l, func(s *ledger.Simulator) {
		ok(t, s.Put("kv", "k001", []byte("new")))
		ok(t, s.Put("kv", "more", []byte("new")))
	})
	for name, get := range map[string]func(ns, key string) ([]byte, error){"simulator": s.Get, "snapshot": snapshot.Get} {
		if v, err := get("kv", "k001"); err != nil || string(v) != "v1" {
			t.Errorf("%s: %q, %v, want the value of its height", name, v, err)
		}
		if v, err := get("kv", "more"); err != nil || v != nil {
			t.Errorf("%s: %q, %v of a key that came later", name, v, err)
		}
	}
	h, err := s.History("kv", "k001")
	ok(t, err)
	if m, err := h.Next(); err != nil || string(m.GetValue()) != "v1" {
		t.Errorf("history begins with %v, %v", m, err)
	}
	if m, err := h.Next(); err != nil || m != nil {
		t.Errorf("history goes on with %v, %v", m, err)
	}
	if s.Height() != 1 || snapshot.Height() != 1 || l.Height() != 2 {
		t.Errorf("heights are %d, %d and %d", s.Height(), snapshot.Height(), l.Height())
	}
}

func TestPrivateData(t *testing.T) {
	l := ledgertest.Open(t, channelID)
	run(t, l, func(s *ledger.Simulator) {
		ok(t, s.PutPrivate("kv", collection, "a", []byte("secret a")))
		ok(t, s.PutPrivate("kv", collection, "b", []byte("secret b")))
	})
	s := simulate(t, l)
	if v, err := s.GetPrivate("kv", collection, "a"); err != nil || string(v) != "secret a" {
		t.Errorf("a is %q, %v", v, err)
	}
	if h, err := s.GetPrivateHash("kv", collection, "a"); err != nil || string(h) != string(rwset.HashValue([]byte("secret a"))) {
		t.Errorf("hash of a is %x, %v", h, err)
	}
	if !s.ReadsPrivate("kv", collection) || s.ReadsPrivate("kv", "_implicit_org_Org2MSP") {
		t.Error("it is not told which collections were read")
	}
	it, err := s.RangePrivate("kv", collection, "a", "")
	ok(t, err)
	if diff := cmp.Diff([]string{"a", "b"}, read(t, it, 9)); diff != "" {
		t.Errorf("private range (-want +got):\n%s", diff)
	}
	if err := s.Put("kv", "x", []byte("1")); err == nil || !strings.Contains(err.Error(), "queries on pvt data. Writes are not allowed") {
		t.Errorf("write after a private range: %v", err)
	}
	// Metadata alone moves the version of the hash; the value goes with it.
	run(t, l, func(s *ledger.Simulator) {
		ok(t, s.SetPrivateMetadata("kv", collection, "a", map[string][]byte{"VALIDATION_PARAMETER": []byte("p")}))
	})
	s = simulate(t, l)
	if v, err := s.GetPrivate("kv", collection, "a"); err != nil || string(v) != "secret a" {
		t.Errorf("after new metadata a is %q, %v", v, err)
	}
	if m, err := s.GetPrivateMetadata("kv", collection, "a"); err != nil || string(m["VALIDATION_PARAMETER"]) != "p" {
		t.Errorf("metadata of a is %q, %v", m, err)
	}
	ok(t, s.PutPrivate("kv", collection, "a", []byte("third")))
	written, err := s.WrittenMetadata()
	ok(t, err)
	if len(written) != 1 || written[0].Key != "a" || string(written[0].Metadata["VALIDATION_PARAMETER"]) != "p" {
		t.Errorf("metadata of written keys is %v", written)
	}
}

// Private writes that never came, or that have another hash, are not there, and
// reading says so.
func TestMissingPrivateData(t *testing.T) {
	l := ledgertest.Open(t, channelID)
	s := simulate(t, l)
	ok(t, s.PutPrivate("kv", collection, "a", []byte("secret")))
	raw, pvt, err := s.Results()
	ok(t, err)
	envelope, id := ledgertest.Envelope(t, channelID, "kv", raw)
	forged := &rwsetpb.TxPvtReadWriteSet{NsPvtRwset: []*rwsetpb.NsPvtReadWriteSet{{
		Namespace:          "kv",
		CollectionPvtRwset: []*rwsetpb.CollectionPvtReadWriteSet{{CollectionName: collection}},
	}}}
	ok(t, l.KeepPrivate(id, forged))
	ledgertest.Commit(t, l, envelope)
	s = simulate(t, l)
	if v, err := s.GetPrivate("kv", collection, "a"); !errors.Is(err, ledger.ErrNoPrivateData) {
		t.Errorf("got %q, %v", v, err)
	}
	if h, err := s.GetPrivateHash("kv", collection, "a"); err != nil || len(h) != 32 {
		t.Errorf("hash is %x, %v", h, err)
	}
	ok(t, l.KeepPrivate(id, pvt)) // too late, and no harm
	if err := l.KeepPrivate("", pvt); err == nil {
		t.Error("private writes without a transaction are kept")
	}
	pvt.NsPvtRwset[0].CollectionPvtRwset[0].Rwset = []byte{0xff}
	if err := l.KeepPrivate(id, pvt); err == nil || !strings.Contains(err.Error(), "kvrwset.KVRWSet") {
		t.Errorf("private writes that do not parse: %v", err)
	}
}
