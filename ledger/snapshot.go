package ledger

import (
	"fmt"
	"sync/atomic"

	"strongroom/ledger/rwset"
	"strongroom/wire/queryresultpb"
)

// Snapshot is the state at one height. It is safe for concurrent use and does not
// see later commits. It must be released: until then the store keeps what it needs.
type Snapshot struct {
	ledger   *Ledger
	view     *view
	released atomic.Bool
}

// Snapshot returns the state at the present height.
func (l *Ledger) Snapshot() (*Snapshot, error) {
	v, err := l.acquire()
	if err != nil {
		return nil, err
	}
	return &Snapshot{ledger: l, view: v}, nil
}

// Release gives the snapshot back. Nothing may use it afterwards. Releasing twice
// is no error.
func (s *Snapshot) Release() {
	if !s.released.Swap(true) {
		s.view.release()
	}
}

// Height is the number of blocks that the snapshot holds.
func (s *Snapshot) Height() uint64 { return s.view.height }

// Get returns the value of a key, nil when it is not there. The caller owns it.
func (s *Snapshot) Get(ns, key string) ([]byte, error) {
	v, err := s.view.lookup(stateKey{ns: ns, key: key})
	if err != nil || v == nil {
		return nil, err
	}
	return v.bytes, nil
}

// Version returns the height at which a key was written, nil when it is not there.
func (s *Snapshot) Version(ns, key string) (*rwset.Height, error) {
	return s.view.version(stateKey{ns: ns, key: key})
}

// GetMetadata returns a key's metadata, such as its endorsement policy under
// "VALIDATION_PARAMETER"; nil when it has none or is not there.
func (s *Snapshot) GetMetadata(ns, key string) (map[string][]byte, error) {
	b, err := s.view.metadata(stateKey{ns: ns, key: key})
	if err != nil {
		return nil, err
	}
	return decodeMetadata(b)
}

// Range walks over the keys in [start, end), by the order of their bytes; an empty
// end stands for the last key.
func (s *Snapshot) Range(ns, start, end string) (rwset.KVIterator, error) {
	return &plainRange{ns: ns, rows: s.view.scan(ns, start, end)}, nil
}

type plainRange struct {
	ns   string
	rows *stateScan
}

func (r *plainRange) Next() (*queryresultpb.KV, error) {
	key, v, err := r.rows.next()
	if err != nil || v == nil {
		return nil, err
	}
	return &queryresultpb.KV{Namespace: r.ns, Key: key, Value: v.bytes}, nil
}

func (r *plainRange) Close() { r.rows.close() }

// History walks over what valid transactions did to a key, newest first.
func (s *Snapshot) History(ns, key string) (rwset.HistoryIterator, error) {
	return s.ledger.newHistoryWalk(ns, key, s.view.height), nil
}

// PrivateHash returns the SHA-256 of a private value, nil when the key is not there.
func (s *Snapshot) PrivateHash(ns, collection, key string) ([]byte, error) {
	return s.PrivateHashByKeyHash(ns, collection, rwset.HashKey(key))
}

// PrivateHashByKeyHash is PrivateHash for a key of which only the hash is known.
func (s *Snapshot) PrivateHashByKeyHash(ns, collection string, keyHash []byte) ([]byte, error) {
	v, err := s.view.lookup(stateKey{ns, collection, string(keyHash)})
	if err != nil || v == nil {
		return nil, err
	}
	return v.bytes, nil
}

// PrivateMetadataByKeyHash returns the metadata of a private key of which only the
// hash is known; nil when it has none or is not there.
func (s *Snapshot) PrivateMetadataByKeyHash(ns, collection string, keyHash []byte) (map[string][]byte, error) {
	b, err := s.view.metadata(stateKey{ns, collection, string(keyHash)})
	if err != nil {
		return nil, err
	}
	return decodeMetadata(b)
}

// Private returns a private value, nil when the key is not there. A value whose
// version is not that of its public hash gives an error that wraps ErrNoPrivateData:
// this peer lacks the private writes of the transaction that wrote it last.
func (s *Snapshot) Private(ns, collection, key string) ([]byte, error) {
	v, err := s.view.currentPrivate(ns, collection, key)
	if err != nil || v == nil {
		return nil, err
	}
	return v.bytes, nil
}

// currentPrivate returns a private value if it is the one that its hash stands for.
func (v *view) currentPrivate(ns, collection, key string) (*value, error) {
	p, err := v.private(privateKey{ns, collection, key})
	if err != nil {
		return nil, err
	}
	hash, err := v.version(stateKey{ns, collection, string(rwset.HashKey(key))})
	if err != nil {
		return nil, err
	}
	switch {
	case p == nil && hash == nil:
		return nil, nil
	case p == nil:
		return nil, fmt.Errorf("%w: key %q in collection %q of %q, public hash version = %s, private data version = none",
			ErrNoPrivateData, key, collection, ns, hash)
	case hash == nil:
		return nil, fmt.Errorf("%w: key %q in collection %q of %q, public hash version = none, private data version = %s",
			ErrNoPrivateData, key, collection, ns, p.version)
	case *hash != p.version:
		return nil, fmt.Errorf("%w: key %q in collection %q of %q, public hash version = %s, private data version = %s",
			ErrNoPrivateData, key, collection, ns, hash, p.version)
	}
	return p, nil
}
