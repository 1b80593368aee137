package sealfs

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/storage"
	"github.com/syndtr/goleveldb/leveldb/util"

	"strongroom/ledger/disk"
	"strongroom/ledger/seal"
	"strongroom/ledger/seal/sealtest"
)

var (
	aTable   = storage.FileDesc{Type: storage.TypeTable, Num: 7}
	aJournal = storage.FileDesc{Type: storage.TypeJournal, Num: 9}
)

func openTest(t testing.TB, c Config) *Storage {
	t.Helper()
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// memoryDir is a folder in memory where the system has one: thousands of synced
// writes are no use to these tests.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sealfs")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func newTest(t testing.TB) *Storage {
	t.Helper()
	return openTest(t, Config{Dir: memoryDir(t), Keyring: sealtest.Keyring(t), Channel: "c", Store: "state"})
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// put writes a file with a Sync after each part.
func put(t testing.TB, s *Storage, fd storage.FileDesc, parts ...[]byte) {
	t.Helper()
	w, err := s.Create(fd)
	ok(t, err)
	for _, p := range parts {
		n, err := w.Write(p)
		if err != nil || n != len(p) {
			t.Fatalf("wrote %d of %d: %v", n, len(p), err)
		}
		if fd.Type == storage.TypeJournal || fd.Type == storage.TypeManifest {
			ok(t, w.Sync())
		}
	}
	ok(t, w.Sync())
	ok(t, w.Close())
}

func get(s *Storage, fd storage.FileDesc) ([]byte, error) {
	r, err := s.Open(fd)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func isCorrupted(err error) bool {
	var c *storage.ErrCorrupted
	return errors.As(err, &c)
}

// Content of every length around the sizes of chunks comes back, as a whole and in
// any part, and is not in the file.
func TestRoundTrip(t *testing.T) {
	s := newTest(t)
	for _, fd := range []storage.FileDesc{aTable, aJournal, {Type: storage.TypeManifest, Num: 1}, {Type: storage.TypeTemp}} {
		for _, size := range []int{0, 1, 15, 16, 17, chunkSize - 1, chunkSize, chunkSize + 1, 2 * chunkSize, 2*chunkSize + 5, 40 * chunkSize, 40*chunkSize + 77} {
			want := noise(size)
			parts := [][]byte{want[:size/3], want[size/3 : size/2], want[size/2:]}
			put(t, s, fd, parts...)
			r, err := s.Open(fd)
			ok(t, err)
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%s of %d bytes: %d bytes, %v", fd, size, len(got), err)
			}
			for range 20 {
				from := rand.IntN(size + 2)
				part := make([]byte, rand.IntN(3*chunkSize))
				n, err := r.ReadAt(part, int64(from))
				expect := want[min(from, size):min(from+len(part), size)]
				if !bytes.Equal(part[:n], expect) || n < len(part) && !errors.Is(err, io.EOF) || n == len(part) && n > 0 && err != nil {
					t.Fatalf("%s of %d bytes, %d from %d: %d bytes, %v", fd, size, len(part), from, n, err)
				}
			}
			if end, err := r.Seek(0, io.SeekEnd); err != nil || end != int64(size) {
				t.Errorf("%s ends at %d, %v", fd, end, err)
			}
			ok(t, r.Close())
			raw, err := os.ReadFile(s.path(fd.String()))
			ok(t, err)
			for i := 0; i+8 <= size; i += 8 {
				if bytes.Contains(raw, want[i:i+8]) {
					t.Fatalf("%s of %d bytes: byte %d is readable in the file", fd, size, i)
				}
			}
		}
	}
}

// A file that is made again has another key, so that nonces may start from 0.
func TestNewFileNewKey(t *testing.T) {
	s := newTest(t)
	for _, fd := range []storage.FileDesc{aTable, aJournal} {
		var seen [][]byte
		for range 3 {
			put(t, s, fd, []byte("the same content each time"))
			raw, err := os.ReadFile(s.path(fd.String()))
			ok(t, err)
			body := raw[headSize+int(raw[headSize-1]):]
			if fd == aJournal {
				body = body[recordHead:]
			}
			for _, other := range seen {
				if bytes.Equal(other[:16], body[:16]) {
					t.Errorf("%s: two files start with %x", fd, body[:16])
				}
			}
			seen = append(seen, body)
		}
	}
}

// A writer that failed, was ended or closed takes nothing more: its counter never
// goes on over bytes of which nobody knows whether they are on the disk.
func TestWritersEnd(t *testing.T) {
	s := newTest(t)
	for _, fd := range []storage.FileDesc{aTable, aJournal} {
		w, err := s.Create(fd)
		ok(t, err)
		var f *file
		switch w := w.(type) {
		case *chunkWriter:
			f = &w.file
		case *recordWriter:
			f = &w.file
		}
		readOnly, err := disk.OS.OpenFile(f.f.Name(), os.O_RDONLY, 0)
		ok(t, err)
		ok(t, f.f.Close())
		f.f = readOnly
		_, err = w.Write(noise(20 * chunkSize))
		if err == nil {
			t.Fatalf("%s: a write to a file that cannot be written succeeds", fd)
		}
		if _, again := w.Write([]byte("more")); !errors.Is(again, err) && fd == aJournal {
			t.Errorf("%s: after %v: %v", fd, err, again)
		}
		if again := w.Sync(); again == nil {
			t.Errorf("%s: a sync after a failed write succeeds", fd)
		}
		ok(t, w.Close())
	}
	w, err := s.Create(aTable)
	ok(t, err)
	ok(t, w.Sync())
	if _, err := w.Write([]byte("x")); !errors.Is(err, errEnded) {
		t.Errorf("write after the end of a table: %v", err)
	}
	ok(t, w.Close())
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("write after close succeeds")
	}
	ok(t, w.Close())
}

