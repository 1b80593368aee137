// Package rwset builds the read/write set of a transaction as Fabric's peers do:
// for the same operations on the same state its bytes are theirs, so that an
// endorsement of ours and one of Fabric's can stand in one transaction. It also
// holds the parts that committing shares with simulating: range query summaries,
// hashes of private data, and what counts as a delete. It performs no I/O.
package rwset

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/queryresultpb"
)

// Height is the place of a transaction in a channel: the version of every key
// that the transaction wrote.
type Height struct {
	Block uint64 // block number, from 0
	Tx    uint64 // index in the block, from 0
}

// String is the height as "block:tx".
func (h Height) String() string { return fmt.Sprintf("%d:%d", h.Block, h.Tx) }

// Compare orders heights by block, then by transaction: -1, 0 or 1.
func (h Height) Compare(other Height) int {
	switch {
	case h == other:
		return 0
	case h.Block < other.Block || h.Block == other.Block && h.Tx < other.Tx:
		return -1
	}
	return 1
}

// Proto is the height as kvrwset.Version; nil stays nil, which stands for a key
// that is not there.
func (h *Height) Proto() *kvrwsetpb.Version {
	if h == nil {
		return nil
	}
	return &kvrwsetpb.Version{BlockNum: h.Block, TxNum: h.Tx}
}

// Is tells whether a recorded version is this height. A nil height stands for a
// key that is not there, which only a missing version equals.
func (h *Height) Is(v *kvrwsetpb.Version) bool {
	if h == nil || v == nil {
		return h == nil && v == nil
	}
	return h.Block == v.GetBlockNum() && h.Tx == v.GetTxNum()
}

// KVIterator walks over keys and their values. Next returns nil and no error at
// the end. It is an alias of an unnamed type, so that packages which may not
// import each other can still agree on it.
type KVIterator = interface {
	Next() (*queryresultpb.KV, error)
	Close()
}

// PageIterator is a KVIterator over one page. Bookmark is where the next page
// starts, "" after the last one; it is to be asked once, when the page was read.
type PageIterator = interface {
	Next() (*queryresultpb.KV, error)
	Bookmark() string
	Close()
}

// HistoryIterator walks over what was done to one key, newest first. Next returns
// nil and no error at the end.
type HistoryIterator = interface {
	Next() (*queryresultpb.KeyModification, error)
	Close()
}

var emptyHash = sha256.Sum256(nil)

// IsDelete tells whether a write deletes its key: one of an empty value does.
func IsDelete(w *kvrwsetpb.KVWrite) bool {
	return w.GetIsDelete() || len(w.GetValue()) == 0
}

// IsHashDelete is IsDelete for the hashed write of a private key.
func IsHashDelete(w *kvrwsetpb.KVWriteHash) bool {
	return w.GetIsDelete() || len(w.GetValueHash()) == 0 || bytes.Equal(w.GetValueHash(), emptyHash[:])
}

// HashKey is the SHA-256 under which a private key appears in public.
func HashKey(key string) []byte {
	sum := sha256.Sum256([]byte(key))
	return sum[:]
}

// HashValue is the SHA-256 under which a private value, or the marshalled private
// writes of one collection, appear in public.
func HashValue(value []byte) []byte {
	sum := sha256.Sum256(value)
	return sum[:]
}
