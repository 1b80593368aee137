package ledger

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"strongroom/ledger/rwset"
	"strongroom/wire/rwsetpb"
)

// ErrNoPrivateData means that the private data which matches the public hash is
// not on this peer.
var ErrNoPrivateData = errors.New("private data matching public hash version is not available")

// ErrDone means that a simulator was used after Done.
var ErrDone = errors.New("simulation is over")

// implicitPrefix starts the name of an organization's implicit collection; its MSP
// id follows.
const implicitPrefix = "_implicit_org_"

// Simulator runs one proposal over one snapshot and records what it reads and
// writes. As in Fabric, reading never shows what the same proposal wrote, an empty
// value deletes a key, and any key of valid UTF-8 may be used, the empty one too:
// what chaincode libraries forbid beyond that is theirs to check. It is not safe
// for concurrent use, and neither are its iterators. Done must be called.
type Simulator struct {
	ledger   *Ledger
	view     *view
	txID     string
	set      rwset.Builder
	ranges   []*recordedRange
	closers  []interface{ Close() } // all iterators
	written  []writtenKey
	readPvt  map[collectionName]struct{}
	wrote    bool
	paged    bool
	queried  bool  // a range of private keys was read
	failed   error // of a call that could not return it
	finished bool
	done     bool
}

type collectionName struct{ ns, collection string }

// NewSimulator starts a simulation at the present height. The id is for errors.
func (l *Ledger) NewSimulator(txID string) (*Simulator, error) {
	v, err := l.acquire()
	if err != nil {
		return nil, err
	}
	return &Simulator{ledger: l, view: v, txID: txID, readPvt: map[collectionName]struct{}{}}, nil
}

// TxID is the id that the simulation was started with.
func (s *Simulator) TxID() string { return s.txID }

// Height is the number of blocks that the simulation sees.
func (s *Simulator) Height() uint64 { return s.view.height }

// Done ends the simulation and its iterators. Calling it twice is no error.
func (s *Simulator) Done() {
	if s.done {
		return
	}
	s.done = true
	for _, c := range s.closers {
		c.Close()
	}
	s.view.release()
}

// check refuses what a read/write set cannot carry.
func (s *Simulator) check(ns, key string) error {
	switch {
	case s.done:
		return fmt.Errorf("transaction %q: %w", s.txID, ErrDone)
	case s.finished:
		return fmt.Errorf("transaction %q: the results were taken already", s.txID)
	case !utf8.ValidString(ns):
		return fmt.Errorf("namespace %q is not valid UTF-8", ns)
	case !utf8.ValidString(key):
		return fmt.Errorf("key %q is not valid UTF-8", key)
	}
	return nil
}

func (s *Simulator) checkCollection(ns, collection, key string) error {
	if org, ok := strings.CutPrefix(collection, implicitPrefix); !ok || org == "" || !utf8.ValidString(collection) {
		return fmt.Errorf("collection %q of namespace %q cannot be used: only an organization's implicit collection can, %s<MSP id>",
			collection, ns, implicitPrefix)
	}
	return s.check(ns, key)
}

// Get returns the committed value of a key, nil when it is not there.
func (s *Simulator) Get(ns, key string) ([]byte, error) {
	v, err := s.read(ns, key)
	if err != nil || v == nil {
		return nil, err
	}
	return v.bytes, nil
}

func (s *Simulator) read(ns, key string) (*value, error) {
	if err := s.check(ns, key); err != nil {
		return nil, err
	}
	v, err := s.view.lookup(stateKey{ns: ns, key: key})
	if err != nil {
		return nil, err
	}
	s.set.Read(ns, key, v.height())
	return v, nil
}

// height is the value's version; that of no value is nil.
func (v *value) height() *rwset.Height {
	if v == nil {
		return nil
	}
	return &v.version
}

