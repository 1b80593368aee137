package selector

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// indexed is a Source with indexes; it counts what it was asked.
type indexed struct {
	memory
	indexes []*Index
	entries [][]indexEntry
	scans   int
	walks   []string // the indexes that were read
}

type indexEntry struct {
	row []byte
	key string
}

func newIndexed(t testing.TB, rows memory, definitions ...string) *indexed {
	t.Helper()
	s := &indexed{memory: rows}
	e := NewEncoder()
	for _, d := range definitions {
		x, err := ParseIndex([]byte(d))
		if err != nil {
			t.Fatal(err)
		}
		var entries []indexEntry
		for _, row := range rows {
			doc, ok := ReadDocument(row[0], []byte(row[1]))
			if !ok {
				continue
			}
			if entry, ok := e.Entry(nil, x, doc); ok {
				entries = append(entries, indexEntry{append(entry, row[0]...), row[0]})
			}
		}
		slices.SortFunc(entries, func(a, b indexEntry) int { return bytes.Compare(a.row, b.row) })
		s.indexes, s.entries = append(s.indexes, x), append(s.entries, entries)
	}
	return s
}

func (s *indexed) Scan(from string) (Rows, error) {
	s.scans++
	return s.memory.Scan(from)
}

func (s *indexed) Indexes() []*Index { return s.indexes }

func (s *indexed) ScanIndex(index int, from, to []byte, desc bool) (Keys, error) {
	s.walks = append(s.walks, s.indexes[index].String())
	var list keyList
	for _, e := range s.entries[index] {
		if bytes.Compare(e.row, from) >= 0 && (to == nil || bytes.Compare(e.row, to) < 0) {
			list = append(list, e.key)
		}
	}
	if desc {
		slices.Reverse(list)
	}
	return &list, nil
}

func TestIndexChoice(t *testing.T) {
	s := newIndexed(t, cars,
		`{"index":{"fields":["color"]},"ddoc":"d","name":"color"}`,
		`{"index":{"fields":["color","size"]},"ddoc":"d","name":"colorSize"}`,
		`{"index":{"fields":["size"]},"ddoc":"d","name":"size"}`,
		`{"index":{"fields":["size"]},"ddoc":"c","name":"size"}`,
		`{"index":{"fields":["size"],"partial_filter_selector":{"color":"red"}},"ddoc":"a","name":"redSize"}`,
	)
	for query, want := range map[string]struct{ index, keys string }{
		`{"selector":{"color":"red"}}`:                                                     {"d/color", "c1 c6"},
		`{"selector":{"color":{"$exists":true}}}`:                                          {"", "c1 c2 c4 c6"}, // nothing bounds it
		`{"selector":{"color":{"$exists":true}},"use_index":"d/color"}`:                    {"d/color", "c1 c2 c4 c6"},
		`{"selector":{"color":"red","size":{"$gt":4}},"use_index":["_design/d","color"]}`:  {"d/color", "c1 c6"},
		`{"selector":{"color":"red","size":{"$gt":4}},"use_index":"nowhere"}`:              {"d/colorSize", "c1 c6"},
		`{"selector":{"color":"blue","size":{"$gt":4,"$lte":10}}}`:                         {"d/colorSize", "c4"},
		`{"selector":{"size":5}}`:                                                          {"c/size", "c1 c6"}, // the first by name
		`{"selector":{"size":{"$gte":5}}}`:                                                 {"c/size", "c1 c2 c4 c6"},
		`{"selector":{"size":{"$in":[5]}}}`:                                                {"", "c1 c6"},
		`{"selector":{"size":5,"color":{"$exists":false}}}`:                                {"c/size", ""},
		`{"selector":{"$or":[{"size":5},{"size":2}]}}`:                                     {"", "c1 c5 c6"},
		`{"selector":{"$or":[{"size":5},{"size":2}]},"sort":["size"]}`:                     {"c/size", "c5 c1 c6"},
		`{"selector":{},"sort":["size"]}`:                                                  {"c/size", "c5 c1 c6 c2 c4"},
		`{"selector":{},"sort":[{"color":"desc"},{"size":"desc"}]}`:                        {"d/colorSize", "c6 c1 c2 c4"},
		`{"selector":{"color":"red"},"sort":["size"]}`:                                     {"d/colorSize", "c1 c6"},
		`{"selector":{"color":{"$gt":"blue"}},"sort":["size"]}`:                            {"c/size", "c1 c6 c2"},
		`{"selector":{"size":{"$gt":5,"$lt":3}}}`:                                          {"c/size", ""},
		`{"selector":{"size":7,"color":"red"},"use_index":["a"]}`:                          {"a/redSize", ""},
		`{"selector":{"size":5},"use_index":["a"]}`:                                        {"c/size", "c1 c6"}, // the filter is not in the selector
		`{"selector":{"_id":"c1"}}`:                                                        {"", "c1"},
		`{"selector":{"$not":{"size":{"$ne":5}}}}`:                                         {"c/size", "c1 c6"},
		`{"selector":{"$and":[{"size":{"$gt":2}},{"color":"red"}]},"sort":["size","_id"]}`: {"d/colorSize", "c1 c6"},
	} {
		s.scans, s.walks = 0, nil
		q := mustParse(t, query)
		q.scanFirst = 0 // ask the index at once
		got := strings.Join(keys(t, q, s, 100, ""), " ")
		if used := strings.Join(s.walks, " "); got != want.keys || used != want.index {
			t.Errorf("%s: %q by index %q, want %q by %q", query, got, used, want.keys, want.index)
		}
	}
}

