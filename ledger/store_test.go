package ledger

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"strongroom/ledger/rwset"
	"strongroom/ledger/seal/sealtest"
)

// A block log that cannot be written makes the commit fail with the file's name;
// the ledger refuses more until it is opened again, and nothing is lost.
func TestDiskFails(t *testing.T) {
	k := sealtest.Keyring(t)
	dir := memoryDir(t)
	l := openTest(t, dir, k)
	commitFabric(t, l, 5)
	readOnly, err := os.Open(logFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Dup3(int(readOnly.Fd()), int(l.log.tail.(interface{ Fd() uintptr }).Fd()), unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	err = l.Commit(context.Background(), parse(t, fabricBlock(t, 5)), asValidated(fabricFlags(t, 5)))
	if err == nil || !strings.Contains(err.Error(), logFile(dir)) || !errors.Is(err, unix.EBADF) {
		t.Errorf("commit to a file that cannot be written: %v", err)
	}
	if err := errors.Join(l.Close(), readOnly.Close()); err != nil {
		t.Fatal(err)
	}
	l = openTest(t, dir, k)
	commitFabric(t, l, fabricBlocks)
	checkWhole(t, l)
}

// Kept private writes are gone when their time is over, and those of a committed
// transaction when it is committed.
func TestKeptExpire(t *testing.T) {
	l := newTest(t, func(c *Config) { c.KeepPrivateFor = 3 })
	count := func() int {
		rows := l.private.NewIterator(prefixRange([]byte{rowKept}, "", ""), nil)
		defer rows.Release()
		n := 0
		for rows.Next() {
			n++
		}
		return n
	}
	if err := l.KeepPrivate("never", nil); err != nil {
		t.Fatal(err)
	}
	if err := l.KeepPrivate("never", nil); err != nil {
		t.Fatal(err)
	}
	commitFabric(t, l, 1)
	if err := l.KeepPrivate(parse(t, fabricBlock(t, 1)).Txs[0].TxID(), nil); err != nil {
		t.Fatal(err)
	}
	if count() != 3 {
		t.Fatalf("%d are kept, want 3", count())
	}
	commitFabric(t, l, 2)
	if count() != 2 {
		t.Errorf("%d are kept after the commit, want 2", count())
	}
	b := parse(t, fabricBlock(t, 2))
	b.Proto.Header.Number = expireEvery
	l.private.clear(b, l.config.Logger)
	if count() != 0 {
		t.Errorf("%d are kept when their time is over", count())
	}
	rows := l.private.NewIterator(nil, nil)
	defer rows.Release()
	for rows.Next() {
		t.Errorf("row %q is left", rows.Key())
	}
}

// journal is the only journal of a closed store.
func journal(t *testing.T, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(names) != 1 {
		t.Fatalf("journals of %s: %q, %v", dir, names, err)
	}
	return names[0]
}

// A store whose last batch was not written completely is brought up, as is one that
// lost the whole end of its journal; one that lost a batch before others is refused,
// now and later.
func TestStoreJournal(t *testing.T) {
	k := sealtest.Keyring(t)
	whole := fabricLedger(t, func(dir string) *Ledger { return openTest(t, dir, k) })
	for _, name := range []string{"index", "state", "history"} {
		for what, change := range map[string]func(b []byte) []byte{
			"torn":   func(b []byte) []byte { return b[:len(b)-5] },
			"middle": func(b []byte) []byte { b[len(b)/3] ^= 1; return b },
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				dir := memoryDir(t)
				if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
					t.Fatal(err)
				}
				file := journal(t, filepath.Join(dir, name))
				raw, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, change(raw), 0o600); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					l, err := openIn(dir, k)
					if err == nil {
						if name == "state" && what == "middle" {
							t.Error("a store that lost a batch is accepted")
						}
						checkWhole(t, l)
						if err := l.Close(); err != nil {
							t.Fatal(err)
						}
						continue
					}
					if what == "torn" {
						t.Fatal(err)
					}
					if !strings.Contains(err.Error(), filepath.Join(dir, name)) || !strings.Contains(err.Error(), "delete the folder") {
						t.Errorf("got %v", err)
					}
				}
				if what == "middle" {
					if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
						t.Fatal(err)
					}
					checkWhole(t, openTest(t, dir, k))
				}
			})
		}
	}
}

// A store of which a file is damaged is refused with what to do.
func TestStoreDamaged(t *testing.T) {
	k := sealtest.Keyring(t)
	dir := fabricLedger(t, func(dir string) *Ledger { return openTest(t, dir, k) })
	if err := os.WriteFile(filepath.Join(dir, "state", "CURRENT"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := openIn(dir, k)
	if err == nil {
		l.Close()
	}
	if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "state")) || !strings.Contains(err.Error(), "delete the folder") {
		t.Errorf("got %v", err)
	}
}

func TestTxKey(t *testing.T) {
	seen := map[string]string{}
	hex64 := strings.Repeat("0123456789abcdef", 4)
	for _, id := range []string{"a", hex64, strings.ToUpper(hex64), hex64[:63], hex64 + "0", "\x01", strings.Repeat("z", 64)} {
		key := string(txKey(id))
		if other, ok := seen[key]; ok {
			t.Errorf("%q and %q have one key", id, other)
		}
		seen[key] = id
	}
	if got := len(txKey(hex64)); got >= 64 {
		t.Errorf("the key of 64 digits has %d bytes", got)
	}
}

