package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/iterator"

	"strongroom/ledger/seal"
)

// Part is what a part of a ledger takes on the disk.
type Part struct {
	Name  string `json:"name"`
	Files int    `json:"files"`
	Bytes int64  `json:"bytes"`
}

// Namespace counts the keys of a namespace.
type Namespace struct {
	Keys        uint64 `json:"keys"`
	PrivateKeys uint64 `json:"privateKeys"` // hashes of private keys
	Bytes       uint64 `json:"bytes"`       // of their rows in the state, sealed
}

// Stats is what a ledger holds and what it takes.
type Stats struct {
	Channel      string `json:"channel"`
	Format       string `json:"format"` // version of the folder's format
	Height       uint64 `json:"height"`
	Transactions uint64 `json:"transactions"` // ids in the index
	// Compressed and Plain count the records of the block log by their form; a record of
	// the present form counts as compressed, though blocks of more than 128 MiB are not.
	Compressed uint64               `json:"compressedBlocks"`
	Plain      uint64               `json:"plainBlocks"`
	Parts      []Part               `json:"parts"`
	Bytes      int64                `json:"bytes"` // of all parts
	Namespaces map[string]Namespace `json:"namespaces"`
	// Terms counts blocks (their outlines), metadata and values of state by the term of
	// the keyring that sealed them.
	Terms map[uint32]uint64 `json:"terms"`
	// Shredded are the namespaces of the channel whose keys were destroyed, oldest first.
	Shredded []seal.Shredded `json:"shredded,omitempty"`
}

// Stats counts what the ledger holds, on one snapshot of each store, beside commits.
// It reads all rows of state and index. Further folders are counted as parts, by name.
func (l *Ledger) Stats(ctx context.Context, folders map[string]string) (*Stats, error) {
	v, err := l.acquire()
	if err != nil {
		return nil, err
	}
	defer v.release()
	return l.stats(ctx, v.snapshot, v.height, folders)
}

// ReadStats is Stats of a ledger that nobody has open. Nothing on the disk changes.
func ReadStats(ctx context.Context, c Config, folders map[string]string) (_ *Stats, err error) {
	l, err := openForReading(c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.closeFiles()) }()
	snapshot, err := l.state.GetSnapshot()
	if err != nil {
		return nil, err
	}
	defer snapshot.Release()
	height, err := l.index.next()
	if err != nil {
		return nil, err
	}
	return l.stats(ctx, snapshot, height, folders)
}

// openForReading opens the stores of a ledger and nothing else.
func openForReading(c Config) (*Ledger, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	l, err := newLedger(c)
	if err != nil {
		return nil, err
	}
	if err := readForm(l.config); err != nil {
		return nil, err
	}
	for i, into := range []**store{&l.index.store, &l.state, &l.history, &l.private.store} {
		s, cut, err := openUnchanged(l.config, storeNames[i])
		if err != nil {
			return nil, errors.Join(err, l.closeFiles())
		}
		if len(cut) > 0 {
			l.config.Logger.Warn("the end of a store's journal was not written completely; it is passed over", "end", cut)
		}
		*into = s
	}
	return l, nil
}

func (l *Ledger) stats(ctx context.Context, state *leveldb.Snapshot, height uint64, folders map[string]string) (*Stats, error) {
	s := &Stats{Channel: l.config.ChannelID, Format: formatNow, Height: height,
		Namespaces: map[string]Namespace{}, Terms: map[uint32]uint64{}}
	for _, gone := range l.config.Keyring.Shredded() {
		if gone.Channel == l.config.ChannelID {
			s.Shredded = append(s.Shredded, gone)
		}
	}
	if err := s.countState(ctx, state); err != nil {
		return nil, fmt.Errorf("store %s: %w", l.state.dir, err)
	}
	if err := l.countIndex(ctx, s); err != nil {
		return nil, fmt.Errorf("store %s: %w", l.index.dir, err)
	}
	parts := map[string]string{"blocks": l.blocksDir()}
	for _, name := range storeNames {
		parts[name] = filepath.Join(l.config.Dir, name)
	}
	for name, dir := range folders {
		parts[name] = dir
	}
	for _, name := range sortedKeys(parts) {
		p, err := partOf(name, parts[name])
		if err != nil {
			return nil, err
		}
		s.Parts = append(s.Parts, p)
		s.Bytes += p.Bytes
	}
	return s, nil
}

