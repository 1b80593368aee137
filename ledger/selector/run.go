package selector

import (
	"container/heap"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// MaxSortBytes bounds what a sort holds in memory at once: the keys and the sort
// fields of the rows that the page may still have.
const MaxSortBytes = 64 << 20

// Source is the snapshot of a namespace that a query reads.
type Source interface {
	// Scan walks over the keys from one on, by the order of their bytes.
	Scan(from string) (Rows, error)
	// Get returns the value of a key that Scan or ScanIndex gave, nil if it is not there.
	Get(key string) ([]byte, error)
	// Indexes are those that hold all of the namespace's documents that they should.
	Indexes() []*Index
	// ScanIndex walks over the keys in an index, by its place in Indexes, whose entry (as
	// Encoder.Entry makes it) followed by the key is in [from, to), backward if desc; a
	// nil to stands for the end.
	ScanIndex(index int, from, to []byte, desc bool) (Keys, error)
}

// Rows are keys and their values. Next gives ok false at the end.
type Rows interface {
	Next() (key string, value []byte, ok bool, err error)
	Close()
}

// Results are the rows that match a query. They are not safe for concurrent use.
type Results struct {
	query   *Query
	ctx     context.Context
	source  Source
	order   *order
	mark    string // the bookmark that was given
	after   *place // where it is
	left    int    // rows until the limit
	skip    int    // matches still to be left out
	rows    Rows   // what is still read; nil after a sort in memory
	sorted  []place
	started bool
	last    *place // of the last row that was given
}

// place is where a row stands in the results.
type place struct {
	key    string
	values []any // of the sort fields
	bytes  int   // what it holds in memory, roughly
}

// Run starts a query: at most limit rows, fewer if the query says so, behind the
// bookmark, "" for the start or the bookmark in the query's text. Reading ends with
// an error when the context does. Nothing is read before the first Next.
func (q *Query) Run(ctx context.Context, source Source, limit int, bookmark string) (*Results, error) {
	if bookmark == "" {
		bookmark = q.mark
	}
	after, err := q.parseBookmark(bookmark)
	if err != nil {
		return nil, err
	}
	if q.limit >= 0 {
		limit = min(limit, q.limit)
	}
	return &Results{query: q, ctx: ctx, source: source, order: newOrder(ctx), mark: bookmark, after: after, left: limit, skip: q.skip}, nil
}

// Next returns the next row; ok is false at the end. The value is the source's own
// or, if the query has fields, an object with these alone, its members sorted, as
// encoding/json writes it. With a sort the row's value was asked of the source just
// before.
func (r *Results) Next() (key string, value []byte, ok bool, err error) {
	if r.left <= 0 {
		return "", nil, false, nil
	}
	if !r.started {
		r.started = true
		if err := r.start(); err != nil {
			return "", nil, false, err
		}
	}
	var doc map[string]any
	var here place
	if r.rows != nil {
		if key, value, doc, err = r.match(r.rows); err == nil && doc != nil {
			here, _ = r.query.place(key, doc)
		}
	} else if len(r.sorted) > 0 {
		here, r.sorted = r.sorted[0], r.sorted[1:]
		key = here.key
		if value, err = r.source.Get(key); err == nil {
			if doc = document(value); doc == nil {
				err = fmt.Errorf("key %q changed while the query read it", key)
			}
		}
	}
	if err != nil || doc == nil {
		return "", nil, false, err
	}
	if len(r.query.fields) > 0 {
		if value, err = r.project(doc); err != nil {
			return "", nil, false, err
		}
	}
	r.last = &here
	r.left--
	return key, value, true, nil
}

// Bookmark stands for the place behind the last row that Next gave. As CouchDB's
// it is never empty: behind a page without rows it is the bookmark that was given,
// or "nil".
func (r *Results) Bookmark() string {
	switch {
	case r.last != nil:
		return r.query.bookmark(r.last)
	case r.mark != "":
		return r.mark
	}
	return noBookmark
}

// Close releases what the results read. Closing twice is no error.
func (r *Results) Close() {
	if r.rows != nil {
		r.rows.Close()
		r.rows = nil
	}
	r.left, r.sorted = 0, nil
}

// start begins to read and, if the rows have to be sorted, reads them all.
func (r *Results) start() error {
	rows, sorted, err := r.begin()
	if err != nil {
		return err
	}
	if !sorted {
		defer rows.Close()
		return r.collect(rows)
	}
	r.rows = rows
	for ; r.skip > 0; r.skip-- {
		if _, _, doc, err := r.match(rows); err != nil || doc == nil {
			return err
		}
	}
	return nil
}

// match returns the next row that matches; doc is nil at the end.
func (r *Results) match(rows Rows) (key string, value []byte, doc map[string]any, err error) {
	for {
		if err := r.ctx.Err(); err != nil {
			return "", nil, nil, fmt.Errorf("rich query: %w", context.Cause(r.ctx))
		}
		key, value, ok, err := rows.Next()
		if err != nil || !ok {
			return "", nil, nil, err
		}
		doc := document(value)
		if doc == nil {
			continue
		}
		doc[idField] = key
		matched := r.query.where == nil || r.query.where.match(r.order, doc)
		if r.order.err != nil {
			return "", nil, nil, fmt.Errorf("rich query: key %q: %w", key, r.order.err)
		}
		if matched {
			return key, value, doc, nil
		}
	}
}

// document reads a value that is a JSON object; other values are no documents.
func document(value []byte) map[string]any {
	for _, c := range value { // most values that are not objects show it at once
		if c == '{' {
			v, err := decode(value)
			if err != nil {
				return nil
			}
			doc, _ := v.(map[string]any)
			return doc
		}
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return nil
		}
	}
	return nil
}

