package ledger

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/iterator"

	"strongroom/ledger/selector"
)

// The rows of the indexes for rich queries, in the state store beside the state:
//
//	'i' namespace number       → an index: its definition and what is being done to it
//	'q' namespace number entry key → length of the key
//	'j'                        → the next block's number when the indexes were last kept, and their form
//
// A commit keeps them in the batch that changes the state, so each view of the state
// has the indexes that fit it. An index that is new is kept from then on and filled
// in the background; queries read it when it is whole. A program that knows no
// indexes would leave them as they are: 'j' tells, and they are built again.
const (
	rowIndex      = 'i'
	rowIndexEntry = 'q'
)

var indexedKey = []byte{'j'}

// indexForm is the form of the entries: indexes of another are built again.
const indexForm = 1

// indexed is the row that says that the indexes are those of the state before a block.
func indexed(next uint64) []byte { return append(binary.AppendUvarint(nil, next), indexForm) }

// What is being done to an index.
const (
	indexBuilding = "building"
	indexReady    = "ready"
	indexDropping = "dropping"
)

// stateIndex is an index of a namespace. It is immutable.
type stateIndex struct {
	ns         string
	number     uint64
	definition *selector.Index
	status     string
	next       string // while it is being built: keys before this one are in it
}

// indexRecord is the row of an index.
type indexRecord struct {
	Definition json.RawMessage `json:"definition"`
	Status     string          `json:"status"`
	Next       []byte          `json:"next,omitempty"`
}

// indexes are those of each namespace. A map is never changed, only replaced.
type indexes map[string][]*stateIndex

func (x *stateIndex) row() []byte {
	return binary.BigEndian.AppendUint64(appendString([]byte{rowIndex}, x.ns), x.number)
}

func (x *stateIndex) prefix() []byte {
	return binary.BigEndian.AppendUint64(appendString([]byte{rowIndexEntry}, x.ns), x.number)
}

// put adds to a batch the row of the index.
func (x *stateIndex) put(batch *leveldb.Batch) error {
	b, err := json.Marshal(indexRecord{Definition: x.definition.Definition(), Status: x.status, Next: []byte(x.next)})
	if err != nil {
		return fmt.Errorf("index %s of %q: %w", x.definition, x.ns, err)
	}
	batch.Put(x.row(), b)
	return nil
}

// loadIndexes reads which indexes there are. Those that another program did not
// keep are built again.
func (l *Ledger) loadIndexes() error {
	rows := l.state.NewIterator(prefixRange([]byte{rowIndex}, "", ""), nil)
	defer rows.Release()
	var list []*stateIndex
	for rows.Next() {
		x, err := parseIndexRow(rows.Key(), rows.Value())
		if err != nil {
			return fmt.Errorf("store %s: %w: delete the folder, it is rebuilt from the block log", l.state.dir, err)
		}
		list = append(list, x)
		l.indexNumber = max(l.indexNumber, x.number)
	}
	if err := rows.Error(); err != nil {
		return fmt.Errorf("store %s: read: %w", l.state.dir, err)
	}
	next, err := l.state.next()
	if err != nil {
		return err
	}
	kept, err := l.state.get(indexedKey)
	if err != nil {
		return err
	}
	stale := !bytes.Equal(kept, indexed(next))
	batch := &leveldb.Batch{}
	l.indexes = indexes{}
	if err := l.eraseIndexes(); err != nil {
		return err
	}
	for _, x := range list {
		if l.config.Keyring.IsShredded(l.config.ChannelID, x.ns) {
			continue
		}
		if x.status == indexDropping {
			l.dropped = append(l.dropped, x)
			continue
		}
		if stale {
			l.config.Logger.Warn("building an index again: the ledger was written to by another version", "namespace", x.ns, "index", x.definition.String())
			if x, err = l.replaceIndex(batch, x); err != nil {
				return err
			}
		}
		l.indexes[x.ns] = append(l.indexes[x.ns], x)
	}
	if batch.Len() == 0 {
		return nil
	}
	batch.Put(indexedKey, indexed(next))
	return l.state.write(batch)
}

