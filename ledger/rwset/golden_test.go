package rwset

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"strongroom/wire/kvrwsetpb"
)

// The golden bytes are put together here by field numbers alone, without the generated
// messages and without the builder: what the sets of Fabric's peers hold, byte by byte.

// nested is a length-delimited field.
func nested(number protowire.Number, parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), bytes.Join(parts, nil))
}

func text(number protowire.Number, s string) []byte { return nested(number, []byte(s)) }

// varint is a number; Fabric, as proto3 does, leaves 0 out.
func varint(number protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.VarintType), v)
}

func hashOf(s string) []byte { h := sha256.Sum256([]byte(s)); return h[:] }

// public is a TxReadWriteSet of one namespace "ns".
func public(kv ...[]byte) []byte {
	return nested(2, text(1, "ns"), nested(2, kv...)) // ns_rwset{namespace, rwset}
}

// A marshalled set without a namespace's public operations has no field rwset.
func collectionsOnly(collections ...[]byte) []byte {
	return nested(2, append([][]byte{text(1, "ns")}, collections...)...)
}

// readsOf is QueryReads over keys k00000, k00001, … at versions 7:0, 7:1, …
func readsOf(from, to int) []byte {
	var out [][]byte
	for i := from; i < to; i++ {
		version := varint(1, 7)
		if i > 0 {
			version = append(version, varint(2, uint64(i))...)
		}
		out = append(out, nested(1, text(1, fmt.Sprintf("k%05d", i)), nested(2, version)))
	}
	return bytes.Join(out, nil)
}

// merkle is a range query info from "a" to "z" with a summary of the levels' hashes.
func merkle(level uint64, hashes ...[]byte) []byte {
	summary := [][]byte{varint(1, 50), varint(2, level)}
	for _, h := range hashes {
		summary = append(summary, nested(3, h))
	}
	return nested(2, text(1, "a"), text(2, "z"), varint(3, 1), nested(5, summary...))
}

func sum(b ...[]byte) []byte { h := sha256.Sum256(bytes.Join(b, nil)); return h[:] }

// leaves are the hashes of level 1 over n results, 51 to a hash.
func leaves(n int) [][]byte {
	var out [][]byte
	for from := 0; from < n; from += 51 {
		out = append(out, sum(readsOf(from, min(from+51, n))))
	}
	return out
}

// rangeOf records a range query with n results, read to its end.
func rangeOf(t *testing.T, n int) operation {
	t.Helper()
	r, err := NewRangeReads(MaxDegree)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := r.Add(fmt.Sprintf("k%05d", i), Height{7, uint64(i)}); err != nil {
			t.Fatal(err)
		}
	}
	q := &kvrwsetpb.RangeQueryInfo{StartKey: "a", EndKey: "z", ItrExhausted: true}
	single, summary, err := r.Done()
	switch {
	case err != nil:
		t.Fatal(err)
	case summary != nil:
		q.ReadsInfo = &kvrwsetpb.RangeQueryInfo_ReadsMerkleHashes{ReadsMerkleHashes: summary}
	case single != nil:
		q.ReadsInfo = &kvrwsetpb.RangeQueryInfo_RawReads{RawReads: &kvrwsetpb.QueryReads{KvReads: single}}
	}
	return func(b *Builder) { b.RangeQuery("ns", q) }
}

