package ledger_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"strongroom/ledger"
	"strongroom/ledger/ledgertest"
	"strongroom/ledger/rwset"
	"strongroom/ledger/seal"
	"strongroom/ledger/seal/sealtest"
	"strongroom/wire/peerpb"
	"strongroom/wire/rwsetpb"
)

const (
	channelID  = "mychannel"
	collection = "_implicit_org_Org1MSP"
)

// world is a ledger beside the model that it is compared with.
type world struct {
	t       *testing.T
	dir     string
	keyring *seal.Keyring
	ledger  *ledger.Ledger
	model   *ledgertest.Model
	private map[ledgertest.Key]string // values whose private writes were kept
	sims    []*simulation             // under way, at whatever height they began
}

type simulation struct {
	*ledger.Simulator
	private map[ledgertest.Key]string
}

func (w *world) open() {
	w.t.Helper()
	l, err := ledger.Open(context.Background(), ledger.Config{
		Dir: w.dir, ChannelID: channelID, Keyring: w.keyring, BlockFileSize: 4096, CachedBlocks: 2,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.ledger = l
}

func (w *world) close() {
	w.t.Helper()
	for _, s := range w.sims {
		s.Done()
	}
	w.sims = nil
	if err := w.ledger.Close(); err != nil {
		w.t.Fatal(err)
	}
}

var (
	keys       = rapid.SampledFrom([]string{"", "a", "b", "b\x00", "\U0010ffff"})
	namespaces = rapid.SampledFrom([]string{"ns1", "ns2"})
)

// step draws one operation and does it in a simulation.
func (s *simulation) step(t *testing.T, rt *rapid.T) {
	ns, key := namespaces.Draw(rt, "namespace"), keys.Draw(rt, "key")
	value := []byte(rapid.StringN(0, 6, -1).Draw(rt, "value"))
	metadata := map[string][]byte{"VALIDATION_PARAMETER": value}
	if len(value) == 0 {
		metadata = nil
	}
	var err error
	switch rapid.IntRange(0, 8).Draw(rt, "operation") {
	case 0, 1:
		_, err = s.Get(ns, key)
	case 2, 3:
		err = s.Put(ns, key, value)
	case 4:
		err = s.Delete(ns, key)
	case 5:
		err = s.SetMetadata(ns, key, metadata)
	case 6:
		var it rwset.KVIterator
		if it, err = s.Range(ns, key, keys.Draw(rt, "end")); err == nil {
			for range rapid.IntRange(0, 10).Draw(rt, "results") {
				if kv, err := it.Next(); err != nil || kv == nil {
					if err != nil {
						t.Fatal(err)
					}
					break
				}
			}
		}
	case 7:
		err = s.PutPrivate(ns, collection, key, value)
		s.private[ledgertest.Key{Namespace: ns, Collection: collection, Name: key}] = string(value)
	case 8:
		_, err = s.GetPrivateHash(ns, collection, key)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// commit ends some simulations and commits them in one block.
func (w *world) commit(rt *rapid.T) {
	var envelopes [][]byte
	var flags []peerpb.TxValidationCode
	kept := map[string]map[ledgertest.Key]string{}
	ids := []string{}
	for len(w.sims) > 0 && rapid.IntRange(0, 4).Draw(rt, "take") > 0 {
		i := rapid.IntRange(0, len(w.sims)-1).Draw(rt, "simulation")
		s := w.sims[i]
		w.sims = append(w.sims[:i], w.sims[i+1:]...)
		results, pvt, err := s.Results()
		if err != nil {
			w.t.Fatal(err)
		}
		s.Done()
		envelope, id := ledgertest.Envelope(w.t, channelID, "ns1", results)
		if pvt != nil {
			w.keep(id, pvt)
		}
		kept[id] = s.private
		code := peerpb.TxValidationCode_VALID
		if rapid.IntRange(0, 9).Draw(rt, "invalid") == 0 {
			code = peerpb.TxValidationCode_ENDORSEMENT_POLICY_FAILURE
		}
		envelopes, flags, ids = append(envelopes, envelope), append(flags, code), append(ids, id)
		if rapid.IntRange(0, 9).Draw(rt, "twice") == 0 {
			envelopes, flags, ids = append(envelopes, envelope), append(flags, peerpb.TxValidationCode_VALID), append(ids, id)
		}
	}
	b := ledgertest.Next(w.t, w.ledger, envelopes...)
	want := w.model.Commit(w.t, b, flags)
	if err := w.ledger.Commit(context.Background(), b, flags); err != nil {
		w.t.Fatal(err)
	}
	if diff := cmp.Diff(want, flags); diff != "" {
		rt.Fatalf("block %d: flags (-model +ledger):\n%s", b.Number(), diff)
	}
	for i, code := range flags {
		if code == peerpb.TxValidationCode_VALID {
			for k, v := range kept[ids[i]] {
				w.private[k] = v
			}
		}
	}
}

func (w *world) keep(id string, pvt *rwsetpb.TxPvtReadWriteSet) {
	w.t.Helper()
	if err := w.ledger.KeepPrivate(id, pvt); err != nil {
		w.t.Fatal(err)
	}
}

// compare checks that the ledger's state and history are the model's.
func (w *world) compare(rt *rapid.T) {
	s, err := w.ledger.Snapshot()
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Release()
	for _, ns := range []string{"ns1", "ns2"} {
		got := []string{}
		it, err := s.Range(ns, "", "")
		if err != nil {
			w.t.Fatal(err)
		}
		for {
			kv, err := it.Next()
			if err != nil {
				w.t.Fatal(err)
			}
			if kv == nil {
				break
			}
			got = append(got, kv.Key)
		}
		it.Close()
		if diff := cmp.Diff(append([]string{}, w.model.Names(ns)...), got); diff != "" {
			rt.Fatalf("keys of %s (-model +ledger):\n%s", ns, diff)
		}
	}
	for k, want := range w.model.State {
		if k.Collection != "" {
			hash, err := s.PrivateHashByKeyHash(k.Namespace, k.Collection, []byte(k.Name))
			if err != nil || string(hash) != want.Bytes {
				rt.Fatalf("hash of %q: %x, %v, want %x", k, hash, err, want.Bytes)
			}
			continue
		}
		value, err := s.Get(k.Namespace, k.Name)
		if err != nil || string(value) != want.Bytes {
			rt.Fatalf("value of %q: %q, %v, want %q", k, value, err, want.Bytes)
		}
		version, err := s.Version(k.Namespace, k.Name)
		if err != nil || *version != want.Version {
			rt.Fatalf("version of %q: %s, %v, want %s", k, version, err, want.Version)
		}
		metadata, err := s.GetMetadata(k.Namespace, k.Name)
		if err != nil || string(metadata["VALIDATION_PARAMETER"]) != want.Metadata["VALIDATION_PARAMETER"] || len(metadata) != len(want.Metadata) {
			rt.Fatalf("metadata of %q: %q, %v, want %q", k, metadata, err, want.Metadata)
		}
	}
	for k, want := range w.private {
		got, err := s.Private(k.Namespace, k.Collection, k.Name)
		if err != nil || string(got) != want {
			rt.Fatalf("private value of %q: %q, %v, want %q", k, got, err, want)
		}
	}
	w.compareHistory(rt, s)
}

func (w *world) compareHistory(rt *rapid.T, s *ledger.Snapshot) {
	for k, want := range w.model.History {
		it, err := s.History(k.Namespace, k.Name)
		if err != nil {
			w.t.Fatal(err)
		}
		for i := len(want) - 1; i >= 0; i-- {
			m, err := it.Next()
			if err != nil || m == nil {
				rt.Fatalf("history of %q ends before %s: %v", k, want[i], err)
			}
			b, err := w.ledger.ParsedBlock(want[i].Block)
			if err != nil {
				w.t.Fatal(err)
			}
			if id := b.Txs[want[i].Tx].TxID(); m.TxId != id {
				rt.Fatalf("history of %q has %s, want %s at %s", k, m.TxId, id, want[i])
			}
		}
		if m, err := it.Next(); err != nil || m != nil {
			rt.Fatalf("history of %q goes on: %v, %v", k, m, err)
		}
		it.Close()
	}
}

// For random transactions, simulated at old and new heights and committed in any
// order, the ledger and the model give the same flags, state and history; also
// after the ledger was closed, stores of it were deleted, and it was opened again.
func TestAgainstModel(t *testing.T) {
	fewerChecks(t, "25")
	keyring, root := sealtest.Keyring(t), memoryDir(t)
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(root, "ledger")
		if err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, dir: dir, keyring: keyring, model: ledgertest.NewModel(), private: map[ledgertest.Key]string{}}
		w.open()
		defer w.close()
		rt.Repeat(map[string]func(*rapid.T){
			"simulate": func(rt *rapid.T) {
				if len(w.sims) < 12 {
					sim, err := w.ledger.NewSimulator(fmt.Sprint(len(w.sims)))
					if err != nil {
						t.Fatal(err)
					}
					w.sims = append(w.sims, &simulation{sim, map[ledgertest.Key]string{}})
				}
				for range rapid.IntRange(1, 4).Draw(rt, "steps") {
					w.sims[rapid.IntRange(0, len(w.sims)-1).Draw(rt, "simulation")].step(t, rt)
				}
			},
			"commit":  func(rt *rapid.T) { w.commit(rt) },
			"compare": func(rt *rapid.T) { w.compare(rt) },
			"reopen": func(rt *rapid.T) {
				w.close()
				for _, store := range []string{"index", "state", "history"} {
					if rapid.IntRange(0, 2).Draw(rt, "delete "+store) == 0 {
						if err := os.RemoveAll(filepath.Join(dir, store)); err != nil {
							t.Fatal(err)
						}
					}
				}
				w.open()
			},
		})
		w.compare(rt)
	})
}

// memoryDir is a folder in memory where the system has one: thousands of synced
// writes are no use to this test.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "ledger")
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

// fewerChecks sets the number of rapid's checks unless the command line does.
func fewerChecks(t *testing.T, n string) {
	t.Helper()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		if err := flag.Set("rapid.checks", n); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := flag.Set("rapid.checks", f.DefValue); err != nil {
				t.Error(err)
			}
		})
	}
}
