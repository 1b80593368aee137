package selector

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
)

// plan is how a query reads an index. What a query gives never depends on it: the
// same rows come in the same order from each index and from none.
type plan struct {
	index    int // in what the source offers
	from, to []byte
	equal    int // leading fields that the selector demands to have a value
	bound    int // these, and the next if it has a range
	// streams says that the index's order is that of the results. Otherwise the keys in
	// the range are gathered and put in order first.
	streams bool
	order   []orderedField // when it streams: where each field's value comes from
	desc    bool
}

// orderedField says what a field of an index holds in every result: a value that the
// selector demands, or that of one of the sort's fields.
type orderedField struct {
	constant []byte // its encoding; nil when the field is one of the sort
	sort     int
}

// bounds are what a selector demands of one field, as encodings: nil for none.
type bounds struct {
	equal      []byte
	from, to   []byte // to: the first encoding behind the range
	contradict bool
}

// plan chooses an index; ok is false when none is of use. An index is usable when no
// result can be missing from it: the selector or the sort demands each of its fields,
// and the selector has each condition of its filter. Of these, one that use_index
// names goes first; then those in which more fields have one value, that save the sort, in which
// a range bounds one more, that have fewer fields; then the first by name (CouchDB's documentation, "Mango Queries", index
// selection).
func (q *Query) plan(e *Encoder, indexes []*Index) (best plan, ok bool) {
	if len(indexes) == 0 {
		return plan{}, false
	}
	parts := flatten(q.where)
	for i, x := range indexes {
		if !x.serves(q, parts) {
			continue
		}
		p := q.planFor(e, x, parts)
		p.index = i
		if p.bound == 0 && !(p.streams && len(q.sort) > 0) && !q.names(x) {
			continue // it would read everything, and the documents one by one
		}
		if !ok || q.better(p, best, indexes) {
			best, ok = p, true
		}
	}
	return best, ok
}

func (q *Query) better(a, b plan, indexes []*Index) bool {
	x, y := indexes[a.index], indexes[b.index]
	switch {
	case q.names(x) != q.names(y):
		return q.names(x)
	case a.equal != b.equal:
		return a.equal > b.equal
	case len(q.sort) > 0 && a.streams != b.streams:
		return a.streams
	case a.bound != b.bound:
		return a.bound > b.bound
	case a.streams != b.streams:
		return a.streams
	case len(x.fields) != len(y.fields):
		return len(x.fields) < len(y.fields)
	}
	return x.String() < y.String()
}

// names tells whether use_index means an index: by its design document, and by its
// name if that is given.
func (q *Query) names(x *Index) bool {
	return q.ddoc != "" && q.ddoc == x.DesignDoc && (q.index == "" || q.index == x.Name)
}

// serves tells whether all results of a query are in the index.
func (x *Index) serves(q *Query, parts []condition) bool {
	for _, f := range x.fields {
		if f.raw {
			continue // every document has a key
		}
		sorted := slices.ContainsFunc(q.sort, func(s sortField) bool { return slices.Equal(s.path, f.path) })
		if !sorted && !slices.ContainsFunc(parts, func(c condition) bool { return demands(c, f.path) }) {
			return false
		}
	}
	return !slices.ContainsFunc(flatten(x.filter), func(c condition) bool {
		return !slices.ContainsFunc(parts, func(part condition) bool { return reflect.DeepEqual(part, c) })
	})
}

// flatten lists conditions that must all hold.
func flatten(c condition) []condition {
	switch c := c.(type) {
	case nil:
		return nil
	case allOf:
		var parts []condition
		for _, part := range c {
			parts = append(parts, flatten(part)...)
		}
		return parts
	}
	return []condition{c}
}

// demands tells whether a condition holds only where a field is present. Conditions
// are settled: no negation stands outside a field's test.
func demands(c condition, p path) bool {
	switch c := c.(type) {
	case allOf:
		return slices.ContainsFunc(c, func(part condition) bool { return demands(part, p) })
	case anyOf:
		return len(c) > 0 && !slices.ContainsFunc(c, func(part condition) bool { return !demands(part, p) })
	case fieldIs:
		if t, ok := c.is.(test); ok && t.op == "$exists" && t.arg == false {
			return false
		}
		return slices.Equal(c.path, p)
	}
	return false
}

