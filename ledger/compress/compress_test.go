package compress

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// identityOf makes something that looks like a certificate: it does not compress.
func identityOf(seed string) []byte {
	r := rand.New(rand.NewPCG(7, uint64(len(seed))*31+uint64(seed[len(seed)-1])))
	b := []byte("-----BEGIN CERTIFICATE-----\n" + seed)
	for range 700 {
		b = append(b, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[r.IntN(64)])
	}
	return append(b, "\n-----END CERTIFICATE-----\n"...)
}

// testBlock is a block's bytes in two parts, and the identities in it.
func testBlock(number uint64, txs int, ids ...[]byte) (first, rest []byte) {
	first = fmt.Appendf(nil, "header of block %d", number)
	for i := range txs {
		for _, id := range ids {
			first = append(first, id...)
		}
		first = fmt.Appendf(first, "value %d of block %d is a secret: %x", i, number, rand.Uint64())
	}
	return first, append([]byte("signed by "), ids[0]...)
}

// chain compresses blocks and gives back their bytes and contents.
func chain(t testing.TB, w *Writer, from, n, txs int, ids ...[]byte) (blocks, contents map[uint64][]byte) {
	t.Helper()
	blocks, contents = map[uint64][]byte{}, map[uint64][]byte{}
	for number := uint64(from); number < uint64(from+n); number++ {
		first, rest := testBlock(number, txs, ids...)
		if err := w.Start(number, first); err != nil {
			t.Fatal(err)
		}
		c, err := w.Finish([]byte("before"), rest, append(ids, nil, ids[0]))
		if err != nil {
			t.Fatal(err)
		}
		blocks[number], contents[number] = append(first, rest...), c[len("before"):]
	}
	return blocks, contents
}

