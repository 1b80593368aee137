package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/filter"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/util"
)

// savepointKey is the row of each store that says which blocks it holds. It is
// written in the batch that applies a block, so the two cannot disagree.
var savepointKey = []byte{'s'}

// synced has a batch on the disk before the write returns.
var synced = &opt.WriteOptions{Sync: true}

// store is one goleveldb database of a ledger.
type store struct {
	*leveldb.DB
	dir string
}

// openStore opens or makes a database. Its journal is read strictly: a batch that
// is damaged in the middle is an error, never a gap.
func openStore(dir string, compress bool) (*store, error) {
	o := &opt.Options{
		Filter:                 filter.NewBloomFilter(10),
		WriteBuffer:            8 << 20,
		BlockCacheCapacity:     16 << 20,
		OpenFilesCacheCapacity: 128,
		Strict:                 opt.DefaultStrict | opt.StrictManifest,
		Compression:            opt.NoCompression,
	}
	if compress {
		o.Compression = opt.SnappyCompression
	}
	db, err := leveldb.OpenFile(dir, o)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", dir, err)
	}
	return &store{DB: db, dir: dir}, nil
}

// get returns a row, nil when there is none.
func (s *store) get(key []byte) ([]byte, error) {
	v, err := s.Get(key, nil)
	if errors.Is(err, leveldb.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("store %s: read: %w", s.dir, err)
	}
	if v == nil {
		v = []byte{} // a row without content is there
	}
	return v, nil
}

func (s *store) has(key []byte) (bool, error) {
	ok, err := s.Has(key, nil)
	if err != nil {
		return false, fmt.Errorf("store %s: read: %w", s.dir, err)
	}
	return ok, nil
}

// write applies a batch and has it on the disk.
func (s *store) write(b *leveldb.Batch) error {
	if err := s.Write(b, synced); err != nil {
		return fmt.Errorf("store %s: write: %w", s.dir, err)
	}
	return nil
}

// next is the number of the first block that the store does not hold.
func (s *store) next() (uint64, error) {
	v, err := s.get(savepointKey)
	if err != nil || v == nil {
		return 0, err
	}
	next, n := binary.Uvarint(v)
	if n <= 0 {
		return 0, fmt.Errorf("store %s: its savepoint is not readable: delete the folder, it is rebuilt from the block log", s.dir)
	}
	return next, nil
}

// prefixRange covers the keys that start with prefix and then lie in [from, to);
// an empty to stands for the end.
func prefixRange(prefix []byte, from, to string) *util.Range {
	r := &util.Range{Start: append(prefix[:len(prefix):len(prefix)], from...)}
	if to == "" {
		r.Limit = util.BytesPrefix(prefix).Limit
	} else {
		r.Limit = append(prefix[:len(prefix):len(prefix)], to...)
	}
	return r
}

// appendString appends a string and its length, so that what follows cannot be
// taken for a part of it.
func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}
