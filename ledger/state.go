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
//	'z' namespace                     → see indexerase.go
//	's'                               → savepoint: the next block's number
//	'b', 'x'                          → see store.go
//
// A value is a form byte, the height as two varints, the length of the sealed
// metadata and the sealed metadata if the form says so, and the sealed value. Values
// are sealed with the namespace's keys, metadata with the channel's: it says who must
// endorse the next write. Where a value is gone with its namespace's keys and was
// written anew, because only its metadata changed or the state was rebuilt, there is none.
//
//	form 1  value
//	form 3  metadata, value
//	form 4  nothing: the value is gone
//	form 5  metadata: the value is gone
//
// Form 2, one seal around value and metadata, was of formats 1 and 2 of a ledger.
const (
	rowPublic   = 'p'
	rowHash     = 'h'
	rowPrivate  = 'v'
	rowMetadata = 'm'

	formPlain        = 1
	formMetadata     = 3
	formGone         = 4
	formGoneMetadata = 5
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
	gone     bool // the namespace was shredded: bytes says nothing
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

func (s sealer) place(k stateKey, version rwset.Height) seal.Place {
	p := seal.Place{Kind: seal.KindState, Channel: s.channel, Namespace: k.ns, Collection: k.collection, Key: k.key,
		Block: version.Block, Tx: version.Tx}
	if k.collection != "" {
		p.Kind = seal.KindHash
	}
	return p
}

func (s sealer) metadataPlace(k stateKey, version rwset.Height) seal.Place {
	p := s.place(k, version)
	p.Kind = seal.KindMetadata
	return p
}

func (s sealer) privatePlace(k privateKey, version rwset.Height) seal.Place {
	return seal.Place{Kind: seal.KindPrivate, Channel: s.channel, Namespace: k.ns, Collection: k.collection, Key: k.key,
		Block: version.Block, Tx: version.Tx}
}

// seal appends the row of a value to dst.
func (s sealer) seal(dst []byte, k stateKey, v *value) ([]byte, error) {
	form := byte(formPlain)
	switch {
	case v.gone && len(v.metadata) > 0:
		form = formGoneMetadata
	case v.gone:
		form = formGone
	case len(v.metadata) > 0:
		form = formMetadata
	}
	dst = append(dst, form)
	dst = binary.AppendUvarint(dst, v.version.Block)
	dst = binary.AppendUvarint(dst, v.version.Tx)
	if len(v.metadata) > 0 {
		sealed, err := s.keyring.Seal(nil, v.metadata, s.metadataPlace(k, v.version))
		if err != nil {
			return nil, err
		}
		dst = append(binary.AppendUvarint(dst, uint64(len(sealed))), sealed...)
	}
	if v.gone {
		return dst, nil
	}
	return s.keyring.Seal(dst, v.bytes, s.place(k, v.version))
}

// stateRow is a row of state before its seals are opened.
type stateRow struct {
	version  rwset.Height
	metadata []byte // sealed; nil without
	value    []byte // sealed
	gone     bool
}

// parseRow reads the part of a row that is not sealed.
func parseRow(row []byte) (r stateRow, err error) {
	if len(row) == 0 || row[0] != formPlain && (row[0] < formMetadata || row[0] > formGoneMetadata) {
		return r, errors.New("row does not start with a known form")
	}
	form := row[0]
	var n [2]uint64
	if r.value, err = uvarints(row[1:], n[:]); err != nil {
		return r, errors.New("row's height is not readable")
	}
	r.version = rwset.Height{Block: n[0], Tx: n[1]}
	if form == formMetadata || form == formGoneMetadata {
		length, n := binary.Uvarint(r.value)
		if n <= 0 || length > uint64(len(r.value)-n) {
			return r, errors.New("length of the row's metadata is not readable")
		}
		r.metadata, r.value = r.value[n:n+int(length)], r.value[n+int(length):]
	}
	r.gone = form == formGone || form == formGoneMetadata
	if r.gone && len(r.value) > 0 {
		return r, errors.New("there is more after the row's end")
	}
	return r, nil
}

func (s sealer) parseRow(row []byte, k stateKey) (stateRow, error) {
	r, err := parseRow(row)
	if err != nil {
		return r, fmt.Errorf("state of %s: %w", s.place(k, r.version), err)
	}
	return r, nil
}

// open reads the row of a value. One that is gone gives an error that wraps
// seal.ErrShredded.
func (s sealer) open(row []byte, k stateKey) (*value, error) {
	v, err := s.openGone(row, k)
	if err == nil && v.gone {
		return nil, fmt.Errorf("%s: %w", s.place(k, v.version), seal.ErrShredded)
	}
	return v, err
}

// openGone is open for which a value may be gone. The height of such a value is
// vouched for by the seal of the store's file alone.
func (s sealer) openGone(row []byte, k stateKey) (*value, error) {
	r, err := s.parseRow(row, k)
	if err != nil {
		return nil, err
	}
	v := &value{version: r.version, gone: r.gone}
	if !r.gone {
		v.bytes, err = s.keyring.Open(nil, r.value, s.place(k, r.version))
		if errors.Is(err, seal.ErrShredded) {
			v.gone, err = true, nil
		}
	}
	if err == nil && r.metadata != nil {
		v.metadata, err = s.keyring.Open(nil, r.metadata, s.metadataPlace(k, r.version))
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

// sealPrivate makes the row of a private value.
func (s sealer) sealPrivate(k privateKey, v *value) ([]byte, error) {
	row := binary.AppendUvarint([]byte{formPlain}, v.version.Block)
	row = binary.AppendUvarint(row, v.version.Tx)
	return s.keyring.Seal(row, v.bytes, s.privatePlace(k, v.version))
}

// openPrivate reads the row of a private value.
func (s sealer) openPrivate(row []byte, k privateKey) (*value, error) {
	r, err := parseRow(row)
	if err == nil && (r.gone || r.metadata != nil) {
		err = errors.New("row is of another form than private values have")
	}
	if err != nil {
		return nil, fmt.Errorf("state of %s: %w", s.privatePlace(k, r.version), err)
	}
	plain, err := s.keyring.Open(nil, r.value, s.privatePlace(k, r.version))
	if err != nil {
		return nil, err
	}
	return &value{bytes: plain, version: r.version}, nil
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

// lookupGone is lookup for which a value may be gone.
func (r *stateReader) lookupGone(k stateKey) (*value, error) {
	row, err := r.get(k.row)
	if err != nil || row == nil {
		return nil, err
	}
	return r.sealer.openGone(row, k)
}

// version returns the height at which a key was written, nil when it is not there.
// The value is opened for it, unless it is gone: a height that nobody authenticated
// decides nothing.
func (r *stateReader) version(k stateKey) (*rwset.Height, error) {
	v, err := r.lookupGone(k)
	if err != nil || v == nil {
		return nil, err
	}
	return &v.version, nil
}

// metadata returns a key's metadata, nil when it has none or is not there.
func (r *stateReader) metadata(k stateKey) ([]byte, error) {
	raw, err := r.get(k.row)
	if err != nil || raw == nil {
		return nil, err
	}
	row, err := r.sealer.parseRow(raw, k)
	if err != nil || row.metadata == nil {
		return nil, err
	}
	return r.sealer.keyring.Open(nil, row.metadata, r.sealer.metadataPlace(k, row.version))
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
	prefix int  // bytes of a row's key before the key itself
	gone   bool // values may be gone
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
	open := s.reader.sealer.open
	if s.gone {
		open = s.reader.sealer.openGone
	}
	v, err := open(s.rows.Value(), stateKey{ns: s.ns, key: key})
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
