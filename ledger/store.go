package ledger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/syndtr/goleveldb/leveldb"
	lerrors "github.com/syndtr/goleveldb/leveldb/errors"
	"github.com/syndtr/goleveldb/leveldb/filter"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/storage"
	"github.com/syndtr/goleveldb/leveldb/util"

	"strongroom/ledger/seal"
	"strongroom/ledger/seal/sealfs"
)

// savepointKey is the row of each store that says which blocks it holds. It is
// written in the batch that applies a block, so the two cannot disagree.
var savepointKey = []byte{'s'}

// synced has a batch on the disk before the write returns.
var synced = &opt.WriteOptions{Sync: true}

// rowApplied is the start of the rows 'b' number that a store keeps for the blocks
// it holds last: one that is missing gives away a batch that was lost.
const rowApplied = 'b'

// appliedKept is how many of them are kept: more than a journal can hold.
const appliedKept = 1 << 17

// brokenKey is a row that says that the store lost a batch once.
var brokenKey = []byte{'x'}

// store is one goleveldb database of a ledger, in sealed files.
type store struct {
	*leveldb.DB
	dir   string
	files *sealfs.Storage
}

// Close closes the database and releases its folder.
func (s *store) Close() error { return errors.Join(s.DB.Close(), s.files.Close()) }

// openStore opens or makes a database that follows from the block log.
//
// Crash points: each batch is synced before the next is written, so a crash leaves
// at most the last one incomplete, and the journal without it is whole. Damage
// anywhere else is an error: an incomplete journal is only accepted when no block
// before the savepoint is missing.
func openStore(c Config, name string, compress bool) (*store, error) {
	const advice = "if the keyring is the one that made it, delete the folder: it is rebuilt from the block log"
	dir := filepath.Join(c.Dir, name)
	if c.rebuild {
		dir += rebuiltSuffix
	}
	s, recovered, err := openDatabase(c, dir, name, compress)
	if isCorrupted(err) || errors.Is(err, seal.ErrUnknownTerm) {
		return nil, fmt.Errorf("%w: %s", err, advice)
	}
	if err != nil {
		return nil, err
	}
	if recovered {
		c.Logger.Warn("the journal of a store was incomplete; what it lacks is applied again", "store", dir, "cut", s.files.Cut())
	}
	if err = s.checkApplied(recovered); err != nil {
		return nil, errors.Join(fmt.Errorf("store %s: %w: %s", dir, err, advice), s.Close())
	}
	return s, nil
}

// isCorrupted tells damage to a database from a disk or a token that fails.
func isCorrupted(err error) bool {
	var files *storage.ErrCorrupted
	var content *lerrors.ErrCorrupted
	return errors.As(err, &files) || errors.As(err, &content)
}

// openDatabase opens a database of the ledger in a folder, strictly if that works.
// Otherwise it drops what is damaged at the end of its journal and says so.
func openDatabase(c Config, dir, name string, compress bool) (s *store, recovered bool, err error) {
	o := options(compress)
	if c.writeBuffer > 0 {
		o.WriteBuffer = c.writeBuffer
	}
	files := sealfs.Config{Dir: dir, Keyring: c.Keyring, Channel: c.ChannelID, Store: name, FS: c.FS}
	s, err = openSealed(files, o)
	if isCorrupted(err) {
		recovered = true
		o.Strict &^= opt.StrictJournal
		files.Lenient = true
		s, err = openSealed(files, o)
	}
	if err != nil {
		return nil, false, fmt.Errorf("store %s: %w", dir, err)
	}
	return s, recovered, nil
}

func options(compress bool) *opt.Options {
	o := &opt.Options{
		Filter:                 filter.NewBloomFilter(10),
		WriteBuffer:            8 << 20,
		BlockCacheCapacity:     16 << 20,
		OpenFilesCacheCapacity: 128,
		Strict:                 opt.DefaultStrict | opt.StrictManifest | opt.StrictJournal,
		Compression:            opt.NoCompression,
	}
	if compress {
		o.Compression = opt.SnappyCompression
	}
	return o
}

func openSealed(c sealfs.Config, o *opt.Options) (*store, error) {
	files, err := sealfs.Open(c)
	if err != nil {
		return nil, err
	}
	db, err := leveldb.Open(files, o)
	if err != nil {
		return nil, errors.Join(err, files.Close())
	}
	return &store{DB: db, dir: c.Dir, files: files}, nil
}

// checkApplied looks for a block that the store should hold and does not. A store
// that lost one says so for ever.
func (s *store) checkApplied(recovered bool) error {
	broken, err := s.has(brokenKey)
	if err != nil {
		return err
	}
	if broken {
		return errors.New("its journal was damaged")
	}
	if !recovered {
		return nil
	}
	next, err := s.next()
	if err != nil {
		return err
	}
	rows := s.NewIterator(prefixRange([]byte{rowApplied}, "", ""), nil)
	defer rows.Release()
	want := uint64(0)
	if next > appliedKept {
		want = next - appliedKept
	}
	for ; rows.Next(); want++ {
		if !bytes.Equal(rows.Key(), appliedKey(want)) {
			break
		}
	}
	if err := rows.Error(); err != nil {
		return err
	}
	if want == next {
		return nil
	}
	return errors.Join(fmt.Errorf("its journal is damaged: block %d is missing", want), s.Put(brokenKey, nil, synced))
}

func appliedKey(number uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{rowApplied}, number)
}

// markApplied adds to a batch that it applies a block. It goes with the savepoint.
func markApplied(batch *leveldb.Batch, number uint64) {
	batch.Put(appliedKey(number), nil)
	if number >= appliedKept {
		batch.Delete(appliedKey(number - appliedKept))
	}
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