// TestIndexEqualsScan: whatever the indexes are, a query gives the same rows in the
// same order, and the same bookmarks, as without any.
func TestIndexEqualsScan(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	used := map[string]int{}
	for range 400 {
		var rows memory
		for i := range r.IntN(40) {
			key := fmt.Sprintf("k%02d", i)
			if i == 0 {
				key = "" // a key like any other
			}
			rows = append(rows, [2]string{key, randomDocument(r)})
		}
		var definitions []string
		for i := range 1 + r.IntN(4) {
			definitions = append(definitions, randomIndex(r, i))
		}
		with := newIndexed(t, rows, definitions...)
		for range 8 {
			text := randomQuery(r)
			q := mustParse(t, text)
			q.scanFirst = r.IntN(10)
			got, want := allPages(t, q, with, 1+r.IntN(6)), []string(nil)
			want = allPages(t, q, rows, 1+r.IntN(6))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%s\nwith %v\nover %v (-scan +index):\n%s", text, definitions, rows, diff)
			}
			if len(with.walks) > 0 {
				used["index"]++
			} else {
				used["scan"]++
			}
			with.walks = nil
		}
	}
	if used["index"] < 500 || used["scan"] < 100 {
		t.Errorf("the test is lopsided: %v", used)
	}
}

// allPages reads a query page by page and checks that a single read gives the same.
// A query that skips all its matches gives nothing, wherever it turns from the namespace
// to the index.
func TestSkipBeyondTheMatches(t *testing.T) {
	rows := memory{{"k1", `{"a":1}`}, {"k2", `{"a":2,"b":1}`}, {"k3", `{"a":3}`}}
	with := newIndexed(t, rows, `{"ddoc":"d","index":{"fields":["a","b"]},"name":"x"}`)
	q := mustParse(t, `{"selector":{"a":{"$gt":1},"b":{"$lt":9}},"skip":3,"limit":7}`)
	for q.scanFirst = range 10 {
		if got := allPages(t, q, with, 1); len(got) > 0 {
			t.Errorf("after %d rows of the namespace: %q", q.scanFirst, got)
		}
	}
}

func allPages(t *testing.T, q *Query, s Source, size int) []string {
	t.Helper()
	whole, _ := page(t, q, s, 1000, "")
	list := make([]string, 0, len(whole))
	for _, row := range whole {
		list = append(list, row[0]+" "+row[1])
	}
	if q.skip > 0 || q.limit >= 0 {
		return list
	}
	var paged []string
	for mark := ""; ; {
		rows, next := page(t, q, s, size, mark)
		if len(rows) == 0 {
			break
		}
		for _, row := range rows {
			paged = append(paged, row[0]+" "+row[1])
		}
		mark = next
	}
	if len(paged) != len(list) || len(list) > 0 && !slices.Equal(paged, list) {
		t.Fatalf("pages %q, as a whole %q", paged, list)
	}
	return list
}

