package selector

import (
	"fmt"
	"strconv"
	"strings"
)

// idField is the field that holds a document's key.
const idField = "_id"

// path leads to a field: names of members and, within lists, positions.
type path []string

// parsePath splits a field's name at its dots. A backslash before a dot keeps it
// in the name, one before a leading $ tells the name from an operator; backslashes
// are dropped (documented in "Mango Queries", warning on field names).
func parsePath(name string) (path, error) {
	var p path
	var part strings.Builder
	flush := func() error {
		if part.Len() == 0 {
			return fmt.Errorf("field %q has an empty name in it", name)
		}
		p = append(p, part.String())
		part.Reset()
		return nil
	}
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '\\' && i+1 < len(name) && name[i+1] == '.':
			part.WriteByte('.')
			i++
		case c == '\\':
		case c == '.':
			if err := flush(); err != nil {
				return nil, err
			}
		default:
			part.WriteByte(c)
		}
	}
	if err := flush(); err != nil {
		return nil, err
	}
	return p, nil
}

// found tells how a search for a field ended.
type found int

const (
	present found = iota
	missing       // the last object that was reached has no such member
	astray        // the path leads through a value that has no members
)

// get finds a field.
func (p path) get(v any) (any, found) {
	for _, name := range p {
		switch in := v.(type) {
		case map[string]any:
			var ok bool
			if v, ok = in[name]; !ok {
				return nil, missing
			}
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(in) {
				return nil, astray
			}
			v = in[i]
		default:
			return nil, astray
		}
	}
	return v, present
}

// set puts a value at a path of an object that it builds on the way. What was put
// there before and has no members stays.
func (p path) set(object map[string]any, v any) {
	for _, name := range p[:len(p)-1] {
		next, ok := object[name]
		if !ok {
			next = make(map[string]any)
			object[name] = next
		}
		if object, ok = next.(map[string]any); !ok {
			return
		}
	}
	object[p[len(p)-1]] = v
}
