package ledger

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"strongroom/ledger/rwset"
	"strongroom/wire"
	"strongroom/wire/commonpb"
)

// fabricCommitHashes are those that Fabric's peer logged, in the order of its blocks.
func fabricCommitHashes(t *testing.T) [][]byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "fabric", "commit-hashes.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var hashes [][]byte
	for _, m := range regexp.MustCompile(`commitHash=\[([0-9a-f]*)\]`).FindAllSubmatch(raw, -1) {
		h, err := hex.DecodeString(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, h)
	}
	if len(hashes) != fabricBlocks {
		t.Fatalf("commit-hashes.txt has %d hashes, want %d", len(hashes), fabricBlocks)
	}
	return hashes
}

// The blocks of a Fabric channel give the flags and commit hashes that Fabric's
// peer recorded, and the very bytes that it delivers.
func TestFabricChannel(t *testing.T) {
	l := newTest(t)
	hashes := fabricCommitHashes(t)
	for n := range uint64(fabricBlocks) {
		commitFabric(t, l, n+1)
		if got := l.CommitHash(); !bytes.Equal(got, hashes[n]) {
			t.Errorf("block %d: commit hash is %x, Fabric's is %x", n, got, hashes[n])
		}
		got, err := l.Block(n)
		if err != nil {
			t.Fatal(err)
		}
		want := fabricBlock(t, n)
		filter := commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER
		if diff := cmp.Diff(want.Metadata.Metadata[filter], got.Metadata.Metadata[filter]); diff != "" {
			t.Errorf("block %d: flags (-Fabric +ours):\n%s", n, diff)
		}
		gotBytes, err := proto.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		wantBytes, err := os.ReadFile(filepath.Join("testdata", "fabric", blockName(n)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(gotBytes, wantBytes) {
			t.Errorf("block %d: its bytes are not those that Fabric's peer delivers", n)
		}
	}
	checkFabricState(t, l)
}

// checkFabricState compares the state after the last block with what Fabric's peer
// answers, and with its snapshot of the state.
func checkFabricState(t *testing.T, l *Ledger) {
	t.Helper()
	s, err := l.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	raw, err := os.ReadFile(filepath.Join("testdata", "fabric", "state-kv.json"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	rows, err := s.Range("kv", "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for {
		kv, err := rows.Next()
		if err != nil {
			t.Fatal(err)
		}
		if kv == nil {
			break
		}
		if kv.Key != "" { // valid in Fabric, but its chaincode library cannot read it
			got[kv.Key] = string(kv.Value)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("state of kv (-Fabric +ours):\n%s", diff)
	}
	checkSnapshotFile(t, s, "public_state.data", []collectionRows{{"", "", 1}, {"_lifecycle", "", 6}, {"kv", "", 35}})
	checkSnapshotFile(t, s, "private_state_hashes.data", []collectionRows{
		{"_lifecycle", "_implicit_org_Org1MSP", 6}, {"_lifecycle", "_implicit_org_Org2MSP", 6},
	})
}

type collectionRows struct {
	ns, collection string
	rows           int
}

// checkSnapshotFile compares the state with a file of a Fabric snapshot: a format
// byte, then records with a length as a varint, each a message of key = 1,
// value = 2, metadata = 3 and version = 4 (privacyenabledstate/snapshot_record.proto).
func checkSnapshotFile(t *testing.T, s *Snapshot, name string, parts []collectionRows) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "fabric", name))
	if err != nil {
		t.Fatal(err)
	}
	raw = raw[1:]
	for _, part := range parts {
		for range part.rows {
			record, n := consumeBytes(t, raw)
			raw = raw[n:]
			f := bytesFields(t, record)
			k := stateKey{part.ns, part.collection, string(f[1])}
			v, err := s.view.lookup(k)
			if err != nil {
				t.Fatal(err)
			}
			if v == nil {
				t.Errorf("%s: key %q of %q %q is not in the state", name, k.key, k.ns, k.collection)
				continue
			}
			if !bytes.Equal(v.bytes, f[2]) || !bytes.Equal(v.metadata, f[3]) || !bytes.Equal(versionBytes(v.version), f[4]) {
				t.Errorf("%s: key %q of %q %q at %s differs in value, metadata or version", name, k.key, k.ns, k.collection, v.version)
			}
		}
	}
	if len(raw) != 0 {
		t.Errorf("%s: %d bytes are left", name, len(raw))
	}
}

func TestFabricQueries(t *testing.T) {
	l := newTest(t)
	commitFabric(t, l, fabricBlocks)
	last := fabricBlock(t, fabricBlocks-1)
	info := l.Info()
	if info.Height != fabricBlocks || !bytes.Equal(info.CurrentBlockHash, wire.BlockHash(last.Header)) ||
		!bytes.Equal(info.PreviousBlockHash, last.Header.PreviousHash) {
		t.Errorf("info is %v", info)
	}
	for n := range uint64(fabricBlocks) {
		want := fabricBlock(t, n)
		b, err := l.BlockByHash(wire.BlockHash(want.Header))
		if err != nil || b.Header.Number != n {
			t.Errorf("block %d by its hash: %v, %v", n, b.GetHeader(), err)
		}
		flags := fabricFlags(t, n)
		for i, tx := range parse(t, want).Txs {
			if tx.TxID() == "" || flags[i] == 9 {
				continue // a duplicate is found at its first place
			}
			code, block, err := l.ValidationCode(tx.TxID())
			if err != nil || code != flags[i] || block != n {
				t.Errorf("transaction %d:%d has code %s in block %d (%v), want %s", n, i, code, block, err, flags[i])
			}
			pt, err := l.Transaction(tx.TxID())
			if err != nil || pt.ValidationCode != int32(flags[i]) || !bytes.Equal(pt.TransactionEnvelope.Payload, tx.Payload) {
				t.Errorf("transaction %d:%d is not what the block holds: %v", n, i, err)
			}
			if ok, err := l.HasTx(tx.TxID()); err != nil || !ok {
				t.Errorf("transaction %d:%d is not known: %v", n, i, err)
			}
		}
	}
}

func TestFabricHistory(t *testing.T) {
	l := newTest(t)
	commitFabric(t, l, fabricBlocks)
	s, err := l.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	for key := range historyOf(t) {
		walk, err := s.History("kv", key)
		if err != nil {
			t.Fatal(err)
		}
		var got []change
		for {
			m, err := walk.Next()
			if err != nil {
				t.Fatal(err)
			}
			if m == nil {
				break
			}
			if m.Timestamp == nil {
				t.Errorf("key %q: transaction %s has no time", key, m.TxId)
			}
			got = append(got, change{m.TxId, string(m.Value), m.IsDelete})
		}
		walk.Close()
		if diff := cmp.Diff(historyOf(t)[key], got); diff != "" {
			t.Errorf("history of %q (-blocks +ours):\n%s", key, diff)
		}
	}
}

type change struct {
	TxID, Value string
	Deleted     bool
}

// historyOf reads the history of all keys of kv out of the blocks, newest first.
func historyOf(t *testing.T) map[string][]change {
	t.Helper()
	history := map[string][]change{}
	for n := range uint64(fabricBlocks) {
		flags := fabricFlags(t, n)
		for i, tx := range parse(t, fabricBlock(t, n)).Txs {
			if flags[i] != 0 || tx.Endorsed == nil {
				continue
			}
			for _, ns := range tx.Endorsed.ReadWriteSet.Namespaces {
				if ns.Namespace != "kv" {
					continue
				}
				for _, w := range ns.KV.GetWrites() {
					c := change{tx.TxID(), string(w.GetValue()), rwset.IsDelete(w)}
					history[w.GetKey()] = append([]change{c}, history[w.GetKey()]...)
				}
			}
		}
	}
	return history
}
