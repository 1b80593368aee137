// Package selector parses and evaluates the rich queries of Hyperledger Fabric's
// chaincode API: CouchDB's Mango selectors over JSON values. It performs no I/O:
// the caller gives it a Source to read from.
//
// The rules are those of CouchDB's documentation ("Mango Queries" and "Views
// Collation", docs.couchdb.org) and, where that is silent, of what CouchDB 3 does
// as observed in its public sources; docs/design/rich-queries.md lists them and the
// few places where this package differs on purpose.
package selector

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Bounds of a query. One that exceeds them is refused.
const (
	MaxQueryBytes = 1 << 20 // of the query's text
	MaxDepth      = 64      // of nested objects and lists in it
	MaxConditions = 10_000  // operators in it
	MaxRegexBytes = 4 << 10 // of all its regular expressions together
	MaxRegexSteps = 2000    // instructions that they compile to together
	MaxRegexText  = 1 << 20 // of a string that one is applied to
)

// Query is a parsed query. It is not changed by running it and may be run from
// several goroutines at once.
type Query struct {
	where  condition // nil matches every document
	fields []path    // empty: documents as they are
	sort   []sortField
	desc   bool // of all sort fields
	limit  int  // below 0: none
	skip   int
	mark   string // bookmark in the query's text
	ddoc   string // of use_index; "" without
	index  string // of use_index, when it names one of the design document's
	digest [8]byte

	scanFirst int // see the constant
}

type sortField struct {
	path path
	raw  bool // compared by bytes: the key
}

// members are what a query may have.
const members = "selector, fields, sort, limit, skip, bookmark, use_index, execution_stats"

// Parse reads a query: a JSON object with a selector and, each optional, fields,
// sort, limit, skip, bookmark, use_index and execution_stats. Use_index says which
// index to prefer, not what the query gives; execution_stats has no effect.
// Errors name the member or the field that is wrong and what it should be.
func Parse(query []byte) (*Query, error) {
	if len(query) > MaxQueryBytes {
		return nil, fmt.Errorf("rich query: it has %d bytes; at most %d are allowed", len(query), MaxQueryBytes)
	}
	v, err := decode(query)
	if err != nil {
		return nil, fmt.Errorf("rich query: not JSON: %w", err)
	}
	top, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("rich query: it is JSON of type %s; an object with a selector is needed", kindOf(v))
	}
	if depth(v) > MaxDepth {
		return nil, fmt.Errorf("rich query: objects and lists are nested deeper than %d", MaxDepth)
	}
	q := &Query{limit: -1, scanFirst: scanFirst}
	if _, ok := top["selector"]; !ok {
		return nil, errors.New(`rich query: selector is missing; {"selector":{}} stands for every document`)
	}
	for _, name := range slices.Sorted(maps.Keys(top)) {
		if err := q.member(name, top[name]); err != nil {
			return nil, fmt.Errorf("rich query: %w", err)
		}
	}
	b, err := json.Marshal([]any{top["selector"], top["sort"]}) // members of objects come out sorted
	if err != nil {
		return nil, fmt.Errorf("rich query: %w", err)
	}
	sum := sha256.Sum256(b)
	copy(q.digest[:], sum[:])
	return q, nil
}

// member reads one member of the query.
func (q *Query) member(name string, v any) (err error) {
	switch name {
	case "selector":
		q.where, err = parseSelector(v)
	case "fields":
		q.fields, err = parseFields(v)
	case "sort":
		err = q.parseSort(v)
	case "limit":
		q.limit, err = count(name, v)
	case "skip":
		q.skip, err = count(name, v)
	case "bookmark":
		if v == nil {
			return nil
		}
		var ok bool
		if q.mark, ok = v.(string); !ok {
			err = fmt.Errorf("bookmark is of type %s; a string is needed", kindOf(v))
		}
	case "use_index":
		err = q.parseUseIndex(v)
	case "execution_stats":
		if _, ok := v.(bool); !ok {
			err = fmt.Errorf("execution_stats is of type %s; true or false is needed", kindOf(v))
		}
	default:
		err = fmt.Errorf("member %q is not known; a query has %s", name, members)
	}
	return err
}

func count(name string, v any) (int, error) {
	n, ok := v.(json.Number)
	if ok {
		if i, err := strconv.ParseInt(n.String(), 10, 64); err == nil && i >= 0 && i <= math.MaxInt32 {
			return int(i), nil
		}
	}
	return 0, fmt.Errorf("%s is not a whole number from 0 to %d", name, math.MaxInt32)
}

func parseFields(v any) ([]path, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("fields is of type %s; a list of field names is needed", kindOf(v))
	}
	fields := make([]path, len(list))
	for i, f := range list {
		name, ok := f.(string)
		if !ok {
			return nil, fmt.Errorf("fields[%d] is of type %s; a field name is needed", i, kindOf(f))
		}
		var err error
		if fields[i], err = parsePath(name); err != nil {
			return nil, fmt.Errorf("fields[%d]: %w", i, err)
		}
	}
	return fields, nil
}

// parseSort reads names and {name: "asc" or "desc"}. As in CouchDB, all fields go
// in one direction.
func (q *Query) parseSort(v any) error {
	list, ok := v.([]any)
	if !ok {
		return fmt.Errorf("sort is of type %s; a list of field names is needed", kindOf(v))
	}
	for i, f := range list {
		name, direction := "", any("asc")
		switch f := f.(type) {
		case string:
			name = f
		case map[string]any:
			if len(f) != 1 {
				return fmt.Errorf(`sort[%d] has %d members; {"field":"asc"} or {"field":"desc"} is needed`, i, len(f))
			}
			for name, direction = range f {
			}
		default:
			return fmt.Errorf("sort[%d] is of type %s; a field name is needed", i, kindOf(f))
		}
		if direction != "asc" && direction != "desc" {
			return fmt.Errorf(`sort[%d]: the direction of %q must be "asc" or "desc"`, i, name)
		}
		p, err := parsePath(name)
		if err != nil {
			return fmt.Errorf("sort[%d]: %w", i, err)
		}
		if desc := direction == "desc"; i > 0 && desc != q.desc {
			return fmt.Errorf("sort[%d]: %q goes in another direction than the fields before; give all the same", i, name)
		} else {
			q.desc = desc
		}
		q.sort = append(q.sort, sortField{path: p, raw: name == idField})
	}
	return nil
}

// checkUseIndex accepts what CouchDB does: "ddoc", "ddoc/name", ["ddoc"],
// ["ddoc", "name"], null and [].
func checkUseIndex(v any) error {
	switch v := v.(type) {
	case nil:
		return nil
	case string:
		if v != "" && len(strings.Split(strings.TrimPrefix(v, "_design/"), "/")) <= 2 {
			return nil
		}
	case []any:
		for _, part := range v {
			if _, ok := part.(string); !ok {
				return fmt.Errorf("use_index has a part of type %s; strings are needed", kindOf(part))
			}
		}
		if len(v) <= 2 {
			return nil
		}
	}
	return errors.New(`use_index must be "design document", or ["design document", "index name"]`)
}

// decode reads one JSON value; numbers stay as they are written.
func decode(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more follows after the value")
	}
	return v, nil
}

// depth is how deep objects and lists are nested.
func depth(v any) int {
	deepest := 0
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			deepest = max(deepest, depth(e))
		}
	case map[string]any:
		for _, e := range v {
			deepest = max(deepest, depth(e))
		}
	default:
		return 0
	}
	return deepest + 1
}
