package ledger_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"strongroom/ledger"
	"strongroom/ledger/ledgertest"
	"strongroom/ledger/seal/sealtest"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/peerpb"
	"strongroom/wire/rwsetpb"
)

// randomSet is a read/write set that no simulator made: reads of any version, range
// queries of any content, hashes and metadata of private keys.
func randomSet(t *testing.T, rt *rapid.T, height uint64) []byte {
	t.Helper()
	version := func(name string) *kvrwsetpb.Version {
		if rapid.Bool().Draw(rt, name+" absent") {
			return nil
		}
		return &kvrwsetpb.Version{BlockNum: rapid.Uint64Range(0, height).Draw(rt, name+" block"), TxNum: rapid.Uint64Range(0, 3).Draw(rt, name+" tx")}
	}
	entries := func() []*kvrwsetpb.KVMetadataEntry {
		if rapid.IntRange(0, 2).Draw(rt, "no metadata") == 0 {
			return nil
		}
		return []*kvrwsetpb.KVMetadataEntry{{Name: "VALIDATION_PARAMETER", Value: []byte(rapid.StringN(1, 3, -1).Draw(rt, "metadata"))}}
	}
	set := &rwsetpb.TxReadWriteSet{DataModel: rwsetpb.TxReadWriteSet_KV}
	for _, ns := range rapid.SampledFrom([][]string{{"ns1"}, {"ns2"}, {"ns1", "ns2"}}).Draw(rt, "namespaces") {
		kv := &kvrwsetpb.KVRWSet{}
		hashed := &kvrwsetpb.HashedRWSet{}
		used := map[string]bool{} // a key is named once in each list, as in every set that a simulator makes
		for range rapid.IntRange(0, 3).Draw(rt, "operations") {
			key := keys.Draw(rt, "key")
			hash := []byte("hash of " + key)
			value := []byte(rapid.StringN(1, 4, -1).Draw(rt, "value"))
			operation := rapid.IntRange(0, 8).Draw(rt, "operation")
			if kind := fmt.Sprint([]int{0, 1, 1, 1, 4, 5, 6, 7, 8}[operation], key); used[kind] {
				continue
			} else {
				used[kind] = true
			}
			switch operation {
			case 0:
				kv.Reads = append(kv.Reads, &kvrwsetpb.KVRead{Key: key, Version: version("read")})
			case 1, 2:
				kv.Writes = append(kv.Writes, &kvrwsetpb.KVWrite{Key: key, Value: value})
			case 3:
				kv.Writes = append(kv.Writes, &kvrwsetpb.KVWrite{Key: key, IsDelete: true})
			case 4:
				kv.MetadataWrites = append(kv.MetadataWrites, &kvrwsetpb.KVMetadataWrite{Key: key, Entries: entries()})
			case 5:
				end := keys.Draw(rt, "end")
				if end != "" && end < key {
					key, end = end, key
				}
				q := &kvrwsetpb.RangeQueryInfo{StartKey: key, EndKey: end, ItrExhausted: rapid.Bool().Draw(rt, "exhausted")}
				reads := &kvrwsetpb.QueryReads{}
				if rapid.Bool().Draw(rt, "found one") {
					reads.KvReads = []*kvrwsetpb.KVRead{{Key: key, Version: version("range")}}
				}
				q.ReadsInfo = &kvrwsetpb.RangeQueryInfo_RawReads{RawReads: reads}
				if len(reads.KvReads) == 0 {
					q.ReadsInfo = nil
				}
				kv.RangeQueriesInfo = append(kv.RangeQueriesInfo, q)
			case 6:
				hashed.HashedReads = append(hashed.HashedReads, &kvrwsetpb.KVReadHash{KeyHash: hash, Version: version("hash")})
			case 7:
				hashed.HashedWrites = append(hashed.HashedWrites, &kvrwsetpb.KVWriteHash{KeyHash: hash, ValueHash: value, IsDelete: rapid.IntRange(0, 3).Draw(rt, "delete") == 0})
			case 8:
				hashed.MetadataWrites = append(hashed.MetadataWrites, &kvrwsetpb.KVMetadataWriteHash{KeyHash: hash, Entries: entries()})
			}
		}
		n := &rwsetpb.NsReadWriteSet{Namespace: ns, Rwset: marshalProto(t, kv)}
		if !proto.Equal(hashed, &kvrwsetpb.HashedRWSet{}) {
			n.CollectionHashedRwset = []*rwsetpb.CollectionHashedReadWriteSet{{CollectionName: collection, HashedRwset: marshalProto(t, hashed)}}
		}
		set.NsRwset = append(set.NsRwset, n)
	}
	return marshalProto(t, set)
}

func marshalProto(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	ok(t, err)
	return b
}

// For random read/write sets, with duplicate ids within and between blocks, the serial
// model and ledgers that run on 1, 2 and 8 threads give the same flags, state, history and
// commit hashes.
func TestAnyParallelism(t *testing.T) {
	fewerChecks(t, "12")
	keyring, root := sealtest.Keyring(t), memoryDir(t)
	threads := []int{1, 2, 8}
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		model := ledgertest.NewModel()
		ledgers := make([]*ledger.Ledger, len(threads))
		for i := range ledgers {
			n++
			l, err := ledger.Open(context.Background(), ledger.Config{Dir: fmt.Sprintf("%s/%d", root, n), ChannelID: channelID, Keyring: keyring})
			ok(t, err)
			defer func() { ok(t, l.Close()) }()
			ledgers[i] = l
		}
		var earlier [][]byte
		for range rapid.IntRange(1, 6).Draw(rt, "blocks") {
			var envelopes [][]byte
			var flags []peerpb.TxValidationCode
			for range rapid.IntRange(0, 5).Draw(rt, "transactions") {
				envelope, _ := ledgertest.Envelope(t, channelID, "ns1", randomSet(t, rt, ledgers[0].Height()))
				if len(earlier) > 0 && rapid.IntRange(0, 7).Draw(rt, "again") == 0 {
					envelope = earlier[rapid.IntRange(0, len(earlier)-1).Draw(rt, "which")]
				}
				earlier = append(earlier, envelope)
				code := peerpb.TxValidationCode_VALID
				if rapid.IntRange(0, 9).Draw(rt, "invalid") == 0 {
					code = peerpb.TxValidationCode_BAD_RWSET
				}
				envelopes, flags = append(envelopes, envelope), append(flags, code)
			}
			want := model.Commit(t, ledgertest.Next(t, ledgers[0], envelopes...), flags)
			for i, l := range ledgers {
				got := append([]peerpb.TxValidationCode(nil), flags...)
				previous := runtime.GOMAXPROCS(threads[i])
				err := l.Commit(context.Background(), ledgertest.Next(t, l, envelopes...), got)
				runtime.GOMAXPROCS(previous)
				ok(t, err)
				if diff := cmp.Diff(want, got); diff != "" {
					rt.Fatalf("block %d on %d threads: flags (-model +ledger):\n%s", l.Height()-1, threads[i], diff)
				}
				if string(l.CommitHash()) != string(ledgers[0].CommitHash()) {
					rt.Fatalf("block %d on %d threads: commit hash %x, on 1 %x", l.Height()-1, threads[i], l.CommitHash(), ledgers[0].CommitHash())
				}
			}
		}
		for _, l := range ledgers {
			w := &world{t: t, ledger: l, model: model}
			w.compare(rt)
		}
	})
}