// GetMultiple is Get for several keys; the values are in the order of the keys.
func (s *Simulator) GetMultiple(ns string, keys []string) ([][]byte, error) {
	values := make([][]byte, len(keys))
	for i, key := range keys {
		var err error
		if values[i], err = s.Get(ns, key); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// GetMetadata returns a key's metadata, nil when it has none or is not there. The
// key counts as read.
func (s *Simulator) GetMetadata(ns, key string) (map[string][]byte, error) {
	v, err := s.read(ns, key)
	if err != nil || v == nil {
		return nil, err
	}
	return decodeMetadata(v.metadata)
}

// checkWrite refuses writes in a transaction that read pages: its results would
// depend on where the pages ended.
func (s *Simulator) checkWrite(ns, key string) error {
	if err := s.check(ns, key); err != nil {
		return err
	}
	if s.paged {
		return fmt.Errorf("txid [%s]: unsupported transaction. Transaction has already performed a paginated query. Writes are not allowed", s.txID)
	}
	if s.queried {
		return fmt.Errorf("txid [%s]: unsupported transaction. Transaction has already performed queries on pvt data. Writes are not allowed", s.txID)
	}
	s.wrote = true
	return nil
}

// Put records a value for a key; an empty one deletes it. The simulator keeps the slice.
func (s *Simulator) Put(ns, key string, value []byte) error {
	if err := s.checkWrite(ns, key); err != nil {
		return err
	}
	s.set.Write(ns, key, value)
	s.written = append(s.written, writtenKey{ns: ns, key: key})
	return nil
}

// Delete records that a key is deleted.
func (s *Simulator) Delete(ns, key string) error { return s.Put(ns, key, nil) }

// SetMetadata records metadata for a key, such as its endorsement policy under
// "VALIDATION_PARAMETER". Nil or empty metadata removes it. For a key that will not
// be there when the transaction commits it has no effect.
func (s *Simulator) SetMetadata(ns, key string, metadata map[string][]byte) error {
	if err := s.checkWrite(ns, key); err != nil {
		return err
	}
	s.set.WriteMetadata(ns, key, metadata)
	s.written = append(s.written, writtenKey{ns: ns, key: key})
	return nil
}

// History walks over what valid transactions did to a key, newest first. It is not
// recorded: a transaction that decides by it is not checked against later changes.
func (s *Simulator) History(ns, key string) (rwset.HistoryIterator, error) {
	if err := s.check(ns, key); err != nil {
		return nil, err
	}
	h := s.ledger.newHistoryWalk(ns, key, s.view.height)
	s.closers = append(s.closers, h)
	return h, nil
}

// GetPrivate returns the committed private value of a key, nil when it is not
// there. ErrNoPrivateData means that this peer does not have the value.
func (s *Simulator) GetPrivate(ns, collection, key string) ([]byte, error) {
	if err := s.checkCollection(ns, collection, key); err != nil {
		return nil, err
	}
	v, err := s.view.currentPrivate(ns, collection, key)
	if err != nil {
		return nil, err
	}
	s.set.ReadPrivate(ns, collection, key, v.height())
	s.readPvt[collectionName{ns, collection}] = struct{}{}
	if v == nil {
		return nil, nil
	}
	return v.bytes, nil
}

// GetPrivateHash returns the SHA-256 of a private value, nil when it is not there.
func (s *Simulator) GetPrivateHash(ns, collection, key string) ([]byte, error) {
	v, err := s.readHash(ns, collection, key)
	if err != nil || v == nil {
		return nil, err
	}
	return v.bytes, nil
}

// GetPrivateMetadata returns a private key's metadata, nil when it has none or is
// not there.
func (s *Simulator) GetPrivateMetadata(ns, collection, key string) (map[string][]byte, error) {
	v, err := s.readHash(ns, collection, key)
	if err != nil || v == nil {
		return nil, err
	}
	return decodeMetadata(v.metadata)
}

func (s *Simulator) readHash(ns, collection, key string) (*value, error) {
	if err := s.checkCollection(ns, collection, key); err != nil {
		return nil, err
	}
	v, err := s.view.lookup(stateKey{ns, collection, string(rwset.HashKey(key))})
	if err != nil {
		return nil, err
	}
	s.set.ReadPrivate(ns, collection, key, v.height())
	return v, nil
}

// RangePrivate walks over the private values on this peer whose keys lie in
// [start, end); an empty end stands for the last key. What it reads is not
// recorded, so that transactions which use it cannot write.
func (s *Simulator) RangePrivate(ns, collection, start, end string) (rwset.KVIterator, error) {
	if err := s.checkCollection(ns, collection, start); err != nil {
		return nil, err
	}
	if s.wrote {
		return nil, fmt.Errorf("txid [%s]: unsupported transaction. Queries on pvt data is supported only in a read-only transaction", s.txID)
	}
	s.queried = true
	r := &privateRange{rows: s.view.scanPrivate(ns, collection, start, end)}
	s.closers = append(s.closers, r)
	return r, nil
}

// PutPrivate records a value for a private key; an empty one deletes it.
func (s *Simulator) PutPrivate(ns, collection, key string, value []byte) error {
	if err := s.checkPrivateWrite(ns, collection, key); err != nil {
		return err
	}
	s.set.WritePrivate(ns, collection, key, value)
	return nil
}

// DeletePrivate records that a private key is deleted.
func (s *Simulator) DeletePrivate(ns, collection, key string) error {
	return s.PutPrivate(ns, collection, key, nil)
}

// SetPrivateMetadata records metadata for a private key.
func (s *Simulator) SetPrivateMetadata(ns, collection, key string, metadata map[string][]byte) error {
	if err := s.checkPrivateWrite(ns, collection, key); err != nil {
		return err
	}
	s.set.WritePrivateMetadata(ns, collection, key, metadata)
	return nil
}

// PurgePrivate is refused: this version keeps the private writes of committed
// transactions whole and cannot take a key's history out of them.
func (s *Simulator) PurgePrivate(ns, collection, key string) error {
	return fmt.Errorf("key %q in collection %q of %q: purging private data is not supported; delete the key instead", key, collection, ns)
}

func (s *Simulator) checkPrivateWrite(ns, collection, key string) error {
	if err := s.checkCollection(ns, collection, key); err != nil {
		return err
	}
	if err := s.checkWrite(ns, key); err != nil {
		return err
	}
	s.written = append(s.written, writtenKey{ns, collection, key})
	return nil
}

// Results closes the simulation's read/write set and returns the public part as
// the bytes of a rwset.TxReadWriteSet, which are Fabric's for the same operations,
// and the private part, nil when there is none. It can be called once.
func (s *Simulator) Results() (public []byte, private *rwsetpb.TxPvtReadWriteSet, err error) {
	if err := s.check("", ""); err != nil {
		return nil, nil, err
	}
	s.finished = true
	if s.failed != nil {
		return nil, nil, s.failed
	}
	for _, r := range s.ranges {
		if err := r.record(&s.set); err != nil {
			return nil, nil, err
		}
	}
	set, private, err := s.set.Build()
	if err != nil {
		return nil, nil, err
	}
	if public, err = proto.Marshal(set); err != nil {
		return nil, nil, fmt.Errorf("rwset.TxReadWriteSet: %w", err)
	}
	return public, private, nil
}
