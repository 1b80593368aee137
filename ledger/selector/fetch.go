package selector

import (
	"context"
	"fmt"
	"slices"
)

// maxGathered bounds the keys of an index's range that are put in order in memory;
// beyond it the query scans the namespace, which gives the same. They are some tens
// of bytes each, and gathering that many takes a fraction of a second.
const maxGathered = 200_000

// Keys are keys in the order of an index. Next gives ok false at the end.
type Keys interface {
	Next() (key string, ok bool, err error)
	Close()
}

// begin opens what the query reads: an index if one is of use, else the namespace. The
// rows come by the query's order or, if sorted is false, by their keys.
func (r *Results) begin() (rows Rows, sorted bool, err error) {
	e := NewEncoder()
	indexes := r.source.Indexes()
	p, ok := r.query.plan(e, indexes)
	if !ok {
		return r.scan()
	}
	if p.streams {
		if r.after != nil {
			p.beyond(e, r.query, *r.after)
		}
		keys, err := r.source.ScanIndex(p.index, p.from, p.to, p.desc)
		if err != nil {
			return nil, false, err
		}
		return &fetched{source: r.source, index: indexes[p.index], keys: keys}, true, nil
	}
	if len(r.query.sort) == 0 {
		rows, _, err := r.scan()
		if err != nil {
			return nil, false, err
		}
		return &patient{results: r, plan: p, index: indexes[p.index], Rows: rows, left: min(4*(r.left+r.skip), r.query.scanFirst)}, true, nil
	}
	list, ok, err := r.gather(&p, nil)
	if err != nil {
		return nil, false, err
	}
	if !ok {
		return r.scan()
	}
	return &fetched{source: r.source, index: indexes[p.index], keys: list}, false, nil
}

// scanFirst is how many documents of the namespace are read at most before an index is
// asked that has to be put in order: a page that most documents match is full by then.
const scanFirst = 1000

// patient reads the namespace by its keys, and after some rows what an index has of
// the rest.
type patient struct {
	Rows
	results *Results
	plan    plan
	index   *Index
	left    int     // rows until the index is asked
	last    *string // the key that was read last; nil for none
	ended   bool    // the rows have no more: asking again changes nothing
}

func (p *patient) Next() (key string, value []byte, ok bool, err error) {
	if p.ended {
		return "", nil, false, nil
	}
	if p.left == 0 {
		if err := p.change(); err != nil {
			return "", nil, false, err
		}
	}
	p.left--
	key, value, ok, err = p.Rows.Next()
	if err != nil || !ok {
		p.ended = err == nil
		return "", nil, false, err
	}
	p.last = &key
	return key, value, true, nil
}

// change goes on by the index, unless it has too many keys.
func (p *patient) change() error {
	r := p.results
	if p.last == nil && r.after != nil {
		p.last = &r.after.key
	}
	list, ok, err := r.gather(&p.plan, p.last)
	if err != nil || !ok {
		return err
	}
	p.Rows.Close()
	p.Rows = &fetched{source: r.source, index: p.index, keys: list}
	return nil
}

// scan reads the namespace by its keys.
func (r *Results) scan() (Rows, bool, error) {
	from := ""
	if r.after != nil && len(r.query.sort) == 0 {
		from = r.after.key + "\x00" // the next key that there can be
	}
	rows, err := r.source.Scan(from)
	return rows, len(r.query.sort) == 0, err
}

// gather reads an index's range and puts its keys in order, those behind a key if one
// is given; ok is false when there are too many.
func (r *Results) gather(p *plan, behind *string) (_ *keyList, ok bool, err error) {
	keys, err := r.source.ScanIndex(p.index, p.from, p.to, false)
	if err != nil {
		return nil, false, err
	}
	defer keys.Close()
	var list keyList
	for {
		if err := r.ctx.Err(); err != nil {
			return nil, false, fmt.Errorf("rich query: %w", context.Cause(r.ctx))
		}
		key, ok, err := keys.Next()
		if err != nil {
			return nil, false, err
		}
		if !ok {
			break
		}
		if behind != nil && key <= *behind {
			continue
		}
		if len(list) == maxGathered {
			return nil, false, nil
		}
		list = append(list, key)
	}
	slices.Sort(list)
	return &list, true, nil
}

// keyList are keys that were gathered.
type keyList []string

func (l *keyList) Next() (string, bool, error) {
	if len(*l) == 0 {
		return "", false, nil
	}
	key := (*l)[0]
	*l = (*l)[1:]
	return key, true, nil
}

func (l *keyList) Close() {}

// fetched are the rows of keys that an index gave.
type fetched struct {
	source Source
	index  *Index
	keys   Keys
}

func (f *fetched) Next() (key string, value []byte, ok bool, err error) {
	key, ok, err = f.keys.Next()
	if err != nil || !ok {
		return "", nil, false, err
	}
	if value, err = f.source.Get(key); err == nil && value == nil {
		err = fmt.Errorf("rich query: index %s has key %q, which is not there: the index is damaged", f.index, key)
	}
	return key, value, err == nil, err
}

func (f *fetched) Close() { f.keys.Close() }