// Any byte of a table changed, any length cut: named, and no wrong byte served.
func TestTableDamaged(t *testing.T) {
	s := newTest(t)
	want := noise(2*chunkSize + 100)
	put(t, s, aTable, want)
	path := s.path(aTable.String())
	raw, err := os.ReadFile(path)
	ok(t, err)
	check := func(what string, changed []byte) {
		t.Helper()
		ok(t, os.WriteFile(path, changed, 0o600))
		got, err := get(s, aTable)
		if !isCorrupted(err) || !strings.Contains(err.Error(), path) {
			t.Fatalf("%s: %v", what, err)
		}
		if !bytes.HasPrefix(want, got) {
			t.Fatalf("%s: other bytes than were written are served", what)
		}
	}
	for i := range raw {
		changed := bytes.Clone(raw)
		changed[i] ^= 1 << (i % 8)
		// A term changed in the key's header is one that the keyring lacks: another error.
		if i == headSize+1 || i > 300 && i%7 != 0 {
			continue
		}
		check(fmt.Sprintf("bit of byte %d", i), changed)
	}
	for n := range raw {
		check(fmt.Sprintf("cut to %d bytes", n), raw[:n])
	}
	check("chunks swapped", slices.Concat(raw[:len(raw)-100-tagSize-2*sealedChunk], raw[len(raw)-100-tagSize-sealedChunk:len(raw)-100-tagSize],
		raw[len(raw)-100-tagSize-2*sealedChunk:len(raw)-100-tagSize-sealedChunk], raw[len(raw)-100-tagSize:]))
	check("zeros", make([]byte, len(raw)))
	check("longer", append(bytes.Clone(raw), 0))
}

// A file of another name, store, channel or of an earlier store in the same place
// does not open.
func TestFileElsewhere(t *testing.T) {
	k := sealtest.Keyring(t)
	s := openTest(t, Config{Dir: memoryDir(t), Keyring: k, Channel: "c", Store: "state"})
	for _, fd := range []storage.FileDesc{aTable, aJournal} {
		put(t, s, fd, noise(100))
		raw, err := os.ReadFile(s.path(fd.String()))
		ok(t, err)
		other := fd
		other.Num++
		for name, c := range map[string]Config{
			"store": {Channel: "c", Store: "index"}, "channel": {Channel: "d", Store: "state"}, "earlier store": {Channel: "c", Store: "state"},
		} {
			c.Dir, c.Keyring = memoryDir(t), k
			to := openTest(t, c)
			ok(t, os.WriteFile(to.path(fd.String()), raw, 0o600))
			if _, err := get(to, fd); !isCorrupted(err) || !errors.Is(err.(*storage.ErrCorrupted).Err, seal.ErrAltered) {
				t.Errorf("%s of another %s: %v", fd, name, err)
			}
		}
		ok(t, os.WriteFile(s.path(other.String()), raw, 0o600))
		if _, err := get(s, other); !isCorrupted(err) {
			t.Errorf("%s as %s: %v", fd, other, err)
		}
	}
}

