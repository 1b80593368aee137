package ledger

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"strongroom/ledger/rwset"
	"strongroom/wire"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/peerpb"
)

// committed is the state before a block, as deciding on the block's transactions
// needs it. Absent keys give nil. Values of namespaces that were shredded are gone,
// but their keys are there.
type committed interface {
	lookup(k stateKey) (*value, error)
	version(k stateKey) (*rwset.Height, error)
	metadata(k stateKey) ([]byte, error)
	rows(ns, start, end string) rows
}

// rows walks over public keys in order; next returns a nil value at the end.
type rows interface {
	next() (string, *value, error)
	close()
}

// updates is what the valid transactions of one block write. It is not safe for
// concurrent use.
type updates struct {
	before committed
	m      map[stateKey]*update
	sorted map[string][]string     // public keys of a namespace in order; dropped on a change
	added  map[string]int          // number of public keys of a namespace
	ops    map[stateKey]operations // scratch of apply
}

// update is a key's new value; deleted ones have none.
type update struct {
	value
	deleted bool
}

func newUpdates(before committed) *updates {
	return &updates{before: before, m: map[stateKey]*update{}, sorted: map[string][]string{}, added: map[string]int{}, ops: map[stateKey]operations{}}
}

// validate decides whether what a transaction read is still so, in Fabric's order
// (core/ledger/kvledger/txmgmt/validation/validator.go, validateTx): for each
// namespace its reads, then its range queries, then its private reads.
func (u *updates) validate(set *wire.ReadWriteSet) (peerpb.TxValidationCode, error) {
	for i := range set.Namespaces {
		ns := &set.Namespaces[i]
		for _, read := range ns.KV.GetReads() {
			if ok, err := u.current(stateKey{ns: ns.Namespace, key: read.GetKey()}, read.GetVersion()); err != nil || !ok {
				return peerpb.TxValidationCode_MVCC_READ_CONFLICT, err
			}
		}
		for _, query := range ns.KV.GetRangeQueriesInfo() {
			if ok, err := u.rangeCurrent(ns.Namespace, query); err != nil || !ok {
				return peerpb.TxValidationCode_PHANTOM_READ_CONFLICT, err
			}
		}
		for _, coll := range ns.Collections {
			for _, read := range coll.Hashed.GetHashedReads() {
				if ok, err := u.hashCurrent(ns.Namespace, coll.Collection, read); err != nil || !ok {
					return peerpb.TxValidationCode_MVCC_READ_CONFLICT, err
				}
			}
		}
	}
	return peerpb.TxValidationCode_VALID, nil
}

// current tells whether a key still has the version that was read. An earlier
// write in the block, even of the same version, is a conflict.
func (u *updates) current(k stateKey, read *kvrwsetpb.Version) (bool, error) {
	if _, ok := u.m[k]; ok {
		return false, nil
	}
	version, err := u.before.version(k)
	if err != nil {
		return false, err
	}
	return version.Is(read), nil
}

// hashCurrent is current for a private key. A collection without a name holds
// nothing: its writes are taken for public ones, as Fabric does.
func (u *updates) hashCurrent(ns, collection string, read *kvrwsetpb.KVReadHash) (bool, error) {
	if collection == "" {
		return read.GetVersion() == nil, nil
	}
	return u.current(stateKey{ns, collection, string(read.GetKeyHash())}, read.GetVersion())
}

// operations are what one transaction does to one key. The flags are added up as
// Fabric adds them (tx_ops.go), so that a read/write set which names a key twice
// comes out as it does there.
type operations struct {
	flags    uint8
	value    []byte
	metadata []byte
}

const (
	opUpsert         = 1
	opMetadata       = 2
	opMetadataDelete = 4
	opDelete         = 8
)

// apply adds the writes of a valid transaction.
func (u *updates) apply(set *wire.ReadWriteSet, at rwset.Height) error {
	clear(u.ops)
	for i := range set.Namespaces {
		ns := &set.Namespaces[i]
		for _, w := range ns.KV.GetWrites() {
			k := stateKey{ns: ns.Namespace, key: w.GetKey()}
			u.ops[k] = u.ops[k].write(w.GetValue(), rwset.IsDelete(w))
		}
		for _, w := range ns.KV.GetMetadataWrites() {
			if err := u.opMetadata(stateKey{ns: ns.Namespace, key: w.GetKey()}, w.GetEntries()); err != nil {
				return err
			}
		}
		for _, coll := range ns.Collections {
			for _, w := range coll.Hashed.GetHashedWrites() {
				k := stateKey{ns.Namespace, coll.Collection, string(w.GetKeyHash())}
				u.ops[k] = u.ops[k].write(w.GetValueHash(), rwset.IsHashDelete(w))
			}
			for _, w := range coll.Hashed.GetMetadataWrites() {
				if err := u.opMetadata(stateKey{ns.Namespace, coll.Collection, string(w.GetKeyHash())}, w.GetEntries()); err != nil {
					return err
				}
			}
		}
	}
	for k, o := range u.ops {
		if err := u.merge(k, o, at); err != nil {
			return err
		}
	}
	return nil
}

