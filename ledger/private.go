package ledger

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"google.golang.org/protobuf/proto"

	"strongroom/ledger/rwset"
	"strongroom/ledger/seal"
	"strongroom/wire"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/peerpb"
	"strongroom/wire/rwsetpb"
)

// private keeps private writes: those that wait for their transaction, and those
// of committed ones, from which private state can be rebuilt. Rows:
//
//	'k' tx id, 8 random bytes → height at which it came as a varint, private writes
//	'e' height, key of a 'k' row → nothing: what expires when
//	'p' block tx → private writes of a committed transaction
//
// Private writes are the byte 2 and then, for each namespace, its name with its
// length, 4 bytes of length, big endian, and the rwset.NsPvtReadWriteSet sealed with
// the namespace's keys. Formats 1 and 2 of a ledger had one sealed rwset.TxPvtReadWriteSet,
// whose first byte is 1.
type private struct {
	*store
	sealer  sealer
	keepFor uint64
}

const (
	rowKept      = 'k'
	rowExpiry    = 'e'
	rowCommitted = 'p'
	// expireEvery is how many blocks pass between removals of what expired.
	expireEvery = 64
)

// privateWrite is a new private value; deleted ones have none.
type privateWrite struct {
	value
	deleted bool
}

// privateUpdates is what a block does to private values.
type privateUpdates struct {
	m   map[privateKey]*privateWrite
	txs []privateTx // whose writes are at hand
}

type privateTx struct {
	at  rwset.Height
	set *rwsetpb.TxPvtReadWriteSet
}

func committedKey(at rwset.Height) []byte {
	b := binary.BigEndian.AppendUint64([]byte{rowCommitted}, at.Block)
	return binary.BigEndian.AppendUint32(b, uint32(at.Tx))
}

func keptPrefix(txID string) []byte { return appendString([]byte{rowKept}, txID) }

func (s private) keptPlace(txID string, height uint64) seal.Place {
	return seal.Place{Kind: seal.KindKept, Channel: s.sealer.channel, Key: txID, Block: height}
}

func (s private) committedPlace(at rwset.Height) seal.Place {
	return seal.Place{Kind: seal.KindCommitted, Channel: s.sealer.channel, Block: at.Block, Tx: at.Tx}
}

// KeepPrivate keeps the private writes of a transaction, sealed, until it is
// committed or KeepPrivateFor blocks have passed. A transaction may come more than
// once, with more or other collections: at its commit those count whose hash is in
// it. It is on the disk when KeepPrivate returns.
func (l *Ledger) KeepPrivate(txID string, pvt *rwsetpb.TxPvtReadWriteSet) error {
	v, err := l.acquire()
	if err != nil {
		return err
	}
	defer v.release()
	if txID == "" {
		return errors.New("private writes come without a transaction id")
	}
	for _, ns := range pvt.GetNsPvtRwset() {
		for _, coll := range ns.GetCollectionPvtRwset() {
			if err := proto.Unmarshal(coll.GetRwset(), &kvrwsetpb.KVRWSet{}); err != nil {
				return fmt.Errorf("private writes of transaction %q, namespace %q, collection %q are not a kvrwset.KVRWSet: %w",
					txID, ns.GetNamespace(), coll.GetCollectionName(), err)
			}
		}
	}
	return l.private.keep(txID, pvt, v.height)
}

func (s private) keep(txID string, pvt *rwsetpb.TxPvtReadWriteSet, height uint64) error {
	key := keptPrefix(txID)
	key = append(key, make([]byte, 8)...)
	if _, err := rand.Read(key[len(key)-8:]); err != nil {
		return fmt.Errorf("private writes of transaction %q: %w", txID, err)
	}
	row, err := s.seal(binary.AppendUvarint(nil, height), pvt, s.keptPlace(txID, height))
	if err != nil {
		return err
	}
	batch := &leveldb.Batch{}
	batch.Put(key, row)
	batch.Put(append(binary.BigEndian.AppendUint64([]byte{rowExpiry}, height), key...), nil)
	return s.write(batch)
}