// A journal gives, for any bit that is changed and any length that is cut, an error
// or what was written up to there; what later records prove to have been synced is
// never dropped.
func TestJournalDamaged(t *testing.T) {
	k := sealtest.Keyring(t)
	c := Config{Dir: memoryDir(t), Keyring: k, Channel: "c", Store: "state"}
	strict := openTest(t, c)
	parts := [][]byte{noise(40), noise(300), noise(1), noise(90)}
	want := slices.Concat(parts...)
	put(t, strict, aJournal, parts...)
	raw, err := os.ReadFile(strict.path(aJournal.String()))
	ok(t, err)
	last := len(raw) - recordHead - tagSize - len(parts[3])
	ok(t, strict.Close())
	check := func(what string, changed []byte, at int) {
		t.Helper()
		ok(t, os.WriteFile(filepath.Join(c.Dir, aJournal.String()), changed, 0o600))
		for _, lenient := range []bool{false, true} {
			c.Lenient = lenient
			s := openTest(t, c)
			s.id = strict.id
			got, err := get(s, aJournal)
			whole := len(changed) == last || len(changed) < last && err == nil && len(s.Cut()) == 0
			switch {
			case err == nil && !bytes.HasPrefix(want, got):
				t.Fatalf("%s: other bytes than were written are served", what)
			case err == nil && !lenient && !whole:
				t.Fatalf("%s: it is accepted strictly", what)
			case err == nil && lenient && len(changed) == len(raw) && at < last:
				t.Fatalf("%s: what was synced is dropped", what)
			case err == nil && lenient && !whole && (len(s.Cut()) != 1 || !strings.Contains(s.Cut()[0], c.Dir)):
				t.Fatalf("%s: %q was cut", what, s.Cut())
			case err != nil && (!strings.Contains(err.Error(), c.Dir)):
				t.Fatalf("%s: %v", what, err)
			}
			ok(t, s.Close())
		}
	}
	for i := range raw {
		changed := bytes.Clone(raw)
		changed[i] ^= 1 << (i % 8)
		check(fmt.Sprintf("bit of byte %d", i), changed, i)
	}
	for n := range raw {
		check(fmt.Sprintf("cut to %d bytes", n), raw[:n], n)
	}
	check("a record twice", append(bytes.Clone(raw), raw[last:]...), len(raw))
	check("zeros at the end", append(bytes.Clone(raw), make([]byte, 100)...), len(raw))
}