// Row keys of different names never meet, and a range of a namespace never leaves it.
func TestRowKeys(t *testing.T) {
	seen := map[string]stateKey{}
	parts := []string{"", "a", "ab", "b", "a\x00b", "\x01a", "\x02ab"}
	for _, ns := range parts {
		for _, coll := range parts {
			for _, key := range parts {
				k := stateKey{ns, coll, key}
				row := string(k.row(nil))
				if other, ok := seen[row]; ok {
					t.Errorf("%q and %q have one row", k, other)
				}
				seen[row] = k
			}
		}
	}
	r := prefixRange([]byte{rowPublic, 1, 'a'}, "", "")
	if !bytes.Equal(r.Start, []byte{rowPublic, 1, 'a'}) || !bytes.Equal(r.Limit, []byte{rowPublic, 1, 'b'}) {
		t.Errorf("range of namespace a is %q to %q", r.Start, r.Limit)
	}
}

func TestVersionBytes(t *testing.T) {
	for want, v := range map[string]rwset.Height{
		"\x00\x00": {}, "\x01\x01\x00": {Block: 1}, "\x00\x01\xff": {Tx: 255}, "\x02\x01\x00\x01\x02": {Block: 256, Tx: 2},
		"\x08\xff\xff\xff\xff\xff\xff\xff\xff\x00": {Block: 1<<64 - 1},
	} {
		if got := string(versionBytes(v)); got != want {
			t.Errorf("%s is %x, want %x", v, got, want)
		}
	}
}

// A database row that was damaged is an error that names the key.
func TestDamagedRow(t *testing.T) {
	l := newTest(t)
	commitFabric(t, l, fabricBlocks)
	row := stateKey{ns: "kv", key: "a00"}.row(nil)
	v, err := l.state.get(row)
	if err != nil {
		t.Fatal(err)
	}
	moved, err := l.state.get(stateKey{ns: "kv", key: "a02"}.row(nil))
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"bit": append(bytes.Clone(v[:len(v)-1]), v[len(v)-1]^1), "height": append([]byte{v[0], v[1] ^ 1}, v[2:]...),
		"form": append([]byte{formMetadata}, v[1:]...), "other row": moved, "empty": {}, "short": v[:2],
	} {
		if err := l.state.Put(row, bad, nil); err != nil {
			t.Fatal(err)
		}
		next, err := l.newView(fabricBlocks)
		if err != nil {
			t.Fatal(err)
		}
		for what, read := range map[string]func() error{
			"value":   func() error { _, err := next.lookup(stateKey{ns: "kv", key: "a00"}); return err },
			"version": func() error { _, err := next.version(stateKey{ns: "kv", key: "a00"}); return err },
			"range":   func() error { s := next.scan("kv", "a00", "a01"); defer s.close(); _, _, err := s.next(); return err },
		} {
			if err := read(); err == nil || !strings.Contains(err.Error(), `namespace "kv" key "a00"`) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		next.release()
	}
}

func FuzzFrame(f *testing.F) {
	frame := append(startFrame(nil), "sealed"...)
	if err := finishFrame(frame, 7, formCompressed); err != nil {
		f.Fatal(err)
	}
	f.Add(frame)
	f.Add(frame[:frameHeader])
	f.Add([]byte(frameMagic + "1"))
	f.Add([]byte(frameMagic + "4"))
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseFrame(b)
		if err != nil {
			return
		}
		again := append(startFrame(nil), r.sealed...)
		if err := finishFrame(again, r.number, r.form); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again, b[:len(again)]) {
			t.Errorf("%x is read as %+v", b, r)
		}
	})
}

func FuzzStateRow(f *testing.F) {
	s := sealer{keyring: sealtest.Keyring(f), channel: testChannel}
	k := stateKey{ns: "kv", key: "a"}
	whole := map[string]*value{}
	for _, v := range []*value{{bytes: []byte("v")}, {bytes: []byte("v"), metadata: []byte("m"), version: rwset.Height{Block: 300, Tx: 4}}} {
		row, err := s.seal(nil, k, v)
		if err != nil {
			f.Fatal(err)
		}
		whole[string(row)] = v
		f.Add(row)
		f.Add(row[:len(row)/2])
	}
	f.Add(binary.AppendUvarint([]byte{formMetadata}, 1<<63))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := s.open(b, k)
		if err != nil {
			return
		}
		want := whole[string(b)]
		if want == nil || !bytes.Equal(v.bytes, want.bytes) || !bytes.Equal(v.metadata, want.metadata) || v.version != want.version {
			t.Errorf("%x opens as %q", b, v.bytes)
		}
	})
}

func FuzzIndexRows(f *testing.F) {
	f.Add([]byte{1, 2, 3})
	f.Add(binary.AppendUvarint(nil, 1<<63))
	f.Add([]byte{0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		var n [3]uint64
		rest, err := uvarints(b, n[:])
		if err != nil {
			return
		}
		var again []byte
		for _, v := range n {
			again = binary.AppendUvarint(again, v)
		}
		if len(again)+len(rest) > len(b) {
			t.Errorf("%x gives %v and %x", b, n, rest)
		}
	})
}
