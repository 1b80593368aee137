package ledger

import "strongroom/ledger/rwset"

// writtenKey is a key that a simulation wrote to; without a collection a public one.
type writtenKey struct{ ns, collection, key string }

// KeyMetadata is the committed metadata of a key that a simulation wrote to.
type KeyMetadata struct {
	Namespace  string
	Collection string // "" for a public key
	Key        string
	Metadata   map[string][]byte
}

// WrittenMetadata returns the committed metadata of the keys that the simulation
// wrote to, each key once, those without metadata left out. It tells which
// key-level endorsement policies the transaction must satisfy, and records no read.
func (s *Simulator) WrittenMetadata() ([]KeyMetadata, error) {
	if s.done {
		return nil, ErrDone
	}
	var out []KeyMetadata
	seen := make(map[writtenKey]struct{}, len(s.written))
	for _, w := range s.written {
		if _, ok := seen[w]; ok {
			continue
		}
		seen[w] = struct{}{}
		k := stateKey{ns: w.ns, key: w.key}
		if w.collection != "" {
			k = stateKey{w.ns, w.collection, string(rwset.HashKey(w.key))}
		}
		raw, err := s.view.metadata(k)
		if err != nil {
			return nil, err
		}
		m, err := decodeMetadata(raw)
		if err != nil {
			return nil, err
		}
		if len(m) > 0 {
			out = append(out, KeyMetadata{Namespace: w.ns, Collection: w.collection, Key: w.key, Metadata: m})
		}
	}
	return out, nil
}

// ReadsPrivate tells whether the simulation read values of a private collection.
func (s *Simulator) ReadsPrivate(ns, collection string) bool {
	_, ok := s.readPvt[collectionName{ns, collection}]
	return ok
}
