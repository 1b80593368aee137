package selector

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"regexp"
	"slices"
	"strings"
)

// condition is a part of a selector.
type condition interface {
	match(o *order, v any) bool
}

type (
	allOf  []condition
	anyOf  []condition
	noneOf []condition
	not    struct{ condition }
)

func (c allOf) match(o *order, v any) bool {
	return !slices.ContainsFunc(c, func(part condition) bool { return !part.match(o, v) })
}

// match of an empty list is true: CouchDB's rule for $or.
func (c anyOf) match(o *order, v any) bool {
	return len(c) == 0 || slices.ContainsFunc(c, func(part condition) bool { return part.match(o, v) })
}

func (c noneOf) match(o *order, v any) bool {
	return !slices.ContainsFunc(c, func(part condition) bool { return part.match(o, v) })
}

func (c not) match(o *order, v any) bool { return !c.condition.match(o, v) }

// fieldIs is a test of one field. A field that is not there passes no test but
// {"$exists": false}: "for a condition operator to function correctly, the field
// must exist" ("Mango Queries", condition operators).
type fieldIs struct {
	path path
	raw  bool
	is   condition // a test, or a negated one
}

func (c fieldIs) match(o *order, v any) bool {
	v, how := c.path.get(v)
	switch how {
	case missing:
		t, ok := c.is.(test)
		return ok && t.op == "$exists" && t.arg == false
	case astray:
		return false
	}
	if t, ok := c.is.(test); ok {
		return t.compare(o, v, c.raw)
	}
	return c.is.match(o, v)
}

// test is an operator with its argument.
type test struct {
	op                 string
	arg                any
	size               int
	divisor, remainder int64
	regex              *regexp.Regexp
	each               condition // of $elemMatch, $allMatch, $keyMapMatch
}

func (t test) match(o *order, v any) bool { return t.compare(o, v, false) }

// compare applies the operator to a value that is there.
func (t test) compare(o *order, v any, raw bool) bool {
	if o.ended() {
		return false
	}
	switch t.op {
	case "$eq":
		return equal(v, t.arg)
	case "$ne":
		return !equal(v, t.arg)
	case "$lt":
		return o.compare(v, t.arg, raw) < 0
	case "$lte":
		return o.compare(v, t.arg, raw) <= 0
	case "$gt":
		return o.compare(v, t.arg, raw) > 0
	case "$gte":
		return o.compare(v, t.arg, raw) >= 0
	case "$in":
		return t.isIn(o, v)
	case "$nin":
		return !t.isIn(o, v)
	case "$exists":
		return t.arg == true
	case "$type":
		return kindOf(v).String() == t.arg
	case "$mod":
		n, ok := v.(json.Number)
		return ok && isInteger(n) && remainder(n, t.divisor) == t.remainder
	case "$regex":
		s, ok := v.(string)
		if len(s) > MaxRegexText {
			o.err = fmt.Errorf("$regex met a string of %d bytes; it reads at most %d", len(s), MaxRegexText)
			return false
		}
		return ok && t.regex.MatchString(s)
	case "$beginsWith":
		s, ok := v.(string)
		return ok && strings.HasPrefix(s, t.arg.(string))
	case "$keyMapMatch":
		return t.matchNames(o, v)
	}
	list, ok := v.([]any)
	if !ok {
		return false
	}
	matches := func(e any) bool { return o.err == nil && t.each.match(o, e) }
	switch t.op {
	case "$size":
		return len(list) == t.size
	case "$all":
		return t.hasAll(o, list)
	case "$elemMatch":
		return slices.ContainsFunc(list, matches)
	}
	// $allMatch: an empty list does not match.
	return len(list) > 0 && !slices.ContainsFunc(list, func(e any) bool { return !matches(e) })
}

// isIn tells whether the value, or an element of it if it is a list, is in the
// argument's list.
func (t test) isIn(o *order, v any) bool {
	candidates, ok := v.([]any)
	if !ok {
		candidates = []any{v}
	}
	return slices.ContainsFunc(t.arg.([]any), func(arg any) bool { return contains(o, candidates, arg) })
}

// hasAll tells whether the list has every element of the argument, or is the
// argument's single element. An empty argument matches nothing.
func (t test) hasAll(o *order, list []any) bool {
	args := t.arg.([]any)
	if len(args) == 0 {
		return false
	}
	if len(args) == 1 && equal(args[0], list) {
		return true
	}
	return !slices.ContainsFunc(args, func(arg any) bool { return !contains(o, list, arg) })
}

func (t test) matchNames(o *order, v any) bool {
	object, ok := v.(map[string]any)
	if !ok {
		return false
	}
	for name := range object {
		if o.err == nil && t.each.match(o, name) {
			return true
		}
	}
	return false
}

func contains(o *order, list []any, v any) bool {
	for _, e := range list {
		if o.ended() {
			return false
		}
		if equal(e, v) {
			return true
		}
	}
	return false
}

// remainder divides an integer of any length; it has the sign of the integer.
func remainder(n json.Number, divisor int64) int64 {
	digits, negative := strings.CutPrefix(string(n), "-")
	d := uint64(divisor)
	if divisor < 0 {
		d = -d
	}
	var rest uint64
	for _, c := range []byte(digits) {
		high, low := bits.Mul64(rest, 10)
		low, carry := bits.Add64(low, uint64(c-'0'), 0)
		rest = bits.Rem64(high+carry, low, d)
	}
	if negative {
		return -int64(rest)
	}
	return int64(rest)
}

// opposites are operators whose negation is another one.
var opposites = map[string]string{
	"$eq": "$ne", "$ne": "$eq", "$lt": "$gte", "$gte": "$lt", "$gt": "$lte", "$lte": "$gt", "$in": "$nin", "$nin": "$in",
}

// settle moves negations down to the tests of fields, as CouchDB does before it
// matches. It matters: {"$not": {"year": 1901}} becomes {"year": {"$ne": 1901}},
// which a document without the field does not match. Within the argument of
// $elemMatch and its like CouchDB leaves negations where they are, and so does this.
func settle(c condition) condition {
	switch c := c.(type) {
	case allOf:
		return allOf(each(c, settle))
	case anyOf:
		return anyOf(each(c, settle))
	case noneOf:
		return allOf(each(c, negate))
	case not:
		return negate(c.condition)
	}
	return c
}

// negate gives the opposite of a condition, settled.
func negate(c condition) condition {
	switch c := c.(type) {
	case allOf:
		return anyOf(each(c, negate))
	case anyOf:
		return allOf(each(c, negate))
	case noneOf:
		return anyOf(each(c, settle))
	case not:
		return settle(c.condition)
	case fieldIs:
		c.is = opposite(c.is)
		return c
	}
	return not{c}
}

// opposite negates the test of a field.
func opposite(c condition) condition {
	t, ok := c.(test)
	if !ok {
		return not{c}
	}
	if op, ok := opposites[t.op]; ok {
		t.op = op
		return t
	}
	if t.op == "$exists" {
		t.arg = t.arg == false
		return t
	}
	return not{t}
}

func each(list []condition, f func(condition) condition) []condition {
	out := make([]condition, len(list))
	for i, c := range list {
		out[i] = f(c)
	}
	return out
}
