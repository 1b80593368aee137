package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/iterator"
	"google.golang.org/protobuf/proto"

	"strongroom/ledger/rwset"
	"strongroom/ledger/seal"
	"strongroom/wire/kvrwsetpb"
)

// The rows of the state store. Names stand before their length, so keys of one
// namespace lie together in the order of their bytes, whatever bytes they have.
//
//	'p' namespace key                 → a public value
//	'h' namespace collection key-hash → the hash of a private value
//	'v' namespace collection key      → a private value
//	'm' namespace                     → there, when a key of it ever had metadata
//	's'                               → savepoint: the next block's number
//	'b', 'x'                          → see store.go
//
// A value is a form byte, the height as two varints and the sealed value. With
// form 2 what is sealed is the value's length, the value and the metadata.
const (
	rowPublic   = 'p'
	rowHash     = 'h'
	rowPrivate  = 'v'
	rowMetadata = 'm'

	formPlain    = 1
	formMetadata = 2
)

// stateKey names a row of state. Without a collection it is a public key, else the
// SHA-256 of a private one.
type stateKey struct{ ns, collection, key string }

// row appends the key's row key to b.
func (k stateKey) row(b []byte) []byte {
	if k.collection == "" {
		return append(appendString(append(b, rowPublic), k.ns), k.key...)
	}
	return append(appendString(appendString(append(b, rowHash), k.ns), k.collection), k.key...)
}

// privateKey names a private value.
type privateKey struct{ ns, collection, key string }

func (k privateKey) row(b []byte) []byte {
	return append(appendString(appendString(append(b, rowPrivate), k.ns), k.collection), k.key...)
}

// value is what stands under a key.
type value struct {
	bytes    []byte
	metadata []byte // kvrwset.KVMetadataWrite with entries alone, as Fabric keeps it; nil without
	version  rwset.Height
}

// decodeMetadata reads a value's metadata into a map, nil when there is none.
func decodeMetadata(b []byte) (map[string][]byte, error) {
	if len(b) == 0 {
		return nil, nil
	}
	msg := &kvrwsetpb.KVMetadataWrite{}
	if err := proto.Unmarshal(b, msg); err != nil {
		return nil, fmt.Errorf("metadata of a key: %w", err)
	}
	m := make(map[string][]byte, len(msg.GetEntries()))
	for _, e := range msg.GetEntries() {
		m[e.GetName()] = e.GetValue()
	}
	return m, nil
}

// sealer seals and opens the values of one channel.
type sealer struct {
	keyring *seal.Keyring
	channel string
}

func (s sealer) place(k stateKey, version rwset.Height, metadata bool) seal.Place {
	p := seal.Place{Kind: seal.KindState, Channel: s.channel, Namespace: k.ns, Collection: k.collection, Key: k.key,
		Block: version.Block, Tx: version.Tx}
	switch {
	case k.collection == "" && metadata:
		p.Kind = seal.KindStateMetadata
	case k.collection != "" && metadata:
		p.Kind = seal.KindHashMetadata
	case k.collection != "":
		p.Kind = seal.KindHash
	}
	return p
}

func (s sealer) privatePlace(k privateKey, version rwset.Height) seal.Place {
	return seal.Place{Kind: seal.KindPrivate, Channel: s.channel, Namespace: k.ns, Collection: k.collection, Key: k.key,
		Block: version.Block, Tx: version.Tx}
}

// seal appends the row of a value to dst.
func (s sealer) seal(dst []byte, k stateKey, v *value) ([]byte, error) {
	if len(v.metadata) == 0 {
		return s.keyring.Seal(appendRowHead(dst, formPlain, v.version), v.bytes, s.place(k, v.version, false))
	}
	both := make([]byte, 0, binary.MaxVarintLen64+len(v.bytes)+len(v.metadata))
	both = binary.AppendUvarint(both, uint64(len(v.bytes)))
	both = append(append(both, v.bytes...), v.metadata...)
	return s.keyring.Seal(appendRowHead(dst, formMetadata, v.version), both, s.place(k, v.version, true))
}

func appendRowHead(dst []byte, form byte, version rwset.Height) []byte {
	dst = append(dst, form)
	dst = binary.AppendUvarint(dst, version.Block)
	return binary.AppendUvarint(dst, version.Tx)
}

// rowHead reads the part of a row that is not sealed.
func rowHead(row []byte) (form byte, version rwset.Height, sealed []byte, err error) {
	if len(row) == 0 || row[0] != formPlain && row[0] != formMetadata {
		return 0, version, nil, errors.New("row does not start with a known form")
	}
	var n [2]uint64
	if sealed, err = uvarints(row[1:], n[:]); err != nil {
		return 0, version, nil, errors.New("row's height is not readable")
	}
	return row[0], rwset.Height{Block: n[0], Tx: n[1]}, sealed, nil
}

// open reads the row of a value.
func (s sealer) open(row []byte, k stateKey) (*value, error) {
	form, version, sealed, err := rowHead(row)
	if err != nil {
		return nil, fmt.Errorf("state of %s: %w", s.place(k, version, false), err)
	}
	plain, err := s.keyring.Open(nil, sealed, s.place(k, version, form == formMetadata))
	if err != nil {
		return nil, err
	}
	v := &value{bytes: plain, version: version}
	if form == formMetadata {
		length, n := binary.Uvarint(plain)
		if n <= 0 || length > uint64(len(plain)-n) {
			return nil, fmt.Errorf("state of %s: length of its value is not readable", s.place(k, version, true))
		}
		plain = plain[n:]
		v.bytes, v.metadata = plain[:length:length], plain[length:]
	}
	return v, nil
}