var fieldNames = []string{"a", "b", "c", "d.e"}

func randomScalar(r *rand.Rand) any {
	values := []any{nil, true, false, 0, 1, -1, 2.5, json.Number("1e3"), json.Number("-12.50"), "", "a", "A", "b", "ä", "a\x00b", "ab", "2",
		[]any{}, []any{1}, []any{1, "a"}, map[string]any{}, map[string]any{"x": 1}, map[string]any{"x": 1, "y": "a"}}
	return values[r.IntN(len(values))]
}

func randomDocument(r *rand.Rand) string {
	if r.IntN(15) == 0 {
		return "no document"
	}
	doc := map[string]any{}
	for _, name := range []string{"a", "b", "c"} {
		if r.IntN(5) > 0 {
			doc[name] = randomScalar(r)
		}
	}
	if r.IntN(3) > 0 {
		doc["d"] = map[string]any{"e": randomScalar(r)}
	}
	return marshal(doc)
}

func marshal(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func someFields(r *rand.Rand) []any {
	names := slices.Clone(append(fieldNames, "_id"))
	r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	var out []any
	for _, n := range names[:1+r.IntN(3)] {
		out = append(out, n)
	}
	return out
}

func randomIndex(r *rand.Rand, i int) string {
	index := map[string]any{"fields": someFields(r)}
	if r.IntN(5) == 0 {
		index["partial_filter_selector"] = map[string]any{"a": map[string]any{"$gt": 1}}
	}
	return marshal(map[string]any{"index": index, "ddoc": fmt.Sprint("d", i), "name": "x"})
}

func randomCondition(r *rand.Rand) any {
	one := func() (string, any) {
		op := []string{"$eq", "$gt", "$gte", "$lt", "$lte", "$ne", "$exists", "$in", "$type"}[r.IntN(9)]
		switch op {
		case "$exists":
			return op, r.IntN(4) > 0
		case "$in":
			return op, []any{randomScalar(r), randomScalar(r)}
		case "$type":
			return op, []string{"string", "number", "object"}[r.IntN(3)]
		}
		return op, randomScalar(r)
	}
	out := map[string]any{}
	for range 1 + r.IntN(2) {
		op, arg := one()
		out[op] = arg
	}
	if r.IntN(8) == 0 {
		return map[string]any{"$not": out}
	}
	return out
}

func randomQuery(r *rand.Rand) string {
	selector := map[string]any{}
	for _, name := range fieldNames[:r.IntN(len(fieldNames)+1)] {
		if r.IntN(3) > 0 {
			selector[name] = randomCondition(r)
		}
	}
	if r.IntN(4) == 0 {
		selector["a"] = map[string]any{"$gt": 1}
	}
	if r.IntN(6) == 0 {
		selector["$or"] = []any{map[string]any{"a": randomCondition(r)}, map[string]any{"a": randomCondition(r)}}
	}
	query := map[string]any{"selector": selector}
	if r.IntN(2) == 0 {
		direction := []string{"asc", "desc"}[r.IntN(2)]
		var sort []any
		for _, f := range someFields(r) {
			sort = append(sort, map[string]any{f.(string): direction})
		}
		query["sort"] = sort
	}
	if r.IntN(4) == 0 {
		query["use_index"] = fmt.Sprint("d", r.IntN(4))
	}
	if r.IntN(5) == 0 {
		query["skip"], query["limit"] = r.IntN(4), r.IntN(10)
	}
	return marshal(query)
}

// TestEncodingOrder: the bytes of two values compare as the values do.
func TestEncodingOrder(t *testing.T) {
	var values []any
	for _, s := range []string{`null`, `false`, `true`, `0`, `-0.0`, `1`, `1.0`, `10e-1`, `-1`, `-1.5`, `-100`, `99`, `100`, `1e99`, `1e100`, `1e101`, `1e-99`,
		`1e-101`, `1e-5000`, `1e5000`, `-1e5000`, `-1e-5000`, `1e99999999999999999999`, `-1e99999999999999999999`, `123456789012345678901234567890`,
		`123456789012345678901234567891`, `""`, `" "`, `"_"`, `"a"`, `"A"`, `"aa"`, `"á"`, `"ab"`, `"b"`, `"\u0000"`, `"a\u0000"`, `"a\u0001"`, `"a\u0000b"`,
		`"co-op"`, `"coop"`, `"Ω"`, `"中"`, `"😀"`, `"10"`, `"9"`, `[]`, `[null]`, `[1]`, `[1,2]`, `[[1],2]`, `["a"]`, `["a","b"]`, `{}`, `{"a":1}`, `{"a":2}`,
		`{"a":1,"b":1}`, `{"b":1}`, `{"B":1}`, `{"a":{}}`, `{"":[]}`} {
		v, err := decode([]byte(s))
		if err != nil {
			t.Fatal(s, err)
		}
		values = append(values, v)
	}
	e := NewEncoder()
	for _, raw := range []bool{false, true} {
		for _, a := range values {
			for _, b := range values {
				checkOrder(t, e, a, b, raw)
			}
		}
	}
}

func checkOrder(t *testing.T, e *Encoder, a, b any, raw bool) {
	t.Helper()
	x, y := e.value(nil, a, raw), e.value(nil, b, raw)
	if got, want := bytes.Compare(x, y), newOrder(context.Background()).compare(a, b, raw); got != want {
		t.Errorf("%v and %v (raw %v): bytes %x and %x compare as %d, the values as %d", a, b, raw, x, y, got, want)
	}
	if equal(a, b) != bytes.Equal(x, y) {
		t.Errorf("%v and %v (raw %v): equal is %v, encodings are %x and %x", a, b, raw, equal(a, b), x, y)
	}
	if len(x) < len(y) && bytes.HasPrefix(y, x) {
		t.Errorf("the encoding of %v begins that of %v", a, b)
	}
}

// TestEncodingVectors freezes the encodings: they are on disks. If one has to change,
// as with new tables of golang.org/x/text, raise ledger's indexForm.
func TestEncodingVectors(t *testing.T) {
	for value, want := range map[string]string{
		`null`: "10", `false`: "11", `true`: "12", `0`: "2002", `7`: "2003813700", `-7`: "20017ec8ff", `12.50`: "20038231323500",
		`1e300`: "2003ff000000000000012d3100", `1e-300`: "200301fffffffffffffed53100",
		`"a"`: "3015ef00ff00ff00ff2000ff00ff020001610001", `["a",null]`: "403015ef00ff00ff00ff2000ff00ff0200016100011000", `{"b":true}`: "5030160500ff00ff00ff2000ff00ff0200016200011200", `[]`: "4000", `{}`: "5000",
	} {
		v, err := decode([]byte(value))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", NewEncoder().value(nil, v, false)); got != want {
			t.Errorf("%s is %s, want %s", value, got, want)
		}
	}
	if got := fmt.Sprintf("%x", NewEncoder().value(nil, "a\x00b", true)); got != "306100ff620001" {
		t.Errorf("a string by its bytes is %s", got)
	}
}