// Of records that were not synced any may be lost, in any order.
func TestJournalUnsynced(t *testing.T) {
	k := sealtest.Keyring(t)
	c := Config{Dir: memoryDir(t), Keyring: k, Channel: "c", Store: "state", Lenient: true}
	s := openTest(t, c)
	w, err := s.Create(aJournal)
	ok(t, err)
	parts := [][]byte{noise(50), noise(60), noise(70), noise(80)}
	var ends []int
	for i, p := range parts {
		_, err := w.Write(p)
		ok(t, err)
		if i == 1 {
			ok(t, w.Sync())
		}
		info, err := os.Stat(s.path(aJournal.String()))
		ok(t, err)
		ends = append(ends, int(info.Size()))
	}
	ok(t, w.Close())
	raw, err := os.ReadFile(s.path(aJournal.String()))
	ok(t, err)
	// The third record is lost, the fourth is there: a torn end.
	torn := bytes.Clone(raw)
	clear(torn[ends[1]:ends[2]])
	ok(t, os.WriteFile(s.path(aJournal.String()), torn, 0o600))
	if got, err := get(s, aJournal); err != nil || !bytes.Equal(got, slices.Concat(parts[:2]...)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	// The second is lost, and the third was written after its sync: damage.
	damaged := bytes.Clone(raw)
	clear(damaged[ends[0]:ends[1]])
	ok(t, os.WriteFile(s.path(aJournal.String()), damaged, 0o600))
	if _, err := get(s, aJournal); !isCorrupted(err) || !strings.Contains(err.Error(), fmt.Sprintf("record 1 at byte %d", ends[0])) {
		t.Errorf("got %v", err)
	}
}

// goleveldb over the storage gives what a map gives, through compactions, orderly
// ends and ends without a close, and never the same store to two.
func TestDatabase(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	k := sealtest.Keyring(t)
	c := Config{Dir: memoryDir(t), Keyring: k, Channel: "c", Store: "state"}
	o := &opt.Options{WriteBuffer: 64 << 10, CompactionTableSize: 32 << 10, Strict: opt.StrictAll}
	want := map[string]string{}
	for range 12 {
		s, err := Open(c)
		ok(t, err)
		if _, err := Open(c); !errors.Is(err, seal.ErrInUse) {
			t.Errorf("a store is open twice: %v", err)
		}
		db, err := leveldb.Open(s, o)
		ok(t, err)
		for range 40 {
			batch := &leveldb.Batch{}
			for range r.IntN(60) {
				key := fmt.Sprintf("key %d", r.IntN(2000))
				if r.IntN(4) == 0 {
					batch.Delete([]byte(key))
					delete(want, key)
				} else {
					value := strings.Repeat(fmt.Sprint(r.Uint64()), r.IntN(20))
					batch.Put([]byte(key), []byte(value))
					want[key] = value
				}
			}
			ok(t, db.Write(batch, &opt.WriteOptions{Sync: r.IntN(2) == 0}))
		}
		got := map[string]string{}
		rows := db.NewIterator(nil, nil)
		for rows.Next() {
			got[string(rows.Key())] = string(rows.Value())
		}
		ok(t, rows.Error())
		rows.Release()
		if !maps.Equal(got, want) {
			t.Fatalf("%d rows, want %d", len(got), len(want))
		}
		switch r.IntN(3) {
		case 0: // a kill: the folder as it is, under another lock
			killed := image(t, c.Dir)
			ok(t, errors.Join(db.Close(), s.Close()))
			c.Dir = killed
			continue
		case 1:
			ok(t, db.CompactRange(util.Range{}))
		}
		ok(t, errors.Join(db.Close(), s.Close()))
	}
}

// image copies a folder as it was at one moment: it copies again when a compaction in
// the background changed the folder meanwhile.
func image(t *testing.T, dir string) string {
	t.Helper()
	for {
		to, before := memoryDir(t), listing(t, dir)
		err := os.CopyFS(to, os.DirFS(dir))
		if maps.Equal(before, listing(t, dir)) {
			ok(t, err)
			return to
		}
	}
}

// listing gives each file of the folder with its size and time of change.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	entries, err := os.ReadDir(dir)
	ok(t, err)
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		ok(t, err)
		files[e.Name()] = fmt.Sprint(info.Size(), info.ModTime())
	}
	return files
}

// What a crash leaves of a store that was never whole goes away; anything else
// without CURRENT is an error.
func TestFirstCreation(t *testing.T) {
	c := Config{Dir: memoryDir(t), Keyring: sealtest.Keyring(t), Channel: "c", Store: "state"}
	s := openTest(t, c)
	put(t, s, storage.FileDesc{Type: storage.TypeManifest}, noise(10))
	ok(t, os.WriteFile(s.path(currentName+tempSuffix), noise(5), 0o600))
	ok(t, s.Close())
	s = openTest(t, c)
	db, err := leveldb.Open(s, nil)
	ok(t, err)
	ok(t, db.Put([]byte("k"), []byte("v"), nil))
	ok(t, errors.Join(db.Close(), s.Close(), os.Remove(filepath.Join(c.Dir, currentName))))
	s = openTest(t, c)
	if _, err := leveldb.Open(s, nil); !isLevelDBCorrupted(err) {
		t.Errorf("a store without CURRENT: %v", err)
	}
}

func isLevelDBCorrupted(err error) bool {
	return err != nil && strings.Contains(err.Error(), "corrupted")
}

