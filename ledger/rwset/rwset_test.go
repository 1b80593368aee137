package rwset

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/rwsetpb"
)

// fabricTxs are the endorsed transactions of the Fabric channel in ledger/testdata
// whose read/write set parses.
func fabricTxs(t testing.TB) []*wire.Tx {
	t.Helper()
	names, err := filepath.Glob("../testdata/fabric/block-*.pb")
	if err != nil || len(names) == 0 {
		t.Fatalf("%d blocks: %v", len(names), err)
	}
	var txs []*wire.Tx
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		msg := &commonpb.Block{}
		if err := proto.Unmarshal(raw, msg); err != nil {
			t.Fatal(err)
		}
		b, err := wire.ParseBlock(msg)
		if err != nil {
			t.Fatal(err)
		}
		for _, tx := range b.Txs {
			if tx.Endorsed != nil && tx.Endorsed.ReadWriteSet != nil {
				txs = append(txs, tx)
			}
		}
	}
	return txs
}

// operation is one call of a Builder.
type operation func(b *Builder)

// operations are the calls that give a namespace's public set, range queries apart.
func operations(ns wire.NamespaceSet) []operation {
	var ops []operation
	for _, r := range ns.KV.GetReads() {
		ops = append(ops, func(b *Builder) { b.Read(ns.Namespace, r.GetKey(), heightOf(r.GetVersion())) })
	}
	for _, w := range ns.KV.GetWrites() {
		ops = append(ops, func(b *Builder) { b.Write(ns.Namespace, w.GetKey(), w.GetValue()) })
	}
	for _, w := range ns.KV.GetMetadataWrites() {
		m := map[string][]byte{}
		for _, e := range w.GetEntries() {
			m[e.GetName()] = e.GetValue()
		}
		ops = append(ops, func(b *Builder) { b.WriteMetadata(ns.Namespace, w.GetKey(), m) })
	}
	return ops
}

func heightOf(v *kvrwsetpb.Version) *Height {
	if v == nil {
		return nil
	}
	return &Height{Block: v.GetBlockNum(), Tx: v.GetTxNum()}
}

// What Fabric's peers recorded comes out with the same bytes, whatever the order of
// the operations.
func TestFabricBytes(t *testing.T) {
	checked, queries := 0, 0
	for _, tx := range fabricTxs(t) {
		b := &Builder{}
		var ops []operation
		private, forged := false, false
		names := map[string]bool{}
		for _, ns := range tx.Endorsed.ReadWriteSet.Namespaces {
			forged = forged || names[ns.Namespace]
			names[ns.Namespace] = true
			private = private || len(ns.Collections) > 0
			b.namespace(ns.Namespace)
			ops = append(ops, operations(ns)...)
			for _, w := range ns.KV.GetWrites() {
				forged = forged || w.GetIsDelete() != IsDelete(w)
			}
			for _, q := range ns.KV.GetRangeQueriesInfo() {
				queries++
				b.RangeQuery(ns.Namespace, again(t, q))
				b.RangeQuery(ns.Namespace, &kvrwsetpb.RangeQueryInfo{
					StartKey: q.GetStartKey(), EndKey: q.GetEndKey(), ItrExhausted: q.GetItrExhausted(),
				})
			}
		}
		if private || forged || len(tx.Endorsed.Action.GetResults()) == 0 {
			continue
		}
		rand.Shuffle(len(ops), func(i, j int) { ops[i], ops[j] = ops[j], ops[i] })
		for _, op := range ops {
			op(b)
		}
		set, pvt, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		got, err := proto.Marshal(set)
		if err != nil {
			t.Fatal(err)
		}
		want := tx.Endorsed.Action.GetResults()
		if !bytes.Equal(got, want) {
			theirs := &rwsetpb.TxReadWriteSet{}
			if err := proto.Unmarshal(want, theirs); err != nil {
				t.Fatal(err)
			}
			if len(theirs.ProtoReflect().GetUnknown()) > 0 {
				continue // a forged set with an unknown field
			}
			t.Errorf("transaction %s: (-Fabric +ours)\n%s", tx.TxID(), cmp.Diff(theirs, set, protocmp.Transform()))
		}
		if pvt != nil {
			t.Errorf("transaction %s has private writes", tx.TxID())
		}
		checked++
	}
	if checked < 40 || queries < 2 {
		t.Errorf("only %d transactions with %d range queries were compared", checked, queries)
	}
}

// again makes a range query info from its results.
func again(t *testing.T, q *kvrwsetpb.RangeQueryInfo) *kvrwsetpb.RangeQueryInfo {
	t.Helper()
	reads, err := NewRangeReads(MaxDegree)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range q.GetRawReads().GetKvReads() {
		if err := reads.Add(r.GetKey(), *heightOf(r.GetVersion())); err != nil {
			t.Fatal(err)
		}
	}
	out := &kvrwsetpb.RangeQueryInfo{StartKey: q.GetStartKey(), EndKey: q.GetEndKey(), ItrExhausted: q.GetItrExhausted()}
	single, summary, err := reads.Done()
	if err != nil || summary != nil {
		t.Fatalf("few results gave a summary, or %v", err)
	}
	if single != nil {
		out.ReadsInfo = &kvrwsetpb.RangeQueryInfo_RawReads{RawReads: &kvrwsetpb.QueryReads{KvReads: single}}
	}
	return out
}