// planFor bounds the index by the selector and finds out whether its order helps.
func (q *Query) planFor(e *Encoder, x *Index, parts []condition) plan {
	p := plan{desc: q.desc}
	var prefix []byte
	var last bounds
	for _, f := range x.fields {
		last = fieldBounds(e, parts, f)
		if last.contradict {
			return plan{from: []byte{0}, to: []byte{0}, equal: len(x.fields), bound: len(x.fields), streams: true, desc: q.desc}
		}
		if last.equal == nil {
			break
		}
		prefix = append(prefix, last.equal...)
		p.order = append(p.order, orderedField{constant: last.equal})
		p.equal++
	}
	p.bound = p.equal
	p.from, p.to = prefix, after(prefix)
	if p.equal < len(x.fields) {
		if last.from != nil {
			p.from = append(bytes.Clone(prefix), last.from...)
		}
		if last.to != nil {
			p.to = append(bytes.Clone(prefix), last.to...)
		}
		if last.from != nil || last.to != nil {
			p.bound++
		}
	}
	p.streams = q.streams(x, &p)
	return p
}

// streams tells whether the index, behind its first fields that are the same in every
// result, has exactly the sort's fields: then results with equal fields go by their
// keys there too.
func (q *Query) streams(x *Index, p *plan) bool {
	rest := x.fields[p.equal:]
	for i, s := range q.sort {
		if slices.ContainsFunc(x.fields[:p.equal], func(f indexField) bool { return slices.Equal(f.path, s.path) }) {
			continue // the same everywhere
		}
		if len(rest) == 0 || !slices.Equal(rest[0].path, s.path) {
			return false
		}
		p.order = append(p.order, orderedField{sort: i})
		rest = rest[1:]
	}
	return len(rest) == 0
}

// fieldBounds joins what the conditions say about a field.
func fieldBounds(e *Encoder, parts []condition, f indexField) (b bounds) {
	for _, c := range parts {
		field, ok := c.(fieldIs)
		if !ok || !slices.Equal(field.path, f.path) {
			continue
		}
		t, ok := field.is.(test)
		if !ok {
			continue
		}
		b.narrow(e, t, f.raw)
	}
	if b.equal != nil {
		b.contradict = b.contradict || b.from != nil && bytes.Compare(b.equal, b.from) < 0 || b.to != nil && bytes.Compare(b.equal, b.to) >= 0
	} else if b.from != nil && b.to != nil && bytes.Compare(b.from, b.to) >= 0 {
		b.contradict = true
	}
	return b
}

func (b *bounds) narrow(e *Encoder, t test, raw bool) {
	var from, to []byte
	switch t.op {
	case "$eq":
		v := e.value(nil, t.arg, raw)
		b.contradict = b.contradict || b.equal != nil && !bytes.Equal(b.equal, v)
		b.equal = v
		return
	case "$gte":
		from = e.value(nil, t.arg, raw)
	case "$gt":
		from = after(e.value(nil, t.arg, raw))
	case "$lt":
		to = e.value(nil, t.arg, raw)
	case "$lte":
		to = after(e.value(nil, t.arg, raw))
	default:
		return
	}
	if from != nil && (b.from == nil || bytes.Compare(from, b.from) > 0) {
		b.from = from
	}
	if to != nil && (b.to == nil || bytes.Compare(to, b.to) < 0) {
		b.to = to
	}
}

// position is where a place of the results stands among an index's rows.
func (p *plan) position(e *Encoder, q *Query, at place) []byte {
	var b []byte
	for _, f := range p.order {
		if f.constant != nil {
			b = append(b, f.constant...)
			continue
		}
		b = e.value(b, at.values[f.sort], q.sort[f.sort].raw)
	}
	return append(b, at.key...)
}

// beyond narrows a range of an index that streams to what follows a place.
func (p *plan) beyond(e *Encoder, q *Query, at place) {
	position := p.position(e, q, at)
	if p.desc {
		if p.to == nil || bytes.Compare(position, p.to) < 0 {
			p.to = position
		}
		return
	}
	if position = append(position, 0); bytes.Compare(position, p.from) > 0 {
		p.from = position
	}
}

// parseUseIndex reads what CouchDB does: "ddoc", "ddoc/name", ["ddoc"],
// ["ddoc", "name"], null and [].
func (q *Query) parseUseIndex(v any) error {
	if err := checkUseIndex(v); err != nil {
		return err
	}
	switch v := v.(type) {
	case string:
		q.ddoc, q.index, _ = strings.Cut(strings.TrimPrefix(v, "_design/"), "/")
	case []any:
		if len(v) > 0 {
			q.ddoc = strings.TrimPrefix(v[0].(string), "_design/")
		}
		if len(v) > 1 {
			q.index = v[1].(string)
		}
	}
	return nil
}
