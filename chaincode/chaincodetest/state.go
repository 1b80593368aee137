// Package chaincodetest is a channel's state in memory, for tests of chaincode and
// of what runs it: a Store that transactions are simulated on and committed to.
package chaincodetest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"strongroom/chaincode"
	"strongroom/wire/queryresultpb"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// Store is the committed state of a channel. It is safe for concurrent use.
type Store struct {
	mu      sync.RWMutex
	values  map[key][]byte
	meta    map[key]map[string][]byte
	history map[key][]*queryresultpb.KeyModification // oldest first
}

type key struct{ namespace, key string }

// NewStore returns an empty store.
func NewStore() *Store {
	return &Store{values: make(map[key][]byte), meta: make(map[key]map[string][]byte), history: make(map[key][]*queryresultpb.KeyModification)}
}

// Simulate starts a transaction on the state as it is now.
func (s *Store) Simulate(txID string) *State {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return &State{store: s, txID: txID, values: maps.Clone(s.values), meta: maps.Clone(s.meta), writes: make(map[key][]byte), metaWrites: make(map[key]map[string][]byte)}
}

// Get is a committed value, nil if there is none.
func (s *Store) Get(namespace, k string) []byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.values[key{namespace, k}]
}

// State is one simulated transaction. It implements chaincode.State with the
// rules of Fabric's simulator: reads do not see the transaction's own writes, and
// a transaction that has read a page may not write, nor the other way round.
type State struct {
	store      *Store
	txID       string
	values     map[key][]byte
	meta       map[key]map[string][]byte
	writes     map[key][]byte // nil value: delete
	metaWrites map[key]map[string][]byte
	paged      bool
	open       int // iterators not closed
}

var _ chaincode.State = (*State)(nil)

// Commit makes the writes visible and adds them to the history.
func (s *State) Commit(at time.Time) {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	for k, v := range s.writes {
		if len(v) == 0 {
			delete(s.store.values, k)
			delete(s.store.meta, k)
		} else {
			s.store.values[k] = v
		}
		s.store.history[k] = append(s.store.history[k], &queryresultpb.KeyModification{TxId: s.txID, Value: v, IsDelete: len(v) == 0, Timestamp: timestamppb.New(at)})
	}
	maps.Copy(s.store.meta, s.metaWrites)
}

// Writes is what was written in a namespace; a nil value is a delete.
func (s *State) Writes(namespace string) map[string][]byte {
	out := make(map[string][]byte)
	for k, v := range s.writes {
		if k.namespace == namespace {
			out[k.key] = v
		}
	}
	return out
}

// OpenIterators counts iterators that were not closed.
func (s *State) OpenIterators() int { return s.open }

// Get implements chaincode.State.
func (s *State) Get(namespace, k string) ([]byte, error) { return s.values[key{namespace, k}], nil }

// GetMetadata implements chaincode.State.
func (s *State) GetMetadata(namespace, k string) (map[string][]byte, error) {
	return s.meta[key{namespace, k}], nil
}

var errPaged = errors.New("the transaction has read a page; it may not write")

// Put implements chaincode.State.
func (s *State) Put(namespace, k string, value []byte) error {
	if s.paged {
		return errPaged
	}
	s.writes[key{namespace, k}] = bytes.Clone(value)
	return nil
}

// Delete implements chaincode.State.
func (s *State) Delete(namespace, k string) error { return s.Put(namespace, k, nil) }

// SetMetadata implements chaincode.State.
func (s *State) SetMetadata(namespace, k string, entries map[string][]byte) error {
	if s.paged {
		return errPaged
	}
	s.metaWrites[key{namespace, k}] = maps.Clone(entries)
	return nil
}

// Range implements chaincode.State.
func (s *State) Range(namespace, start, end string) (chaincode.KVIterator, error) {
	return s.scan(namespace, start, end), nil
}

// RangePage implements chaincode.State.
func (s *State) RangePage(namespace, start, end string, pageSize int32, bookmark string) (chaincode.PageIterator, error) {
	if len(s.writes) > 0 {
		return nil, errors.New("the transaction has written; it may not read a page")
	}
	if pageSize < 0 {
		return nil, fmt.Errorf("page size %d", pageSize)
	}
	s.paged = true
	if bookmark != "" {
		start = bookmark
	}
	return s.scan(namespace, start, end), nil
}

func (s *State) scan(namespace, start, end string) *scan {
	var keys []string
	for k := range s.values {
		if k.namespace == namespace && k.key >= start && (end == "" || k.key < end) {
			keys = append(keys, k.key)
		}
	}
	slices.Sort(keys)
	s.open++
	return &scan{state: s, namespace: namespace, keys: keys}
}

// scan walks sorted keys.
type scan struct {
	state     *State
	namespace string
	keys      []string
}

func (c *scan) Next() (*queryresultpb.KV, error) {
	if len(c.keys) == 0 {
		return nil, nil
	}
	k := c.keys[0]
	c.keys = c.keys[1:]
	return &queryresultpb.KV{Namespace: c.namespace, Key: k, Value: c.state.values[key{c.namespace, k}]}, nil
}

func (c *scan) Bookmark() string {
	if len(c.keys) == 0 {
		return ""
	}
	return c.keys[0]
}

func (c *scan) Close() { c.state.open-- }

// History implements chaincode.State.
func (s *State) History(namespace, k string) (chaincode.HistoryIterator, error) {
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	changes := slices.Clone(s.store.history[key{namespace, k}])
	slices.Reverse(changes)
	s.open++
	return &historyScan{state: s, changes: changes}, nil
}

type historyScan struct {
	state   *State
	changes []*queryresultpb.KeyModification
}

func (h *historyScan) Next() (*queryresultpb.KeyModification, error) {
	if len(h.changes) == 0 {
		return nil, nil
	}
	c := h.changes[0]
	h.changes = h.changes[1:]
	return c, nil
}

func (h *historyScan) Close() { h.state.open-- }
