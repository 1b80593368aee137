package ledger_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"strongroom/ledger"
	"strongroom/ledger/ledgertest"
	"strongroom/ledger/rwset"
	"strongroom/wire/peerpb"
)

// keysFlag adds a size to BenchmarkSize: 10 million keys take minutes and gigabytes.
var keysFlag = flag.Int("keys", 0, "a further number of keys for BenchmarkSize")

// BenchmarkSize commits to, and reads from, ledgers of very different sizes. Cpu-us/op
// is processor time, which other work on the machine disturbs less than wall time.
func BenchmarkSize(b *testing.B) {
	sizes := []int{10_000, 1_000_000}
	if *keysFlag > 0 {
		sizes = append(sizes, *keysFlag)
	}
	for _, keys := range sizes {
		dir := b.TempDir()
		l := benchLedgerIn(b, dir)
		for from := 0; from < keys; from += 10_000 {
			benchFill(b, l, from, from+10_000)
		}
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		b.Logf("keys=%d: %d bytes on disk for a key, %d MB live heap", keys, diskBytes(b, dir)/int64(keys), m.HeapAlloc>>20)
		measure := func(name string, prepare func() func()) {
			b.Run(fmt.Sprintf("keys=%d/%s", keys, name), func(b *testing.B) {
				var cpu time.Duration
				for range b.N {
					b.StopTimer()
					do := prepare()
					before := processorTime(b)
					b.StartTimer()
					do()
					cpu += processorTime(b) - before
				}
				b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "cpu-us/op")
			})
		}
		measure("commit-500-txs-read-and-write", func() func() {
			block := ledgertest.Next(b, l, rewrites(b, l, keys, 500)...)
			flags := make([]peerpb.TxValidationCode, 500)
			return func() {
				ok(b, l.Commit(context.Background(), block, flags))
			}
		})
		measure("get-1000", func() func() { return func() { getRandom(b, l, keys, 1000) } })
		measure("range-1000", func() func() {
			s, err := l.Snapshot()
			ok(b, err)
			return func() {
				defer s.Release()
				it, err := s.Range("kv", fmt.Sprintf("k%08d", rand.IntN(keys-1000)), "")
				ok(b, err)
				defer it.Close()
				for range 1000 {
					if kv, err := it.Next(); err != nil || kv == nil {
						b.Fatalf("%v, %v", kv, err)
					}
				}
			}
		})
		ok(b, l.Close())
	}
}

// rewrites are transactions that read and write one of the keys each.
func rewrites(b *testing.B, l *ledger.Ledger, keys, n int) [][]byte {
	b.Helper()
	s, err := l.Snapshot()
	ok(b, err)
	defer s.Release()
	out := make([][]byte, n)
	for i := range out {
		set := &rwset.Builder{}
		key := fmt.Sprintf("k%08d", rand.IntN(keys))
		version, err := s.Version("kv", key)
		ok(b, err)
		set.Read("kv", key, version)
		set.Write("kv", key, make([]byte, 200))
		msg, _, err := set.Build()
		ok(b, err)
		results, err := proto.Marshal(msg)
		ok(b, err)
		out[i], _ = ledgertest.Envelope(b, channelID, "kv", results)
	}
	return out
}

func getRandom(b *testing.B, l *ledger.Ledger, keys, n int) {
	b.Helper()
	s, err := l.Snapshot()
	ok(b, err)
	defer s.Release()
	for range n {
		if v, err := s.Get("kv", fmt.Sprintf("k%08d", rand.IntN(keys))); err != nil || len(v) != 200 {
			b.Fatalf("%d bytes, %v", len(v), err)
		}
	}
}
