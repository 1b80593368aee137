package ledger_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strongroom/ledger"
	"strongroom/ledger/ledgertest"
	"strongroom/ledger/seal/sealtest"
	"strongroom/ledger/selector"
)

func index(t testing.TB, name string, fields string) *selector.Index {
	t.Helper()
	x, err := selector.ParseIndex(fmt.Appendf(nil, `{"index":{"fields":%s},"ddoc":"d","name":%q}`, fields, name))
	ok(t, err)
	return x
}

// untilBuilt waits until the ledger has these indexes, all of them ready.
func untilBuilt(t testing.TB, l *ledger.Ledger, want int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		list, err := l.Indexes()
		ok(t, err)
		ready := 0
		for _, x := range list {
			if x.Ready {
				ready++
			}
		}
		if ready == want && len(list) == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("indexes are %v, want %d that are ready", list, want)
		}
	}
}

// untilRight waits until what is removed is gone, and checks every row of the indexes.
func untilRight(t testing.TB, l *ledger.Ledger, want int) {
	t.Helper()
	untilBuilt(t, l, want)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		// A view shows rows that are being removed until the next block.
		ledgertest.Commit(t, l)
		err := l.CheckIndexes()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// writeRandom commits a block of random puts and deletes of documents.
func writeRandom(t testing.TB, l *ledger.Ledger, r *rand.Rand) {
	t.Helper()
	var envelopes [][]byte
	for range 1 + r.IntN(4) {
		s, err := l.NewSimulator("tx")
		ok(t, err)
		for range r.IntN(30) {
			key := fmt.Sprintf("k%03d", r.IntN(400))
			switch r.IntN(6) {
			case 0:
				ok(t, s.Delete("kv", key))
			case 1:
				ok(t, s.Put("kv", key, []byte("no document")))
			case 2:
				ok(t, s.SetMetadata("kv", key, map[string][]byte{"VALIDATION_PARAMETER": []byte("x")}))
			default:
				ok(t, s.Put("kv", key, fmt.Appendf(nil, `{"a":%d,"b":"%c","c":[%d]}`, r.IntN(9), 'a'+r.IntN(5), r.IntN(3))))
			}
		}
		results, _, err := s.Results()
		ok(t, err)
		s.Done()
		envelope, _ := ledgertest.Envelope(t, channelID, "kv", results)
		envelopes = append(envelopes, envelope)
	}
	ledgertest.Commit(t, l, envelopes...)
}

// compareQueries holds queries by the indexes against queries by scanning.
func compareQueries(t testing.TB, l *ledger.Ledger) {
	t.Helper()
	for _, query := range []string{
		`{"selector":{"a":3}}`, `{"selector":{"a":{"$gt":2,"$lte":5},"b":{"$lt":"c"}}}`, `{"selector":{"b":"b","a":{"$gte":1}},"sort":["a"]}`,
		`{"selector":{"a":{"$gte":0}},"sort":[{"a":"desc"},{"b":"desc"}]}`, `{"selector":{"c":[1]}}`, `{"selector":{"a":{"$lt":4}},"sort":["c"]}`,
	} {
		var lists [2][]string
		for i := range lists {
			s, err := l.NewSimulator("query")
			ok(t, err)
			if i == 1 {
				s.WithoutIndexes()
			}
			for mark := ""; ; {
				it, err := s.QueryPage(context.Background(), "kv", query, 7, mark)
				ok(t, err)
				n := len(lists[i])
				for {
					kv, err := it.Next()
					ok(t, err)
					if kv == nil {
						break
					}
					lists[i] = append(lists[i], kv.Key+string(kv.Value))
				}
				mark = it.Bookmark()
				it.Close()
				if len(lists[i]) == n {
					break
				}
			}
			lists[i] = append(lists[i], fmt.Sprint("read set ", readSet(t, s)))
			s.Done()
		}
		if diff := cmp.Diff(lists[1], lists[0]); diff != "" {
			t.Fatalf("%s (-scan +index):\n%s", query, diff)
		}
	}
}

func readSet(t testing.TB, s *ledger.Simulator) string {
	t.Helper()
	raw, _, err := s.Results()
	ok(t, err)
	return fmt.Sprintf("%x", raw)
}

// TestIndexes: while documents come and go and indexes are made, changed and removed,
// each index that is ready has exactly the rows that the state gives, over restarts
// too, and queries give by it what they give without.
func TestIndexes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	dir, keyring := memoryDir(t), sealtest.Keyring(t)
	open := func() *ledger.Ledger {
		l, err := ledger.Open(context.Background(), ledger.Config{Dir: dir, ChannelID: channelID, Keyring: keyring})
		ok(t, err)
		return l
	}
	l := open()
	ledgertest.Commit(t, l)
	byA, byAB, byBA, byC := index(t, "a", `["a"]`), index(t, "ab", `["a","b"]`), index(t, "x", `["b","a"]`), index(t, "x", `["c"]`)
	for round, list := range [][]*selector.Index{{byA}, {byA, byAB, byBA}, {byC}, {}, {byAB, byC}, {byBA, byA}} {
		for range 5 {
			writeRandom(t, l, r)
		}
		ok(t, l.SetIndexes("kv", list))
		for range r.IntN(3) { // while it is being built
			writeRandom(t, l, r)
		}
		if round%2 == 1 {
			ok(t, l.Close())
			l = open()
		}
		untilRight(t, l, len(list))
		for range 5 {
			writeRandom(t, l, r)
		}
		ok(t, l.CheckIndexes())
		compareQueries(t, l)
	}

	// A version that knows no indexes wrote to the ledger.
	ok(t, l.ForgetIndexes())
	ok(t, l.Close())
	l = open()
	untilRight(t, l, 2)

	// A state that is rebuilt from the blocks has no indexes until they are set again.
	ok(t, l.Close())
	ok(t, os.RemoveAll(filepath.Join(dir, "state")))
	l = open()
	untilRight(t, l, 0)
	ok(t, l.SetIndexes("kv", []*selector.Index{byA, byBA}))
	untilRight(t, l, 2)
	compareQueries(t, l)
	ok(t, l.Close())
	if err := l.SetIndexes("kv", nil); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after Close: %v", err)
	}
}

