package ledger

import (
	"bytes"
	"fmt"
	"slices"

	"strongroom/ledger/selector"
)

// CheckIndexes holds every row of the indexes that are ready against the state, and
// looks for rows of indexes that are not there any more. It is for tests.
func (l *Ledger) CheckIndexes() error {
	v, err := l.acquire()
	if err != nil {
		return err
	}
	defer v.release()
	var want, got [][]byte
	e := selector.NewEncoder()
	for ns, list := range v.indexes {
		for _, x := range list {
			if x.status != indexReady {
				return fmt.Errorf("index %s of %s is %s", x.definition, ns, x.status)
			}
		}
		rows := v.scan(ns, "", "")
		for {
			key, value, err := rows.next()
			if err != nil {
				return err
			}
			if value == nil {
				break
			}
			for _, row := range entries(list, e, key, value) {
				if row != nil {
					want = append(want, row)
				}
			}
		}
		rows.close()
	}
	slices.SortFunc(want, bytes.Compare)
	rows := v.snapshot.NewIterator(prefixRange([]byte{rowIndexEntry}, "", ""), nil)
	defer rows.Release()
	for rows.Next() {
		got = append(got, bytes.Clone(rows.Key()))
	}
	if err := rows.Error(); err != nil {
		return err
	}
	if !slices.EqualFunc(want, got, bytes.Equal) {
		return fmt.Errorf("the indexes have %d rows, the state gives %d, or others", len(got), len(want))
	}
	return nil
}

// ForgetIndexes makes the state store look like one that a version without indexes wrote to.
func (l *Ledger) ForgetIndexes() error {
	return l.state.Put(indexedKey, []byte{0}, synced)
}

// WithoutIndexes has a simulator read as if there were no index.
func (s *Simulator) WithoutIndexes() {
	v := &view{stateReader: s.view.stateReader, height: s.view.height}
	v.users.Store(2) // the store's snapshot stays with the view that was there
	s.view = v
}

// DropIndexEntries removes the entries of the indexes of a namespace behind the
// ledger's back. It is for tests.
func (l *Ledger) DropIndexEntries(ns string) error {
	rows := l.state.NewIterator(prefixRange(appendString([]byte{rowIndexEntry}, ns), "", ""), nil)
	defer rows.Release()
	for rows.Next() {
		if err := l.state.Delete(bytes.Clone(rows.Key()), synced); err != nil {
			return err
		}
	}
	return rows.Error()
}
