package ledger

import (
	"fmt"

	"strongroom/ledger/rwset"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/queryresultpb"
)

// recordedRange walks over a range of keys and records what it gave. What is
// recorded is how far the caller read, not how far it asked to: the end key is the
// last key that was given, or the range's own end once the caller was told that
// there is no more.
type recordedRange struct {
	sim    *Simulator
	ns     string
	end    string
	rows   *stateScan
	reads  *rwset.RangeReads
	info   *kvrwsetpb.RangeQueryInfo
	left   int // results until the query limit
	page   int // results until the page is full; below 0 without pages
	closed bool
}

// Range walks over the committed keys in [start, end) by the order of their bytes;
// an empty start stands for the first key, an empty end for the last. After the
// ledger's query limit it ends, without recording that there was no more.
func (s *Simulator) Range(ns, start, end string) (rwset.KVIterator, error) {
	return s.newRange(ns, start, end, -1)
}

// RangePage is Range for the first pageSize keys from the bookmark on, "" meaning
// from the start. Transactions that read pages cannot write.
func (s *Simulator) RangePage(ns, start, end string, pageSize int32, bookmark string) (rwset.PageIterator, error) {
	if pageSize <= 0 {
		return nil, fmt.Errorf("page size is %d: it must be 1 or more", pageSize)
	}
	if s.wrote {
		return nil, fmt.Errorf("txid [%s]: unsupported transaction. Paginated queries are supported only in a read-only transaction", s.txID)
	}
	if bookmark != "" {
		start = bookmark
	}
	r, err := s.newRange(ns, start, end, int(pageSize))
	if err != nil {
		return nil, err
	}
	s.paged = true
	return r, nil
}

func (s *Simulator) newRange(ns, start, end string, page int) (*recordedRange, error) {
	if err := s.check(ns, start); err != nil {
		return nil, err
	}
	if err := s.check(ns, end); err != nil {
		return nil, err
	}
	reads, err := rwset.NewRangeReads(rwset.MaxDegree)
	if err != nil {
		return nil, err
	}
	r := &recordedRange{
		sim: s, ns: ns, end: end, rows: s.view.scan(ns, start, end), reads: reads,
		info: &kvrwsetpb.RangeQueryInfo{StartKey: start}, left: s.ledger.config.QueryLimit, page: page,
	}
	s.ranges = append(s.ranges, r)
	s.closers = append(s.closers, r)
	return r, nil
}

// Next returns the next key, nil at the end of the range or page. The end of a page
// and the query limit are not recorded as the end of the range: nothing is read
// beyond them.
func (r *recordedRange) Next() (*queryresultpb.KV, error) {
	if r.closed {
		return nil, ErrDone
	}
	if r.left == 0 || r.page == 0 {
		return nil, nil
	}
	key, v, err := r.rows.next()
	if err != nil {
		return nil, err
	}
	if v == nil {
		r.info.ItrExhausted, r.info.EndKey = true, r.end
		return nil, nil
	}
	if err := r.reads.Add(key, v.version); err != nil {
		return nil, err
	}
	r.info.EndKey = key
	r.left--
	r.page--
	return &queryresultpb.KV{Namespace: r.ns, Key: key, Value: v.bytes}, nil
}

// Bookmark returns the key with which the next page starts, "" when there is none.
// The iterator gives nothing afterwards. A failure to read makes the simulation's
// results fail.
func (r *recordedRange) Bookmark() string {
	if r.closed || r.info.ItrExhausted {
		return ""
	}
	key, err := r.rows.nextKey()
	r.Close()
	if err != nil {
		r.sim.failed = err
		return ""
	}
	return key
}

// Close releases the iterator. Closing twice is no error.
func (r *recordedRange) Close() {
	if !r.closed {
		r.closed = true
		r.rows.close()
	}
}

// record adds the query to the read/write set.
func (r *recordedRange) record(set *rwset.Builder) error {
	reads, summary, err := r.reads.Done()
	if err != nil {
		return err
	}
	if reads != nil {
		r.info.ReadsInfo = &kvrwsetpb.RangeQueryInfo_RawReads{RawReads: &kvrwsetpb.QueryReads{KvReads: reads}}
	}
	if summary != nil {
		r.info.ReadsInfo = &kvrwsetpb.RangeQueryInfo_ReadsMerkleHashes{ReadsMerkleHashes: summary}
	}
	set.RangeQuery(r.ns, r.info)
	return nil
}

// privateRange walks over a range of private keys.
type privateRange struct {
	rows   *privateScan
	closed bool
}

// Next returns the next key, nil at the end.
func (r *privateRange) Next() (*queryresultpb.KV, error) {
	if r.closed {
		return nil, ErrDone
	}
	key, v, err := r.rows.next()
	if err != nil || v == nil {
		return nil, err
	}
	return &queryresultpb.KV{Namespace: r.rows.ns, Key: key, Value: v.bytes}, nil
}

// Close releases the iterator. Closing twice is no error.
func (r *privateRange) Close() {
	if !r.closed {
		r.closed = true
		r.rows.rows.Release()
	}
}
