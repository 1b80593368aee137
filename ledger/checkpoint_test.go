package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"strongroom/bccsp/bccsptest"
	"strongroom/ledger/seal"
	"strongroom/ledger/seal/sealtest"
)

// memoryCheckpoints are checkpoints without a token. Its fields may be changed
// while no ledger is open; setFail at any time.
type memoryCheckpoints struct {
	mu      sync.Mutex
	records map[string][][]byte
	writes  int
	fail    error
}

func (m *memoryCheckpoints) LoadCheckpoints(_ context.Context, name string) ([][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.records[name], m.fail
}

func (m *memoryCheckpoints) StoreCheckpoint(_ context.Context, name string, record []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	if m.records == nil {
		m.records = map[string][][]byte{}
	}
	m.writes++
	m.records[name] = [][]byte{record}
	return nil
}

func (m *memoryCheckpoints) setFail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// count is how many checkpoints were taken.
func (m *memoryCheckpoints) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writes
}

// height is the checkpoint's, 0 without one.
func (m *memoryCheckpoints) height(t *testing.T) uint64 {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.records["node"]) == 0 {
		return 0
	}
	c, err := parseCheckpoint(m.records["node"][0])
	if err != nil {
		t.Fatal(err)
	}
	return c.height
}

func withCheckpoints(m *memoryCheckpoints) func(*Config) {
	return func(c *Config) { c.Checkpoints, c.CheckpointName = m, "node" }
}

func closeTest(t *testing.T, l *Ledger) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// An older copy of a ledger is refused with both heights, as is a ledger that is
// gone, until the rollback is accepted, which the token remembers.
func TestRollback(t *testing.T) {
	k := sealtest.Keyring(t)
	token := bccsptest.Open(t)
	with := func(c *Config) { c.Checkpoints, c.CheckpointName = token, t.Name() }
	dir, old := memoryDir(t), memoryDir(t)
	l := openTest(t, dir, k, with)
	commitFabric(t, l, 5)
	closeTest(t, l)
	if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	l = openTest(t, dir, k, with)
	commitFabric(t, l, fabricBlocks)
	closeTest(t, l)
	closeTest(t, openTest(t, dir, k, with)) // the newest copy is fine
	gone := memoryDir(t)
	for name, copied := range map[string]string{"older": old, "gone": gone} {
		l, err := openIn(copied, k, with)
		if !errors.Is(err, ErrRolledBack) || !strings.Contains(err.Error(), fmt.Sprintf("the token remembers %d", fabricBlocks)) ||
			name == "older" && !strings.Contains(err.Error(), "the ledger has 5 blocks") || !strings.Contains(err.Error(), "accept-rollback mychannel") {
			t.Errorf("%s: %v, %v", name, l, err)
		}
	}
	closeTest(t, openTest(t, gone, k, with, func(c *Config) { c.AcceptRollback = true }))
	closeTest(t, openTest(t, gone, k, with))
	l = openTest(t, dir, k, with)
	closeTest(t, l)
	l = openTest(t, old, k, with, func(c *Config) { c.AcceptRollback = true })
	if got := l.AcceptedRollbacks(); len(got) != 2 || !strings.HasPrefix(got[0], "12 0 20") || !strings.HasPrefix(got[1], "12 5 20") {
		t.Errorf("accepted are %q", got)
	}
	closeTest(t, l)
	l = openTest(t, old, k, with)
	commitFabric(t, l, fabricBlocks)
	checkWhole(t, l)
	closeTest(t, l)
	records, err := token.LoadCheckpoints(context.Background(), t.Name())
	if err != nil || len(records) != 1 {
		t.Fatalf("%q, %v", records, err)
	}
	if c, err := parseCheckpoint(records[0]); err != nil || c.height != fabricBlocks || len(c.accepted) != 2 || c.term != k.Term() {
		t.Errorf("the token remembers %+v, %v", c, err)
	}
}