// TestIndexOlderState: a state store that is behind is brought up with its indexes.
func TestIndexOlderState(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	dir, old, keyring := memoryDir(t), filepath.Join(memoryDir(t), "state"), sealtest.Keyring(t)
	open := func() *ledger.Ledger {
		l, err := ledger.Open(context.Background(), ledger.Config{Dir: dir, ChannelID: channelID, Keyring: keyring})
		ok(t, err)
		return l
	}
	l := open()
	writeRandom(t, l, r)
	ok(t, l.SetIndexes("kv", []*selector.Index{index(t, "a", `["a"]`), index(t, "bc", `["b","c"]`)}))
	untilRight(t, l, 2)
	ok(t, l.Close())
	ok(t, os.CopyFS(old, os.DirFS(filepath.Join(dir, "state"))))
	l = open()
	for range 10 {
		writeRandom(t, l, r)
	}
	ok(t, l.Close())
	ok(t, os.RemoveAll(filepath.Join(dir, "state")))
	ok(t, os.CopyFS(filepath.Join(dir, "state"), os.DirFS(old)))
	l = open()
	defer func() { ok(t, l.Close()) }()
	ok(t, l.CheckIndexes())
	compareQueries(t, l)
}

// TestIndexWhileCommitting: an index is built beside commits, and a reader that began
// before it was removed goes on reading it.
func TestIndexWhileCommitting(t *testing.T) {
	l := ledgertest.Open(t, channelID)
	r := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		run(t, l, func(s *ledger.Simulator) {
			for i := range 500 {
				ok(t, s.Put("kv", fmt.Sprintf("k%05d", r.IntN(20_000)), fmt.Appendf(nil, `{"a":%d}`, i)))
			}
		})
	}
	ok(t, l.SetIndexes("kv", []*selector.Index{index(t, "a", `["a"]`)}))
	for range 30 {
		writeRandom(t, l, r)
	}
	untilRight(t, l, 1)
	reader := simulate(t, l)
	it, err := reader.Query(t.Context(), "kv", `{"selector":{"a":{"$gt":100}},"sort":["a"]}`)
	ok(t, err)
	kv, err := it.Next()
	if err != nil || kv == nil {
		t.Fatalf("first row: %v, %v", kv, err)
	}
	ok(t, l.SetIndexes("kv", nil))
	untilRight(t, l, 0)
	if rest := values(t, it); len(rest) < 1000 {
		t.Errorf("a reader of the removed index got %d more rows", len(rest))
	}
}
