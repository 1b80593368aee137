package auditlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
	"strongroom/ledger/seal"
)

// fixture is a log whose key is in a SoftHSM token.
type fixture struct {
	cfg     Config
	token   *pkcs11.Token
	keyring *seal.Keyring
	cert    []byte
	signer  *bccsp.Signer
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	token := bccsptest.Open(t)
	ca := bccsptest.NewCA(t, token, "Org1MSP")
	f := &fixture{token: token}
	f.identity(t, ca)
	var err error
	if f.keyring, err = seal.OpenKeyring(t.Context(), t.TempDir(), token); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.keyring.Close() })
	f.cfg.Dir, f.cfg.Keyring, f.cfg.Verifier = filepath.Join(t.TempDir(), "audit"), f.keyring, token
	return f
}

func (f *fixture) identity(t testing.TB, ca *bccsptest.CA) {
	t.Helper()
	id := ca.Issue(t, "peer0", "peer")
	f.signer, f.cert = id.Signer, id.CertPEM
	f.cfg.Current = func() Signer { return f.signer }
}

func (f *fixture) open(t testing.TB) *Log {
	t.Helper()
	l, err := Open(t.Context(), f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

type text string

func (s text) Render() ([]byte, []byte, error) {
	return fmt.Appendf(nil, `{"text":%q}`, string(s)), []byte(`{"salt":"` + string(s) + `"}`), nil
}

func fill(t testing.TB, l *Log, n int) {
	t.Helper()
	for i := range n {
		if err := l.Put(t.Context(), text(fmt.Sprintf("decision number %d about TOPSECRET", i)), 100); err != nil {
			t.Fatal(err)
		}
	}
}

func closed(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) slice(t testing.TB, rg Range) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := WriteSlice(&b, f.cfg.Dir, f.keyring, f.cert, rg); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// verify returns what VerifySlice finds.
func (f *fixture) verify(t testing.TB, slice []byte) (*Verified, []string) {
	t.Helper()
	var findings []string
	v, err := VerifySlice(bytes.NewReader(slice), Visitor{
		Head: func(*Head) ([]byte, func(text, sig []byte) error, error) {
			key := f.signer.PublicKey()
			return key.SPKI(), func(text, sig []byte) error {
				digest := sha256.Sum256(text)
				return f.token.Verify(t.Context(), key, digest[:], sig)
			}, nil
		},
		Finding: func(what string) { findings = append(findings, what) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return v, findings
}

// TestLog writes from many goroutines, opens the log again, and verifies slices of it.
func TestLog(t *testing.T) {
	f := newFixture(t)
	f.cfg.SegmentBytes = 1024
	l := f.open(t)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 5 {
				fill(t, l, 40)
				if err := l.Act(t.Context(), Act{Name: "pause"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if err := l.Act(t.Context(), Act{Name: "channel.join", Actor: "admin", Subject: "main"}); err != nil {
		t.Fatal(err)
	}
	closed(t, l)
	if err := l.Put(t.Context(), text("late"), 1); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a closed log takes a record: %v", err)
	}
	l = f.open(t)
	fill(t, l, 10)
	closed(t, l)

	v, findings := f.verify(t, f.slice(t, Range{}))
	if len(findings) > 0 || v.Records != 831 || v.Size != 831 || !v.Signed {
		t.Fatalf("%+v %v", v, findings)
	}
	v, findings = f.verify(t, f.slice(t, Range{From: 300, End: 421, Private: true}))
	if len(findings) > 0 || v.Records != 121 || v.Head.From != 300 {
		t.Fatalf("%+v %v", v, findings)
	}
	if !bytes.Contains(f.slice(t, Range{From: 300, End: 311, Private: true}), []byte("salt")) {
		t.Error("the slice lacks the private parts")
	}
	firsts, err := segments(filepath.Join(f.cfg.Dir, recordsDir))
	if err != nil || len(firsts) < 3 {
		t.Errorf("%d segments, %v: the test needs several", len(firsts), err)
	}
	if _, err := WriteSlice(io.Discard, f.cfg.Dir, f.keyring, f.cert, Range{From: 831}); !errors.Is(err, ErrEmpty) {
		t.Errorf("a slice beyond the checkpoint: %v", err)
	}
	assertSealed(t, f.cfg.Dir)
}

// assertSealed finds no word of the records in any file.
func assertSealed(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		for _, word := range []string{"TOPSECRET", "channel.join", "salt", "previous"} {
			if bytes.Contains(b, []byte(word)) {
				t.Errorf("%s holds %q in clear", path, word)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTampering changes a slice in every way that a record can be changed, removed or
// moved, and looks for the finding.
func TestTampering(t *testing.T) {
	f := newFixture(t)
	l := f.open(t)
	fill(t, l, 20)
	closed(t, l)
	good := f.slice(t, Range{From: 3})
	lines := func() [][]byte { return bytes.Split(bytes.TrimSuffix(bytes.Clone(good), []byte("\n")), []byte("\n")) }
	last := len(lines()) - 1
	for name, tc := range map[string]struct {
		change func(l [][]byte) [][]byte
		want   string
	}{
		"none":   {func(l [][]byte) [][]byte { return l }, ""},
		"a word": {func(l [][]byte) [][]byte { l[5] = bytes.Replace(l[5], []byte("about"), []byte("ABOUT"), 1); return l }, "was changed or put elsewhere"},
		"the last": {func(l [][]byte) [][]byte {
			l[last-1] = bytes.Replace(l[last-1], []byte("about"), []byte("ABOUT"), 1)
			return l
		}, "is not in the log that the checkpoint speaks of"},
		"dropped":       {func(l [][]byte) [][]byte { return append(l[:6], l[7:]...) }, "1 records are missing"},
		"first dropped": {func(l [][]byte) [][]byte { return append(l[:1], l[2:]...) }, "begins with record 4"},
		"last dropped":  {func(l [][]byte) [][]byte { return append(l[:last-1], l[last:]...) }, "ends with record 18"},
		"reordered":     {func(l [][]byte) [][]byte { l[4], l[5] = l[5], l[4]; return l }, "another order"},
		"twice":         {func(l [][]byte) [][]byte { l[5] = l[4]; return l }, "stand twice"},
		"no end":        {func(l [][]byte) [][]byte { return l[:last] }, "no checkpoint"},
		"added":         {func(l [][]byte) [][]byte { return append(l, l[3]) }, "something follows the checkpoint"},
		"not a record":  {func(l [][]byte) [][]byte { l[4] = []byte(`{"record":1}`); return l }, "exactly one is needed"},
		"checkpoint": {func(l [][]byte) [][]byte {
			l[last] = bytes.Replace(l[last], []byte(`\n20\n`), []byte(`\n21\n`), 1)
			return l
		}, "checkpoint"},
		"another log": {func(l [][]byte) [][]byte {
			l[0] = bytes.Replace(l[0], []byte("strongroom/_audit/"), []byte("strongroom/_other/"), 1)
			return l
		}, "the slice says"},
		"renumbered": {func(l [][]byte) [][]byte {
			l[3] = bytes.Replace(l[3], []byte(`{"record":5`), []byte(`{"record":7`), 1)
			return l
		}, "records are missing"},
	} {
		changed := append(bytes.Join(tc.change(lines()), []byte("\n")), '\n')
		_, findings := f.verify(t, changed)
		if got := strings.Join(findings, "; "); tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
			t.Errorf("%s: findings %q, want %q", name, got, tc.want)
		}
	}
	// A consistent rewrite of everything before the last record changes its hash.
	forged := lines()
	var chain Hash
	for i := 1; i < last; i++ {
		body := forged[i][bytes.Index(forged[i], []byte(`"decision":`))+len(`"decision":`) : len(forged[i])-1]
		if i == 1 {
			r, err := ParseRecord(forged[i])
			if err != nil {
				t.Fatal(err)
			}
			if _, err := hex.Decode(chain[:], []byte(r.Previous)); err != nil {
				t.Fatal(err)
			}
			body = bytes.Replace(body, []byte("about"), []byte("ABOUT"), 1)
		}
		forged[i] = form(uint64(i+2), chain, Decision, body)
		chain = hashOf(forged[i])
	}
	_, findings := f.verify(t, append(bytes.Join(forged, []byte("\n")), '\n'))
	if len(findings) != 1 || !strings.Contains(findings[0], "is not in the log") {
		t.Errorf("a rewritten chain: %v", findings)
	}
}

// TestDisk damages the files of a log. What a crash can leave is mended; else the log
// does not open.
func TestDisk(t *testing.T) {
	f := newFixture(t)
	segment := func() string { return filepath.Join(f.cfg.Dir, recordsDir, segmentName(0)) }
	prepare := func(t *testing.T) (whole int64) {
		f.cfg.Dir = filepath.Join(t.TempDir(), "audit")
		l := f.open(t)
		for range 3 {
			if err := l.Act(t.Context(), Act{Name: "x"}); err != nil {
				t.Fatal(err)
			}
		}
		closed(t, l)
		info, err := os.Stat(segment())
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	add := func(t *testing.T, b []byte) {
		w, err := os.OpenFile(segment(), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		damage func(t *testing.T, whole int64)
		want   string // "" if the log opens with its three records
	}{
		"whole":           {func(*testing.T, int64) {}, ""},
		"part of a head":  {func(t *testing.T, _ int64) { add(t, []byte("SRA1\x00")) }, ""},
		"part of a frame": {func(t *testing.T, _ int64) { add(t, append([]byte("SRA1\x00\x00\x01\x00"), make([]byte, 40)...)) }, ""},
		"zeros":           {func(t *testing.T, _ int64) { add(t, make([]byte, 4096)) }, ""},
		"nonsense":        {func(t *testing.T, _ int64) { add(t, bytes.Repeat([]byte("x"), 100)) }, "no record begins here"},
		"cut": {func(t *testing.T, whole int64) {
			if err := os.Truncate(segment(), whole-10); err != nil {
				t.Fatal(err)
			}
		}, "records were removed"},
		"flipped": {func(t *testing.T, _ int64) {
			b, err := os.ReadFile(segment())
			if err != nil {
				t.Fatal(err)
			}
			b[40] ^= 1
			if err := os.WriteFile(segment(), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "the checksum is wrong"},
		"removed": {func(t *testing.T, _ int64) {
			if err := os.Remove(segment()); err != nil {
				t.Fatal(err)
			}
		}, "records were removed"},
		"checkpoint": {func(t *testing.T, _ int64) {
			path := filepath.Join(f.cfg.Dir, checkpointName)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, b[:len(b)-20], 0o600); err != nil {
				t.Fatal(err)
			}
		}, "restore it from a backup"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.damage(t, prepare(t))
			l, err := Open(t.Context(), f.cfg)
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Fatalf("%v, want %q", err, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Act(t.Context(), Act{Name: "y"}); err != nil {
				t.Fatal(err)
			}
			closed(t, l)
			if v, findings := f.verify(t, f.slice(t, Range{})); len(findings) > 0 || v.Records != 4 {
				t.Errorf("%+v %v", v, findings)
			}
		})
	}
}

// disk is a segment on a disk that can be full: then it takes half of what it is given.
type disk struct {
	output
	full *fullness
}

type fullness struct {
	sync.Mutex
	write, sync bool
}

func (d disk) Write(b []byte) (int, error) {
	d.full.Lock()
	defer d.full.Unlock()
	if d.full.write {
		n, err := d.output.Write(b[:len(b)/2])
		return n, errors.Join(err, syscall.ENOSPC)
	}
	return d.output.Write(b)
}

func (d disk) Sync() error {
	d.full.Lock()
	defer d.full.Unlock()
	if d.full.sync {
		return syscall.EIO
	}
	return d.output.Sync()
}

func (f *fullness) set(write, sync bool) {
	f.Lock()
	defer f.Unlock()
	f.write, f.sync = write, sync
}

// openOn opens a log whose segments are on a disk that can be full.
func (f *fixture) openOn(t *testing.T, full *fullness) *Log {
	t.Helper()
	f.cfg.create = func(path string) (output, error) {
		out, err := createFile(path)
		return disk{out, full}, err
	}
	return f.open(t)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestFullDisk fills the disk, by write and by sync, under both settings.
func TestFullDisk(t *testing.T) {
	for _, drop := range []bool{false, true} {
		for _, failing := range []string{"write", "sync"} {
			t.Run(fmt.Sprintf("drop=%t/%s", drop, failing), func(t *testing.T) {
				f := newFixture(t)
				f.cfg.Drop = drop
				full := &fullness{}
				l := f.openOn(t, full)
				fill(t, l, 5)
				if err := l.Act(t.Context(), Act{Name: "before"}); err != nil {
					t.Fatal(err)
				}
				full.set(failing == "write", failing == "sync")
				if err := l.Put(t.Context(), text("kept in memory"), 10); err != nil {
					t.Fatal(err)
				}
				eventually(t, "the log fails", func() bool { return l.Healthy(t.Context()) != nil })
				err := l.Put(t.Context(), text("while full"), 10)
				if drop && err != nil || !drop && !errors.Is(err, ErrUnavailable) {
					t.Errorf("a decision while the disk is full: %v", err)
				}
				if err := l.Act(t.Context(), Act{Name: "while full"}); !errors.Is(err, ErrUnavailable) {
					t.Errorf("an act while the disk is full: %v", err)
				}
				full.set(false, false)
				eventually(t, "the log is written again", func() bool { return l.Healthy(t.Context()) == nil })
				if err := l.Act(t.Context(), Act{Name: "after"}); err != nil {
					t.Fatal(err)
				}
				closed(t, l)
				want := "5 kept 1 before 1 after 1 gap 0"
				if drop {
					want = "5 kept 1 before 1 after 1 gap 1"
				}
				if got := f.count(t); got != want {
					t.Errorf("the log has %s, want %s", got, want)
				}
			})
		}
	}
}

func (f *fixture) count(t *testing.T) string {
	t.Helper()
	slice := f.slice(t, Range{})
	if _, findings := f.verify(t, slice); len(findings) > 0 {
		t.Errorf("findings: %v", findings)
	}
	n := func(word string) int { return bytes.Count(slice, []byte(word)) }
	return fmt.Sprintf("%d kept %d before %d after %d gap %d", n("TOPSECRET"), n("kept in memory"), n(`"name":"before"`), n(`"name":"after"`), n(`"dropped":1`))
}

// TestSlowDisk fills the queue: without Drop a caller waits for room, and gives up when
// its context ends; with Drop the decision is counted.
func TestSlowDisk(t *testing.T) {
	for _, drop := range []bool{false, true} {
		f := newFixture(t)
		f.cfg.Drop = drop
		full := &fullness{}
		l := f.openOn(t, full)
		full.Lock() // the writer stops within a write
		if err := l.Put(t.Context(), text("first"), 10); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the writer took the first", func() bool { return !l.waiting() })
		if err := l.Put(t.Context(), text("second"), maxQueuedBytes); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		err := l.Put(ctx, text("third"), 10)
		cancel()
		if drop && err != nil || !drop && (!errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded)) {
			t.Errorf("drop=%t: %v", drop, err)
		}
		full.Unlock()
		closed(t, l)
		want := uint64(2)
		if drop {
			want = 3 // with the gap
		}
		if v, findings := f.verify(t, f.slice(t, Range{})); len(findings) > 0 || v.Records != want {
			t.Errorf("drop=%t: %+v %v", drop, v, findings)
		}
	}
}

type failing struct{}

func (failing) Render() ([]byte, []byte, error) { return nil, nil, errors.New("no such field") }

// TestRenderFails leaves a gap where a decision cannot be made a record.
func TestRenderFails(t *testing.T) {
	f := newFixture(t)
	f.cfg.Strict = true
	l := f.open(t)
	if err := l.Put(t.Context(), failing{}, 1); err != nil {
		t.Fatal(err)
	}
	closed(t, l)
	if slice := f.slice(t, Range{}); !bytes.Contains(slice, []byte(`"gap":{"dropped":1`)) {
		t.Errorf("%s", slice)
	}
}

// TestKeyChange goes on under another key, and says so in the log.
func TestKeyChange(t *testing.T) {
	f := newFixture(t)
	l := f.open(t)
	fill(t, l, 3)
	closed(t, l)
	old := f.cert
	f.identity(t, bccsptest.NewCA(t, f.token, "Org1MSP"))
	l = f.open(t)
	closed(t, l) // signs a checkpoint with the new key, and records that
	if _, err := WriteSlice(io.Discard, f.cfg.Dir, f.keyring, old, Range{}); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("a slice with the former certificate: %v", err)
	}
	l = f.open(t)
	f.identity(t, bccsptest.NewCA(t, f.token, "Org1MSP")) // while it is open
	closed(t, l)
	closed(t, f.open(t))
	slice := f.slice(t, Range{})
	if v, findings := f.verify(t, slice); len(findings) > 0 || v.Records != 5 {
		t.Errorf("%+v %v", v, findings)
	}
	if n := bytes.Count(slice, []byte("audit.key-changed")); n != 2 {
		t.Errorf("the log says %d times that its key changed", n)
	}
}

// TestKeep removes old segments; what is left still verifies.
func TestKeep(t *testing.T) {
	f := newFixture(t)
	f.cfg.SegmentBytes = 2048
	f.cfg.Keep = time.Hour
	l := f.open(t)
	for range 8 {
		fill(t, l, 100)
		if err := l.Act(t.Context(), Act{Name: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	closed(t, l)
	before, err := segments(filepath.Join(f.cfg.Dir, recordsDir))
	if err != nil {
		t.Fatal(err)
	}
	f.cfg.Now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	l = f.open(t)
	for range 2 {
		if err := l.Act(t.Context(), Act{Name: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	closed(t, l)
	after, err := segments(filepath.Join(f.cfg.Dir, recordsDir))
	if err != nil || len(after) >= len(before) || after[0] == 0 {
		t.Fatalf("segments %v, then %v, %v", before, after, err)
	}
	slice := f.slice(t, Range{})
	if v, findings := f.verify(t, slice); len(findings) > 0 || v.Head.From != after[0] {
		t.Errorf("%+v %v", v, findings)
	}
	if !bytes.Contains(slice, []byte("audit.pruned")) {
		t.Error("the log does not say what was removed")
	}
}

// TestFollow reads beside the writer.
func TestFollow(t *testing.T) {
	f := newFixture(t)
	f.cfg.SegmentBytes = 1024
	l := f.open(t)
	r, err := OpenReader(f.cfg.Dir, f.keyring, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	read := 0
	for n := range 20 {
		fill(t, l, 20)
		if err := l.Act(t.Context(), Act{Name: "x"}); err != nil {
			t.Fatal(err)
		}
		for {
			s, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || s.Number != uint64(read) {
				t.Fatalf("record %d: %v", read, err)
			}
			read++
		}
		if read != 21*(n+1) {
			t.Fatalf("%d records were read, %d were written", read, 21*(n+1))
		}
	}
	closed(t, l)
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"record":0,"previous":"00","decision":{"a":1}}`))
	f.Add(form(7, Hash{1}, Action, []byte(`{"name":"x","time":"2026-01-02T03:04:05Z"}`)))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := ParseRecord(line)
		if err != nil {
			return
		}
		switch r.Kind() {
		case Decision, Action, Missing:
		default:
			t.Errorf("%q has the kind %q", line, r.Kind())
		}
	})
}

func FuzzVerifySlice(f *testing.F) {
	f.Add([]byte(`{"format":"strongroom-audit-log/1","origin":"o","from":0,"to":0,"certificate":""}` + "\n" + `{"record":0,"previous":"","decision":{}}` + "\n" + `{"checkpoint":"","proof":[]}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		found := 0
		v, err := VerifySlice(bytes.NewReader(b), Visitor{
			Head: func(*Head) ([]byte, func(text, sig []byte) error, error) {
				return []byte("key"), func(_, _ []byte) error { return errors.New("no signature is good here") }, nil
			},
			Finding: func(string) { found++ },
		})
		if err == nil && (v.Signed || found == 0) {
			t.Errorf("%q passes", b)
		}
	})
}

// BenchmarkPut is what a decision pays for its record.
func BenchmarkPut(b *testing.B) {
	f := newFixture(b)
	l := f.open(b)
	defer l.Close()
	e := text(strings.Repeat("x", 1000))
	b.ResetTimer()
	for b.Loop() {
		if err := l.Put(b.Context(), e, 1000); err != nil {
			b.Fatal(err)
		}
	}
}