// replaceIndex has an index dropped and a new one of the same definition built.
func (l *Ledger) replaceIndex(batch *leveldb.Batch, x *stateIndex) (*stateIndex, error) {
	if err := l.dropIndex(batch, x); err != nil {
		return nil, err
	}
	return l.addIndex(batch, x.ns, x.definition)
}

func (l *Ledger) dropIndex(batch *leveldb.Batch, x *stateIndex) error {
	old := *x
	old.status, old.next = indexDropping, ""
	l.dropped = append(l.dropped, &old)
	return old.put(batch)
}

func (l *Ledger) addIndex(batch *leveldb.Batch, ns string, d *selector.Index) (*stateIndex, error) {
	l.indexNumber++
	x := &stateIndex{ns: ns, number: l.indexNumber, definition: d, status: indexBuilding}
	return x, x.put(batch)
}

func parseIndexRow(key, row []byte) (*stateIndex, error) {
	n, size := binary.Uvarint(key[1:])
	rest := key[1:]
	if size <= 0 || n > uint64(len(rest)) || uint64(len(rest)) != uint64(size)+n+8 {
		return nil, fmt.Errorf("the row of an index is not readable")
	}
	x := &stateIndex{ns: string(rest[size : uint64(size)+n]), number: binary.BigEndian.Uint64(rest[uint64(size)+n:])}
	var r indexRecord
	err := json.Unmarshal(row, &r)
	if err == nil {
		x.definition, err = selector.ParseIndex(r.Definition)
	}
	if err != nil {
		return nil, fmt.Errorf("the row of an index of %q: %w", x.ns, err)
	}
	x.status, x.next = r.Status, string(r.Next)
	return x, nil
}

// SetIndexes makes these the indexes of a namespace for rich queries. Those that are
// there already stay, others are built in the background, what is no longer named is
// removed. It waits for a running commit. Of definitions with the same design document
// and name the last counts, as if each were put in place of the one before. A namespace
// that was shredded has no indexes: they would lack the rows whose values are gone.
func (l *Ledger) SetIndexes(ns string, definitions []*selector.Index) error {
	if l.config.Keyring.IsShredded(l.config.ChannelID, ns) {
		return nil
	}
	wanted := map[string]*selector.Index{}
	for _, d := range definitions {
		wanted[d.String()] = d
	}
	l.commitMu.Lock()
	defer l.commitMu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	batch := &leveldb.Batch{}
	var list []*stateIndex
	for _, x := range l.indexes[ns] {
		if d := wanted[x.definition.String()]; d != nil && bytes.Equal(d.Definition(), x.definition.Definition()) {
			list = append(list, x)
			delete(wanted, d.String())
			continue
		}
		if err := l.dropIndex(batch, x); err != nil {
			return err
		}
		l.config.Logger.Info("removing an index", "channel", l.config.ChannelID, "namespace", ns, "index", x.definition.String())
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		x, err := l.addIndex(batch, ns, wanted[name])
		if err != nil {
			return err
		}
		list = append(list, x)
		l.config.Logger.Info("building an index", "channel", l.config.ChannelID, "namespace", ns, "index", name)
	}
	if batch.Len() == 0 {
		return nil
	}
	batch.Put(indexedKey, indexed(l.end.height))
	if err := l.state.write(batch); err != nil {
		l.failed = err // what is on the disk is not known
		return err
	}
	l.indexes = maps.Clone(l.indexes)
	l.indexes[ns] = list
	if len(list) == 0 {
		delete(l.indexes, ns)
	}
	l.builder.wake()
	return l.showIndexes()
}

// showIndexes lets readers see the indexes as they are now. commitMu is held.
func (l *Ledger) showIndexes() error {
	next, err := l.newView(l.end.height)
	if err != nil {
		return fmt.Errorf("store %s: snapshot: %w", l.state.dir, err)
	}
	l.mu.Lock()
	last := l.view
	l.view = next
	l.mu.Unlock()
	last.release()
	return nil
}

// IndexStatus is how far an index is.
type IndexStatus struct {
	Namespace string
	Index     string // "design document/name"
	Ready     bool   // queries read it
}

