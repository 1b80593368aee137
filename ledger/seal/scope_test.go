package seal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func placeIn(channel, namespace string) Place {
	return Place{Kind: KindState, Channel: channel, Namespace: namespace, Key: "k", Block: 1}
}

func sealIn(t *testing.T, k *Keyring, p Place) []byte {
	t.Helper()
	b, err := k.Seal(nil, []byte("secret"), p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func termOf(t *testing.T, sealed []byte) uint32 {
	t.Helper()
	id, _, _, err := parse(sealed)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Each namespace of each channel, each channel and the node have keys of their own,
// and the file of a key says whose it is.
func TestScopes(t *testing.T) {
	dir, w := t.TempDir(), newBoxWrapper(t, "w")
	k := openTest(t, dir, w)
	terms := map[uint32]scope{}
	for _, test := range []struct {
		p    Place
		want scope
	}{
		{placeIn("c", "a"), scope{"c", "a"}},
		{placeIn("c", "b"), scope{"c", "b"}},
		{placeIn("d", "a"), scope{"d", "a"}},
		{placeIn("c", "_lifecycle"), scope{"c", ""}},
		{placeIn("d", ""), scope{"d", ""}},
		{Place{Kind: KindPrivate, Channel: "c", Namespace: "e", Collection: "x"}, scope{"c", "e"}},
		{Place{Kind: KindCommitted, Channel: "c", Namespace: "f"}, scope{"c", "f"}},
		{Place{Kind: KindValues, Channel: "c", Namespace: "g"}, scope{"c", "g"}},
		{Place{Kind: KindPackage, Key: "p"}, scope{}},
	} {
		id := termOf(t, sealIn(t, k, test.p))
		if of, ok := terms[id]; ok {
			t.Errorf("%s is sealed with the key of %s", test.p, of)
		}
		terms[id] = test.want
		if f, err := readTerm(dir, id); err != nil || f.scope() != test.want {
			t.Errorf("%s: the key's file is of %s, %v", test.p, f.scope(), err)
		}
	}
	for _, p := range []Place{
		{Kind: KindOutline, Channel: "c", Block: 1}, {Kind: KindBlock, Channel: "c"}, {Kind: KindFile, Channel: "c", Key: "x"},
		{Kind: KindMetadata, Channel: "c", Namespace: "a", Key: "k"},
	} {
		if of := terms[termOf(t, sealIn(t, k, p))]; of != (scope{"c", ""}) {
			t.Errorf("%s is sealed with the key of %s", p, of)
		}
	}
	// A key opens nothing of another namespace, whoever says so.
	sealed := sealIn(t, k, placeIn("c", "a"))
	if _, err := k.Open(nil, sealed, placeIn("c", "b")); !errors.Is(err, ErrAltered) || !strings.Contains(err.Error(), `namespace "a" of channel "c"`) {
		t.Errorf("got %v", err)
	}
}

// A key's file that was made to say that it is another namespace's is refused.
func TestProof(t *testing.T) {
	dir, w := t.TempDir(), newBoxWrapper(t, "w")
	k, err := OpenKeyring(context.Background(), dir, w)
	if err != nil {
		t.Fatal(err)
	}
	sealed := sealIn(t, k, placeIn("c", "a"))
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	id := termOf(t, sealed)
	for name, change := range map[string]func(f *termFile){
		"namespace": func(f *termFile) { f.Namespace = "b" },
		"channel":   func(f *termFile) { f.Channel = "d" },
		"proof":     func(f *termFile) { f.Proof[len(f.Proof)-1] ^= 1 },
	} {
		copied := filepath.Join(t.TempDir(), "k")
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		f, err := readTerm(copied, id)
		if err != nil {
			t.Fatal(err)
		}
		change(&f)
		write(t, termPath(copied, id), string(f.marshal()))
		if got, err := openTest(t, copied, w).Open(nil, sealed, placeIn("c", "a")); !errors.Is(err, ErrAltered) || !strings.Contains(err.Error(), "term-") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// Keys of the first format opened everything of the node, and still do.
func TestFirstFormat(t *testing.T) {
	dir, w := t.TempDir(), newBoxWrapper(t, "w")
	key := bytes.Repeat([]byte("0123456789abcdef"), 2)
	wrapped, err := w.WrapKey(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, termPath(dir, 1), string(termFile{Term: 1, WrappingKeyID: "w", Wrapped: wrapped}.marshal()))
	k := openTest(t, dir, w)
	old, err := k.newTerm(1, key)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range []Place{placeIn("c", "a"), {Kind: KindBlock, Channel: "c"}, {Kind: KindPackage}} {
		sealed := old.seal(nil, []byte("secret"), uint64(i), p)
		if got, err := k.Open(nil, sealed, p); err != nil || string(got) != "secret" {
			t.Errorf("%s: %q, %v", p, got, err)
		}
	}
}

func TestPrepare(t *testing.T) {
	w := newBoxWrapper(t, "w")
	k := openTest(t, t.TempDir(), w)
	if err := k.Prepare(context.Background(), placeIn("c", "a"), placeIn("c", "a"), placeIn("c", "b")); err != nil {
		t.Fatal(err)
	}
	if k.newest != 3 {
		t.Errorf("newest term is %d, want 3", k.newest)
	}
	w.fail = errors.New("token is gone")
	sealIn(t, k, placeIn("c", "a"))
	sealIn(t, k, placeIn("c", "b"))
	if err := k.Prepare(context.Background(), placeIn("c", "new")); !errors.Is(err, w.fail) {
		t.Errorf("got %v", err)
	}
}

// Prepare starts a new term when the present one has sealed enough or is old enough, and
// for that namespace alone.
func TestRotation(t *testing.T) {
	k := openTest(t, t.TempDir(), newBoxWrapper(t, "w"))
	clock := time.Unix(1e9, 0)
	k.now = func() time.Time { return clock }
	a, b := placeIn("c", "a"), placeIn("c", "b")
	prepare := func() {
		t.Helper()
		if err := k.Prepare(context.Background(), a, b); err != nil {
			t.Fatal(err)
		}
	}
	other := termOf(t, sealIn(t, k, b))
	first := sealIn(t, k, a)
	prepare()
	if termOf(t, sealIn(t, k, a)) != termOf(t, first) {
		t.Error("a term ended without a limit")
	}
	for name, test := range map[string]struct {
		r  Rotation
		do func()
	}{
		"seals": {Rotation{Seals: 5}, func() {
			for range 5 {
				sealIn(t, k, a)
			}
		}},
		"bytes": {Rotation{Bytes: 30}, func() {
			for range 5 {
				sealIn(t, k, a) // of 6 bytes
			}
		}},
	} {
		k.RotateAfter(Rotation{})
		if err := k.replace(context.Background(), a.scope(), (*k.current.Load())[a.scope()]); err != nil {
			t.Fatal(err)
		}
		k.RotateAfter(test.r)
		before := termOf(t, sealIn(t, k, a))
		prepare()
		if termOf(t, sealIn(t, k, a)) != before {
			t.Errorf("%s: the term ended too early", name)
		}
		test.do()
		prepare()
		if termOf(t, sealIn(t, k, a)) == before {
			t.Errorf("%s: the term did not end", name)
		}
		if termOf(t, sealIn(t, k, b)) != other {
			t.Errorf("%s: the term of another namespace ended", name)
		}
		k.RotateAfter(Rotation{})
		if err := k.replace(context.Background(), b.scope(), (*k.current.Load())[b.scope()]); err != nil {
			t.Fatal(err)
		}
		other = termOf(t, sealIn(t, k, b))
	}
	k.RotateAfter(Rotation{Age: time.Hour})
	before := termOf(t, sealIn(t, k, a))
	clock = clock.Add(59 * time.Minute)
	prepare()
	if termOf(t, sealIn(t, k, a)) != before {
		t.Error("age: the term ended too early")
	}
	clock = clock.Add(time.Minute)
	prepare()
	if termOf(t, sealIn(t, k, a)) == before || termOf(t, sealIn(t, k, b)) == other {
		t.Error("age: a term did not end")
	}
	if _, err := k.Open(nil, first, a); err != nil {
		t.Error(err)
	}
}

// After a shred nothing of the namespace opens, its keys are on no disk, all else opens,
// and what is sealed later does.
func TestShred(t *testing.T) {
	dir, w := t.TempDir(), newBoxWrapper(t, "w")
	k, err := OpenKeyring(context.Background(), dir, w)
	if err != nil {
		t.Fatal(err)
	}
	gone, stays := placeIn("c", "a"), []Place{placeIn("c", "b"), placeIn("d", "a"), {Kind: KindOutline, Channel: "c"}}
	first := sealIn(t, k, gone)
	if err := k.Rotate(context.Background()); err != nil {
		t.Fatal(err)
	}
	second := sealIn(t, k, gone)
	var others [][]byte
	for _, p := range stays {
		others = append(others, sealIn(t, k, p))
	}
	keys := [][]byte{wrappedOf(t, dir, termOf(t, first)), wrappedOf(t, dir, termOf(t, second))}
	before := k.newest
	s, err := k.Shred("c", "a")
	if err != nil || s.Keys != 2 || s.Through != before || s.Time.IsZero() {
		t.Fatalf("%+v, %v", s, err)
	}
	later := sealIn(t, k, gone)
	check := func(k *Keyring) {
		t.Helper()
		for _, sealed := range [][]byte{first, second} {
			if got, err := k.Open(nil, sealed, gone); !errors.Is(err, ErrShredded) || !strings.Contains(err.Error(), s.Time.Format(time.RFC3339)) {
				t.Errorf("%q, %v", got, err)
			}
		}
		for i, sealed := range others {
			if _, err := k.Open(nil, sealed, stays[i]); err != nil {
				t.Error(err)
			}
		}
		if got, err := k.Open(nil, later, gone); err != nil || string(got) != "secret" {
			t.Errorf("what came later: %q, %v", got, err)
		}
		if list := k.Shredded(); len(list) != 1 || list[0] != *s {
			t.Errorf("record is %+v", list)
		}
	}
	check(k)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if found := filesWith(t, dir, key); len(found) > 0 {
			t.Errorf("a destroyed key is in %q", found)
		}
	}
	again := openTest(t, dir, w)
	check(again)
	if _, err := again.Shred("c", "_lifecycle"); err == nil || !strings.Contains(err.Error(), "no keys of its own") {
		t.Errorf("shredding _lifecycle: %v", err)
	}
}

func wrappedOf(t *testing.T, dir string, id uint32) []byte {
	t.Helper()
	f, err := readTerm(dir, id)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(nil, "%x", f.Wrapped)
}

func filesWith(t *testing.T, dir string, what []byte) (found []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, what) {
			found = append(found, e.Name())
		}
	}
	return found
}

// Keys that are put back, or that a crash left, are destroyed at the next opening.
func TestShredCrash(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, dir string, file string, content []byte){
		"before the first key": func(t *testing.T, dir, file string, content []byte) { write(t, file, string(content)) },
		"renamed":              func(t *testing.T, dir, file string, content []byte) { write(t, file+tempSuffix, string(content)) },
		"overwritten": func(t *testing.T, dir, file string, content []byte) {
			write(t, file+tempSuffix, string(make([]byte, len(content))))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, w := t.TempDir(), newBoxWrapper(t, "w")
			k, err := OpenKeyring(context.Background(), dir, w)
			if err != nil {
				t.Fatal(err)
			}
			sealed := sealIn(t, k, placeIn("c", "a"))
			id := termOf(t, sealed)
			key := wrappedOf(t, dir, id)
			content, err := os.ReadFile(termPath(dir, id))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := k.Shred("c", "a"); err != nil {
				t.Fatal(err)
			}
			if err := k.Close(); err != nil {
				t.Fatal(err)
			}
			leave(t, dir, termPath(dir, id), content)
			k = openTest(t, dir, w)
			if _, err := k.Open(nil, sealed, placeIn("c", "a")); !errors.Is(err, ErrShredded) {
				t.Error(err)
			}
			if found := filesWith(t, dir, key); len(found) > 0 {
				t.Errorf("a destroyed key is in %q", found)
			}
		})
	}
}

