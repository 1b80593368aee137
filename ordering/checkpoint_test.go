package ordering

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
	"time"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
)

// records keeps checkpoints in memory.
type records struct {
	mu     sync.Mutex
	byName map[string][][]byte
	fail   error
}

var _ bccsp.Checkpoints = (*records)(nil)

func (r *records) LoadCheckpoints(_ context.Context, name string) ([][]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byName[name], r.fail
}

func (r *records) StoreCheckpoint(_ context.Context, name string, record []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail
	}
	if r.byName == nil {
		r.byName = map[string][][]byte{}
	}
	r.byName[name] = [][]byte{record}
	return nil
}

func (r *records) setFail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = err
}

func (r *records) last(t *testing.T, name string) *checkpoint {
	t.Helper()
	all, err := r.LoadCheckpoints(t.Context(), name)
	if err != nil || len(all) == 0 {
		return nil
	}
	c, err := parseCheckpoint(all[0])
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// keyName is another name for each run, since a token remembers.
var keyName = fmt.Sprintf("node %d", time.Now().UnixNano())

func remember(token bccsp.Checkpoints, term uint32) *Checkpoints {
	return &Checkpoints{Token: token, Name: func(channel string) string { return keyName + "/ordering/" + channel },
		Term: func() uint32 { return term }, Every: 10 * time.Millisecond}
}

// blocksOf starts a node, orders so many transactions of a block each, and stops it.
func (n *network) blocksOf(t *testing.T, cfg Config, txs ...string) {
	t.Helper()
	s, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, serve(t, s, nil))
	height := s.Channels()[0].Height
	for range txs {
		order(t, c, n.tx(t, "main", "a"), n.tx(t, "main", "b"), n.tx(t, "main", "c"))
		n.blocks(t, c, "main", height, height) // waits for it
		height++
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// An older copy of a node's log is refused with both heights, by the token that the test
// has, until the rollback is accepted; so are another chain, an older keyring, and a channel
// that is joined again after its folder was deleted.
func TestRollback(t *testing.T) {
	n := sharedNetwork(t)
	token := bccsptest.OpenShared(t)
	keyName = fmt.Sprintf("node %d", time.Now().UnixNano())
	cfg := n.config(t, t.TempDir())
	cfg.Checkpoints = remember(token, 3)
	genesis := n.genesis(t, "main", nil)
	s := start(t, cfg)
	join(t, s, genesis)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := token.LoadCheckpoints(t.Context(), keyName+"/ordering/main"); err != nil || len(got) != 0 {
		t.Errorf("a channel of one block is remembered: %q, %v", got, err)
	}
	n.blocksOf(t, cfg, "one")
	old := filepath.Join(t.TempDir(), "old")
	channel := filepath.Join(cfg.Dir, "main")
	copyFolder(t, old, channel)
	n.blocksOf(t, cfg, "two", "three")
	n.blocksOf(t, cfg) // and a start in good order

	refused := func(want ...string) {
		t.Helper()
		s, err := New(t.Context(), cfg)
		if s != nil {
			s.Close()
		}
		if !errors.Is(err, ErrRolledBack) {
			t.Fatalf("got %v", err)
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("got %v, want %q in it", err, w)
			}
		}
	}
	older := cfg
	older.Checkpoints = remember(token, 2)
	if s, err := New(t.Context(), older); !errors.Is(err, ErrRolledBack) || !strings.Contains(err.Error(), "seals with term 2, the token remembers term 3") {
		t.Errorf("%v, %v", s, err)
	}
	newest := filepath.Join(t.TempDir(), "newest")
	copyFolder(t, newest, channel)
	copyFolder(t, channel, old)
	refused("has 2 blocks, the token remembers 4", "accept-rollback main --ordering")

	a, err := AcceptRollback(t.Context(), cfg, "main")
	if err != nil || !a.New || a.Height != 2 || len(a.Accepted) != 1 || !strings.HasPrefix(a.Accepted[0], "4 2 ") {
		t.Fatalf("%+v, %v", a, err)
	}
	if a, err := AcceptRollback(t.Context(), cfg, "main"); err != nil || a.New || len(a.Accepted) != 1 {
		t.Errorf("again: %+v, %v", a, err)
	}
	// The node goes on, and makes other blocks under the numbers of those that were lost.
	n.blocksOf(t, cfg, "other two", "other three")
	copyFolder(t, channel, newest)
	refused("another chain's: block 3 has hash")

	// The folder is gone, and the channel is joined again from its genesis block.
	if err := os.RemoveAll(channel); err != nil {
		t.Fatal(err)
	}
	s = start(t, cfg)
	if err := s.Join(t.Context(), genesis); !errors.Is(err, ErrRolledBack) {
		t.Errorf("joining again gives %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	refused("has 1 blocks, the token remembers 4")
	if a, err := AcceptRollback(t.Context(), cfg, "main"); err != nil || !a.New || len(a.Accepted) != 2 {
		t.Errorf("%+v, %v", a, err)
	}
	n.blocksOf(t, cfg)
	if _, err := AcceptRollback(t.Context(), cfg, "nowhere"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a channel that is not there: %v", err)
	}
}

func copyFolder(t *testing.T, to, from string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// Checkpoints are written while the node runs, at most so often, and a token that fails
// for a while stops nothing.
func TestCheckpointsWhileRunning(t *testing.T) {
	n := sharedNetwork(t)
	r := &records{}
	cfg := n.config(t, t.TempDir())
	cfg.Checkpoints = remember(r, 1)
	s := start(t, cfg)
	join(t, s, n.genesis(t, "main", nil))
	c := dial(t, serve(t, s, nil))
	reach := func(height uint64) {
		t.Helper()
		order(t, c, n.tx(t, "main", "a"), n.tx(t, "main", "b"), n.tx(t, "main", "c"))
		n.blocks(t, c, "main", height-1, height-1)
	}
	await := func(height uint64) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if got := r.last(t, keyName+"/ordering/main"); got != nil && got.height == height {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("height %d is not remembered", height)
			}
		}
	}
	reach(2)
	await(2)
	r.setFail(errors.New("token away"))
	reach(3)
	reach(4)
	r.setFail(nil)
	await(4)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r.setFail(errors.New("token away"))
	if s, err := New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "token away") {
		t.Errorf("a token that does not answer at start: %v, %v", s, err)
	}
	r.setFail(nil)
	r.byName[keyName+"/ordering/main"] = [][]byte{[]byte("strongroom checkpoint 1\n")}
	if s, err := New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "find out who changed it") {
		t.Errorf("a record of another kind: %v, %v", s, err)
	}
}

func TestParseCheckpoint(t *testing.T) {
	c := &checkpoint{channel: "main", height: 120, block: []byte{1, 2}, term: 7, accepted: []string{"150 100 2026-01-02T03:04:05Z"}}
	const text = "strongroom ordering checkpoint 1\nchannel \"main\"\nheight 120\nblock \"0102\"\nterm 7\naccepted 150 100 2026-01-02T03:04:05Z\n"
	if string(c.marshal()) != text {
		t.Errorf("it is written as %q", c.marshal())
	}
	got, err := parseCheckpoint([]byte(text))
	if err != nil || !bytes.Equal(got.marshal(), []byte(text)) || !slices.Equal(got.accepted, c.accepted) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "strongroom ordering checkpoint 1\n", text + "x", strings.Replace(text, "120", "0120", 1), strings.Replace(text, "0102", "zz", 1),
		strings.Replace(text, "ordering ", "", 1), strings.TrimSuffix(text, "\n")} {
		if got, err := parseCheckpoint([]byte(bad)); err == nil {
			t.Errorf("%q is read as %+v", bad, got)
		}
	}
}