// Indexes lists the indexes for rich queries, by namespace and name.
func (l *Ledger) Indexes() ([]IndexStatus, error) {
	v, err := l.acquire()
	if err != nil {
		return nil, err
	}
	defer v.release()
	var out []IndexStatus
	for _, ns := range slices.Sorted(maps.Keys(v.indexes)) {
		for _, x := range v.indexes[ns] {
			out = append(out, IndexStatus{Namespace: ns, Index: x.definition.String(), Ready: x.status == indexReady})
		}
	}
	return out, nil
}

var encoders = sync.Pool{New: func() any { return selector.NewEncoder() }}

// entries are the rows of a document in the indexes of its namespace; an index that
// does not hold it has nil.
func entries(list []*stateIndex, e *selector.Encoder, key string, v *value) [][]byte {
	out := make([][]byte, len(list))
	if v == nil || v.gone {
		return out
	}
	doc, ok := selector.ReadDocument(key, v.bytes)
	if !ok {
		return out
	}
	for i, x := range list {
		if row, ok := e.Entry(x.prefix(), x.definition, doc); ok {
			out[i] = append(row, key...)
		}
	}
	return out
}

// indexChange is what a commit does to the rows of the indexes for one key.
type indexChange struct {
	gone, come [][]byte // the same row in both is left as it is
	keyLength  int
}

// change works out what becomes of a key's entries. up is nil when it is deleted.
func (xs indexes) change(before *view, k stateKey, up *value) (*indexChange, error) {
	list := xs[k.ns]
	if len(list) == 0 || k.collection != "" {
		return nil, nil
	}
	old, err := before.lookupGone(k)
	if err != nil {
		return nil, err
	}
	e := encoders.Get().(*selector.Encoder)
	defer encoders.Put(e)
	c := &indexChange{gone: entries(list, e, k.key, old), come: entries(list, e, k.key, up), keyLength: len(k.key)}
	for i := range c.gone {
		if bytes.Equal(c.gone[i], c.come[i]) && list[i].status == indexReady {
			c.gone[i], c.come[i] = nil, nil
		}
	}
	return c, nil
}

func (c *indexChange) put(batch *leveldb.Batch) {
	if c == nil {
		return
	}
	for _, row := range c.gone {
		if row != nil {
			batch.Delete(row)
		}
	}
	for _, row := range c.come {
		if row != nil {
			batch.Put(row, binary.AppendUvarint(nil, uint64(c.keyLength)))
		}
	}
}

// ready are the indexes of a namespace that hold all that they should at this view.
func (v *view) ready(ns string) []*stateIndex {
	var list []*stateIndex
	for _, x := range v.indexes[ns] {
		if x.status == indexReady {
			list = append(list, x)
		}
	}
	return list
}

// indexScan walks over the keys in a range of an index.
type indexScan struct {
	reader  *stateReader
	prefix  int
	desc    bool
	started bool
	rows    iterator.Iterator
}

func (r *stateReader) scanIndex(x *stateIndex, from, to []byte, desc bool) *indexScan {
	prefix := x.prefix()
	limit := string(to)
	if to != nil && limit == "" { // nothing stands before the empty entry
		limit = "\x00"
	}
	return &indexScan{reader: r, prefix: len(prefix), desc: desc, rows: r.snapshot.NewIterator(prefixRange(prefix, string(from), limit), nil)}
}

func (s *indexScan) move() bool {
	switch {
	case !s.desc:
		return s.rows.Next()
	case s.started:
		return s.rows.Prev()
	}
	s.started = true
	return s.rows.Last()
}

// Next implements selector.Keys.
func (s *indexScan) Next() (key string, ok bool, err error) {
	if !s.move() {
		if err := s.rows.Error(); err != nil {
			return "", false, fmt.Errorf("store %s: read: %w", s.reader.dir, err)
		}
		return "", false, nil
	}
	row := s.rows.Key()
	n, size := binary.Uvarint(s.rows.Value())
	if size <= 0 || n > uint64(len(row)-s.prefix) {
		return "", false, fmt.Errorf("store %s: a row of an index is not readable: delete the folder, it is rebuilt from the block log", s.reader.dir)
	}
	return string(row[uint64(len(row))-n:]), true, nil
}

// Close implements selector.Keys.
func (s *indexScan) Close() { s.rows.Release() }
