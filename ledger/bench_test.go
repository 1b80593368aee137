package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"strongroom/ledger"
	"strongroom/ledger/ledgertest"
	"strongroom/ledger/rwset"
	"strongroom/ledger/seal/sealtest"
	"strongroom/wire/peerpb"
)

func benchLedger(b *testing.B) *ledger.Ledger {
	b.Helper()
	return benchLedgerIn(b, b.TempDir())
}

// diskBytes is how much a folder's files hold.
func diskBytes(b *testing.B, dir string) int64 {
	b.Helper()
	var size int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a table that was just merged into another
		}
		if err == nil {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return size
}

func benchLedgerIn(b *testing.B, dir string) *ledger.Ledger {
	b.Helper()
	l, err := ledger.Open(context.Background(), ledger.Config{Dir: dir, ChannelID: channelID, Keyring: sealtest.Keyring(b)})
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
			dir := b.TempDir()
			l := benchLedgerIn(b, dir)
			b.ReportAllocs()
			b.ResetTimer()
			var cpu time.Duration
			for range b.N {
				b.StopTimer()
				block := ledgertest.Next(b, l, envelopes(b, 500, c.writes, c.read)...)
				flags := make([]peerpb.TxValidationCode, 500)
				before := processorTime(b)
				b.StartTimer()
				if err := l.Commit(context.Background(), block, flags); err != nil {
					b.Fatal(err)
				}
				cpu += processorTime(b) - before
			}
			b.ReportMetric(float64(cpu.Microseconds())/1000/float64(b.N), "cpu-ms/block")
			b.ReportMetric(500*float64(b.N)/b.Elapsed().Seconds(), "tx/s")
			b.ReportMetric(float64(diskBytes(b, dir))/float64(500*b.N), "disk-B/tx")
		})
	}
}

// processorTime is what the process used of all cores: other work on the machine does
// not count in it as it does in wall time.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkGet(b *testing.B) {
	benchGet(b, 10_000, 1)
}

// BenchmarkGetTables reads at random what lies in tables and does not fit into the
// cache of their blocks.
func BenchmarkGetTables(b *testing.B) {
	benchGet(b, 10_000, 30)
}

// benchGet reads keys of a number of blocks, all of one size.
func benchGet(b *testing.B, keys, blocks int) {
	l := benchLedger(b)
	for n := range blocks {
		benchFill(b, l, n*keys, (n+1)*keys)
	}
	s, err := l.Snapshot()
	if err != nil {
		b.Fatal(err)
	}
	defer s.Release()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if v, err := s.Get("kv", fmt.Sprintf("k%08d", i*7919%(keys*blocks))); err != nil || len(v) != 200 {
			b.Fatalf("%d bytes, %v", len(v), err)
		}
	}
}

// benchFill commits a block that writes keys of 200 bytes.
func benchFill(b *testing.B, l *ledger.Ledger, from, to int) {
	b.Helper()
	set := &rwset.Builder{}
	for i := from; i < to; i++ {
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
}
