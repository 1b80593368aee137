package ledger

import (
	"fmt"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/util"
)

// rowErased 'z' namespace is there when the entries of the namespace's indexes were
// erased after it was shredded; its value is the digest of the shredding.
const rowErased = 'z'

// eraseIndexes takes the indexes of shredded namespaces off the disk: entries hold
// parts of values, and are sealed with the channel's keys.
//
// Crash points: the row that says that it is done comes last, so that all of it is
// done again at the next opening. Tables that held entries are merged into others, and
// sealfs destroys the keys of files that are removed.
func (l *Ledger) eraseIndexes() error {
	for _, s := range l.config.Keyring.Shredded() {
		if s.Channel != l.config.ChannelID {
			continue
		}
		done := append([]byte{rowErased}, s.Namespace...)
		if was, err := l.state.get(done); err != nil || string(was) == s.Digest {
			if err != nil {
				return err
			}
			continue
		}
		for _, row := range []byte{rowIndexEntry, rowIndex} {
			if err := l.state.erase(prefixRange(appendString([]byte{row}, s.Namespace), "", "")); err != nil {
				return err
			}
		}
		batch := &leveldb.Batch{}
		batch.Put(done, []byte(s.Digest))
		if err := l.state.write(batch); err != nil {
			return err
		}
	}
	return nil
}

// erase deletes rows and has the files written again that held them.
func (s *store) erase(r *util.Range) error {
	rows := s.NewIterator(r, nil)
	defer rows.Release()
	batch := &leveldb.Batch{}
	for rows.Next() {
		batch.Delete(rows.Key())
		if batch.Len() < buildChunk {
			continue
		}
		if err := s.Write(batch, nil); err != nil {
			return fmt.Errorf("store %s: write: %w", s.dir, err)
		}
		batch.Reset()
	}
	if err := rows.Error(); err != nil {
		return fmt.Errorf("store %s: read: %w", s.dir, err)
	}
	if err := s.write(batch); err != nil {
		return err
	}
	if err := s.CompactRange(*r); err != nil {
		return fmt.Errorf("store %s: compaction: %w", s.dir, err)
	}
	return nil
}
