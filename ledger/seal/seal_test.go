package seal

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unsafe"
)

// boxWrapper wraps with AES-GCM in memory; sealtest cannot be imported from here.
type boxWrapper struct {
	id   string
	aead cipher.AEAD
	fail error
	swap bool // unwrap gives another key
}

func newBoxWrapper(t testing.TB, id string) *boxWrapper {
	t.Helper()
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	return &boxWrapper{id: id, aead: aead}
}

func (w *boxWrapper) WrappingKeyID() string { return w.id }

func (w *boxWrapper) Random(_ context.Context, n int) ([]byte, error) {
	b := make([]byte, n)
	if w.fail != nil {
		return nil, w.fail
	}
	_, err := rand.Read(b)
	return b, err
}

func (w *boxWrapper) WrapKey(_ context.Context, key []byte) ([]byte, error) {
	return w.aead.Seal(nil, nil, key, nil), w.fail
}

func (w *boxWrapper) UnwrapKey(_ context.Context, wrapped []byte) ([]byte, error) {
	if w.fail != nil {
		return nil, w.fail
	}
	key, err := w.aead.Open(nil, nil, wrapped, nil)
	if err == nil && w.swap {
		key[0] ^= 1
	}
	return key, err
}

func openTest(t testing.TB, dir string, w *boxWrapper) *Keyring {
	t.Helper()
	k, err := OpenKeyring(context.Background(), dir, w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

var testPlace = Place{Kind: KindState, Channel: "mychannel", Namespace: "kv", Key: "a", Block: 7, Tx: 3}

func TestSealOpen(t *testing.T) {
	k := openTest(t, t.TempDir(), newBoxWrapper(t, "w"))
	for _, plain := range []string{"", "x", strings.Repeat("value ", 1000)} {
		sealed, err := k.Seal([]byte("head"), []byte(plain), testPlace)
		if err != nil {
			t.Fatal(err)
		}
		if len(sealed) > len("head")+len(plain)+Overhead {
			t.Errorf("%d bytes became %d", len(plain), len(sealed))
		}
		if len(plain) > 1 && bytes.Contains(sealed, []byte(plain)) {
			t.Error("the sealed value holds the plaintext")
		}
		got, err := k.Open([]byte("before "), sealed[len("head"):], testPlace)
		if err != nil {
			t.Fatal(err)
		}
		if want := "before " + plain; string(got) != want {
			t.Errorf("opened %q, want %q", got, want)
		}
	}
}

// A value opens at its place and nowhere else, and not with any bit changed.
func TestOpenRefuses(t *testing.T) {
	k := openTest(t, t.TempDir(), newBoxWrapper(t, "w"))
	sealed, err := k.Seal(nil, []byte("secret"), testPlace)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(p *Place){
		"kind":       func(p *Place) { p.Kind = KindHash },
		"channel":    func(p *Place) { p.Channel = "other" },
		"namespace":  func(p *Place) { p.Namespace = "kw" },
		"collection": func(p *Place) { p.Collection = "c" },
		"key":        func(p *Place) { p.Key = "b" },
		"block":      func(p *Place) { p.Block = 6 },
		"tx":         func(p *Place) { p.Tx = 2 },
		"borders":    func(p *Place) { p.Namespace, p.Key = "k", "va" },
	} {
		p := testPlace
		change(&p)
		if _, err := k.Open(nil, sealed, p); !errors.Is(err, ErrAltered) || !strings.Contains(err.Error(), p.String()) {
			t.Errorf("other %s: %v", name, err)
		}
	}
	for i := range len(sealed) * 8 {
		changed := bytes.Clone(sealed)
		changed[i/8] ^= 1 << (i % 8)
		got, err := k.Open(nil, changed, testPlace)
		if err == nil {
			t.Fatalf("bit %d was changed and the value opened as %q", i, got)
		}
		if !errors.Is(err, ErrAltered) && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnknownTerm) {
			t.Errorf("bit %d: %v", i, err)
		}
	}
	for n := range sealed {
		if _, err := k.Open(nil, sealed[:n], testPlace); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrAltered) {
			t.Errorf("first %d bytes: %v", n, err)
		}
	}
}

func TestUnknownTerm(t *testing.T) {
	w := newBoxWrapper(t, "w")
	sealed, err := openTest(t, t.TempDir(), w).Seal(nil, []byte("secret"), testPlace)
	if err != nil {
		t.Fatal(err)
	}
	sealed[1] = 99 // the term
	_, err = openTest(t, t.TempDir(), w).Open(nil, sealed, testPlace)
	if !errors.Is(err, ErrUnknownTerm) || !strings.Contains(err.Error(), "term 99") || !strings.Contains(err.Error(), testPlace.String()) {
		t.Errorf("unknown term: %v", err)
	}
}

