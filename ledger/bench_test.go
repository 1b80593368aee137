package ledger_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/ledger"
	"strongroom/ledger/ledgertest"
	"strongroom/ledger/rwset"
	"strongroom/ledger/seal/sealtest"
	"strongroom/wire/peerpb"
)

func benchLedger(b *testing.B) *ledger.Ledger {
	b.Helper()
	l, err := ledger.Open(context.Background(), ledger.Config{Dir: b.TempDir(), ChannelID: channelID, Keyring: sealtest.Keyring(b)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	})
	return l
}

// envelopes makes transactions that write new keys of 200 random bytes, and read
// one of them first if they are to.
func envelopes(b *testing.B, n, writes int, read bool) [][]byte {
	b.Helper()
	out := make([][]byte, n)
	for i := range out {
		set := &rwset.Builder{}
		for range writes {
			value := make([]byte, 200)
			for j := range value {
				value[j] = byte(rand.Uint32())
			}
			key := fmt.Sprintf("k%016x", rand.Uint64())
			if read {
				set.Read("kv", key, nil)
			}
			set.Write("kv", key, value)
		}
		msg, _, err := set.Build()
		if err != nil {
			b.Fatal(err)
		}
		results, err := proto.Marshal(msg)
		if err != nil {
			b.Fatal(err)
		}
		out[i], _ = ledgertest.Envelope(b, channelID, "kv", results)
	}
	return out
}

func BenchmarkCommit(b *testing.B) {
	for name, c := range map[string]struct {
		writes int
		read   bool
	}{"1 write": {1, false}, "2 writes": {2, false}, "1 read 1 write": {1, true}} {
		b.Run("500 txs "+name, func(b *testing.B) {
			l := benchLedger(b)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				b.StopTimer()
				block := ledgertest.Next(b, l, envelopes(b, 500, c.writes, c.read)...)
				flags := make([]peerpb.TxValidationCode, 500)
				b.StartTimer()
				if err := l.Commit(context.Background(), block, flags); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(500*float64(b.N)/b.Elapsed().Seconds(), "tx/s")
		})
	}
}

func BenchmarkGet(b *testing.B) {
	l := benchLedger(b)
	set := &rwset.Builder{}
	for i := range 10_000 {
		set.Write("kv", fmt.Sprintf("k%08d", i), make([]byte, 200))
	}
	msg, _, err := set.Build()
	if err != nil {
		b.Fatal(err)
	}
	results, err := proto.Marshal(msg)
	if err != nil {
		b.Fatal(err)
	}
	envelope, _ := ledgertest.Envelope(b, channelID, "kv", results)
	ledgertest.Commit(b, l, envelope)
	s, err := l.Snapshot()
	if err != nil {
		b.Fatal(err)
	}
	defer s.Release()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if v, err := s.Get("kv", fmt.Sprintf("k%08d", i*7919%10_000)); err != nil || len(v) != 200 {
			b.Fatalf("%d bytes, %v", len(v), err)
		}
	}
}