// A chain of the same height with other blocks, a keyring that was set back, and
// records that nobody wrote so are refused.
func TestRollbackBeside(t *testing.T) {
	k := sealtest.Keyring(t)
	m := &memoryCheckpoints{}
	dir := memoryDir(t)
	l := openTest(t, dir, k, withCheckpoints(m))
	commitFabric(t, l, 5)
	closeTest(t, l)
	good := m.records["node"][0]
	for want, change := range map[string]func(c *checkpoint){
		"another chain's: block 4 has hash":                         func(c *checkpoint) { c.block[0] ^= 1 },
		"the keyring seals with term 1, the token remembers term 2": func(c *checkpoint) { c.term = 2 },
		"the ledger has 5 blocks, the token remembers 6":            func(c *checkpoint) { c.height = 6 },
		`it is of channel "other"`:                                  func(c *checkpoint) { c.channel = "other" },
	} {
		c, err := parseCheckpoint(good)
		if err != nil {
			t.Fatal(err)
		}
		change(&c)
		m.records["node"] = [][]byte{good, c.marshal()}
		if c.height == 5 {
			m.records["node"] = m.records["node"][1:]
		}
		if l, err := openIn(dir, k, withCheckpoints(m)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, %v, want %q", l, err, want)
		}
	}
	for _, bad := range [][]byte{nil, good[:len(good)-1], append(bytes.Clone(good), "x\n"...), []byte(checkpointHead)} {
		m.records["node"] = [][]byte{bad}
		if l, err := openIn(dir, k, withCheckpoints(m)); err == nil || !strings.Contains(err.Error(), `checkpoint "node" in the token`) {
			t.Errorf("%q: %v, %v", bad, l, err)
		}
	}
	m.fail = errors.New("token is gone")
	if l, err := openIn(dir, k, withCheckpoints(m)); !errors.Is(err, m.fail) {
		t.Errorf("%v, %v", l, err)
	}
}

// The checkpoint is never ahead of the disk: a crash at any step of a commit leaves
// a ledger that opens.
func TestCheckpointCrash(t *testing.T) {
	k := sealtest.Keyring(t)
	for _, step := range []string{"append", "index", "state", "publish", "end"} {
		m := &memoryCheckpoints{}
		dir := memoryDir(t)
		l := openTest(t, dir, k, withCheckpoints(m))
		commitFabric(t, l, 5)
		l.hook = func(s string) error {
			if s == step {
				return errCrash
			}
			return nil
		}
		if err := l.Commit(t.Context(), parse(t, fabricBlock(t, 5)), asValidated(fabricFlags(t, 5))); !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		closeTest(t, l)
		if h := m.height(t); h < 5 || step != "end" && h != 5 {
			t.Errorf("%s: the checkpoint is of height %d", step, h)
		}
		l = openTest(t, dir, k, withCheckpoints(m))
		commitFabric(t, l, fabricBlocks)
		checkWhole(t, l)
	}
}

// Checkpoints come at most once in a while, the newest at the end; a token that
// fails stops nothing and gets the next one.
func TestCheckpointPace(t *testing.T) {
	k := sealtest.Keyring(t)
	m := &memoryCheckpoints{}
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		l, err := openIn(dir, k, withCheckpoints(m), func(c *Config) { c.CheckpointEvery = time.Minute })
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		commitFabric(t, l, 3)
		synctest.Wait()
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		if m.count() != 1 || m.height(t) != 3 {
			t.Errorf("%d checkpoints, the last of height %d", m.count(), m.height(t))
		}
		commitFabric(t, l, 6)
		synctest.Wait()
		if m.count() != 1 {
			t.Errorf("%d checkpoints before their time", m.count())
		}
		m.setFail(errors.New("token is gone"))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		m.setFail(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if m.count() != 2 || m.height(t) != 6 {
			t.Errorf("%d checkpoints, the last of height %d", m.count(), m.height(t))
		}
		commitFabric(t, l, 7)
		closeTest(t, l)
		if m.height(t) != 7 {
			t.Errorf("the last checkpoint is of height %d", m.height(t))
		}
		time.Sleep(2 * time.Second) // goleveldb's own goroutines end a second after their database
	})
}

