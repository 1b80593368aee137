package rwset

import (
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/rwsetpb"
)

// Builder collects what one transaction reads and writes. Of several operations
// on one key the last counts. It is not safe for concurrent use. The zero value
// is ready to use.
type Builder struct {
	public  map[string]*namespace
	private map[string]map[string]*privateWrites // namespace, collection
}

type namespace struct {
	reads          map[string]*kvrwsetpb.KVRead
	writes         map[string]*kvrwsetpb.KVWrite
	metadataWrites map[string]*kvrwsetpb.KVMetadataWrite
	ranges         []*kvrwsetpb.RangeQueryInfo
	rangeKeys      map[rangeKey]struct{}
	collections    map[string]*hashedCollection
}

type hashedCollection struct {
	reads          map[string]*kvrwsetpb.KVReadHash
	writes         map[string]*kvrwsetpb.KVWriteHash
	metadataWrites map[string]*kvrwsetpb.KVMetadataWriteHash
	privateHash    []byte
}

type privateWrites struct {
	writes         map[string]*kvrwsetpb.KVWrite
	metadataWrites map[string]*kvrwsetpb.KVMetadataWrite
}

type rangeKey struct {
	start, end string
	exhausted  bool
}

// Read records that a key was read at a version, nil when it was not there.
func (b *Builder) Read(ns, key string, at *Height) {
	put(&b.namespace(ns).reads, key, &kvrwsetpb.KVRead{Key: key, Version: at.Proto()})
}

// Write records a value for a key. An empty value deletes the key. The builder
// keeps the slice.
func (b *Builder) Write(ns, key string, value []byte) {
	put(&b.namespace(ns).writes, key, newWrite(key, value))
}

// WriteMetadata records metadata for a key. Nil or empty metadata removes it.
func (b *Builder) WriteMetadata(ns, key string, metadata map[string][]byte) {
	put(&b.namespace(ns).metadataWrites, key, &kvrwsetpb.KVMetadataWrite{Key: key, Entries: entries(metadata)})
}

// RangeQuery records a range query. A second one with the same bounds and the
// same end is dropped.
func (b *Builder) RangeQuery(ns string, q *kvrwsetpb.RangeQueryInfo) {
	n := b.namespace(ns)
	k := rangeKey{q.GetStartKey(), q.GetEndKey(), q.GetItrExhausted()}
	if _, ok := n.rangeKeys[k]; ok {
		return
	}
	put(&n.rangeKeys, k, struct{}{})
	n.ranges = append(n.ranges, q)
}

// ReadPrivate records that a private key was read at the version of its hash,
// nil when it was not there.
func (b *Builder) ReadPrivate(ns, collection, key string, at *Height) {
	put(&b.collection(ns, collection).reads, key, &kvrwsetpb.KVReadHash{KeyHash: HashKey(key), Version: at.Proto()})
}

// WritePrivate records a value for a private key: the value itself in the private
// part, hashes in the public one. An empty value deletes the key.
func (b *Builder) WritePrivate(ns, collection, key string, value []byte) {
	w := newWrite(key, value)
	h := &kvrwsetpb.KVWriteHash{KeyHash: HashKey(key), IsDelete: w.IsDelete}
	if !w.IsDelete {
		h.ValueHash = HashValue(value)
	}
	put(&b.privateWrites(ns, collection).writes, key, w)
	put(&b.collection(ns, collection).writes, key, h)
}

// PurgePrivate records that a private key is to be deleted with its history.
func (b *Builder) PurgePrivate(ns, collection, key string) {
	put(&b.privateWrites(ns, collection).writes, key, newWrite(key, nil))
	put(&b.collection(ns, collection).writes, key,
		&kvrwsetpb.KVWriteHash{KeyHash: HashKey(key), IsDelete: true, IsPurge: true})
}

// WritePrivateMetadata records metadata for a private key. Metadata is public and
// goes with the key's hash; the private part only names the key.
func (b *Builder) WritePrivateMetadata(ns, collection, key string, metadata map[string][]byte) {
	put(&b.privateWrites(ns, collection).metadataWrites, key, &kvrwsetpb.KVMetadataWrite{Key: key})
	put(&b.collection(ns, collection).metadataWrites, key,
		&kvrwsetpb.KVMetadataWriteHash{KeyHash: HashKey(key), Entries: entries(metadata)})
}