func TestRename(t *testing.T) {
	s := newTest(t)
	temp := storage.FileDesc{Type: storage.TypeTemp, Num: 3}
	want := noise(3*chunkSize + 1)
	put(t, s, temp, want)
	ok(t, s.Rename(temp, aTable))
	if got, err := get(s, aTable); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := s.Open(temp); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old name: %v", err)
	}
}

// Nothing of what goleveldb says of its keys reaches the folder.
func TestNoLog(t *testing.T) {
	s := newTest(t)
	s.Log(`table@build created "key"`)
	entries, err := os.ReadDir(s.config.Dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != lockName {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	k := sealtest.Keyring(t)
	for want, c := range map[string]Config{
		"Dir is empty":       {Keyring: k, Channel: "c", Store: "s"},
		"Keyring is missing": {Dir: memoryDir(t), Channel: "c", Store: "s"},
		"Channel or Store":   {Dir: memoryDir(t), Keyring: k, Channel: "c"},
	} {
		if _, err := Open(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	s := newTest(t)
	ok(t, s.Close())
	if _, err := s.Open(aTable); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
	if _, err := s.Create(aTable); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

// vectorKey is the key of the frozen vectors in docs/design/sealed-files.md.
const vectorKey = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

// The bytes of both layouts behind the header never change.
func TestFrozenVectors(t *testing.T) {
	key, err := hex.DecodeString(vectorKey)
	ok(t, err)
	aead, err := newAEAD(key)
	ok(t, err)
	records := &recordWriter{aead: aead, durable: 90}
	out := records.appendRecord(nil, []byte("first write"))
	records.durable = 160
	out = append(out, records.appendRecord(nil, []byte("second"))...)
	if got := hex.EncodeToString(out); got != vectorRecords {
		t.Errorf("records are %s", got)
	}
	f, err := disk.OS.OpenFile(filepath.Join(memoryDir(t), "table"), os.O_CREATE|os.O_RDWR, 0o600)
	ok(t, err)
	w := &chunkWriter{file: file{f: f}, aead: aead}
	_, err = w.Write(append(bytes.Repeat([]byte{'a'}, chunkSize), "end"...))
	ok(t, err)
	ok(t, w.Close())
	raw, err := os.ReadFile(f.Name())
	ok(t, err)
	if got := hex.EncodeToString(raw[:8]) + " " + hex.EncodeToString(raw[chunkSize:]); got != vectorChunks {
		t.Errorf("chunks are %s", got)
	}
}

func FuzzRecord(f *testing.F) {
	aead, err := newAEAD(make([]byte, keySize))
	ok(f, err)
	w := &recordWriter{aead: aead, durable: 7}
	whole := w.appendRecord(nil, []byte("content"))
	f.Add(whole)
	f.Add(whole[:recordHead])
	f.Add([]byte(recordMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, n, err := openRecord(nil, b, aead)
		if err != nil {
			return
		}
		if string(got) != "content" || n.durable != 7 || n.number != 0 || !bytes.HasPrefix(b, whole) {
			t.Errorf("%x opens as %q, %+v", b, got, n)
		}
	})
}

// The key of a file that is removed is overwritten: what the disk keeps does not open.
func TestRemoveDestroysKey(t *testing.T) {
	c := Config{Dir: t.TempDir(), Keyring: sealtest.Keyring(t), Channel: "c", Store: "s"}
	s := openTest(t, c)
	for _, kind := range []storage.FileType{storage.TypeTable, storage.TypeJournal} {
		fd := storage.FileDesc{Type: kind, Num: 7}
		w, err := s.Create(fd)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("content")); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Sync(), w.Close()); err != nil {
			t.Fatal(err)
		}
		kept := filepath.Join(t.TempDir(), "kept")
		if err := os.Link(s.path(fd.String()), kept); err != nil {
			t.Fatal(err)
		}
		if err := s.Remove(fd); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(s.path(fd.String())); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		b, err := os.ReadFile(kept)
		if err != nil || len(b) < headSize {
			t.Fatal(err)
		}
		if head := b[:min(len(b), maxHeader)]; bytes.Count(head, []byte{0}) != len(head) {
			t.Errorf("the header is %x", head)
		}
	}
}