func TestCheckpointForm(t *testing.T) {
	c := checkpoint{channel: "my channel\n", height: 1<<64 - 1, block: []byte{1, 2}, term: 9}
	k := newCheckpointer(nil, nil)
	for i := range uint64(keptAccepted + 5) {
		k.accept(i+10, i, time.Unix(0, 0))
	}
	c.accepted = k.accepted
	if len(c.accepted) != keptAccepted || c.accepted[0] != "15 5 1970-01-01T00:00:00Z" {
		t.Errorf("accepted are %q", c.accepted)
	}
	if plain := string(c.marshal()); strings.Contains(plain, "shredded") {
		t.Errorf("it is %q", plain)
	}
	c.shredded, c.digest = 12, "0f1e"
	got, err := parseCheckpoint(c.marshal())
	if err != nil || got.shredded != 12 || got.digest != "0f1e" || got.channel != c.channel || got.height != c.height || !bytes.Equal(got.block, c.block) || got.term != c.term || !slices.Equal(got.accepted, c.accepted) {
		t.Errorf("%+v is read as %+v, %v", c, got, err)
	}
	if n := len(c.marshal()); n > 4096 {
		t.Errorf("it has %d bytes", n)
	}
}

// A keyring from before a namespace was shredded is refused, and no command accepts it,
// until it has the record; then the keys are destroyed in it as well.
func TestRollbackOfShredding(t *testing.T) {
	root := memoryDir(t)
	w := sealtest.NewWrapper(t, "w")
	m := &memoryCheckpoints{records: map[string][][]byte{}}
	keyring, older := filepath.Join(root, "keyring"), filepath.Join(root, "older")
	k, err := seal.OpenKeyring(context.Background(), keyring, w)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "ledger")
	l := openTest(t, dir, k, withCheckpoints(m))
	commitFabric(t, l, fabricBlocks)
	closeTest(t, l)
	if err := os.CopyFS(older, os.DirFS(keyring)); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Shred(testChannel, "kv"); err != nil {
		t.Fatal(err)
	}
	l = openTest(t, dir, k, withCheckpoints(m))
	if err := l.Remember(context.Background()); err != nil {
		t.Fatal(err)
	}
	closeTest(t, l)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	accept := func(c *Config) { c.AcceptRollback = true }
	for range 12 { // however often it is opened
		k, err := seal.OpenKeyring(context.Background(), older, w)
		if err != nil {
			t.Fatal(err)
		}
		if l, err := openIn(dir, k, withCheckpoints(m), accept); !errors.Is(err, ErrRolledBack) || !strings.Contains(err.Error(), "SHREDDED") {
			t.Fatalf("%v, %v", l, err)
		}
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
	}
	record, err := os.ReadFile(filepath.Join(keyring, "SHREDDED"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(older, "SHREDDED"), record, 0o600); err != nil {
		t.Fatal(err)
	}
	l = openTest(t, dir, sealtest.KeyringIn(t, older, w), withCheckpoints(m))
	if _, err := l.Block(fabricBlocks - 1); !errors.Is(err, seal.ErrShredded) {
		t.Errorf("got %v", err)
	}
}

// A ledger of the first format, set back behind a checkpoint, is refused too, and
// stays refused after its upgrade.
func TestRollbackToVersion1(t *testing.T) {
	dir, k := version1(t)
	m := &memoryCheckpoints{records: map[string][][]byte{"node": {checkpoint{channel: testChannel, height: 13, block: []byte{1}, term: 1}.marshal()}}}
	for range 2 {
		if l, err := openIn(dir, k, withCheckpoints(m)); !errors.Is(err, ErrRolledBack) {
			t.Errorf("%v, %v", l, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, privateNew)); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