// partOf measures a folder; files that vanish meanwhile do not count.
func partOf(name, dir string) (Part, error) {
	p := Part{Name: name}
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) || err == nil && d.IsDir() {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil {
			p.Files++
			p.Bytes += info.Size()
		}
		return err
	})
	return p, err
}

// countState counts the keys of each namespace, and the terms of their values.
func (s *Stats) countState(ctx context.Context, state *leveldb.Snapshot) error {
	for _, kind := range []byte{rowPublic, rowHash} {
		err := walk(ctx, state.NewIterator(prefixRange([]byte{kind}, "", ""), nil), func(key, row []byte) error {
			ns, _, err := cutString(key[1:])
			if err != nil {
				return errors.New("a row's key is not readable")
			}
			n := s.Namespaces[ns]
			if n.Bytes += uint64(len(key) + len(row)); kind == rowPublic {
				n.Keys++
			} else {
				n.PrivateKeys++
			}
			s.Namespaces[ns] = n
			r, err := parseRow(row)
			if err == nil && r.metadata != nil {
				err = s.term(r.metadata)
			}
			if err != nil || r.gone {
				return err
			}
			return s.term(r.value)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Stats) term(sealed []byte) error {
	term, err := seal.TermOf(sealed)
	s.Terms[term]++
	return err
}

// countIndex counts the transactions, and the blocks by their records' first bytes.
func (l *Ledger) countIndex(ctx context.Context, s *Stats) error {
	if err := walk(ctx, l.index.NewIterator(prefixRange([]byte{'t'}, "", ""), nil), func([]byte, []byte) error {
		s.Transactions++
		return nil
	}); err != nil {
		return err
	}
	for n := range s.Height {
		if err := ctx.Err(); err != nil {
			return err
		}
		at, err := l.index.location(n)
		if err != nil {
			return err
		}
		form, start, err := readStart(l.blocksDir(), at)
		if err != nil {
			return fmt.Errorf("block %d: %w", n, err)
		}
		if form == formSplit {
			if len(start) < 4 {
				return fmt.Errorf("block %d: its outline is not complete", n)
			}
			start = start[4:]
		}
		if form != formMarshalled {
			s.Compressed++
		} else {
			s.Plain++
		}
		if err := s.term(start); err != nil {
			return fmt.Errorf("block %d: %w", n, err)
		}
	}
	return nil
}

// readStart reads the form of a record and the start of what is sealed in it.
func readStart(dir string, at location) (blockForm, []byte, error) {
	f, err := os.Open(blockFile(dir, at.File))
	if err != nil {
		return 0, nil, err
	}
	defer f.Close()
	b := make([]byte, min(at.Length, frameHeader+32))
	if _, err := f.ReadAt(b, at.Offset); err != nil {
		return 0, nil, err
	}
	if _, err := frameLength(b); err != nil {
		return 0, nil, err
	}
	return blockForm(b[len(frameMagic)]), b[frameHeader:], nil
}

// walk hands rows to a function and releases the iterator.
func walk(ctx context.Context, rows iterator.Iterator, do func(key, row []byte) error) error {
	defer rows.Release()
	for n := 0; rows.Next(); n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := do(rows.Key(), rows.Value()); err != nil {
			return err
		}
	}
	return rows.Error()
}

// cutString reads what appendString wrote and returns what follows.
func cutString(b []byte) (string, []byte, error) {
	n, used := binary.Uvarint(b)
	if used <= 0 || n > uint64(len(b)-used) {
		return "", nil, errIncomplete
	}
	return string(b[used : used+int(n)]), b[used+int(n):], nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
