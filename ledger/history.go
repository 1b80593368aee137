package ledger

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/iterator"

	"strongroom/ledger/rwset"
	"strongroom/ledger/seal"
	"strongroom/wire"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/peerpb"
	"strongroom/wire/queryresultpb"
)

// The history store says which transactions wrote a key. It holds no values: those
// are in the blocks. Rows:
//
//	'k' namespace length-of-key key block tx → nothing
//	'b', 's', 'x' → see store.go; the savepoint is the next block's number
const rowHistory = 'k'

// historyHeight is the length of a height at the end of a row's key.
const historyHeight = 12

func historyPrefix(b []byte, ns, key string) []byte {
	return appendString(appendString(append(b, rowHistory), ns), key)
}

// historyBatch is what adds a block's valid transactions to the history.
func historyBatch(b *wire.Block, flags []peerpb.TxValidationCode) *leveldb.Batch {
	batch := &leveldb.Batch{}
	var row []byte
	for i, tx := range b.Txs {
		if flags[i] != peerpb.TxValidationCode_VALID || tx.Endorsed == nil || tx.Endorsed.ReadWriteSet == nil {
			continue
		}
		for _, ns := range tx.Endorsed.ReadWriteSet.Namespaces {
			for _, w := range ns.KV.GetWrites() {
				row = historyPrefix(row[:0], ns.Namespace, w.GetKey())
				row = binary.BigEndian.AppendUint64(row, b.Number())
				row = binary.BigEndian.AppendUint32(row, uint32(i))
				batch.Put(row, nil)
			}
		}
	}
	markApplied(batch, b.Number())
	batch.Put(savepointKey, binary.AppendUvarint(nil, b.Number()+1))
	return batch
}

// historyWalk gives what was done to one key, newest first, up to a height.
type historyWalk struct {
	ledger  *Ledger
	ns, key string
	below   uint64 // blocks from this one on are not seen
	rows    iterator.Iterator
	started bool
	closed  bool
}

func (l *Ledger) newHistoryWalk(ns, key string, below uint64) *historyWalk {
	return &historyWalk{
		ledger: l, ns: ns, key: key, below: below,
		rows: l.history.NewIterator(prefixRange(historyPrefix(nil, ns, key), "", ""), nil),
	}
}

func (h *historyWalk) move() bool {
	if h.started {
		return h.rows.Prev()
	}
	h.started = true
	return h.rows.Last()
}

// Next returns the next older change, nil at the end.
func (h *historyWalk) Next() (*queryresultpb.KeyModification, error) {
	if h.closed {
		return nil, ErrDone
	}
	for h.move() {
		row := h.rows.Key()
		if len(row) < historyHeight {
			return nil, fmt.Errorf("store %s: a row is not readable: delete the folder, it is rebuilt from the block log", h.ledger.history.dir)
		}
		tail := row[len(row)-historyHeight:]
		at := rwset.Height{Block: binary.BigEndian.Uint64(tail), Tx: uint64(binary.BigEndian.Uint32(tail[8:]))}
		if at.Block >= h.below {
			continue
		}
		return h.ledger.modification(h.ns, h.key, at)
	}
	if err := h.rows.Error(); err != nil {
		return nil, fmt.Errorf("store %s: read: %w", h.ledger.history.dir, err)
	}
	return nil, nil
}

// Close releases the walk. Closing twice is no error.
func (h *historyWalk) Close() {
	h.closed = true
	h.rows.Release()
}

// modification reads out of a block what a transaction wrote to a key.
func (l *Ledger) modification(ns, key string, at rwset.Height) (*queryresultpb.KeyModification, error) {
	b, err := l.parsedBlock(at.Block)
	if err != nil {
		return nil, err
	}
	if slices.Contains(b.stored.shredded, ns) {
		return nil, fmt.Errorf("history of key %q in namespace %q, transaction %s: %w", key, ns, at, seal.ErrShredded)
	}
	if at.Tx >= uint64(len(b.Txs)) || b.Txs[at.Tx].Endorsed == nil || b.Txs[at.Tx].Endorsed.ReadWriteSet == nil {
		return nil, fmt.Errorf("history of key %q in namespace %q names transaction %s, which has no writes: delete the folder %s, it is rebuilt from the block log",
			key, ns, at, l.history.dir)
	}
	tx := b.Txs[at.Tx]
	for _, set := range tx.Endorsed.ReadWriteSet.Namespaces {
		if set.Namespace != ns {
			continue
		}
		for _, w := range set.KV.GetWrites() {
			if w.GetKey() == key {
				return newModification(tx, w), nil
			}
		}
	}
	return nil, fmt.Errorf("history of key %q in namespace %q names transaction %s, which does not write it: delete the folder %s, it is rebuilt from the block log",
		key, ns, at, l.history.dir)
}

func newModification(tx *wire.Tx, w *kvrwsetpb.KVWrite) *queryresultpb.KeyModification {
	return &queryresultpb.KeyModification{
		TxId: tx.TxID(), Value: w.GetValue(), Timestamp: tx.ChannelHeader.GetTimestamp(), IsDelete: rwset.IsDelete(w),
	}
}