func newTestReader(t testing.TB) *Reader {
	t.Helper()
	r, err := NewReader()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Blocks of one transaction come out as they went in, in any order, by a reader that
// saw none of them before; and identities that repeat from block to block cost little.
func TestDictionary(t *testing.T) {
	w := NewWriter()
	ids := [][]byte{identityOf("creator"), identityOf("endorser one"), identityOf("endorser 2")}
	blocks, contents := chain(t, w, 0, 100, 1, ids...)
	loads := 0
	load := func(n uint64) ([]byte, error) { loads++; return contents[n], nil }
	for _, n := range rand.Perm(100) {
		r := newTestReader(t)
		for range 2 {
			b, err := r.Block(uint64(n), contents[uint64(n)], load)
			if err != nil || !bytes.Equal(b, blocks[uint64(n)]) {
				t.Fatalf("block %d: %q, %v", n, b, err)
			}
		}
	}
	if loads == 0 || loads > 100 {
		t.Errorf("%d loads", loads)
	}
	if last, first := len(contents[99]), len(contents[0]); last > 200 || first < 1500 {
		t.Errorf("block 99 takes %d bytes, block 0 %d", last, first)
	}
	// What stands in the dictionary is identities, and no value.
	holder, used, err := Holder(99, contents[99])
	if err != nil || !used || holder == 99 {
		t.Fatalf("%d, %t, %v", holder, used, err)
	}
	d, err := newTestReader(t).Dictionary(contents[holder])
	if err != nil || len(d) != len(bytes.Join(ids, nil)) {
		t.Fatalf("%d bytes, %v", len(d), err)
	}
	for _, id := range ids {
		if !bytes.Contains(d, id) {
			t.Errorf("%.40s is not in the dictionary", id)
		}
	}
	// Another writer goes on with it, and another set of identities gives another.
	next := NewWriter()
	next.Use(holder, d)
	more, moreContents := chain(t, next, 100, 1, 1, ids...)
	if len(moreContents[100]) > 200 {
		t.Errorf("block 100 takes %d bytes", len(moreContents[100]))
	}
	later, laterContents := chain(t, next, 101, 50, 1, identityOf("another"), identityOf("and one more"))
	if holder, used, err := Holder(150, laterContents[150]); err != nil || !used || holder < 101 {
		t.Errorf("block 150 has its dictionary from block %d, %t, %v", holder, used, err)
	}
	r := newTestReader(t)
	for n, want := range map[uint64][]byte{100: more[100], 101: later[101], 150: later[150]} {
		c := append(moreContents[n], laterContents[n]...)
		b, err := r.Block(n, c, func(n uint64) ([]byte, error) { return append(contents[n], laterContents[n]...), nil })
		if err != nil || !bytes.Equal(b, want) {
			t.Errorf("block %d: %v", n, err)
		}
	}
}

// Identities that never come again make no dictionary, and cost no memory for long.
func TestIdentitiesOnce(t *testing.T) {
	w := NewWriter()
	for n := range uint64(2000) {
		first, rest := testBlock(n, 1, identityOf("shared"))
		if err := w.Start(n, first); err != nil {
			t.Fatal(err)
		}
		c, err := w.Finish(nil, rest, [][]byte{fmt.Appendf(nil, "identity %d %s", n, strings.Repeat("x", 700))})
		if err != nil {
			t.Fatal(err)
		}
		if _, used, err := Holder(n, c); used || err != nil {
			t.Fatalf("block %d has a dictionary, %v", n, err)
		}
	}
	if n := len(w.known.last); n > keptIdentities {
		t.Errorf("%d identities are remembered", n)
	}
}

// A dictionary has no more than it may, whatever repeats.
func TestDictionaryBounded(t *testing.T) {
	w := NewWriter()
	var ids [][]byte
	for i := range 200 {
		ids = append(ids, identityOf(fmt.Sprintf("user %d%c", i, 'A'+i)))
	}
	blocks, contents := chain(t, w, 0, 8, 1, ids...)
	d, err := newTestReader(t).Dictionary(contents[w.holder])
	if err != nil || len(d) == 0 || len(d) > MaxDictionary {
		t.Fatalf("%d bytes, %v", len(d), err)
	}
	b, err := newTestReader(t).Block(7, contents[7], func(n uint64) ([]byte, error) { return contents[n], nil })
	if err != nil || !bytes.Equal(b, blocks[7]) {
		t.Error(err)
	}
}

// The form is frozen: contents written by this version are read by all later ones.
// The second block's dictionary is in the first.
func TestVectors(t *testing.T) {
	first, second := unhex(t, vectorHolder), unhex(t, vectorBlock)
	r := newTestReader(t)
	for number, v := range map[uint64]struct {
		content []byte
		want    string
	}{5: {first, "block five, by " + vectorIdentity + ", signed"}, 7: {second, "block seven, by " + vectorIdentity + ", signed"}} {
		b, err := r.Block(number, v.content, func(n uint64) ([]byte, error) {
			if n != 5 {
				return nil, fmt.Errorf("block %d is asked for", n)
			}
			return first, nil
		})
		if err != nil || string(b) != v.want {
			t.Errorf("block %d: %q, %v", number, b, err)
		}
	}
	if d, err := r.Dictionary(first); err != nil || string(d) != vectorIdentity {
		t.Errorf("dictionary: %q, %v", d, err)
	}
}

const (
	vectorIdentity = "an identity that is long enough to be found in every later block, and once more: 0123456789"
	vectorHolder   = "0101725b6428b52ffd0000d90200616e206964656e746974792074686174206973206c6f6e6720656e6f75676820746f20626520666f756e6420696e206576657279206c6174657220626c6f636b2c20616e64206f6e6365206d6f72653a20303132333435363738393328b52ffd010001bd000078626c6f636b20666976652c2062792001540f0629d80628b52ffd0100014100002c207369676e6564000000"
	vectorBlock    = "0103733528b52ffd010001cd00000401626c6f636b20736576656e2c206279200154100629d00d28b52ffd0100014100002c207369676e6564000000"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// frameOf compresses zeros, as a bomb would.
func frameOf(t testing.TB, zeros int) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll(make([]byte, zeros), nil)
}

func contentOf(back, length uint64, parts ...[]byte) []byte {
	b := appendVarints([]byte{form}, back, length)
	for _, p := range parts {
		b = append(appendVarints(b, uint64(len(p))), p...)
	}
	return b
}

func appendVarints(b []byte, vs ...uint64) []byte {
	for _, v := range vs {
		for ; v >= 0x80; v >>= 7 {
			b = append(b, byte(v)|0x80)
		}
		b = append(b, byte(v))
	}
	return b
}

// What a content says is checked before anything of that size is allocated.
func TestBombs(t *testing.T) {
	r := newTestReader(t)
	none := func(n uint64) ([]byte, error) {
		if n == 6 {
			return contentOf(0, 5, nil), nil
		}
		return nil, fmt.Errorf("no block %d", n)
	}
	bomb := frameOf(t, 64<<20)
	withDictionary := appendVarints(contentOf(1, 1), 64<<20)
	for name, c := range map[string]struct {
		content []byte
		want    string
	}{
		"more than it says":           {contentOf(0, 100, bomb), "exceed"},
		"less than it says":           {contentOf(0, 64<<20+1, bomb), "says that it has 67108865 bytes"},
		"too long":                    {contentOf(0, MaxBlock+1, bomb), "too great"},
		"more than frames can hold":   {contentOf(0, MaxBlock, []byte("x")), "cannot hold"},
		"dictionary too long":         {withDictionary, "too great"},
		"dictionary is a bomb":        {append(appendVarints([]byte{form}, 1, 5, 10, uint64(len(bomb))), append(bomb, 0)...), "dictionary"},
		"empty":                       {nil, "form 1"},
		"other form":                  {[]byte{2, 0, 0, 0}, "form 1"},
		"frames cut":                  {contentOf(0, 5, bomb)[:40], "not whole"},
		"no frames":                   {contentOf(0, 5, nil), "says that it has 5"},
		"padding of something":        {append(contentOf(0, 64<<20, bomb), 0, 1), "zeros"},
		"dictionary before block 0":   {contentOf(9, 5, bomb), "before block 0"},
		"dictionary is missing":       {contentOf(3, 5, bomb), "no block 5"},
		"dictionary of no dictionary": {contentOf(2, 5, bomb), "it has no dictionary"},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		b, err := r.Block(7, c.content, none)
		runtime.ReadMemStats(&after)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
		if name != "dictionary is missing" && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v is not ErrMalformed", name, err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; name != "less than it says" && got > 16<<20 {
			t.Errorf("%s: %d bytes were allocated", name, got)
		}
	}
}