func TestReopen(t *testing.T) {
	dir, w := t.TempDir(), newBoxWrapper(t, "w")
	var sealed [][]byte
	for term := uint32(1); term <= 4; term++ {
		k, err := OpenKeyring(context.Background(), dir, w)
		if err != nil {
			t.Fatal(err)
		}
		// Each opening starts one term of the node; sealing for a namespace starts its own.
		if want := 2*term - 1; k.Term() != want {
			t.Errorf("term is %d, want %d", k.Term(), want)
		}
		for _, old := range sealed {
			if got, err := k.Open(nil, old, testPlace); err != nil || string(got) != "secret" {
				t.Errorf("in term %d: %q, %v", term, got, err)
			}
		}
		s, err := k.Seal(nil, []byte("secret"), testPlace)
		if err != nil {
			t.Fatal(err)
		}
		sealed = append(sealed, s)
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Seal(nil, nil, testPlace); !errors.Is(err, ErrClosed) {
			t.Errorf("seal after close: %v", err)
		}
		if _, err := k.Open(nil, s, testPlace); !errors.Is(err, ErrClosed) {
			t.Errorf("open after close: %v", err)
		}
	}
	ro, err := OpenKeyringReadOnly(dir, w)
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	if _, err := ro.Seal(nil, nil, testPlace); !errors.Is(err, ErrReadOnly) {
		t.Errorf("seal read-only: %v", err)
	}
	if got, err := ro.Open(nil, sealed[0], testPlace); err != nil || string(got) != "secret" {
		t.Errorf("read-only: %q, %v", got, err)
	}
}

// No two values share a key and a nonce: not of several goroutines, not over a
// restart, and not on two copies of one disk.
func TestNoncesNeverRepeat(t *testing.T) {
	dir, w := t.TempDir(), newBoxWrapper(t, "w")
	k, err := OpenKeyring(context.Background(), dir, w)
	if err != nil {
		t.Fatal(err)
	}
	k.limit = 100
	type use struct {
		key   string
		nonce uint64
	}
	used := map[use]bool{}
	var mu sync.Mutex
	note := func(k *Keyring, sealed []byte) {
		id, counter, _, err := parse(sealed)
		if err != nil {
			t.Error(err)
			return
		}
		f, err := readTerm(k.dir, id)
		if err != nil {
			t.Error(err)
			return
		}
		key, err := w.UnwrapKey(context.Background(), f.Wrapped)
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if u := (use{string(key), counter}); used[u] {
			t.Errorf("term %d uses nonce %d twice with one key", id, counter)
		} else {
			used[u] = true
		}
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				sealed, err := k.Seal(nil, []byte("v"), testPlace)
				if err != nil {
					t.Error(err)
					return
				}
				note(k, sealed)
			}
		})
	}
	wg.Wait()
	if got := k.newest; got != 6 { // the proof of each term takes a nonce; the first is the node's
		t.Errorf("400 values at 99 a term end in term %d, want 6", got)
	}
	copied := t.TempDir()
	if err := os.CopyFS(filepath.Join(copied, "k"), os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, filepath.Join(copied, "k")} {
		again := openTest(t, d, w)
		for range 50 {
			sealed, err := again.Seal(nil, []byte("v"), testPlace)
			if err != nil {
				t.Fatal(err)
			}
			note(again, sealed)
		}
	}
	if len(used) != 500 {
		t.Errorf("%d nonces for 500 values", len(used))
	}
}

func TestOpenKeyringRefuses(t *testing.T) {
	fault := errors.New("token is gone")
	for name, test := range map[string]struct {
		change func(t *testing.T, dir string, w *boxWrapper)
		want   error
		text   string
	}{
		"in use": {func(t *testing.T, dir string, w *boxWrapper) { openTest(t, dir, w) }, ErrInUse, "LOCK"},
		"other wrapping key": {func(_ *testing.T, _ string, w *boxWrapper) { w.id = "new key" },
			ErrOtherWrappingKey, `it needs "w", the token offers "new key"`},
		"token fails":     {func(_ *testing.T, _ string, w *boxWrapper) { w.fail = fault }, fault, "term 2"},
		"token lies":      {func(_ *testing.T, _ string, w *boxWrapper) { w.swap = true }, nil, "unwraps another key"},
		"damaged file":    {func(t *testing.T, dir string, _ *boxWrapper) { damage(t, termPath(dir, 1)) }, nil, "term-0000000001"},
		"foreign file":    {func(t *testing.T, dir string, _ *boxWrapper) { write(t, filepath.Join(dir, "notes"), "x") }, nil, "notes"},
		"misnamed file":   {func(t *testing.T, dir string, _ *boxWrapper) { write(t, filepath.Join(dir, "term-2"), "x") }, nil, "term-2"},
		"term under name": {func(t *testing.T, dir string, _ *boxWrapper) { rename(t, termPath(dir, 1), termPath(dir, 5)) }, nil, "holds term 1"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, w := t.TempDir(), newBoxWrapper(t, "w")
			k, err := OpenKeyring(context.Background(), dir, w)
			if err != nil {
				t.Fatal(err)
			}
			if err := k.Close(); err != nil {
				t.Fatal(err)
			}
			test.change(t, dir, w)
			_, err = OpenKeyring(context.Background(), dir, w)
			if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v, want %v with %q", err, test.want, test.text)
			}
		})
	}
}