// project takes the query's fields out of a document. The key is none of them: in
// Fabric it is not part of the value.
func (r *Results) project(doc map[string]any) ([]byte, error) {
	delete(doc, idField)
	out := make(map[string]any)
	for _, p := range r.query.fields {
		if v, how := p.get(doc); how == present {
			p.set(out, v)
		}
	}
	return json.Marshal(out)
}

// collect sorts: it keeps the first rows of the order, as many as the page and
// what is skipped before it have. As in an index of CouchDB, rows that lack a sort
// field are not among the results, and rows with the same values go by their keys.
func (r *Results) collect(rows Rows) error {
	h := places{Results: r}
	room, held := r.skip+r.left, 0
	for {
		key, _, doc, err := r.match(rows)
		if err != nil {
			return err
		}
		if doc == nil {
			break
		}
		p, ok := r.query.place(key, doc)
		if !ok || r.after != nil && r.compare(p, *r.after) <= 0 {
			continue
		}
		if len(h.list) == room {
			if r.compare(p, h.list[0]) >= 0 {
				continue
			}
			held -= h.list[0].bytes
			h.list[0] = p
			heap.Fix(&h, 0)
		} else {
			heap.Push(&h, p)
		}
		if held += p.bytes; held > MaxSortBytes {
			return fmt.Errorf("rich query: its sort holds more than %d bytes; use pages or a limit, or narrow the selector", MaxSortBytes)
		}
	}
	slices.SortFunc(h.list, r.compare)
	r.sorted = h.list[min(r.skip, len(h.list)):]
	return nil
}

// place is where a document stands; ok is false if it lacks a sort field.
func (q *Query) place(key string, doc map[string]any) (p place, ok bool) {
	p = place{key: strings.Clone(key), values: make([]any, len(q.sort)), bytes: len(key) + 64}
	for i, f := range q.sort {
		v, how := f.path.get(doc)
		if how != present {
			return place{}, false
		}
		p.values[i] = v
		p.bytes += weight(v)
	}
	return p, true
}

// weight is roughly what a value holds in memory.
func weight(v any) int {
	n := 32
	switch v := v.(type) {
	case string:
		n += len(v)
	case json.Number:
		n += len(v)
	case []any:
		for _, e := range v {
			n += weight(e)
		}
	case map[string]any:
		for name, e := range v {
			n += len(name) + 32 + weight(e)
		}
	}
	return n
}

// compare orders two places by the query's sort. Descending reverses the keys too.
func (r *Results) compare(a, b place) int {
	c := 0
	for i := 0; i < len(a.values) && c == 0; i++ {
		c = r.order.compare(a.values[i], b.values[i], r.query.sort[i].raw)
	}
	if c == 0 {
		c = strings.Compare(a.key, b.key)
	}
	if r.query.desc {
		return -c
	}
	return c
}

// places is a heap with the last place of the order on top.
type places struct {
	*Results
	list []place
}

func (h *places) Len() int           { return len(h.list) }
func (h *places) Less(i, j int) bool { return h.compare(h.list[i], h.list[j]) > 0 }
func (h *places) Swap(i, j int)      { h.list[i], h.list[j] = h.list[j], h.list[i] }
func (h *places) Push(p any)         { h.list = append(h.list, p.(place)) }
func (h *places) Pop() any           { panic("selector: a place is only replaced") }