func TestTooLong(t *testing.T) {
	w := NewWriter()
	if err := w.Start(0, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(nil, make([]byte, MaxBlock-99), nil); err == nil {
		t.Error("it was compressed")
	}
}

func TestPaddedLength(t *testing.T) {
	last := 0
	lengths := map[int]bool{}
	for n := range 200_000 {
		p := PaddedLength(n)
		if p < n || p < last || PaddedLength(p) != p || float64(p-n) > 0.12*float64(n) {
			t.Fatalf("%d gives %d, the length before gave %d", n, p, last)
		}
		last = p
		lengths[p] = true
	}
	if len(lengths) > 400 {
		t.Errorf("%d lengths stand for 200,000", len(lengths))
	}
	for _, n := range []int{0, 1, 700, 290_000} {
		t.Log(n, PaddedLength(n))
	}
}

// FuzzBlock gives a reader what nobody sealed: it must not panic, nor give more than
// it was told.
func FuzzBlock(f *testing.F) {
	r, err := NewReader()
	if err != nil {
		f.Fatal(err)
	}
	_, contents := chain(f, NewWriter(), 0, 30, 1, identityOf("a"), identityOf("b"))
	for _, c := range contents {
		f.Add(c)
	}
	f.Add(contentOf(0, 64<<20, frameOf(f, 64<<20)))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := r.Block(29, b, func(n uint64) ([]byte, error) { return contents[n], nil })
		if err == nil && len(got) > len(b)*maxRatio {
			t.Errorf("%d bytes from %d", len(got), len(b))
		}
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%v", err)
		}
	})
}

// FuzzRoundTrip has any two parts and any identity come back.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("first"), []byte("rest"), []byte("identity"))
	f.Add([]byte{}, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, first, rest, id []byte) {
		w, r := NewWriter(), newTestReader(t)
		contents := map[uint64][]byte{}
		for n := range uint64(8) {
			if err := w.Start(n, first); err != nil {
				t.Fatal(err)
			}
			c, err := w.Finish(nil, rest, [][]byte{id})
			if err != nil {
				t.Fatal(err)
			}
			contents[n] = c
			b, err := r.Block(n, c, func(n uint64) ([]byte, error) { return contents[n], nil })
			if err != nil || !bytes.Equal(b, append(bytes.Clone(first), rest...)) {
				t.Fatalf("block %d: %q, %v", n, b, err)
			}
		}
	})
}

func BenchmarkCompress(b *testing.B) {
	ids := [][]byte{identityOf("a"), identityOf("b"), identityOf("c")}
	for _, txs := range []int{1, 10, 500} {
		b.Run(fmt.Sprintf("%d txs", txs), func(b *testing.B) {
			w := NewWriter()
			chain(b, w, 0, 20, 1, ids...)
			first, rest := testBlock(20, txs, ids...)
			b.SetBytes(int64(len(first) + len(rest)))
			var out []byte
			for n := uint64(20); b.Loop(); n++ {
				if err := w.Start(n, first); err != nil {
					b.Fatal(err)
				}
				var err error
				if out, err = w.Finish(out[:0], rest, ids); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(out))/float64(txs), "B/tx")
		})
	}
}