// gather finds the private writes of a block's valid transactions and works out
// what they do to private values.
func (s private) gather(p *plan, before *view) (privateUpdates, error) {
	u := privateUpdates{m: map[privateKey]*privateWrite{}}
	var renewed []privateKey // keys of which a transaction wrote the metadata
	for i, tx := range p.block.Txs {
		if p.flags[i] != peerpb.TxValidationCode_VALID || tx.Endorsed == nil || !writesPrivate(tx.Endorsed.ReadWriteSet) {
			continue
		}
		at := rwset.Height{Block: p.block.Number(), Tx: uint64(i)}
		set, err := s.find(tx, at)
		if err != nil {
			return u, err
		}
		if set != nil {
			u.txs = append(u.txs, privateTx{at, set})
			keys, err := u.add(set, at)
			if err != nil {
				return u, err
			}
			renewed = append(renewed, keys...)
		}
	}
	if err := u.purge(p, before); err != nil {
		return u, err
	}
	return u, u.renew(renewed, p.updates, before)
}

// purge deletes the private values that valid transactions purge by their hash,
// whether or not the transaction's private writes are at hand.
func (u privateUpdates) purge(p *plan, before *view) error {
	for i, tx := range p.block.Txs {
		if p.flags[i] != peerpb.TxValidationCode_VALID || tx.Endorsed == nil {
			continue
		}
		at := rwset.Height{Block: p.block.Number(), Tx: uint64(i)}
		for _, ns := range tx.Endorsed.ReadWriteSet.Namespaces {
			for _, coll := range ns.Collections {
				for _, w := range coll.Hashed.GetHashedWrites() {
					if !w.GetIsPurge() {
						continue
					}
					if err := u.purgeHash(before, ns.Namespace, coll.Collection, w.GetKeyHash(), at); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

func (u privateUpdates) purgeHash(before *view, ns, collection string, keyHash []byte, at rwset.Height) error {
	keys, err := before.privateKeys(ns, collection)
	if err != nil {
		return err
	}
	for _, key := range keys {
		k := privateKey{ns, collection, key}
		if !bytes.Equal(rwset.HashKey(key), keyHash) {
			continue
		}
		if later := u.m[k]; later == nil || later.version.Compare(at) < 0 {
			u.m[k] = &privateWrite{value: value{version: at}, deleted: true}
		}
	}
	return nil
}

func writesPrivate(set *wire.ReadWriteSet) bool {
	for _, ns := range set.Namespaces {
		for _, coll := range ns.Collections {
			if len(coll.PvtHash) > 0 {
				return true
			}
		}
	}
	return false
}

// find returns the private writes of a transaction, collections of the wrong hash
// left out; nil when there are none at hand.
func (s private) find(tx *wire.Tx, at rwset.Height) (*rwsetpb.TxPvtReadWriteSet, error) {
	row, err := s.get(committedKey(at))
	if err != nil {
		return nil, err
	}
	if row != nil {
		set, err := s.open(row, s.committedPlace(at))
		if err != nil {
			return nil, err
		}
		// The row may be of a block that never came about: the hashes tell.
		if set = matching(tx.Endorsed.ReadWriteSet, []*rwsetpb.TxPvtReadWriteSet{set}); set != nil {
			return set, nil
		}
	}
	var candidates []*rwsetpb.TxPvtReadWriteSet
	rows := s.NewIterator(prefixRange(keptPrefix(tx.TxID()), "", ""), nil)
	defer rows.Release()
	for rows.Next() {
		height, n := binary.Uvarint(rows.Value())
		if n <= 0 {
			return nil, fmt.Errorf("store %s: row of private writes of transaction %q is not readable", s.dir, tx.TxID())
		}
		set, err := s.open(rows.Value()[n:], s.keptPlace(tx.TxID(), height))
		if err != nil {
			return nil, err
		}
		candidates = append(candidates, set)
	}
	if err := rows.Error(); err != nil {
		return nil, fmt.Errorf("store %s: read: %w", s.dir, err)
	}
	return matching(tx.Endorsed.ReadWriteSet, candidates), nil
}

// privateSplit is the first byte of private writes that are sealed by namespace.
const privateSplit = 2

// seal appends private writes to dst, each namespace's sealed for the place and the
// namespace.
func (s private) seal(dst []byte, set *rwsetpb.TxPvtReadWriteSet, at seal.Place) ([]byte, error) {
	dst = append(dst, privateSplit)
	for _, ns := range set.GetNsPvtRwset() {
		plain, err := proto.Marshal(ns)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		at.Namespace = ns.GetNamespace()
		if dst, err = s.sealer.part(appendString(dst, ns.GetNamespace()), plain, at); err != nil {
			return nil, err
		}
	}
	return dst, nil
}

// open reads private writes. Those of namespaces that were shredded are left out.
func (s private) open(row []byte, at seal.Place) (*rwsetpb.TxPvtReadWriteSet, error) {
	set := &rwsetpb.TxPvtReadWriteSet{}
	if len(row) == 0 || row[0] != privateSplit {
		plain, err := s.sealer.keyring.Open(nil, row, at)
		if err == nil {
			err = proto.Unmarshal(plain, set)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		return set, nil
	}
	for row = row[1:]; len(row) > 0; {
		length, n := binary.Uvarint(row)
		if n <= 0 || length > uint64(len(row)-n) {
			return nil, fmt.Errorf("%s: %w: a namespace is not readable", at, seal.ErrMalformed)
		}
		at.Namespace = string(row[n : n+int(length)])
		sealed, rest, ok := cutPart(row[n+int(length):])
		if !ok {
			return nil, fmt.Errorf("%s: %w: it is not complete", at, seal.ErrMalformed)
		}
		row = rest
		plain, err := s.sealer.keyring.Open(nil, sealed, at)
		if errors.Is(err, seal.ErrShredded) {
			continue
		}
		ns := &rwsetpb.NsPvtReadWriteSet{}
		if err == nil {
			err = proto.Unmarshal(plain, ns)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		set.NsPvtRwset = append(set.NsPvtRwset, ns)
	}
	return set, nil
}

// matching puts together, for each collection of a transaction, the private writes
// that have the hash which the transaction names.
func matching(public *wire.ReadWriteSet, candidates []*rwsetpb.TxPvtReadWriteSet) *rwsetpb.TxPvtReadWriteSet {
	out := &rwsetpb.TxPvtReadWriteSet{}
	for _, ns := range public.Namespaces {
		found := &rwsetpb.NsPvtReadWriteSet{Namespace: ns.Namespace}
		for _, coll := range ns.Collections {
			if c := withHash(candidates, ns.Namespace, coll.Collection, coll.PvtHash); c != nil {
				found.CollectionPvtRwset = append(found.CollectionPvtRwset, c)
			}
		}
		if len(found.CollectionPvtRwset) > 0 {
			out.NsPvtRwset = append(out.NsPvtRwset, found)
		}
	}
	if len(out.NsPvtRwset) == 0 {
		return nil
	}
	return out
}

func withHash(sets []*rwsetpb.TxPvtReadWriteSet, ns, collection string, hash []byte) *rwsetpb.CollectionPvtReadWriteSet {
	for _, set := range sets {
		for _, n := range set.GetNsPvtRwset() {
			if n.GetNamespace() != ns {
				continue
			}
			for _, c := range n.GetCollectionPvtRwset() {
				if c.GetCollectionName() == collection && bytes.Equal(rwset.HashValue(c.GetRwset()), hash) {
					return c
				}
			}
		}
	}
	return nil
}

// add applies a transaction's private writes and returns the keys of which it wrote
// the metadata.
func (u privateUpdates) add(set *rwsetpb.TxPvtReadWriteSet, at rwset.Height) ([]privateKey, error) {
	var renewed []privateKey
	for _, ns := range set.GetNsPvtRwset() {
		for _, coll := range ns.GetCollectionPvtRwset() {
			kv := &kvrwsetpb.KVRWSet{}
			if err := proto.Unmarshal(coll.GetRwset(), kv); err != nil {
				return nil, fmt.Errorf("private writes of transaction %s, namespace %q, collection %q: %w",
					at, ns.GetNamespace(), coll.GetCollectionName(), err)
			}
			for _, w := range kv.GetWrites() {
				k := privateKey{ns.GetNamespace(), coll.GetCollectionName(), w.GetKey()}
				u.m[k] = &privateWrite{value: value{bytes: w.GetValue(), version: at}, deleted: rwset.IsDelete(w)}
			}
			for _, w := range kv.GetMetadataWrites() {
				renewed = append(renewed, privateKey{ns.GetNamespace(), coll.GetCollectionName(), w.GetKey()})
			}
		}
	}
	return renewed, nil
}

// renew gives private values the version of their hash where a transaction wrote
// only the key's metadata, which moves the version of the hash alone. A value whose
// hash is another one is stale and stays as it is.
func (u privateUpdates) renew(keys []privateKey, public *updates, before *view) error {
	for _, k := range keys {
		hash := public.m[stateKey{k.ns, k.collection, string(rwset.HashKey(k.key))}]
		if hash == nil || hash.deleted {
			continue
		}
		latest := u.m[k]
		if latest == nil {
			v, err := before.private(k)
			if v == nil && err == nil || errors.Is(err, seal.ErrShredded) {
				continue
			}
			if err != nil {
				return err
			}
			latest = &privateWrite{value: *v}
		}
		if !latest.deleted && latest.version != hash.version && bytes.Equal(rwset.HashValue(latest.bytes), hash.bytes) {
			u.m[k] = &privateWrite{value: value{bytes: latest.bytes, version: hash.version}}
		}
	}
	return nil
}

// batch adds the new private values to the state's batch.
func (u privateUpdates) batch(batch *leveldb.Batch, s sealer) error {
	for k, w := range u.m {
		if w.deleted {
			batch.Delete(k.row(nil))
			continue
		}
		row, err := s.sealPrivate(k, &w.value)
		if err != nil {
			return err
		}
		batch.Put(k.row(nil), row)
	}
	return nil
}

// settle moves the private writes of a block's transactions to the block.
func (s private) settle(p *plan) error {
	if len(p.private.txs) == 0 {
		return nil
	}
	batch := &leveldb.Batch{}
	for _, tx := range p.private.txs {
		row, err := s.seal(nil, tx.set, s.committedPlace(tx.at))
		if err != nil {
			return err
		}
		batch.Put(committedKey(tx.at), row)
	}
	return s.write(batch)
}

// clear removes what waited for a block's transactions and, now and then, what
// expired. What is left because of a crash or an error expires later.
func (s private) clear(b *wire.Block, logger *slog.Logger) {
	batch := &leveldb.Batch{}
	err := s.clearTxs(b, batch)
	if b.Number()%expireEvery == 0 && b.Number() > s.keepFor {
		err = errors.Join(err, s.clearExpired(b.Number()-s.keepFor, batch))
	}
	if err == nil && batch.Len() > 0 {
		err = s.Write(batch, &opt.WriteOptions{})
	}
	if err != nil {
		logger.Warn("private writes that are no longer needed stay for now", "block", b.Number(), "error", err)
	}
}

func (s private) clearTxs(b *wire.Block, batch *leveldb.Batch) error {
	any := s.NewIterator(prefixRange([]byte{rowKept}, "", ""), nil)
	waiting := any.First()
	any.Release()
	if !waiting {
		return nil
	}
	for _, tx := range b.Txs {
		if tx.TxID() == "" {
			continue
		}
		rows := s.NewIterator(prefixRange(keptPrefix(tx.TxID()), "", ""), nil)
		for rows.Next() {
			if height, n := binary.Uvarint(rows.Value()); n > 0 {
				batch.Delete(append(binary.BigEndian.AppendUint64([]byte{rowExpiry}, height), rows.Key()...))
			}
			batch.Delete(rows.Key())
		}
		rows.Release()
		if err := rows.Error(); err != nil {
			return err
		}
	}
	return nil
}

func (s private) clearExpired(below uint64, batch *leveldb.Batch) error {
	limit := binary.BigEndian.AppendUint64(nil, below)
	rows := s.NewIterator(prefixRange([]byte{rowExpiry}, "", string(limit)), nil)
	defer rows.Release()
	for rows.Next() {
		batch.Delete(rows.Key())
		batch.Delete(rows.Key()[9:])
	}
	return rows.Error()
}
