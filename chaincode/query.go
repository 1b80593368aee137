package chaincode

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"strongroom/wire/peerpb"

	"google.golang.org/protobuf/proto"
)

// query is an open iterator of a transaction.
type query struct {
	id      string
	next    func() (proto.Message, error) // nil at the end
	close   func()
	page    PageIterator // for a query with pagination, else nil
	limit   int          // rows that may be returned in all
	rows    int          // rows read so far
	pending []*peerpb.QueryResultBytes
}

func (tx *transaction) getRange(_ context.Context, r *peerpb.GetStateByRange) ([]byte, error) {
	if err := public(r.Collection); err != nil {
		return nil, err
	}
	return tx.rows(r.Metadata,
		func() (KVIterator, error) { return tx.State.Range(tx.Namespace, r.StartKey, r.EndKey) },
		func(pageSize int32, bookmark string) (PageIterator, error) {
			return tx.State.RangePage(tx.Namespace, r.StartKey, r.EndKey, pageSize, bookmark)
		})
}

// richQuery evaluates a rich query. The context ends with the transaction, and so
// does the iterator's reading.
func (tx *transaction) richQuery(ctx context.Context, r *peerpb.GetQueryResult) ([]byte, error) {
	if err := public(r.Collection); err != nil {
		return nil, err
	}
	return tx.rows(r.Metadata,
		func() (KVIterator, error) { return tx.State.Query(ctx, tx.Namespace, r.Query) },
		func(pageSize int32, bookmark string) (PageIterator, error) {
			return tx.State.QueryPage(ctx, tx.Namespace, r.Query, pageSize, bookmark)
		})
}

// rows opens a query whose rows are keys and values, as a whole or, if its
// metadata says so, one page of it.
func (tx *transaction) rows(metadata []byte, whole func() (KVIterator, error), page func(pageSize int32, bookmark string) (PageIterator, error)) ([]byte, error) {
	var md peerpb.QueryMetadata
	if err := proto.Unmarshal(metadata, &md); err != nil {
		return nil, fmt.Errorf("query metadata: unmarshal failed: %w", err)
	}
	if err := tx.roomForQuery(); err != nil {
		return nil, err
	}
	q := &query{limit: tx.host.cfg.MaxQueryResults}
	if md.PageSize != 0 || md.Bookmark != "" {
		if md.PageSize < 1 {
			return nil, fmt.Errorf("page size is %d: it must be 1 or more", md.PageSize)
		}
		it, err := page(md.PageSize, md.Bookmark)
		if err != nil {
			return nil, err
		}
		q.limit = min(q.limit, int(md.PageSize))
		q.page, q.next, q.close = it, rows(it.Next), it.Close
		return tx.open(q)
	}
	it, err := whole()
	if err != nil {
		return nil, err
	}
	q.next, q.close = rows(it.Next), it.Close
	return tx.open(q)
}

func (tx *transaction) getHistory(_ context.Context, r *peerpb.GetHistoryForKey) ([]byte, error) {
	if err := tx.roomForQuery(); err != nil {
		return nil, err
	}
	it, err := tx.State.History(tx.Namespace, r.Key)
	if err != nil {
		return nil, err
	}
	return tx.open(&query{limit: tx.host.cfg.MaxQueryResults, next: rows(it.Next), close: it.Close})
}

// rows gives iterators of both row types one form; a nil row stays nil.
func rows[T any, P interface {
	*T
	proto.Message
}](next func() (P, error)) func() (proto.Message, error) {
	return func() (proto.Message, error) {
		row, err := next()
		if err != nil || row == nil {
			return nil, err
		}
		return row, nil
	}
}

func (tx *transaction) roomForQuery() error {
	if n := tx.host.cfg.MaxIterators; len(tx.queries) >= n {
		return fmt.Errorf("the transaction has %d iterators open; close iterators that are read", n)
	}
	return nil
}

// open enters a query and reads its first batch.
func (tx *transaction) open(q *query) ([]byte, error) {
	tx.nextID++
	q.id = strconv.Itoa(tx.nextID)
	if tx.queries == nil {
		tx.queries = make(map[string]*query)
	}
	tx.queries[q.id] = q
	return tx.batch(q)
}

func (tx *transaction) queryNext(_ context.Context, r *peerpb.QueryStateNext) ([]byte, error) {
	q, ok := tx.queries[r.Id]
	if !ok {
		return nil, errors.New("query iterator not found; it was read to its end or closed")
	}
	return tx.batch(q)
}

func (tx *transaction) queryClose(_ context.Context, r *peerpb.QueryStateClose) ([]byte, error) {
	if q, ok := tx.queries[r.Id]; ok {
		tx.drop(q)
	}
	return proto.Marshal(&peerpb.QueryResponse{Id: r.Id})
}

// batch reads rows until a response is full. As in Fabric, whose read sets must
// come out the same, one row more is read to know whether there are more, and
// it is kept for the next batch.
func (tx *transaction) batch(q *query) ([]byte, error) {
	size := 0
	for q.rows < q.limit {
		row, err := q.next()
		if err != nil {
			tx.drop(q)
			return nil, err
		}
		if row == nil {
			return tx.last(q)
		}
		b, err := proto.Marshal(row)
		if err != nil {
			tx.drop(q)
			return nil, err
		}
		q.rows++
		result := &peerpb.QueryResultBytes{ResultBytes: b}
		if q.page == nil && len(q.pending) == resultsPerResponse {
			full := q.pending
			q.pending = []*peerpb.QueryResultBytes{result}
			return proto.Marshal(&peerpb.QueryResponse{Results: full, HasMore: true, Id: q.id})
		}
		q.pending = append(q.pending, result)
		if size += len(b); size > tx.host.cfg.MaxMessageBytes {
			tx.drop(q)
			return nil, fmt.Errorf("the rows of one answer have more than %d bytes; use pagination with a smaller page", tx.host.cfg.MaxMessageBytes)
		}
	}
	return tx.last(q)
}

// last is the final response of a query, which ends it.
func (tx *transaction) last(q *query) ([]byte, error) {
	defer tx.drop(q)
	resp := &peerpb.QueryResponse{Results: q.pending, Id: q.id}
	if q.page != nil {
		var err error
		if resp.Metadata, err = proto.Marshal(&peerpb.QueryResponseMetadata{FetchedRecordsCount: int32(q.rows), Bookmark: q.page.Bookmark()}); err != nil {
			return nil, err
		}
	}
	return proto.Marshal(resp)
}

func (tx *transaction) drop(q *query) {
	delete(tx.queries, q.id)
	q.close()
}

func (tx *transaction) closeQueries() {
	for _, q := range tx.queries {
		tx.drop(q)
	}
}