func TestGoldenBytes(t *testing.T) {
	for _, test := range []struct {
		reason string
		ops    []operation
		want   []byte
	}{
		{"a key that is not there has no version; one of block 0 has an empty one", []operation{
			func(b *Builder) { b.Read("ns", "there", &Height{}) }, func(b *Builder) { b.Read("ns", "absent", nil) },
		}, public(nested(1, text(1, "absent")), nested(1, text(1, "there"), nested(2)))},
		{"keys are sorted by bytes: upper case, lower case, what is not ASCII", []operation{
			func(b *Builder) { b.Read("ns", "ä", nil) }, func(b *Builder) { b.Read("ns", "a", nil) }, func(b *Builder) { b.Read("ns", "B", nil) },
		}, public(nested(1, text(1, "B")), nested(1, text(1, "a")), nested(1, text(1, "ä")))},
		{"a key that is the empty string has no field key", []operation{
			func(b *Builder) { b.Write("ns", "", []byte("v")) },
		}, public(nested(3, text(3, "v")))},
		{"a delete has no value, and a write of nothing is one", []operation{
			func(b *Builder) { b.Write("ns", "a", nil) }, func(b *Builder) { b.Write("ns", "b", []byte{}) }, func(b *Builder) { b.Write("ns", "c", []byte{0}) },
		}, public(nested(3, text(1, "a"), varint(2, 1)), nested(3, text(1, "b"), varint(2, 1)), nested(3, text(1, "c"), text(3, "\x00")))},
		{"the last write of a key counts, and the last read", []operation{
			func(b *Builder) { b.Write("ns", "a", []byte("1")) }, func(b *Builder) { b.Write("ns", "a", []byte("2")) },
			func(b *Builder) { b.Read("ns", "a", &Height{1, 2}) },
		}, public(nested(1, text(1, "a"), nested(2, varint(1, 1), varint(2, 2))), nested(3, text(1, "a"), text(3, "2")))},
		{"metadata is sorted by name; without any it is a removal", []operation{
			func(b *Builder) {
				b.WriteMetadata("ns", "k", map[string][]byte{"VALIDATION_PARAMETER": {1}, "A": nil})
			},
			func(b *Builder) { b.WriteMetadata("ns", "gone", nil) },
		}, public(nested(4, text(1, "gone")), nested(4, text(1, "k"), nested(2, text(1, "A")), nested(2, text(1, "VALIDATION_PARAMETER"), text(2, "\x01"))))},
		{"a range without results has bounds alone", []operation{rangeOf(t, 0)}, public(nested(2, text(1, "a"), text(2, "z"), varint(3, 1)))},
		{"up to 50 results stand one by one", []operation{rangeOf(t, 50)}, public(nested(2, text(1, "a"), text(2, "z"), varint(3, 1), nested(4, readsOf(0, 50))))},
		{"51 results are one hash of level 1", []operation{rangeOf(t, 51)}, public(merkle(1, leaves(51)...))},
		{"what is left makes a hash of its own", []operation{rangeOf(t, 52)}, public(merkle(1, leaves(52)...))},
		{"50 hashes stay on level 1", []operation{rangeOf(t, 2550)}, public(merkle(1, leaves(2550)...))},
		{"51 hashes become one of level 2", []operation{rangeOf(t, 2601)}, public(merkle(2, sum(leaves(2601)...)))},
		{"a single hash goes up a level as it is", []operation{rangeOf(t, 2602)}, public(merkle(2, sum(leaves(2601)...), leaves(2602)[51]))},
		{"several go up as one", []operation{rangeOf(t, 2700)}, public(merkle(2, sum(leaves(2601)...), sum(leaves(2700)[51:]...)))},
		{"range queries stand as they were asked, each once", []operation{rangeOf(t, 1), rangeOf(t, 0), func(b *Builder) {
			b.RangeQuery("ns", &kvrwsetpb.RangeQueryInfo{StartKey: "A", EndKey: "k", ItrExhausted: false})
		}}, public(nested(2, text(1, "a"), text(2, "z"), varint(3, 1), nested(4, readsOf(0, 1))), nested(2, text(1, "A"), text(2, "k")))},
		{"namespaces are sorted; one that was only touched stands empty", []operation{
			func(b *Builder) { b.Write("b", "k", []byte("v")) }, func(b *Builder) { b.namespace("a") },
		}, slices.Concat(nested(2, text(1, "a")), nested(2, text(1, "b"), nested(2, nested(3, text(1, "k"), text(3, "v")))))},
		{"private keys and values are hashes, in the order of the keys", []operation{
			func(b *Builder) { b.WritePrivate("ns", "c", "k2", []byte("v")) }, func(b *Builder) { b.WritePrivate("ns", "c", "k1", nil) },
			func(b *Builder) { b.ReadPrivate("ns", "c", "k0", &Height{2, 0}) }, func(b *Builder) { b.PurgePrivate("ns", "c", "k3") },
		}, collectionsOnly(nested(3, text(1, "c"),
			nested(2,
				nested(1, nested(1, hashOf("k0")), nested(2, varint(1, 2))),
				nested(2, nested(1, hashOf("k1")), varint(2, 1)),
				nested(2, nested(1, hashOf("k2")), nested(3, hashOf("v"))),
				nested(2, nested(1, hashOf("k3")), varint(2, 1), varint(4, 1))),
			nested(3, sum( // of the private KVRWSet
				nested(3, text(1, "k1"), varint(2, 1)), nested(3, text(1, "k2"), text(3, "v")), nested(3, text(1, "k3"), varint(2, 1)))),
		))},
		{"a collection that was only read has no hash of a private set", []operation{
			func(b *Builder) { b.ReadPrivate("ns", "c", "k", nil) },
		}, collectionsOnly(nested(3, text(1, "c"), nested(2, nested(1, nested(1, hashOf("k"))))))},
		{"metadata of a private key is public; the private set names the key", []operation{
			func(b *Builder) { b.WritePrivateMetadata("ns", "c", "k", map[string][]byte{"n": []byte("m")}) },
		}, collectionsOnly(nested(3, text(1, "c"),
			nested(2, nested(3, nested(1, hashOf("k")), nested(2, text(1, "n"), text(2, "m")))),
			nested(3, sum(nested(4, text(1, "k"))))))},
	} {
		b := &Builder{}
		for _, op := range test.ops {
			op(b)
		}
		set, _, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		if got := marshal(t, set); !bytes.Equal(got, test.want) {
			t.Errorf("%s:\n got %x\nwant %x", test.reason, got, test.want)
		}
	}
}

// TestGoldenDigests writes a few of the golden bytes down in full or by digest, so that
// a mistake in putting them together shows as well.
func TestGoldenDigests(t *testing.T) {
	if got := hex.EncodeToString(public(nested(1, text(1, "absent")), nested(1, text(1, "there"), nested(2)))); got !=
		"121b0a026e7312150a080a06616273656e740a090a0574686572651200" {
		t.Errorf("reads are %s", got)
	}
	if got := hex.EncodeToString(leaves(51)[0]); got != "7d4e24d9d4b5335e2f239fecdc58bcf15280545567461ee9dc83e0a1e219380b" {
		t.Errorf("the hash of 51 results is %s", got)
	}
	if got := hex.EncodeToString(sum(leaves(2601)...)); got != "3df0d015c3da8480ce345b053cbe6f744355b34a4311fd778e153d055a1eed9f" {
		t.Errorf("the hash of level 2 over 2601 results is %s", got)
	}
}