func (o operations) write(value []byte, isDelete bool) operations {
	if isDelete {
		o.flags += opDelete
		return o
	}
	o.flags += opUpsert
	o.value = value
	return o
}

// opMetadata adds what a transaction does to a key's metadata.
func (u *updates) opMetadata(k stateKey, entries []*kvrwsetpb.KVMetadataEntry) error {
	o := u.ops[k]
	if len(entries) == 0 {
		o.flags += opMetadataDelete
		u.ops[k] = o
		return nil
	}
	b, err := proto.Marshal(&kvrwsetpb.KVMetadataWrite{Entries: entries})
	if err != nil {
		return err
	}
	o.flags += opMetadata
	o.metadata = b
	u.ops[k] = o
	return nil
}

// merge completes what a transaction does to a key with what stands there: a value
// alone keeps the metadata, metadata alone keeps the value, and metadata for a key
// that is not there is dropped.
func (u *updates) merge(k stateKey, o operations, at rwset.Height) error {
	next := &update{value: value{bytes: o.value, metadata: o.metadata, version: at}}
	switch {
	case o.flags&opDelete != 0:
		next = &update{value: value{version: at}, deleted: true}
	case o.flags&opUpsert != 0 && o.flags&(opMetadata|opMetadataDelete) != 0:
	case o.flags|opUpsert == opUpsert:
		metadata, err := u.latestMetadata(k)
		if err != nil {
			return err
		}
		next.metadata = metadata
	default:
		latest, err := u.latest(k)
		if err != nil || latest == nil {
			return err
		}
		next.bytes, next.gone = latest.bytes, latest.gone
	}
	if !next.deleted && len(next.bytes) == 0 && !next.gone {
		return nil // only flags that overflowed come here: there is no value to keep
	}
	u.set(k, next)
	return nil
}

// anyGone tells whether a value that the block leaves in place can no longer be read.
func (u *updates) anyGone() bool {
	for _, up := range u.m {
		if up.gone {
			return true
		}
	}
	return false
}

// shred marks as gone the values that a block wrote to some namespaces.
func (u *updates) shred(namespaces []string) {
	for k, up := range u.m {
		if !up.deleted && slices.Contains(namespaces, k.ns) {
			up.bytes, up.gone = nil, true
		}
	}
}

func (u *updates) set(k stateKey, next *update) {
	if _, there := u.m[k]; !there && k.collection == "" {
		delete(u.sorted, k.ns)
		u.added[k.ns]++
	}
	u.m[k] = next
}

// latest is a key's value after the earlier transactions of the block.
func (u *updates) latest(k stateKey) (*value, error) {
	if up, ok := u.m[k]; ok {
		if up.deleted {
			return nil, nil
		}
		return &up.value, nil
	}
	return u.before.lookup(k)
}

func (u *updates) latestMetadata(k stateKey) ([]byte, error) {
	if up, ok := u.m[k]; ok {
		return up.metadata, nil
	}
	return u.before.metadata(k)
}

// keys returns the public keys of a namespace that the block touched, in order.
func (u *updates) keys(ns string) []string {
	if keys, ok := u.sorted[ns]; ok || u.added[ns] == 0 {
		return keys
	}
	keys := make([]string, 0, u.added[ns])
	for k := range u.m {
		if k.ns == ns && k.collection == "" {
			keys = append(keys, k.key)
		}
	}
	slices.Sort(keys)
	u.sorted[ns] = keys
	return keys
}

// inOrder returns all keys by namespace, collection and key: public ones come
// first in their namespace.
func (u *updates) inOrder() []stateKey {
	keys := make([]stateKey, 0, len(u.m))
	for k := range u.m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b stateKey) int {
		if c := compare(a.ns, b.ns); c != 0 {
			return c
		}
		if c := compare(a.collection, b.collection); c != 0 {
			return c
		}
		return compare(a.key, b.key)
	})
	return keys
}