func TestPrivate(t *testing.T) {
	b := &Builder{}
	b.WritePrivate("ns", "c2", "k2", []byte("v2"))
	b.WritePrivate("ns", "c2", "k1", nil)
	b.WritePrivate("ns", "c1", "k", []byte("v"))
	b.PurgePrivate("ns", "c1", "gone")
	b.WritePrivateMetadata("ns", "c1", "k", map[string][]byte{"b": {2}, "a": {1}})
	b.ReadPrivate("ns", "c1", "read", &Height{3, 4})
	b.ReadPrivate("ns", "c1", "absent", nil)
	b.Read("ns", "", nil)
	set, pvt, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	kv := func(w ...*kvrwsetpb.KVWrite) *kvrwsetpb.KVRWSet { return &kvrwsetpb.KVRWSet{Writes: w} }
	c1 := kv(&kvrwsetpb.KVWrite{Key: "gone", IsDelete: true}, &kvrwsetpb.KVWrite{Key: "k", Value: []byte("v")})
	c1.MetadataWrites = []*kvrwsetpb.KVMetadataWrite{{Key: "k"}}
	c2 := kv(&kvrwsetpb.KVWrite{Key: "k1", IsDelete: true}, &kvrwsetpb.KVWrite{Key: "k2", Value: []byte("v2")})
	want := &rwsetpb.TxPvtReadWriteSet{NsPvtRwset: []*rwsetpb.NsPvtReadWriteSet{{
		Namespace: "ns",
		CollectionPvtRwset: []*rwsetpb.CollectionPvtReadWriteSet{
			{CollectionName: "c1", Rwset: marshal(t, c1)}, {CollectionName: "c2", Rwset: marshal(t, c2)},
		},
	}}}
	if diff := cmp.Diff(want, pvt, protocmp.Transform()); diff != "" {
		t.Errorf("private part (-want +got):\n%s", diff)
	}
	hash := func(s string) []byte { h := sha256.Sum256([]byte(s)); return h[:] }
	parsed, err := wire.ParseReadWriteSet(marshal(t, set))
	if err != nil {
		t.Fatal(err)
	}
	h1 := &kvrwsetpb.HashedRWSet{
		// in the order of the keys, not of their hashes
		HashedReads: []*kvrwsetpb.KVReadHash{
			{KeyHash: hash("absent")}, {KeyHash: hash("read"), Version: &kvrwsetpb.Version{BlockNum: 3, TxNum: 4}},
		},
		HashedWrites: []*kvrwsetpb.KVWriteHash{
			{KeyHash: hash("gone"), IsDelete: true, IsPurge: true}, {KeyHash: hash("k"), ValueHash: hash("v")},
		},
		MetadataWrites: []*kvrwsetpb.KVMetadataWriteHash{
			{KeyHash: hash("k"), Entries: []*kvrwsetpb.KVMetadataEntry{{Name: "a", Value: []byte{1}}, {Name: "b", Value: []byte{2}}}},
		},
	}
	h2 := &kvrwsetpb.HashedRWSet{HashedWrites: []*kvrwsetpb.KVWriteHash{
		{KeyHash: hash("k1"), IsDelete: true}, {KeyHash: hash("k2"), ValueHash: hash("v2")},
	}}
	wantPublic := &wire.ReadWriteSet{Namespaces: []wire.NamespaceSet{{
		Namespace: "ns", KV: &kvrwsetpb.KVRWSet{Reads: []*kvrwsetpb.KVRead{{}}},
		Collections: []wire.CollectionSet{
			{Collection: "c1", Hashed: h1, PvtHash: HashValue(marshal(t, c1))},
			{Collection: "c2", Hashed: h2, PvtHash: HashValue(marshal(t, c2))},
		},
	}}}
	if diff := cmp.Diff(wantPublic, parsed, protocmp.Transform()); diff != "" {
		t.Errorf("public part (-want +got):\n%s", diff)
	}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEmpty(t *testing.T) {
	set, pvt, err := (&Builder{}).Build()
	if err != nil || pvt != nil || len(marshal(t, set)) != 0 {
		t.Errorf("nothing read or written gives %v, %v, %v", set, pvt, err)
	}
}

func TestBuildRefusesBadNames(t *testing.T) {
	for name, op := range map[string]operation{
		"key":        func(b *Builder) { b.Write("ns", "\xff", []byte("v")) },
		"namespace":  func(b *Builder) { b.Read("ns\xff", "k", nil) },
		"collection": func(b *Builder) { b.WritePrivate("ns", "c\xff", "k", []byte("v")) },
	} {
		b := &Builder{}
		op(b)
		set, _, err := b.Build()
		if err == nil {
			_, err = proto.Marshal(set)
		}
		if err == nil {
			t.Errorf("%s that is not UTF-8 is accepted", name)
		}
	}
}

func TestIsDelete(t *testing.T) {
	empty := sha256.Sum256(nil)
	for _, w := range []*kvrwsetpb.KVWrite{{}, {Value: []byte{}}, {IsDelete: true}, {IsDelete: true, Value: []byte("v")}} {
		if !IsDelete(w) {
			t.Errorf("%v is no delete", w)
		}
	}
	if IsDelete(&kvrwsetpb.KVWrite{Value: []byte("v")}) {
		t.Error("a value is a delete")
	}
	for _, w := range []*kvrwsetpb.KVWriteHash{{}, {IsDelete: true}, {ValueHash: empty[:]}, {IsDelete: true, ValueHash: []byte("h")}} {
		if !IsHashDelete(w) {
			t.Errorf("%v is no delete", w)
		}
	}
	if IsHashDelete(&kvrwsetpb.KVWriteHash{ValueHash: []byte("h")}) {
		t.Error("a hash is a delete")
	}
}

// model computes a range query's summary from all results at once: nodes of
// degree+1 children, a last node of one child standing for itself, until a level
// has no more than degree nodes.
func model(t testing.TB, keys []string, degree int) *kvrwsetpb.QueryReadsMerkleSummary {
	t.Helper()
	if len(keys) <= degree {
		return nil
	}
	var level [][]byte
	for from := 0; from < len(keys); from += degree + 1 {
		reads := &kvrwsetpb.QueryReads{}
		for i := from; i < min(from+degree+1, len(keys)); i++ {
			reads.KvReads = append(reads.KvReads, &kvrwsetpb.KVRead{Key: keys[i], Version: &kvrwsetpb.Version{BlockNum: uint64(i)}})
		}
		level = append(level, HashValue(marshal(t, reads)))
	}
	height := 1
	for ; len(level) > degree; height++ {
		var above [][]byte
		for from := 0; from < len(level); from += degree + 1 {
			node := level[from:min(from+degree+1, len(level))]
			if len(node) == 1 {
				above = append(above, node[0])
				continue
			}
			above = append(above, HashValue(bytes.Join(node, nil)))
		}
		level = above
	}
	return &kvrwsetpb.QueryReadsMerkleSummary{MaxDegree: uint32(degree), MaxLevel: uint32(height), MaxLevelHashes: level}
}

func TestRangeReads(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		degree := rapid.IntRange(2, 5).Draw(rt, "degree")
		n := rapid.IntRange(0, 400).Draw(rt, "results")
		r, err := NewRangeReads(uint32(degree))
		if err != nil {
			t.Fatal(err)
		}
		keys := make([]string, n)
		for i := range keys {
			keys[i] = fmt.Sprintf("k%05d", i)
			if err := r.Add(keys[i], Height{Block: uint64(i)}); err != nil {
				t.Fatal(err)
			}
		}
		single, summary, err := r.Done()
		if err != nil {
			t.Fatal(err)
		}
		if n > degree && single != nil || n <= degree && len(single) != n {
			rt.Errorf("%d results of degree %d leave %d single ones", n, degree, len(single))
		}
		if diff := cmp.Diff(model(t, keys, degree), summary, protocmp.Transform()); diff != "" {
			rt.Errorf("%d results of degree %d (-want +got):\n%s", n, degree, diff)
		}
	})
}

func TestRangeReadsRefusesDegree(t *testing.T) {
	for degree := range uint32(2) {
		if _, err := NewRangeReads(degree); err == nil {
			t.Errorf("degree %d is accepted", degree)
		}
	}
}

func TestHeight(t *testing.T) {
	var none *Height
	h := &Height{1, 2}
	if !none.Is(nil) || none.Is(&kvrwsetpb.Version{}) || h.Is(nil) || !h.Is(h.Proto()) || h.Is(&kvrwsetpb.Version{BlockNum: 1}) {
		t.Error("a height is not the version that it is")
	}
	if h.Compare(Height{1, 3}) != -1 || h.Compare(Height{0, 9}) != 1 || h.Compare(*h) != 0 {
		t.Error("heights are out of order")
	}
}

func BenchmarkBuild(b *testing.B) {
	value := make([]byte, 200)
	b.ReportAllocs()
	for b.Loop() {
		s := &Builder{}
		s.Read("_lifecycle", "namespaces/fields/kv/Sequence", &Height{3, 0})
		s.Read("kv", "key", &Height{4, 5})
		s.Write("kv", "key", value)
		set, _, err := s.Build()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := proto.Marshal(set); err != nil {
			b.Fatal(err)
		}
	}
}
