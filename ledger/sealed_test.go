package ledger

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/syndtr/goleveldb/leveldb/util"
	"google.golang.org/protobuf/proto"

	"strongroom/ledger/seal"
	"strongroom/ledger/seal/sealtest"
	"strongroom/wire/commonpb"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/rwsetpb"
)

// grams are all the strings of 8 bytes that some transactions carried.
type grams map[uint64]bool

// add takes in every string of 8 bytes, but for those that are mostly zeros: lengths
// and counters look like them.
func (g grams) add(b []byte) {
	for i := 0; i+8 <= len(b); i++ {
		if s := b[i : i+8]; bytes.Count(s, []byte{0}) < 4 {
			g[binary.BigEndian.Uint64(s)] = true
		}
	}
}

// addBlock takes in a block's transactions as they came, certificates, keys, values
// and all, and their ids as bytes too.
func (g grams) addBlock(t testing.TB, b *commonpb.Block) {
	t.Helper()
	for _, envelope := range b.Data.Data {
		g.add(envelope)
	}
	for _, tx := range parse(t, b).Txs {
		g.add([]byte(tx.TxID()))
		if id, err := hex.DecodeString(tx.TxID()); err == nil {
			g.add(id)
		}
	}
}

// find returns the files below a folder that hold one of the strings, and how many
// files there are. FORMAT is left out: it names the channel, as the folder may.
func (g grams) find(t testing.TB, dir string) (found []string, files int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == formatFile {
			return err
		}
		raw, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files++
		for i := 0; i+8 <= len(raw); i++ {
			if g[binary.BigEndian.Uint64(raw[i:])] {
				found = append(found, name+": "+hex.EncodeToString(raw[i:i+8]))
				break
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found, files
}

// fabricGrams are the strings of the whole Fabric channel.
func fabricGrams(t testing.TB) grams {
	t.Helper()
	g := grams{}
	for n := range uint64(fabricBlocks) {
		g.addBlock(t, fabricBlock(t, n))
	}
	if len(g) < 10_000 {
		t.Fatalf("only %d strings", len(g))
	}
	return g
}

func privateWrites(t testing.TB, key, value string) *rwsetpb.TxPvtReadWriteSet {
	t.Helper()
	kv, err := proto.Marshal(&kvrwsetpb.KVRWSet{Writes: []*kvrwsetpb.KVWrite{{Key: key, Value: []byte(value)}}})
	if err != nil {
		t.Fatal(err)
	}
	return &rwsetpb.TxPvtReadWriteSet{NsPvtRwset: []*rwsetpb.NsPvtReadWriteSet{{Namespace: "kv",
		CollectionPvtRwset: []*rwsetpb.CollectionPvtReadWriteSet{{CollectionName: "secrets of the desk", Rwset: kv}}}}}
}

// No string of eight bytes that a transaction of a real Fabric channel carried, and
// none of private writes and their transaction's id, is in any file of the ledger:
// not while it is open, not as a kill would leave it, not after compaction, replay or a rebuild.
func TestNothingReadable(t *testing.T) {
	k := sealtest.Keyring(t)
	g := fabricGrams(t)
	kept := privateWrites(t, "a private key that stands out", "a private value that stands out")
	raw, err := proto.Marshal(kept)
	if err != nil {
		t.Fatal(err)
	}
	g.add(raw)
	const keptID = "a transaction id that stands out"
	g.add([]byte(keptID))
	dir := memoryDir(t)
	check := func(when, dir string) {
		t.Helper()
		found, files := g.find(t, dir)
		if len(found) > 0 || files < 10 {
			t.Errorf("%s: of %d files these are readable: %q", when, files, found)
		}
	}
	l := openTest(t, dir, k)
	if err := l.KeepPrivate(keptID, kept); err != nil {
		t.Fatal(err)
	}
	commitFabric(t, l, fabricBlocks)
	check("while open", dir)
	killed := memoryDir(t)
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*store{l.index.store, l.state, l.history, l.private.store} {
		if err := s.CompactRange(util.Range{}); err != nil {
			t.Fatal(err)
		}
		if tables, err := filepath.Glob(filepath.Join(s.dir, "*.ldb")); err != nil || len(tables) == 0 {
			t.Errorf("store %s has no tables after its compaction: %v", s.dir, err)
		}
	}
	check("after compaction", dir)
	checkWhole(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	check("when closed", dir)
	checkWhole(t, openTest(t, dir, k))

	l = openTest(t, killed, k)
	checkWhole(t, l)
	check("after a kill", killed)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range derivedStores {
		if err := os.RemoveAll(filepath.Join(killed, name)); err != nil {
			t.Fatal(err)
		}
	}
	checkWhole(t, openTest(t, killed, k))
	check("after a rebuild", killed)
	set, err := l.private.open(keptRow(t, openTestClosed(t, l, k), keptID), l.private.keptPlace(keptID, 0))
	if err != nil || !proto.Equal(set, kept) {
		t.Errorf("the private writes that wait are %v, %v", set, err)
	}
}

// openTestClosed opens the folder of a closed ledger's private store again.
func openTestClosed(t *testing.T, l *Ledger, k *seal.Keyring) *store {
	t.Helper()
	dir := memoryDir(t)
	if err := os.CopyFS(dir, os.DirFS(l.private.dir)); err != nil {
		t.Fatal(err)
	}
	c := l.config
	c.Keyring = k
	s, _, err := openDatabase(c, dir, privateName, false)
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

// keptRow is the sealed part of the one row of private writes that wait for a transaction.
func keptRow(t *testing.T, s *store, txID string) []byte {
	t.Helper()
	rows := s.NewIterator(prefixRange(keptPrefix(txID), "", ""), nil)
	defer rows.Release()
	if !rows.Next() {
		t.Fatalf("no row of private writes: %v", rows.Error())
	}
	_, n := binary.Uvarint(rows.Value())
	return bytes.Clone(rows.Value()[n:])
}

// A table or journal that was altered, cut, moved or swapped is named, and what is
// in it never served.
func TestStoreFilesDamaged(t *testing.T) {
	k := sealtest.Keyring(t)
	whole := memoryDir(t)
	l := openTest(t, whole, k)
	commitFabric(t, l, 6)
	if err := l.state.CompactRange(util.Range{}); err != nil {
		t.Fatal(err)
	}
	commitFabric(t, l, fabricBlocks)
	if err := l.state.CompactRange(util.Range{}); err != nil {
		t.Fatal(err)
	}
	if err := l.history.CompactRange(util.Range{}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(t *testing.T, dir, table string){
		"bit": func(t *testing.T, _, table string) {
			alter(t, table, func(b []byte) []byte { b[len(b)/2] ^= 4; return b })
		},
		"cut": func(t *testing.T, _, table string) { alter(t, table, func(b []byte) []byte { return b[:len(b)-4112] }) },
		"of another store": func(t *testing.T, dir, table string) {
			other := tables(t, filepath.Join(dir, "history"))[0]
			alter(t, table, func([]byte) []byte { b, _ := os.ReadFile(other); return b })
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := memoryDir(t)
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			// All of them: goleveldb may not yet have removed a table that a compaction replaced.
			all := tables(t, filepath.Join(dir, "state"))
			for _, table := range all {
				change(t, dir, table)
			}
			l, err := openIn(dir, k)
			if err == nil {
				// goleveldb opens tables when they are read.
				for _, key := range []string{"a00", "a01", "a02", "a03"} {
					if _, e := l.view.lookup(stateKey{ns: "kv", key: key}); e != nil {
						err = e
					}
				}
				s := l.view.scan("kv", "", "")
				for err == nil {
					var more bool
					if _, more, err = nextRow(s); !more {
						break
					}
				}
				s.close()
				if e := l.Close(); err == nil {
					err = e
				}
			}
			if err == nil || !slices.ContainsFunc(all, func(table string) bool { return strings.Contains(err.Error(), table) }) {
				t.Errorf("got %v, want it to name one of %s", err, all)
			}
		})
	}
}

func nextRow(s interface {
	next() (string, *value, error)
}) (key string, more bool, err error) {
	key, v, err := s.next()
	return key, v != nil, err
}

func tables(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.ldb"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no tables in %s: %v", dir, err)
	}
	return names
}

func alter(t *testing.T, name string, change func([]byte) []byte) {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, change(raw), 0o600); err != nil {
		t.Fatal(err)
	}
}

// version1 unpacks a ledger and its keyring as version 1 of the format left them:
// the whole Fabric channel, and private writes that wait.
func version1(t *testing.T) (dir string, k *seal.Keyring) {
	t.Helper()
	return fixture(t, "version1.tar.gz")
}

// version2 is the same of version 2.
func version2(t *testing.T) (dir string, k *seal.Keyring) {
	t.Helper()
	return fixture(t, "version2.tar.gz")
}

// version3 is the same of version 3, with the last block 40 times more.
func version3(t *testing.T) (dir string, k *seal.Keyring) {
	t.Helper()
	return fixture(t, "version3.tar.gz")
}

func fixture(t *testing.T, name string) (dir string, k *seal.Keyring) {
	t.Helper()
	root := memoryDir(t)
	f, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for files := tar.NewReader(zipped); ; {
		head, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(root, filepath.FromSlash(head.Name))
		if head.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(name, 0o700); err != nil {
				t.Fatal(err)
			}
			continue
		}
		raw, err := io.ReadAll(files)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := sealtest.WrapperOf(t, "wrapping key of the fixture", bytes.Repeat([]byte{7}, 32))
	return filepath.Join(root, "ledger"), sealtest.KeyringIn(t, filepath.Join(root, "keyring"), w)
}

const fixtureTx = "transaction of the fixture"

func fixtureGrams(t *testing.T) grams {
	t.Helper()
	g := fabricGrams(t)
	g.add([]byte(fixtureTx))
	return g
}

// checkUpgraded checks a ledger that was made by version 1.
func checkUpgraded(t *testing.T, dir string, k *seal.Keyring) {
	t.Helper()
	l := openTest(t, dir, k)
	checkWhole(t, l)
	set, err := l.private.open(keptRow(t, l.private.store, fixtureTx), l.private.keptPlace(fixtureTx, 0))
	if want := "private value of the fixture"; err != nil || !strings.Contains(string(set.NsPvtRwset[0].CollectionPvtRwset[0].Rwset), want) {
		t.Errorf("the private writes that wait are %v, %v", set, err)
	}
	if found, files := fixtureGrams(t).find(t, dir); len(found) > 0 || files < 10 {
		t.Errorf("of %d files these are readable: %q", files, found)
	}
	if b, err := os.ReadFile(filepath.Join(dir, formatFile)); err != nil || string(b) != "strongroom ledger 4\nchannel mychannel\n" {
		t.Errorf("FORMAT is %q, %v", b, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 6 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestUpgrade(t *testing.T) {
	dir, k := version1(t)
	// The search finds what is readable where it is.
	found, _ := fixtureGrams(t).find(t, dir)
	for _, name := range []string{"index", "state", "history", privateName} {
		if !slices.ContainsFunc(found, func(f string) bool { return strings.HasPrefix(f, filepath.Join(dir, name)) }) {
			t.Errorf("nothing is readable in %s of version 1: %q", name, found)
		}
	}
	checkUpgraded(t, dir, k)
	checkUpgraded(t, dir, k) // and once more as the present version
}

// An upgrade that stops at any step is done again at the next start.
func TestUpgradeInterrupted(t *testing.T) {
	for name, stop := range map[string]func(t *testing.T, l *Ledger){
		"half of the private store": func(t *testing.T, l *Ledger) {
			if err := os.MkdirAll(filepath.Join(l.config.Dir, privateNew), 0o700); err != nil {
				t.Fatal(err)
			}
			touch(t, filepath.Join(l.config.Dir, privateNew, "000003.log"))
		},
		"before FORMAT": func(t *testing.T, l *Ledger) {
			if _, err := l.sealPrivate(); err != nil {
				t.Fatal(err)
			}
		},
		"after FORMAT": begin,
		"some stores gone": func(t *testing.T, l *Ledger) {
			begin(t, l)
			for _, name := range []string{"index", "state", privateName} {
				if err := os.RemoveAll(filepath.Join(l.config.Dir, name)); err != nil {
					t.Fatal(err)
				}
			}
		},
		"private writes in place": func(t *testing.T, l *Ledger) {
			begin(t, l)
			if err := l.clearOld(); err != nil {
				t.Fatal(err)
			}
		},
		"during the rebuild": func(t *testing.T, l *Ledger) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if opened, err := Open(ctx, l.config); !errors.Is(err, context.Canceled) {
				t.Errorf("%v, %v", opened, err)
			}
			if b, err := os.ReadFile(l.formatPath()); err != nil || !strings.HasPrefix(string(b), "strongroom ledger 3 to 4\n") {
				t.Errorf("FORMAT is %q, %v", b, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, k := version1(t)
			stop(t, &Ledger{config: Config{Dir: dir, ChannelID: testChannel, Keyring: k}.withDefaults()})
			checkUpgraded(t, dir, k)
		})
	}
}

func begin(t *testing.T, l *Ledger) {
	t.Helper()
	form, err := l.beginUpgrade()
	if err != nil || form.height != fabricBlocks {
		t.Fatalf("%+v, %v", form, err)
	}
}

// A block log that lost blocks which version 1 had committed is refused, though the
// stores that told of them are gone.
func TestUpgradeKeepsHeight(t *testing.T) {
	dir, k := version1(t)
	alter(t, logFile(dir), func(b []byte) []byte { return b[:len(b)-1] })
	for range 2 {
		if l, err := openIn(dir, k); err == nil || !strings.Contains(err.Error(), "block 11 was committed") {
			if l != nil {
				l.Close()
			}
			t.Errorf("got %v", err)
		}
	}
}

func TestParseForm(t *testing.T) {
	for _, f := range []folderForm{{"1", "c", 0}, {"2", "c", 0}, {"3", "c", 0}, {"4", "c", 0}, {"1 to 2", "c", 12}, {"3 to 4", "c", 7}} {
		if got, ok := parseForm(f.marshal()); !ok || got != f {
			t.Errorf("%+v is read as %+v, %t", f, got, ok)
		}
	}
	for _, s := range []string{"", "strongroom ledger 2\n", "strongroom ledger 2\nchannel c", "strongroom ledger 2\nchannel c\nheight 1\n",
		"strongroom ledger 1 to 2\nchannel c\n", "strongroom ledger 1 to 2\nchannel c\nheight 01\n", "2\nchannel c\n"} {
		if f, ok := parseForm(s); ok {
			t.Errorf("%q is read as %+v", s, f)
		}
	}
}

// Private writes are in no block: damage to what was synced of them stops the start,
// and a torn end is cut with a word about the file.
func TestPrivateDamaged(t *testing.T) {
	k := sealtest.Keyring(t)
	whole := memoryDir(t)
	l := openTest(t, whole, k)
	for _, id := range []string{"one", "two", "three"} {
		if err := l.KeepPrivate(id, privateWrites(t, "key", "value of "+id)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(b []byte) []byte{
		"middle": func(b []byte) []byte { b[len(b)/3] ^= 1; return b },
		"torn":   func(b []byte) []byte { return b[:len(b)-1] },
	} {
		dir := memoryDir(t)
		if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		file := journal(t, filepath.Join(dir, privateName))
		alter(t, file, change)
		var log bytes.Buffer
		l, err := openIn(dir, k, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		if name == "middle" {
			if err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "restore the folder from a backup") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || !strings.Contains(log.String(), file) {
			t.Fatalf("%s: %v, logged is %s", name, err, log.String())
		}
		keptRow(t, l.private.store, "one")
		keptRow(t, l.private.store, "two")
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