// An old term whose wrapping key the token no longer has is refused by name, when
// it is needed.
func TestOldWrappingKey(t *testing.T) {
	dir, w := t.TempDir(), newBoxWrapper(t, "w")
	k := openTest(t, dir, w)
	sealed, err := k.Seal(nil, []byte("secret"), testPlace)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(k.Rotate(context.Background()), k.Close()); err != nil {
		t.Fatal(err)
	}
	f, err := readTerm(dir, 2)
	if err != nil {
		t.Fatal(err)
	}
	f.WrappingKeyID = "former key"
	write(t, termPath(dir, 2), string(f.marshal()))
	_, err = openTest(t, dir, w).Open(nil, sealed, testPlace)
	if !errors.Is(err, ErrOtherWrappingKey) || !strings.Contains(err.Error(), "former key") || !strings.Contains(err.Error(), testPlace.String()) {
		t.Errorf("got %v", err)
	}
}

// A crash before the rename leaves a temporary file, which is removed.
func TestLeftover(t *testing.T) {
	dir, w := t.TempDir(), newBoxWrapper(t, "w")
	write(t, filepath.Join(dir, "term-0000000001.tmp"), "strongroom da")
	if k := openTest(t, dir, w); k.Term() != 1 {
		t.Errorf("term is %d, want 1", k.Term())
	}
	if _, err := os.Stat(filepath.Join(dir, "term-0000000001.tmp")); !os.IsNotExist(err) {
		t.Errorf("temporary file is still there: %v", err)
	}
}

// Keys are wiped where they lay; nothing can be read there after the close.
func TestMemory(t *testing.T) {
	m := &lockedMemory{}
	a, err := m.alloc(keySize)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 * os.Getpagesize() / keySize {
		b, err := m.alloc(keySize)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) != keySize || cap(b) != keySize || !bytes.Equal(b, make([]byte, keySize)) {
			t.Fatal("memory is not zero, or reaches into the next key")
		}
		copy(b, a)
		a[0]++
	}
	if len(m.pages) != 5 {
		t.Errorf("%d pages, want 5", len(m.pages))
	}
	if err := m.close(); err != nil {
		t.Error(err)
	}
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func damage(t *testing.T, name string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	write(t, name, string(b))
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func FuzzTermFile(f *testing.F) {
	f.Add(termFile{Term: 1, WrappingKeyID: "w", Wrapped: make([]byte, 40)}.marshal())
	f.Add(termFile{Term: ^uint32(0), WrappingKeyID: "\n\"é\x00\xff", Wrapped: []byte{1}}.marshal())
	f.Add(termFile{Term: 3, Channel: "c", Namespace: "n", WrappingKeyID: "w", Wrapped: make([]byte, 40), Proof: []byte{1, 2}}.marshal())
	f.Add([]byte(termHead))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := parseTerm(b)
		if err == nil && !bytes.Equal(file.marshal(), b) {
			t.Errorf("%q is not what its content marshals to", b)
		}
	})
}

func FuzzOpen(f *testing.F) {
	k := openTest(f, f.TempDir(), newBoxWrapper(f, "w"))
	sealed, err := k.Seal(nil, []byte("secret"), testPlace)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{})
	f.Add([]byte{format, 1, 0})
	f.Add(binary.AppendUvarint([]byte{format}, 1<<40))
	f.Add(bytes.Repeat([]byte{0x81}, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := k.Open(nil, b, testPlace); err == nil && !bytes.Equal(b, sealed) {
			t.Errorf("%x opened as %q", b, got)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	for _, size := range []int{256, 2 << 20} {
		b.Run(sizeName(size), func(b *testing.B) {
			k := openTest(b, b.TempDir(), newBoxWrapper(b, "w"))
			plain, dst := make([]byte, size), make([]byte, 0, size+Overhead)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := k.Seal(dst, plain, testPlace); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, size := range []int{256, 2 << 20} {
		b.Run(sizeName(size), func(b *testing.B) {
			k := openTest(b, b.TempDir(), newBoxWrapper(b, "w"))
			sealed, err := k.Seal(nil, make([]byte, size), testPlace)
			if err != nil {
				b.Fatal(err)
			}
			dst := make([]byte, 0, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := k.Open(dst, sealed, testPlace); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func sizeName(n int) string {
	if n >= 1<<20 {
		return "2MiB"
	}
	return "256B"
}

// The kernel says of a page for keys that it is locked and not dumped.
func TestMemoryFlags(t *testing.T) {
	m := &lockedMemory{}
	defer m.close()
	b, err := m.alloc(keySize)
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	address := uint64(uintptr(unsafe.Pointer(&b[0])))
	inside := false
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		if n, _ := fmt.Sscanf(line, "%x-%x ", &from, &to); n == 2 {
			inside = from <= address && address < to
		}
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && inside {
			if !strings.Contains(flags, " lo") || !strings.Contains(flags, " dd") {
				t.Errorf("flags of the page are %q, want lo (locked) and dd (not dumped)", flags)
			}
			return
		}
	}
	t.Error("the page is not in /proc/self/smaps")
}
