package ledgertest

import (
	"maps"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/ledger/rwset"
	"strongroom/wire"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/peerpb"
)

// Key names a value of a Model: a public one without a collection, else the hash
// of a private one under the SHA-256 of its key.
type Key struct{ Namespace, Collection, Name string }

// Value is what stands under a Key.
type Value struct {
	Bytes    string
	Metadata map[string]string
	Version  rwset.Height
}

// Model is a channel's state in a map, and the rules of committing one transaction
// after the other, as Fabric's documentation tells them: no indexes, no batches, no
// merging of earlier writes. It is the reference that the ledger is tested against.
type Model struct {
	State   map[Key]Value
	History map[Key][]rwset.Height // oldest first
	seen    map[string]bool
}

// NewModel is the state of an empty channel.
func NewModel() *Model {
	return &Model{State: map[Key]Value{}, History: map[Key][]rwset.Height{}, seen: map[string]bool{}}
}

// Commit decides on a block's transactions that are VALID in flags, one at a time
// on the state that the ones before left, and returns the final flags.
func (m *Model) Commit(t testing.TB, b *wire.Block, flags []peerpb.TxValidationCode) []peerpb.TxValidationCode {
	t.Helper()
	touched := map[Key]bool{} // by this block
	out := slices.Clone(flags)
	stands := map[string]bool{}
	for i, tx := range b.Txs {
		duplicate := m.seen[tx.TxID()] || stands[tx.TxID()]
		if flags[i] != peerpb.TxValidationCode_VALID || tx.Endorsed == nil {
			continue
		}
		if duplicate {
			out[i] = peerpb.TxValidationCode_DUPLICATE_TXID
			continue
		}
		stands[tx.TxID()] = true
		out[i] = m.check(t, tx.Endorsed.ReadWriteSet, touched)
		if out[i] == peerpb.TxValidationCode_VALID {
			m.apply(tx.Endorsed.ReadWriteSet, rwset.Height{Block: b.Number(), Tx: uint64(i)}, touched)
		}
	}
	for _, tx := range b.Txs {
		if id := tx.IndexID(); id != "" {
			m.seen[id] = true
		}
	}
	return out
}

func (m *Model) check(t testing.TB, set *wire.ReadWriteSet, touched map[Key]bool) peerpb.TxValidationCode {
	t.Helper()
	same := func(k Key, read *kvrwsetpb.Version) bool {
		v, ok := m.State[k]
		return !touched[k] && ok == (read != nil) &&
			(!ok || v.Version == rwset.Height{Block: read.GetBlockNum(), Tx: read.GetTxNum()})
	}
	for _, ns := range set.Namespaces {
		for _, r := range ns.KV.GetReads() {
			if !same(Key{ns.Namespace, "", r.GetKey()}, r.GetVersion()) {
				return peerpb.TxValidationCode_MVCC_READ_CONFLICT
			}
		}
		for _, q := range ns.KV.GetRangeQueriesInfo() {
			if !proto.Equal(q, m.query(t, ns.Namespace, q)) {
				return peerpb.TxValidationCode_PHANTOM_READ_CONFLICT
			}
		}
		for _, c := range ns.Collections {
			for _, r := range c.Hashed.GetHashedReads() {
				if !same(Key{ns.Namespace, c.Collection, string(r.GetKeyHash())}, r.GetVersion()) {
					return peerpb.TxValidationCode_MVCC_READ_CONFLICT
				}
			}
		}
	}
	return peerpb.TxValidationCode_VALID
}

// query runs a range query again on the present state.
func (m *Model) query(t testing.TB, ns string, q *kvrwsetpb.RangeQueryInfo) *kvrwsetpb.RangeQueryInfo {
	t.Helper()
	reads, err := rwset.NewRangeReads(rwset.MaxDegree)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range m.Names(ns) {
		below := q.GetEndKey() == "" || name < q.GetEndKey() || !q.GetItrExhausted() && name == q.GetEndKey()
		if name >= q.GetStartKey() && below {
			if err := reads.Add(name, m.State[Key{ns, "", name}].Version); err != nil {
				t.Fatal(err)
			}
		}
	}
	// A query that was not read to its end includes its end key. One of which nothing
	// was read has the end key "", and Fabric looks for a key of that name.
	if v, ok := m.State[Key{ns, "", ""}]; ok && q.GetEndKey() == "" && !q.GetItrExhausted() {
		if err := reads.Add("", v.Version); err != nil {
			t.Fatal(err)
		}
	}
	out := &kvrwsetpb.RangeQueryInfo{StartKey: q.GetStartKey(), EndKey: q.GetEndKey(), ItrExhausted: q.GetItrExhausted()}
	single, summary, err := reads.Done()
	switch {
	case err != nil:
		t.Fatal(err)
	case summary != nil:
		out.ReadsInfo = &kvrwsetpb.RangeQueryInfo_ReadsMerkleHashes{ReadsMerkleHashes: summary}
	case single != nil:
		out.ReadsInfo = &kvrwsetpb.RangeQueryInfo_RawReads{RawReads: &kvrwsetpb.QueryReads{KvReads: single}}
	}
	return out
}

// Names are the public keys of a namespace, in order.
func (m *Model) Names(ns string) []string {
	var names []string
	for k := range m.State {
		if k.Namespace == ns && k.Collection == "" {
			names = append(names, k.Name)
		}
	}
	slices.Sort(names)
	return names
}

func (m *Model) apply(set *wire.ReadWriteSet, at rwset.Height, touched map[Key]bool) {
	for _, ns := range set.Namespaces {
		for _, w := range ns.KV.GetWrites() {
			k := Key{ns.Namespace, "", w.GetKey()}
			m.write(k, w.GetValue(), rwset.IsDelete(w), at, touched)
			m.History[k] = append(m.History[k], at)
		}
		for _, c := range ns.Collections {
			for _, w := range c.Hashed.GetHashedWrites() {
				m.write(Key{ns.Namespace, c.Collection, string(w.GetKeyHash())}, w.GetValueHash(), rwset.IsHashDelete(w), at, touched)
			}
		}
		// Metadata comes last: it needs a key that is there when the transaction is done.
		for _, w := range ns.KV.GetMetadataWrites() {
			m.writeMetadata(Key{ns.Namespace, "", w.GetKey()}, w.GetEntries(), at, touched)
		}
		for _, c := range ns.Collections {
			for _, w := range c.Hashed.GetMetadataWrites() {
				m.writeMetadata(Key{ns.Namespace, c.Collection, string(w.GetKeyHash())}, w.GetEntries(), at, touched)
			}
		}
	}
}

func (m *Model) write(k Key, value []byte, isDelete bool, at rwset.Height, touched map[Key]bool) {
	touched[k] = true
	if isDelete {
		delete(m.State, k)
		return
	}
	m.State[k] = Value{Bytes: string(value), Metadata: m.State[k].Metadata, Version: at}
}

func (m *Model) writeMetadata(k Key, entries []*kvrwsetpb.KVMetadataEntry, at rwset.Height, touched map[Key]bool) {
	v, ok := m.State[k]
	if !ok {
		return
	}
	touched[k] = true
	v.Version, v.Metadata = at, nil
	if len(entries) > 0 {
		v.Metadata = map[string]string{}
	}
	for _, e := range entries {
		v.Metadata[e.GetName()] = string(e.GetValue())
	}
	m.State[k] = v
}

// Clone is a copy that later commits do not change.
func (m *Model) Clone() *Model {
	return &Model{State: maps.Clone(m.State), History: maps.Clone(m.History), seen: maps.Clone(m.seen)}
}