// An older keyring that gets the newer record gives no term twice and no value back.
func TestShredRecordInOlderKeyring(t *testing.T) {
	dir, w := t.TempDir(), newBoxWrapper(t, "w")
	k, err := OpenKeyring(context.Background(), dir, w)
	if err != nil {
		t.Fatal(err)
	}
	sealed := sealIn(t, k, placeIn("c", "a"))
	older := filepath.Join(t.TempDir(), "k")
	if err := os.CopyFS(older, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := k.Rotate(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	s, err := k.Shred("c", "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	record, err := os.ReadFile(filepath.Join(dir, shredName))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(older, shredName), string(record))
	k = openTest(t, older, w)
	if _, err := k.Open(nil, sealed, placeIn("c", "a")); !errors.Is(err, ErrShredded) {
		t.Error(err)
	}
	if k.Term() <= s.Through {
		t.Errorf("term is %d, the record goes through %d", k.Term(), s.Through)
	}
	p := placeIn("c", "a")
	if _, err := k.Open(nil, sealIn(t, k, p), p); err != nil {
		t.Error(err)
	}
}

func FuzzShredRecord(f *testing.F) {
	r := (&shredRecord{}).add(Shredded{Channel: "c", Namespace: "n", Through: 7, Keys: 2, Time: time.Unix(0, 0).UTC()})
	f.Add(r.content)
	f.Add(r.add(Shredded{Channel: "c\"", Namespace: "é", Through: 9, Time: time.Unix(1e9, 0).UTC()}).content)
	f.Add([]byte(shredHead))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseShredRecord(b); err == nil && !bytes.Equal(r.content, b) {
			t.Errorf("%q is not what its content marshals to", b)
		}
	})
}
