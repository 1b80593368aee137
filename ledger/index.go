package ledger

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/syndtr/goleveldb/leveldb"
	"golang.org/x/sync/errgroup"

	"strongroom/ledger/rwset"
	"strongroom/wire"
	"strongroom/wire/peerpb"
)

// index finds blocks and transactions. Rows:
//
//	'n' number      → file, offset and length of the record, as varints
//	'h' block hash  → number
//	't' tx id       → block, index and validation code of the first transaction of that id
//	's'             → savepoint: the next block's number and place, the last block's hash
//	'b', 'x'        → see store.go
type index struct{ *store }

// tip is what the index knows about the end of the chain.
type tip struct {
	next uint64   // number of the next block
	end  location // where its record will stand, unless a new file starts
	hash []byte   // of the last block; nil without one
}

func numberKey(number uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{'n'}, number)
}

func hashKey(hash []byte) []byte {
	return append([]byte{'h'}, hash...)
}

// txKey holds a transaction id in half the space if it is 64 digits of hex.
func txKey(txID string) []byte {
	if len(txID) == 64 {
		b := make([]byte, 2, 34)
		b[0] = 't'
		if raw, err := hex.AppendDecode(b, []byte(txID)); err == nil && hex.EncodeToString(raw[2:]) == txID {
			return raw
		}
	}
	return append([]byte{'t', 1}, txID...)
}

// txEntry is where a transaction is and what became of it.
type txEntry struct {
	height rwset.Height
	code   peerpb.TxValidationCode
}

// occurrence tells where the id of a transaction occurred before.
type occurrence uint8

const (
	firstSeen occurrence = iota // nowhere, or it has none
	seenInBlock
	seenInIndex // in an earlier block
)

// seen looks up which of a block's transaction ids are in the index already, or
// occur earlier in the block. Transactions without an id are never seen.
func (x index) seen(b *wire.Block) ([]occurrence, error) {
	seen := make([]occurrence, len(b.Txs))
	first := make(map[string]int, len(b.Txs)) // which of the block's transactions had an id first
	for i, tx := range b.Txs {
		if id := tx.IndexID(); id != "" {
			if _, again := first[id]; again {
				seen[i] = seenInBlock
				continue
			}
			first[id] = i
		}
	}
	var g errgroup.Group
	for from := 0; from < len(b.Txs); from += seenChunk {
		g.Go(func() error {
			for i := from; i < min(from+seenChunk, len(b.Txs)); i++ {
				id := b.Txs[i].IndexID()
				if id == "" || seen[i] == seenInBlock {
					continue
				}
				known, err := x.has(txKey(id))
				if err != nil {
					return err
				}
				if known {
					seen[i] = seenInIndex
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i, tx := range b.Txs {
		if seen[i] == seenInBlock {
			seen[i] = max(seenInBlock, seen[first[tx.IndexID()]])
		}
	}
	return seen, nil
}

// seenChunk is how many ids one goroutine looks up at a time.
const seenChunk = 64

// batch is what adds a block to the index. seen comes from the method of that name.
func (x index) batch(b *wire.Block, flags []peerpb.TxValidationCode, seen []occurrence, at location) *leveldb.Batch {
	batch := &leveldb.Batch{}
	number := b.Number()
	v := binary.AppendUvarint(nil, uint64(at.File))
	v = binary.AppendUvarint(v, uint64(at.Offset))
	v = binary.AppendUvarint(v, uint64(at.Length))
	batch.Put(numberKey(number), v)
	batch.Put(hashKey(b.Hash), binary.AppendUvarint(nil, number))
	for i, tx := range b.Txs {
		if id := tx.IndexID(); id != "" && seen[i] == firstSeen {
			v = binary.AppendUvarint(v[:0], number)
			v = binary.AppendUvarint(v, uint64(i))
			batch.Put(txKey(id), append(v, byte(flags[i])))
		}
	}
	markApplied(batch, number)
	end := at.end()
	v = binary.AppendUvarint(v[:0], number+1)
	v = binary.AppendUvarint(v, uint64(end.File))
	v = binary.AppendUvarint(v, uint64(end.Offset))
	batch.Put(savepointKey, append(v, b.Hash...))
	return batch
}

// tip reads the savepoint.
func (x index) tip() (tip, error) {
	v, err := x.get(savepointKey)
	if err != nil || v == nil {
		return tip{}, err
	}
	var n [3]uint64
	if v, err = uvarints(v, n[:]); err != nil {
		return tip{}, fmt.Errorf("store %s: its savepoint is not readable: delete the folder, it is rebuilt from the block log", x.dir)
	}
	return tip{next: n[0], end: location{File: uint32(n[1]), Offset: int64(n[2])}, hash: v}, nil
}

// location returns where a block's record is; ErrNotFound when there is none.
func (x index) location(number uint64) (location, error) {
	v, err := x.get(numberKey(number))
	if err != nil {
		return location{}, err
	}
	if v == nil {
		return location{}, fmt.Errorf("block %d: %w", number, ErrNotFound)
	}
	var n [3]uint64
	if v, err = uvarints(v, n[:]); err != nil || len(v) != 0 || n[2] < frameHeader || n[2] > frameHeader+maxRecord {
		return location{}, fmt.Errorf("store %s: row of block %d is not readable: delete the folder, it is rebuilt from the block log", x.dir, number)
	}
	return location{File: uint32(n[0]), Offset: int64(n[1]), Length: int(n[2])}, nil
}

// byHash returns the number of the block with a hash.
func (x index) byHash(hash []byte) (uint64, error) {
	v, err := x.get(hashKey(hash))
	if err != nil {
		return 0, err
	}
	if v == nil {
		return 0, fmt.Errorf("block with hash %x: %w", hash, ErrNotFound)
	}
	number, n := binary.Uvarint(v)
	if n <= 0 {
		return 0, fmt.Errorf("store %s: row of block hash %x is not readable: delete the folder, it is rebuilt from the block log", x.dir, hash)
	}
	return number, nil
}

// tx returns where a transaction is.
func (x index) tx(txID string) (txEntry, error) {
	v, err := x.get(txKey(txID))
	if err != nil {
		return txEntry{}, err
	}
	if v == nil {
		return txEntry{}, fmt.Errorf("transaction %q: %w", txID, ErrNotFound)
	}
	var n [2]uint64
	if v, err = uvarints(v, n[:]); err != nil || len(v) != 1 {
		return txEntry{}, fmt.Errorf("store %s: row of transaction %q is not readable: delete the folder, it is rebuilt from the block log", x.dir, txID)
	}
	return txEntry{height: rwset.Height{Block: n[0], Tx: n[1]}, code: peerpb.TxValidationCode(v[0])}, nil
}

// uvarints reads numbers from the start of b and returns what follows.
func uvarints(b []byte, into []uint64) ([]byte, error) {
	for i := range into {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errIncomplete
		}
		into[i], b = v, b[n:]
	}
	return b, nil
}
