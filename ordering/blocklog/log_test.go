package blocklog

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// gcmSealer seals with a key of the test's.
type gcmSealer struct{ aead cipher.AEAD }

func newSealer(t testing.TB) gcmSealer {
	t.Helper()
	block, err := aes.NewCipher(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	return gcmSealer{aead}
}

func (s gcmSealer) Seal(plain, ad []byte) ([]byte, error) {
	return s.aead.Seal(nil, nil, plain, ad), nil
}
func (s gcmSealer) Open(sealed, ad []byte) ([]byte, error) { return s.aead.Open(nil, nil, sealed, ad) }

func openLog(t *testing.T, cfg Config) *Log {
	t.Helper()
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return l
}

func body(n uint64) []byte {
	return fmt.Appendf(nil, "record %d %s", n, bytes.Repeat([]byte("x"), int(n%50)))
}

// fill appends the records from Next to end-1, in groups, and syncs each group.
func fill(t *testing.T, l *Log, end uint64) {
	t.Helper()
	for n := l.Next(); n < end; {
		var group [][]byte
		for i := 0; i < 3 && n < end; i++ {
			group = append(group, body(n))
			n++
		}
		if _, err := l.Append(group...); err != nil {
			t.Fatal(err)
		}
		if err := l.Sync(); err != nil {
			t.Fatal(err)
		}
	}
}

func wantRecords(t *testing.T, l *Log, first, next uint64) {
	t.Helper()
	if l.First() != first || l.Next() != next {
		t.Fatalf("log has records %d to %d, want %d to %d", l.First(), l.Next(), first, next)
	}
	for n := first; n < next; n++ {
		got, err := l.Read(n)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(body(n)), string(got)); diff != "" {
			t.Fatalf("record %d: %s", n, diff)
		}
	}
	for _, n := range []uint64{first - 1, next} {
		if _, err := l.Read(n); !errors.Is(err, ErrNotFound) {
			t.Errorf("reading record %d gives %v, want ErrNotFound", n, err)
		}
	}
}

func TestLogReopens(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		t.Run(fmt.Sprintf("sealed=%t", sealed), func(t *testing.T) {
			cfg := Config{Dir: t.TempDir(), Name: "blocks/a", First: 1, SegmentBytes: 500}
			if sealed {
				cfg.Sealer = newSealer(t)
			}
			l := openLog(t, cfg)
			wantRecords(t, l, 1, 1)
			fill(t, l, 40)
			wantRecords(t, l, 1, 40)
			if n := len(l.segments); n < 4 {
				t.Errorf("40 records made %d segments of 500 bytes", n)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = openLog(t, cfg)
			wantRecords(t, l, 1, 40)
			fill(t, l, 60)
			wantRecords(t, l, 1, 60)
			if sealed {
				checkSealed(t, cfg.Dir)
			}
		})
	}
}

func checkSealed(t *testing.T, dir string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte("record")) {
			t.Errorf("%s holds a record in clear", name)
		}
	}
}

func TestSealedRecordsAreBound(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), Name: "blocks/a", Sealer: newSealer(t)}
	l := openLog(t, cfg)
	fill(t, l, 3)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.Name = "blocks/b"
	l = openLog(t, cfg)
	var corrupt *CorruptError
	if _, err := l.Read(1); !errors.As(err, &corrupt) {
		t.Errorf("a record of another log opens: %v", err)
	}
}

func TestLogIsLocked(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), Name: "a"}
	openLog(t, cfg)
	if _, err := Open(cfg); err == nil {
		t.Error("two logs are open in one folder")
	}
}

func TestDropBefore(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), Name: "a", SegmentBytes: 300}
	l := openLog(t, cfg)
	fill(t, l, 60)
	if err := l.DropBefore(30); err != nil {
		t.Fatal(err)
	}
	if f := l.First(); f == 0 || f > 30 {
		t.Errorf("first record after DropBefore(30) is %d", f)
	}
	if err := l.DropBefore(60); err != nil {
		t.Fatal(err)
	}
	first := l.First()
	if len(l.segments) != 1 || first == 60 {
		t.Errorf("%d segments left, first record %d: the one being written must stay", len(l.segments), first)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openLog(t, cfg)
	wantRecords(t, l, first, 60)
}

// TestTornTail cuts and damages the end of a log that was written behind the last
// sync, at every byte, and checks that what was synced is there and goes on.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Dir: dir, Name: "a"}
	l := openLog(t, cfg)
	fill(t, l, 6)
	path, synced := l.last().path, l.last().size
	mark, err := os.ReadFile(filepath.Join(dir, markName))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(body(6), body(7), body(8)); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// open restores the folder as a crash could have left it, and checks it.
	open := func(t *testing.T, data []byte, withMark bool) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		m := mark
		if !withMark {
			m = nil
		}
		if err := os.WriteFile(filepath.Join(dir, markName), m, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Open(cfg)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		next := l.Next()
		if next < 6 || next > 9 {
			t.Fatalf("%d records are left of 6 synced ones and 3 others", next)
		}
		fill(t, l, 10)
		wantRecords(t, l, 0, 10)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for n := synced; n <= int64(len(whole)); n++ {
		open(t, whole[:n], n%2 == 0)
	}
	for n := synced; n < int64(len(whole)); n += 3 {
		data := bytes.Clone(whole)
		data[n] ^= 0x40
		open(t, data, n%2 == 0)
		clear(data[n:])
		open(t, data, n%2 == 1)
	}
}