func FuzzEncoding(f *testing.F) {
	f.Add([]byte(`["a",1.5]`), []byte(`["A",1.50]`))
	f.Add([]byte(`{"a":"co-op"}`), []byte(`{"a":"coop"}`))
	f.Add([]byte(`"e\u0301"`), []byte(`"é"`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		x, err := decode(a)
		if err != nil {
			return
		}
		y, err := decode(b)
		if err != nil {
			return
		}
		checkOrder(t, NewEncoder(), x, y, false)
		checkOrder(t, NewEncoder(), x, y, true)
	})
}

func TestParseIndex(t *testing.T) {
	x, err := ParseIndex([]byte(`{"index":{"fields":[{"a":"desc"},{"b.c":"desc"}],"partial_filter_selector":{"z":1,"y":2}},"ddoc":"_design/d","type":"json","name":"n"}`))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"ddoc":"d","index":{"fields":["a","b.c"],"partial_filter_selector":{"y":2,"z":1}},"name":"n","type":"json"}`
	if got := string(x.Definition()); got != want {
		t.Errorf("definition %s, want %s", got, want)
	}
	again, err := ParseIndex(x.Definition())
	if err != nil || !bytes.Equal(again.Definition(), x.Definition()) || again.String() != "d/n" {
		t.Errorf("read again: %v, %v", again, err)
	}
	unnamed, err := ParseIndex([]byte(`{"index":{"fields":["a"]}}`))
	if err != nil || len(unnamed.Name) != 40 || unnamed.DesignDoc != unnamed.Name {
		t.Errorf("without names: %v, %v", unnamed, err)
	}
	for definition, want := range map[string]string{
		`{`:                                    "index: not JSON: unexpected EOF",
		`[]`:                                   `index: it is JSON of type array; an object with "index" is needed`,
		`{}`:                                   `index: index is missing or no object; {"fields":["a"]} is needed`,
		`{"index":{}}`:                         "index: index.fields is missing or empty; name the fields to index",
		`{"index":{"fields":[]}}`:              "index: index.fields is missing or empty; name the fields to index",
		`{"index":{"fields":["a","a"]}}`:       `index: index.fields: "a" is there twice`,
		`{"index":{"fields":[1]}}`:             "index: index.fields: fields[0] is of type number; a field name is needed",
		`{"index":{"fields":["a"],"x":1}}`:     `index: member "x" of index is not known; it has fields and partial_filter_selector`,
		`{"index":{"fields":["a"]},"x":1}`:     `index: member "x" is not known; an index has index, ddoc, name, type`,
		`{"index":{"fields":["a"]},"name":""}`: "index: name must be a string that is not empty",
		`{"index":{"fields":["a"]},"ddoc":1}`:  "index: ddoc must be a string that is not empty",
		`{"index":{"fields":["a"]},"type":"text"}`:                                        `index: type must be "json"`,
		`{"index":{"fields":["a"],"partial_filter_selector":{"$x":1}}}`:                   "index: selector: operator \"$x\" is not known; there are " + operators,
		`{"index":{"fields":[{"a":"asc"},{"b":"desc"}]}}`:                                 `index: index.fields: fields[1]: "b" goes in another direction than the fields before; give all the same`,
		`{"index":{"fields":["a"],"partial_filter_selector":[]}}`:                         "index: selector is of type array; an object is needed",
		`{"index":{"fields":["a"]},"name":"n"` + strings.Repeat(" ", MaxQueryBytes) + `}`: fmt.Sprintf("index: it has %d bytes; at most %d are allowed", MaxQueryBytes+37, MaxQueryBytes),
	} {
		if _, err := ParseIndex([]byte(definition)); err == nil || err.Error() != want {
			t.Errorf("%.80s: %v, want %s", definition, err, want)
		}
	}
}

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte(`{"index":{"fields":["a"]},"ddoc":"d","name":"n","type":"json"}`), []byte(`{"a":1}`))
	f.Add([]byte(`{"index":{"fields":[{"a.b":"asc"}],"partial_filter_selector":{"c":{"$gt":1}}}}`), []byte(`{"a":{"b":[]},"c":2}`))
	f.Fuzz(func(t *testing.T, definition, value []byte) {
		x, err := ParseIndex(definition)
		if err != nil {
			return
		}
		again, err := ParseIndex(x.Definition())
		if err != nil || !bytes.Equal(again.Definition(), x.Definition()) {
			t.Fatalf("%s is not read as it is: %v", x.Definition(), err)
		}
		doc, ok := ReadDocument("k", value)
		if !ok {
			return
		}
		e := NewEncoder()
		a, ok := e.Entry(nil, x, doc)
		b, okAgain := e.Entry(nil, again, doc)
		if ok != okAgain || !bytes.Equal(a, b) {
			t.Fatalf("entries %x and %x", a, b)
		}
	})
}