// Build returns the public read/write set and the private writes, which are nil
// when there are none. Namespaces, collections and keys are in the order of their
// bytes, range queries in the order in which they were recorded. A name or key
// that is not valid UTF-8 gives an error.
func (b *Builder) Build() (*rwsetpb.TxReadWriteSet, *rwsetpb.TxPvtReadWriteSet, error) {
	private, err := b.buildPrivate()
	if err != nil {
		return nil, nil, err
	}
	public := &rwsetpb.TxReadWriteSet{DataModel: rwsetpb.TxReadWriteSet_KV}
	for _, name := range sortedKeys(b.public) {
		n, err := b.public[name].build(name)
		if err != nil {
			return nil, nil, fmt.Errorf("read/write set of namespace %q: %w", name, err)
		}
		public.NsRwset = append(public.NsRwset, n)
	}
	return public, private, nil
}

// buildPrivate also sets the hashes of the private writes in the public part.
func (b *Builder) buildPrivate() (*rwsetpb.TxPvtReadWriteSet, error) {
	if len(b.private) == 0 {
		return nil, nil
	}
	private := &rwsetpb.TxPvtReadWriteSet{DataModel: rwsetpb.TxReadWriteSet_KV}
	for _, name := range sortedKeys(b.private) {
		n := &rwsetpb.NsPvtReadWriteSet{Namespace: name}
		for _, coll := range sortedKeys(b.private[name]) {
			w := b.private[name][coll]
			set, err := proto.Marshal(&kvrwsetpb.KVRWSet{
				Writes:         sortedValues(w.writes),
				MetadataWrites: sortedValues(w.metadataWrites),
			})
			if err != nil {
				return nil, fmt.Errorf("private writes of %q in collection %q: %w", name, coll, err)
			}
			n.CollectionPvtRwset = append(n.CollectionPvtRwset,
				&rwsetpb.CollectionPvtReadWriteSet{CollectionName: coll, Rwset: set})
			b.collection(name, coll).privateHash = HashValue(set)
		}
		private.NsPvtRwset = append(private.NsPvtRwset, n)
	}
	return private, nil
}

func (n *namespace) build(name string) (*rwsetpb.NsReadWriteSet, error) {
	set, err := proto.Marshal(&kvrwsetpb.KVRWSet{
		Reads:            sortedValues(n.reads),
		RangeQueriesInfo: n.ranges,
		Writes:           sortedValues(n.writes),
		MetadataWrites:   sortedValues(n.metadataWrites),
	})
	if err != nil {
		return nil, err
	}
	msg := &rwsetpb.NsReadWriteSet{Namespace: name, Rwset: set}
	for _, coll := range sortedKeys(n.collections) {
		c := n.collections[coll]
		hashed, err := proto.Marshal(&kvrwsetpb.HashedRWSet{
			HashedReads:    sortedValues(c.reads),
			HashedWrites:   sortedValues(c.writes),
			MetadataWrites: sortedValues(c.metadataWrites),
		})
		if err != nil {
			return nil, fmt.Errorf("collection %q: %w", coll, err)
		}
		msg.CollectionHashedRwset = append(msg.CollectionHashedRwset, &rwsetpb.CollectionHashedReadWriteSet{
			CollectionName: coll,
			HashedRwset:    hashed,
			PvtRwsetHash:   c.privateHash,
		})
	}
	return msg, nil
}

func (b *Builder) namespace(name string) *namespace {
	n := b.public[name]
	if n == nil {
		n = &namespace{}
		put(&b.public, name, n)
	}
	return n
}

func (b *Builder) collection(ns, name string) *hashedCollection {
	n := b.namespace(ns)
	c := n.collections[name]
	if c == nil {
		c = &hashedCollection{}
		put(&n.collections, name, c)
	}
	return c
}

func (b *Builder) privateWrites(ns, collection string) *privateWrites {
	if b.private[ns] == nil {
		put(&b.private, ns, map[string]*privateWrites{})
	}
	w := b.private[ns][collection]
	if w == nil {
		w = &privateWrites{}
		b.private[ns][collection] = w
	}
	return w
}

func newWrite(key string, value []byte) *kvrwsetpb.KVWrite {
	if len(value) == 0 {
		return &kvrwsetpb.KVWrite{Key: key, IsDelete: true}
	}
	return &kvrwsetpb.KVWrite{Key: key, Value: value}
}

func entries(metadata map[string][]byte) []*kvrwsetpb.KVMetadataEntry {
	var out []*kvrwsetpb.KVMetadataEntry
	for _, name := range sortedKeys(metadata) {
		out = append(out, &kvrwsetpb.KVMetadataEntry{Name: name, Value: metadata[name]})
	}
	return out
}

func put[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[k] = v
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}

func sortedValues[V any](m map[string]V) []V {
	if len(m) == 0 {
		return nil
	}
	out := make([]V, 0, len(m))
	for _, k := range sortedKeys(m) {
		out = append(out, m[k])
	}
	return out
}