// TestDamage damages what was synced, at every byte, and checks that it is never
// taken for a torn tail.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Dir: dir, Name: "a"}
	l := openLog(t, cfg)
	fill(t, l, 6)
	path := l.last().path
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	mark, err := os.ReadFile(filepath.Join(dir, markName))
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(t *testing.T, what string, data []byte, mark []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, markName), mark, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Open(cfg)
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) {
			t.Errorf("%s: open gives %v, want a CorruptError", what, err)
			if err == nil {
				_ = l.Close()
			}
			return
		}
		if corrupt.File != path {
			t.Errorf("%s: error names %s", what, corrupt.File)
		}
	}
	for n := range whole {
		data := bytes.Clone(whole)
		data[n] ^= 1
		check(t, fmt.Sprintf("byte %d flipped", n), data, mark)
		check(t, fmt.Sprintf("cut at byte %d", n), whole[:n], mark)
	}
	// Without the mark, the records behind bear witness: only the last group can go
	// unnoticed.
	h, err := parseHeader(whole[offsetOf(t, whole, 5):])
	if err != nil {
		t.Fatal(err)
	}
	for n := range int(h.durable) {
		data := bytes.Clone(whole)
		data[n] ^= 1
		check(t, fmt.Sprintf("byte %d flipped, no mark", n), data, nil)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, markName), mark, 0o600); err != nil {
		t.Fatal(err)
	}
	var corrupt *CorruptError
	if _, err := Open(cfg); !errors.As(err, &corrupt) {
		t.Errorf("a lost file is not noticed: %v", err)
	}
}

// offsetOf is where a record starts in a segment's bytes.
func offsetOf(t *testing.T, data []byte, number uint64) int {
	t.Helper()
	for at := 0; ; {
		h, b, err := parseRecord(data[at:])
		if err != nil {
			t.Fatal(err)
		}
		if h.number == number {
			return at
		}
		at += headerSize + len(b)
	}
}

func TestDamageInAnOlderSegment(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), Name: "a", SegmentBytes: 300}
	l := openLog(t, cfg)
	fill(t, l, 30)
	s := l.segments[1]
	at := s.offsets[1] + headerSize
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff}, at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	l = openLog(t, cfg)
	var corrupt *CorruptError
	if _, err := l.Read(s.first + 1); !errors.As(err, &corrupt) || corrupt.File != s.path || corrupt.Offset != s.offsets[1] {
		t.Errorf("reading a damaged record gives %v, want a CorruptError at byte %d of %s", err, s.offsets[1], s.path)
	}
	if _, err := l.Read(s.first); err != nil {
		t.Errorf("its neighbour does not read: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.path); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(cfg); !errors.As(err, &corrupt) {
		t.Errorf("a missing segment gives %v, want a CorruptError", err)
	}
}

// TestAppendAfterFailedWrite makes a write fail in the middle, as a full disk does,
// and checks that the log goes on.
func TestAppendAfterFailedWrite(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), Name: "a"}
	l := openLog(t, cfg)
	fill(t, l, 5)
	s := l.last()
	good := s.file
	ro, err := os.Open(s.path) // no write succeeds
	if err != nil {
		t.Fatal(err)
	}
	s.file = ro
	if _, err := l.Append(body(5)); err == nil {
		t.Error("append to a file that takes no write succeeds")
	}
	if err := l.Err(); !errors.Is(err, ErrBroken) {
		t.Errorf("the file could not be cut either, but the log is not broken: %v", err)
	}
	s.file = good
	if err := ro.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil && !errors.Is(err, ErrBroken) {
		t.Fatal(err)
	}
	l = openLog(t, cfg)
	fill(t, l, 8)
	wantRecords(t, l, 0, 8)
}

func FuzzParseRecord(f *testing.F) {
	f.Add(appendRecord(nil, 7, 0, []byte("body")))
	f.Add(appendRecord(appendRecord(nil, 7, 0, nil), 8, 28, []byte("two")))
	f.Add([]byte("rcd1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, body, err := parseRecord(b)
		if err != nil {
			laterDurable(b)
			return
		}
		again := appendRecord(nil, h.number, h.durable, body)
		if !bytes.Equal(again, b[:len(again)]) {
			t.Errorf("record %x is written again as %x", b[:len(again)], again)
		}
	})
}

func BenchmarkAppendSync(b *testing.B) {
	for _, group := range []int{1, 100} {
		b.Run(fmt.Sprintf("group=%d", group), func(b *testing.B) {
			l, err := Open(Config{Dir: b.TempDir(), Name: "bench"})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			record := bytes.Repeat([]byte{1}, 4096)
			records := make([][]byte, group)
			for i := range records {
				records[i] = record
			}
			b.SetBytes(int64(group * len(record)))
			for b.Loop() {
				if _, err := l.Append(records...); err != nil {
					b.Fatal(err)
				}
				if err := l.Sync(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