// openPrivate reads the row of a private value.
func (s sealer) openPrivate(row []byte, k privateKey) (*value, error) {
	_, version, sealed, err := rowHead(row)
	if err != nil {
		return nil, fmt.Errorf("state of %s: %w", s.privatePlace(k, version), err)
	}
	plain, err := s.keyring.Open(nil, sealed, s.privatePlace(k, version))
	if err != nil {
		return nil, err
	}
	return &value{bytes: plain, version: version}, nil
}

// stateReader reads state out of one snapshot of the store.
type stateReader struct {
	snapshot *leveldb.Snapshot
	dir      string
	sealer   sealer
}

var keyBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 256); return &b }}

func (r *stateReader) get(row func(b []byte) []byte) ([]byte, error) {
	buf := keyBuffers.Get().(*[]byte)
	key := row((*buf)[:0])
	v, err := r.snapshot.Get(key, nil)
	*buf = key
	keyBuffers.Put(buf)
	if errors.Is(err, leveldb.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("store %s: read: %w", r.dir, err)
	}
	if v == nil {
		v = []byte{} // a row without content is there
	}
	return v, nil
}

// lookup returns what stands under a key, nil when nothing does.
func (r *stateReader) lookup(k stateKey) (*value, error) {
	row, err := r.get(k.row)
	if err != nil || row == nil {
		return nil, err
	}
	return r.sealer.open(row, k)
}

// version returns the height at which a key was written, nil when it is not there.
// The value is opened for it: a height that nobody authenticated decides nothing.
func (r *stateReader) version(k stateKey) (*rwset.Height, error) {
	v, err := r.lookup(k)
	if err != nil || v == nil {
		return nil, err
	}
	return &v.version, nil
}

// metadata returns a key's metadata, nil when it has none or is not there.
func (r *stateReader) metadata(k stateKey) ([]byte, error) {
	row, err := r.get(k.row)
	if err != nil || row == nil || len(row) > 0 && row[0] == formPlain {
		return nil, err
	}
	v, err := r.sealer.open(row, k)
	if err != nil {
		return nil, err
	}
	return v.metadata, nil
}

// private returns a private value, nil when it is not there.
func (r *stateReader) private(k privateKey) (*value, error) {
	row, err := r.get(k.row)
	if err != nil || row == nil {
		return nil, err
	}
	return r.sealer.openPrivate(row, k)
}

// scanPrivate walks over the private values of a collection in [start, end); an
// empty end stands for the last key.
func (r *stateReader) scanPrivate(ns, collection, start, end string) *privateScan {
	prefix := privateKey{ns: ns, collection: collection}.row(nil)
	return &privateScan{
		reader: r, ns: ns, collection: collection, prefix: len(prefix),
		rows: r.snapshot.NewIterator(prefixRange(prefix, start, end), nil),
	}
}

type privateScan struct {
	reader         *stateReader
	ns, collection string
	prefix         int
	rows           iterator.Iterator
}

// next moves on and returns the key and its value, nil at the end.
func (s *privateScan) next() (string, *value, error) {
	if !s.rows.Next() {
		if err := s.rows.Error(); err != nil {
			return "", nil, fmt.Errorf("store %s: read: %w", s.reader.dir, err)
		}
		return "", nil, nil
	}
	key := string(s.rows.Key()[s.prefix:])
	v, err := s.reader.sealer.openPrivate(s.rows.Value(), privateKey{s.ns, s.collection, key})
	return key, v, err
}

// privateKeys returns all keys of a collection that have a private value.
func (r *stateReader) privateKeys(ns, collection string) ([]string, error) {
	prefix := privateKey{ns: ns, collection: collection}.row(nil)
	rows := r.snapshot.NewIterator(prefixRange(prefix, "", ""), nil)
	defer rows.Release()
	var keys []string
	for rows.Next() {
		keys = append(keys, string(rows.Key()[len(prefix):]))
	}
	if err := rows.Error(); err != nil {
		return nil, fmt.Errorf("store %s: read: %w", r.dir, err)
	}
	return keys, nil
}

// scan walks over the public keys of a namespace in [start, end); an empty end
// stands for the last key.
func (r *stateReader) scan(ns, start, end string) *stateScan {
	prefix := appendString([]byte{rowPublic}, ns)
	return &stateScan{
		reader: r, ns: ns, prefix: len(prefix),
		rows: r.snapshot.NewIterator(prefixRange(prefix, start, end), nil),
	}
}

// stateScan walks over rows of state. It is not safe for concurrent use.
type stateScan struct {
	reader *stateReader
	ns     string
	prefix int // bytes of a row's key before the key itself
	rows   iterator.Iterator
}

// next moves on and returns the key and its value, nil at the end.
func (s *stateScan) next() (string, *value, error) {
	if !s.rows.Next() {
		if err := s.rows.Error(); err != nil {
			return "", nil, fmt.Errorf("store %s: read: %w", s.reader.dir, err)
		}
		return "", nil, nil
	}
	key := string(s.rows.Key()[s.prefix:])
	v, err := s.reader.sealer.open(s.rows.Value(), stateKey{ns: s.ns, key: key})
	return key, v, err
}

// nextKey moves on and returns the key alone, "" at the end.
func (s *stateScan) nextKey() (string, error) {
	if s.rows.Next() {
		return string(s.rows.Key()[s.prefix:]), nil
	}
	if err := s.rows.Error(); err != nil {
		return "", fmt.Errorf("store %s: read: %w", s.reader.dir, err)
	}
	return "", nil
}

func (s *stateScan) close() { s.rows.Release() }
