package selector

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// MaxIndexFields bounds the fields of one index.
const MaxIndexFields = 32

// Index is the definition of an index over the documents of a namespace, as CouchDB's
// POST /db/_index takes it ("Mango Queries", index definitions). It holds the
// documents that have all its fields and match its filter, in the order of these
// fields and then of the key. It is immutable and safe for concurrent use.
type Index struct {
	DesignDoc string // without "_design/"
	Name      string

	fields []indexField
	filter condition // nil: every document
	text   []byte    // of the definition, in one form for all that mean the same
}

type indexField struct {
	name string // as it was written; equal paths may have several
	path path
	raw  bool // ordered by bytes: the key
}

// ParseIndex reads a definition: {"index": {"fields": […], "partial_filter_selector": {…}},
// "ddoc": …, "name": …, "type": "json"}. A design document or a name that is missing
// is made from the definition. Errors name the member that is wrong and what it should be.
func ParseIndex(definition []byte) (*Index, error) {
	if len(definition) > MaxQueryBytes {
		return nil, fmt.Errorf("index: it has %d bytes; at most %d are allowed", len(definition), MaxQueryBytes)
	}
	v, err := decode(definition)
	if err != nil {
		return nil, fmt.Errorf("index: not JSON: %w", err)
	}
	if depth(v) > MaxDepth {
		return nil, fmt.Errorf("index: objects and lists are nested deeper than %d", MaxDepth)
	}
	top, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf(`index: it is JSON of type %s; an object with "index" is needed`, kindOf(v))
	}
	x := &Index{}
	if err := x.members(top); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	return x, nil
}

func (x *Index) members(top map[string]any) (err error) {
	for _, name := range slices.Sorted(maps.Keys(top)) {
		v := top[name]
		switch name {
		case "index":
		case "ddoc":
			x.DesignDoc, err = label(name, v)
			x.DesignDoc = strings.TrimPrefix(x.DesignDoc, "_design/")
		case "name":
			x.Name, err = label(name, v)
		case "type":
			if v != "json" {
				err = errors.New(`type must be "json"`)
			}
		default:
			err = fmt.Errorf("member %q is not known; an index has index, ddoc, name, type", name)
		}
		if err != nil {
			return err
		}
	}
	body, ok := top["index"].(map[string]any)
	if !ok {
		return errors.New(`index is missing or no object; {"fields":["a"]} is needed`)
	}
	for _, name := range slices.Sorted(maps.Keys(body)) {
		switch name {
		case "fields":
			err = x.parseFields(body[name])
		case "partial_filter_selector":
			x.filter, err = parseSelector(body[name])
		default:
			err = fmt.Errorf("member %q of index is not known; it has fields and partial_filter_selector", name)
		}
		if err != nil {
			return err
		}
	}
	if len(x.fields) == 0 {
		return errors.New("index.fields is missing or empty; name the fields to index")
	}
	return x.finish(body)
}

// finish gives the index its names and its text.
func (x *Index) finish(body map[string]any) error {
	names := make([]any, len(x.fields))
	for i, f := range x.fields {
		names[i] = f.name
	}
	index := map[string]any{"fields": names}
	if x.filter != nil {
		index["partial_filter_selector"] = body["partial_filter_selector"]
	}
	raw, err := json.Marshal(index) // members of objects come out sorted
	if err != nil {
		return err
	}
	sum := sha256.Sum256(raw)
	for _, name := range []*string{&x.DesignDoc, &x.Name} {
		if *name == "" {
			*name = hex.EncodeToString(sum[:20])
		}
	}
	x.text, err = json.Marshal(map[string]any{"ddoc": x.DesignDoc, "name": x.Name, "type": "json", "index": json.RawMessage(raw)})
	return err
}

func label(name string, v any) (string, error) {
	s, ok := v.(string)
	if !ok || s == "" || s == "_design/" {
		return "", fmt.Errorf("%s must be a string that is not empty", name)
	}
	return s, nil
}

// parseFields reads names and {name: "asc" or "desc"}, all in one direction. The
// direction has no further meaning: an index is read both ways.
func (x *Index) parseFields(v any) error {
	var q Query
	if err := q.parseSort(v); err != nil {
		return fmt.Errorf("index.fields: %s", strings.ReplaceAll(err.Error(), "sort", "fields"))
	}
	if len(q.sort) > MaxIndexFields {
		return fmt.Errorf("index.fields: there are %d; at most %d are allowed", len(q.sort), MaxIndexFields)
	}
	for i, f := range v.([]any) {
		name, ok := f.(string)
		if !ok {
			for name = range f.(map[string]any) {
			}
		}
		field := indexField{name: name, path: q.sort[i].path, raw: q.sort[i].raw}
		if slices.ContainsFunc(x.fields, func(other indexField) bool { return slices.Equal(other.path, field.path) }) {
			return fmt.Errorf("index.fields: %q is there twice", name)
		}
		x.fields = append(x.fields, field)
	}
	return nil
}

// Definition is the index as JSON: the same bytes for definitions that mean the same,
// and ParseIndex reads it. The caller must not change it.
func (x *Index) Definition() []byte { return x.text }

// String is "design document/name".
func (x *Index) String() string { return x.DesignDoc + "/" + x.Name }

// Document is a value read once for several indexes.
type Document struct{ members map[string]any }

// ReadDocument reads a value that is a JSON object; others are no documents.
func ReadDocument(key string, value []byte) (Document, bool) {
	d := Document{members: document(value)}
	if d.members == nil {
		return Document{}, false
	}
	d.members[idField] = key
	return d, true
}

// Entry appends to dst the fields of a document as they stand in the index; ok is
// false when the document is not in it.
func (e *Encoder) Entry(dst []byte, x *Index, d Document) (entry []byte, ok bool) {
	if x.filter != nil {
		matched := x.filter.match(e.order, d.members)
		if e.order.err != nil { // it cannot be told: a query with these conditions shall meet it too
			e.order.err, matched = nil, true
		}
		if !matched {
			return dst, false
		}
	}
	from := len(dst)
	for _, f := range x.fields {
		v, how := f.path.get(d.members)
		if how != present {
			return dst[:from], false
		}
		dst = e.value(dst, v, f.raw)
	}
	return dst, true
}
