package ledger

import (
	"context"
	"fmt"

	"strongroom/ledger/rwset"
	"strongroom/ledger/selector"
	"strongroom/wire/queryresultpb"
)

// Query walks over the committed rows of a namespace that match a rich query, a
// selector in CouchDB's syntax over values that are JSON objects: in the order of
// their keys or of the query's sort, no more of them than the ledger's query limit.
// Each row that is given counts as read, as in Fabric; that there are no others is
// not recorded, so validation does not find rows that came since (phantoms).
// Reading fails when the context ends.
func (s *Simulator) Query(ctx context.Context, ns, query string) (rwset.KVIterator, error) {
	return s.newRichQuery(ctx, ns, query, s.ledger.config.QueryLimit, "")
}

// QueryPage is Query for at most pageSize rows behind a bookmark, "" meaning from
// the start. Transactions that read pages cannot write.
func (s *Simulator) QueryPage(ctx context.Context, ns, query string, pageSize int32, bookmark string) (rwset.PageIterator, error) {
	if pageSize <= 0 {
		return nil, fmt.Errorf("page size is %d: it must be 1 or more", pageSize)
	}
	if s.wrote {
		return nil, fmt.Errorf("txid [%s]: unsupported transaction. Paginated queries are supported only in a read-only transaction", s.txID)
	}
	q, err := s.newRichQuery(ctx, ns, query, min(int(pageSize), s.ledger.config.QueryLimit), bookmark)
	if err != nil {
		return nil, err
	}
	s.paged = true
	return q, nil
}

func (s *Simulator) newRichQuery(ctx context.Context, ns, query string, limit int, bookmark string) (*richQuery, error) {
	if err := s.check(ns, ""); err != nil {
		return nil, err
	}
	parsed, err := selector.Parse([]byte(query))
	if err != nil {
		return nil, err
	}
	q := &richQuery{sim: s, ns: ns, indexes: s.view.ready(ns)}
	if q.results, err = parsed.Run(ctx, q, limit, bookmark); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, q)
	return q, nil
}

// richQuery walks over the results of a rich query. It is their selector.Source
// too: it notes the version of the row that was read last, which is the one given.
type richQuery struct {
	sim     *Simulator
	ns      string
	indexes []*stateIndex
	results *selector.Results
	version *rwset.Height
	closed  bool
}

// Next returns the next row, nil at the end.
func (q *richQuery) Next() (*queryresultpb.KV, error) {
	if q.closed {
		return nil, ErrDone
	}
	key, value, ok, err := q.results.Next()
	if err != nil || !ok {
		return nil, err
	}
	q.sim.set.Read(q.ns, key, q.version)
	return &queryresultpb.KV{Namespace: q.ns, Key: key, Value: value}, nil
}

// Bookmark stands for the place behind the last row that was given.
func (q *richQuery) Bookmark() string { return q.results.Bookmark() }

// Close releases the iterator. Closing twice is no error.
func (q *richQuery) Close() {
	q.closed = true
	q.results.Close()
}

// Scan implements selector.Source.
func (q *richQuery) Scan(from string) (selector.Rows, error) {
	return &richRows{query: q, rows: q.sim.view.scan(q.ns, from, "")}, nil
}

// Get implements selector.Source.
func (q *richQuery) Get(key string) ([]byte, error) {
	v, err := q.sim.view.lookup(stateKey{ns: q.ns, key: key})
	if err != nil || v == nil {
		return nil, err
	}
	q.version = v.height()
	return v.bytes, nil
}

// Indexes implements selector.Source.
func (q *richQuery) Indexes() []*selector.Index {
	list := make([]*selector.Index, len(q.indexes))
	for i, x := range q.indexes {
		list[i] = x.definition
	}
	return list
}

// ScanIndex implements selector.Source.
func (q *richQuery) ScanIndex(index int, from, to []byte, desc bool) (selector.Keys, error) {
	return q.sim.view.scanIndex(q.indexes[index], from, to, desc), nil
}

type richRows struct {
	query *richQuery
	rows  *stateScan
}

func (r *richRows) Next() (key string, value []byte, ok bool, err error) {
	key, v, err := r.rows.next()
	if err != nil || v == nil {
		return "", nil, false, err
	}
	r.query.version = v.height()
	return key, v.bytes, true, nil
}

func (r *richRows) Close() { r.rows.close() }
