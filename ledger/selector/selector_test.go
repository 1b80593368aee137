package selector

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// matches runs one selector over one document.
func matches(t *testing.T, sel, doc string) bool {
	t.Helper()
	q, err := Parse([]byte(`{"selector":` + sel + `}`))
	if err != nil {
		t.Fatalf("%s: %v", sel, err)
	}
	return len(keys(t, q, memory{{"k1", doc}}, 10, "")) == 1
}

// TestMatch follows "Mango Queries" of CouchDB's documentation operator by
// operator; entries marked "source" are what it leaves to the sources of CouchDB 3.
func TestMatch(t *testing.T) {
	for _, c := range []struct {
		selector string
		yes, no  []string
	}{
		{`{}`, []string{`{}`, `{"a":1}`, ` {"a":1}`}, []string{`[]`, `1`, `"x"`, `null`, ``, `{`, `{"a":1}x`, "\x00"}},
		// Implicit operators: equality and $and; subfields in both forms.
		{`{"director":"Lars von Trier"}`, []string{`{"director":"Lars von Trier"}`}, []string{`{"director":"lars von trier"}`, `{}`, `{"director":["Lars von Trier"]}`}},
		{`{"name":"Paul","location":"Boston"}`, []string{`{"name":"Paul","location":"Boston"}`}, []string{`{"name":"Paul"}`, `{"name":"Paul","location":"x"}`}},
		{`{"imdb":{"rating":8}}`, []string{`{"imdb":{"rating":8}}`, `{"imdb":{"rating":8.0,"votes":1}}`}, []string{`{"imdb":8}`, `{"imdb":{}}`}},
		{`{"imdb.rating":8}`, []string{`{"imdb":{"rating":8}}`}, []string{`{"imdb.rating":8}`}},
		{`{"imdb\\.rating":8}`, []string{`{"imdb.rating":8}`}, []string{`{"imdb":{"rating":8}}`}},
		{`{"\\$foo":1}`, []string{`{"$foo":1}`}, []string{`{"foo":1}`}},
		{`{"a.1.b":2}`, []string{`{"a":[0,{"b":2}]}`, `{"a":{"1":{"b":2}}}`}, []string{`{"a":[{"b":2}]}`}},
		{`{"a":{}}`, []string{`{"a":{}}`}, []string{`{"a":{"b":1}}`, `{}`}}, // source: an empty object is a value
		{`{"a":[1,2]}`, []string{`{"a":[1,2.0]}`}, []string{`{"a":[1]}`, `{"a":[2,1]}`}},
		{`{"a":null}`, []string{`{"a":null}`}, []string{`{}`, `{"a":false}`}},
		{`{"a":{"b":1,"$exists":true}}`, []string{`{"a":{"b":1}}`}, []string{`{"a":{"b":2}}`}},
		// Comparison: any JSON, by the order of "Views Collation".
		{`{"a":{"$gt":null}}`, []string{`{"a":false}`, `{"a":0}`, `{"a":""}`, `{"a":{}}`}, []string{`{"a":null}`, `{}`}},
		{`{"a":{"$lt":0}}`, []string{`{"a":-1}`, `{"a":true}`, `{"a":null}`}, []string{`{"a":0}`, `{"a":"-1"}`, `{"a":[]}`}},
		{`{"a":{"$gte":5,"$lte":7}}`, []string{`{"a":5}`, `{"a":7.0}`, `{"a":6.5}`}, []string{`{"a":4.999}`, `{"a":70e-1001}`, `{"a":"6"}`}},
		{`{"a":{"$gte":"b"}}`, []string{`{"a":"b"}`, `{"a":"B"}`, `{"a":"é f"}`, `{"a":[]}`}, []string{`{"a":"a"}`, `{"a":"A"}`, `{"a":9}`}},
		{`{"a":{"$ne":1}}`, []string{`{"a":2}`, `{"a":null}`}, []string{`{"a":1}`, `{"a":1.0}`, `{"a":10e-1}`, `{}`}},
		{`{"a":{"$eq":123456789012345678901234567890}}`, []string{`{"a":123456789012345678901234567890}`, `{"a":1.2345678901234567890123456789e29}`}, []string{`{"a":123456789012345678901234567891}`}},
		{`{"a":{"$gt":9007199254740992}}`, []string{`{"a":9007199254740993}`}, []string{`{"a":9007199254740992}`}},
		// Object operators.
		{`{"a":{"$exists":true}}`, []string{`{"a":null}`, `{"a":1}`}, []string{`{}`, `{"b":1}`}},
		{`{"a":{"$exists":false}}`, []string{`{}`, `{"b":1}`}, []string{`{"a":null}`}},
		{`{"a.b":{"$exists":false}}`, []string{`{"a":{}}`, `{}`}, []string{`{"a":1}`, `{"a":{"b":1}}`}}, // source: a path through no object is astray
		{`{"a":{"$type":"number"}}`, []string{`{"a":1}`, `{"a":1e3}`}, []string{`{"a":"1"}`, `{}`}},
		{`{"a":{"$type":"boolean"}}`, []string{`{"a":true}`, `{"a":false}`}, []string{`{"a":0}`}},
		{`{"a":{"$type":"object"}}`, []string{`{"a":{}}`}, []string{`{"a":[]}`, `{"a":null}`}},
		// Arrays.
		{`{"a":{"$in":[1,"x"]}}`, []string{`{"a":1.0}`, `{"a":"x"}`, `{"a":[7,"x"]}`}, []string{`{"a":2}`, `{"a":[[1]]}`, `{}`}}, // an element of a list: source
		{`{"a":{"$in":[]}}`, nil, []string{`{"a":1}`, `{"a":[]}`}},
		{`{"a":{"$nin":[1,"x"]}}`, []string{`{"a":2}`, `{"a":[7]}`}, []string{`{"a":1}`, `{"a":[7,1]}`, `{}`}},
		{`{"a":{"$nin":[]}}`, []string{`{"a":1}`}, []string{`{}`}},
		{`{"a":{"$size":2}}`, []string{`{"a":[1,2]}`}, []string{`{"a":[1]}`, `{"a":"xx"}`, `{"a":{"x":1,"y":2}}`}},
		{`{"g":{"$all":["Comedy","Short"]}}`, []string{`{"g":["Short","x","Comedy"]}`}, []string{`{"g":["Short"]}`, `{"g":"Short"}`}},
		{`{"g":{"$all":[["a","b"]]}}`, []string{`{"g":["a","b"]}`, `{"g":[["a","b"]]}`}, []string{`{"g":["b","a"]}`}}, // source
		{`{"g":{"$all":[]}}`, nil, []string{`{"g":[]}`, `{"g":[1]}`}},                                                 // source
		{`{"g":{"$elemMatch":{"$eq":"Horror"}}}`, []string{`{"g":["x","Horror"]}`}, []string{`{"g":[]}`, `{"g":"Horror"}`}},
		{`{"g":{"$elemMatch":{"$gte":80,"$lt":85}}}`, []string{`{"g":[1,82]}`}, []string{`{"g":[79,85]}`}},
		{`{"g":{"$elemMatch":{"n":"x","v.w":{"$gt":1}}}}`, []string{`{"g":[{"n":"x","v":{"w":2}}]}`}, []string{`{"g":[{"n":"x"},{"v":{"w":2}}]}`}},
		{`{"g":{"$elemMatch":{"$not":{"n":"x"}}}}`, []string{`{"g":[{"m":1}]}`, `{"g":[{"n":"y"}]}`}, []string{`{"g":[{"n":"x"}]}`, `{"g":[]}`}}, // source: negation stays within
		{`{"g":{"$elemMatch":{"$nor":[{"n":"x"},{"n":"y"}]}}}`, []string{`{"g":[{"n":"z"}]}`}, []string{`{"g":[{"n":"x"},{"n":"y"}]}`}},
		{`{"g":{"$allMatch":{"$eq":"Horror"}}}`, []string{`{"g":["Horror","Horror"]}`}, []string{`{"g":["Horror","x"]}`, `{"g":[]}`}},
		{`{"c":{"$keyMapMatch":{"$eq":"secondary"}}}`, []string{`{"c":{"secondary":1,"x":2}}`}, []string{`{"c":{"x":"secondary"}}`, `{"c":{}}`, `{"c":["secondary"]}`}},
		// Miscellaneous.
		{`{"a":{"$mod":[4,2]}}`, []string{`{"a":6}`, `{"a":100000000000000000000000000000000002}`}, []string{`{"a":7}`, `{"a":6.0}`, `{"a":6e0}`, `{"a":"6"}`, `{"a":-6}`}},
		{`{"a":{"$mod":[-4,-2]}}`, []string{`{"a":-6}`}, []string{`{"a":6}`}},
		{`{"a":{"$mod":[-9223372036854775808,7]}}`, []string{`{"a":9223372036854775815}`}, []string{`{"a":9223372036854775814}`}},
		{`{"a":{"$regex":"^A.c$"}}`, []string{`{"a":"Abc"}`}, []string{`{"a":"abc"}`, `{"a":["Abc"]}`, `{"a":1}`}},
		{`{"a":{"$beginsWith":"Ab"}}`, []string{`{"a":"Abc"}`}, []string{`{"a":"abc"}`, `{"a":1}`}},
		// Combination.
		{`{"$and":[{"a":1},{"b":2}]}`, []string{`{"a":1,"b":2}`}, []string{`{"a":1}`}},
		{`{"$or":[{"a":1},{"b":2}],"c":3}`, []string{`{"a":1,"c":3}`, `{"b":2,"c":3}`}, []string{`{"a":1}`, `{"c":3}`}},
		{`{"a":{"$or":[{"$lt":3},7]}}`, []string{`{"a":2}`, `{"a":7}`}, []string{`{"a":5}`}},
		{`{"$or":[]}`, []string{`{}`}, nil},  // source
		{`{"$and":[]}`, []string{`{}`}, nil}, // source
		{`{"y":{"$gte":1900,"$lte":1903},"$not":{"y":1901}}`, []string{`{"y":1900}`}, []string{`{"y":1901}`, `{"y":1904}`}},
		{`{"y":{"$gte":1900,"$lte":1910},"$nor":[{"y":1901},{"y":1905}]}`, []string{`{"y":1902}`}, []string{`{"y":1901}`, `{"y":1905}`}},
		{`{"$not":{"y":1901}}`, []string{`{"y":1}`}, []string{`{"y":1901}`, `{}`}}, // the field must exist: source
		{`{"$not":{"y":{"$regex":"a"}}}`, []string{`{"y":"b"}`, `{"y":1}`}, []string{`{"y":"a"}`, `{}`}},
		{`{"$not":{"y":{"$exists":true}}}`, []string{`{}`}, []string{`{"y":1}`}},
		{`{"$not":{"$and":[{"y":1},{"z":{"$not":{"$gt":1}}}]}}`, []string{`{"y":2}`, `{"z":2}`}, []string{`{"y":1,"z":1}`, `{"y":1}`}},
		{`{"$not":{"$or":[{"y":1},{"$nor":[{"z":1}]}]}}`, []string{`{"y":2,"z":1}`}, []string{`{"y":2,"z":2}`, `{"y":1,"z":1}`, `{"z":1}`}},
		{`{"y":{"$not":{"$elemMatch":{"$eq":1}}}}`, []string{`{"y":[2]}`, `{"y":1}`}, []string{`{"y":[1]}`, `{}`}},
		// The key.
		{`{"_id":"k1"}`, []string{`{}`, `{"_id":"other"}`}, nil},
		{`{"_id":{"$gt":"K9"}}`, []string{`{}`}, nil}, // by bytes: "K" < "k", unlike other fields
		{`{"_id":{"$regex":"^x"}}`, nil, []string{`{"_id":"x"}`}},
	} {
		for _, doc := range c.yes {
			if !matches(t, c.selector, doc) {
				t.Errorf("%s does not match %s", c.selector, doc)
			}
		}
		for _, doc := range c.no {
			if matches(t, c.selector, doc) {
				t.Errorf("%s matches %s", c.selector, doc)
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	many := strings.TrimSuffix(strings.Repeat(`{"a":1},`, MaxConditions+1), ",")
	for query, want := range map[string]string{
		``:                                      "not JSON",
		`{"selector":{}} x`:                     "not JSON",
		`[]`:                                    "type array; an object with a selector is needed",
		`{}`:                                    "selector is missing",
		`{"selector":1}`:                        "selector is of type number",
		`{"selector":{},"stable":true}`:         `member "stable" is not known; a query has selector, fields`,
		`{"selector":{"a":{"$foo":1}}}`:         `operator "$foo" of field "a" is not known; there are $and $or`,
		`{"selector":{"$text":"x"}}`:            `operator "$text" is not known`,
		`{"selector":{"$gt":1}}`:                "operator $gt stands without a field",
		`{"selector":{"$and":[1]}}`:             "operator $eq stands without a field",
		`{"selector":{"$and":{}}}`:              "$and has an argument of type object; it needs a list of selectors",
		`{"selector":{"a":{"$not":1}}}`:         `$not of field "a" has an argument of type number`,
		`{"selector":{"$not":{}}}`:              "$not has an argument of type object; it needs a selector that is not empty",
		`{"selector":{"":1}}`:                   "a field's name is empty",
		`{"selector":{"a":{"":1}}}`:             `a field's name is empty of field "a"`,
		`{"selector":{"a..b":1}}`:               `field "a..b" has an empty name in it`,
		`{"selector":{"a":{"$in":1}}}`:          `$in of field "a" has an argument of type number; it needs a list of values`,
		`{"selector":{"a":{"$exists":1}}}`:      "it needs true or false",
		`{"selector":{"a":{"$type":"int"}}}`:    "it needs one of null, boolean",
		`{"selector":{"a":{"$size":-1}}}`:       "it needs a whole number",
		`{"selector":{"a":{"$mod":[0,1]}}}`:     "[divisor, remainder], two integers of 64 bits, the first not 0",
		`{"selector":{"a":{"$mod":[1.5,1]}}}`:   "[divisor, remainder]",
		`{"selector":{"a":{"$regex":"(?=x)"}}}`: `$regex of field "a"`,
		`{"selector":{"a":{"$regex":"` + strings.Repeat("x", MaxRegexBytes+1) + `"}}}`: "regular expressions of the query have more than 4096 bytes",
		`{"selector":{"a":{"$regex":"(a{90}){11}b{900}c{900}"}}}`:                      "compile to more than 2000 instructions",
		`{"selector":{"a":{"$elemMatch":[]}}}`:                                         "$elemMatch of field \"a\" has an argument of type array",
		`{"selector":{"a":{"$elemMatch":{"$foo":1}}}}`:                                 `$elemMatch of field "a": operator "$foo" is not known`,
		`{"selector":{"$or":[` + many + `]}}`:                                          "more than 10000 conditions",
		`{"selector":{"a":` + strings.Repeat("[", 70) + strings.Repeat("]", 70) + `}}`: "nested deeper than 64",
		`{"selector":{},"fields":"a"}`:                                                 "fields is of type string; a list of field names is needed",
		`{"selector":{},"fields":[1]}`:                                                 "fields[0] is of type number",
		`{"selector":{},"fields":[""]}`:                                                "fields[0]: field \"\" has an empty name",
		`{"selector":{},"sort":"a"}`:                                                   "sort is of type string",
		`{"selector":{},"sort":[{"a":"up"}]}`:                                          `the direction of "a" must be "asc" or "desc"`,
		`{"selector":{},"sort":[{"a":"asc","b":"asc"}]}`:                               "sort[0] has 2 members",
		`{"selector":{},"sort":["a",{"b":"desc"}]}`:                                    `"b" goes in another direction`,
		`{"selector":{},"limit":-1}`:                                                   "limit is not a whole number from 0 to",
		`{"selector":{},"skip":1.5}`:                                                   "skip is not a whole number",
		`{"selector":{},"bookmark":1}`:                                                 "bookmark is of type number",
		`{"selector":{},"use_index":1}`:                                                "use_index must be",
		`{"selector":{},"use_index":[1]}`:                                              "use_index has a part of type number",
		`{"selector":{},"execution_stats":"yes"}`:                                      "execution_stats is of type string",
		`{"selector":{"a":"` + strings.Repeat("x", MaxQueryBytes) + `"}}`:              "at most 1048576 are allowed",
	} {
		if _, err := Parse([]byte(query)); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "rich query: ") {
			t.Errorf("%.80s: %v, want %q", query, err, want)
		}
	}
}

// TestOrder is the collation of "Views Collation": its own example, with members
// of objects sorted as Fabric stores them, and its sequence of ASCII characters as
// present versions of Unicode's tables have it (` and ^ moved behind %).
func TestOrder(t *testing.T) {
	ordered := []string{
		`null`, `false`, `true`,
		`-1e400`, `-12`, `-1.5`, `-0.001`, `0`, `1e-400`, `1`, `2`, `3.0`, `4`, `4.5`, `1000`, `1e5`, `123456789012345678901234567890`, `123456789012345678901234567891`, `1e99999999999999999999`,
		`""`, `"a"`, `"A"`, `"aa"`, `"b"`, `"B"`, `"ba"`, `"bb"`,
		`[]`, `["a"]`, `["b"]`, `["b","c"]`, `["b","c","a"]`, `["b","d"]`, `["b","d","e"]`,
		`{}`, `{"a":1}`, `{"a":1,"b":2}`, `{"a":2}`, `{"b":1}`, `{"b":2}`, `{"b":2,"c":2}`,
	}
	o := newOrder(t.Context())
	for i, a := range ordered {
		for j, b := range ordered {
			x, y := parse(t, a), parse(t, b)
			if got := o.compare(x, y, false); sign(got) != sign(i-j) {
				t.Errorf("%s to %s: %d", a, b, got)
			}
			if equal(x, y) != (i == j) {
				t.Errorf("%s equals %s: %v", a, b, i != j)
			}
		}
	}
	const ascii = "_-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789aAbBcCdDeEfFgGhHiIjJkKlLmMnNoOpPqQrRsStTuUvVwWxXyYzZ"
	got := []byte(ascii)
	slices.Sort(got)
	slices.SortFunc(got, func(a, b byte) int { return o.compareStrings(string(a), string(b), false) })
	if string(got) != ascii {
		t.Errorf("ASCII collates as\n%s, want\n%s", got, ascii)
	}
	for _, s := range []string{"a\u0001", "\u00e9", "e\u0301"} { // alike to the collation, but not equal
		if o.compare("a", s, false) == 0 || o.compare("\u00e9", s, false) == 0 && s != "\u00e9" {
			t.Errorf("%q is equal to another string", s)
		}
	}
	if o.compare("a", "B", true) < 0 {
		t.Error("raw comparison collates")
	}
	for _, same := range [][2]string{{"1", "1.0"}, {"1", "10e-1"}, {"0", "-0.0e5"}, {"100", "1E2"}, {"0.001", "1e-3"}, {"12.50", "1250e-2"}} {
		if !equal(json.Number(same[0]), json.Number(same[1])) {
			t.Errorf("%s does not equal %s", same[0], same[1])
		}
	}
}

func parse(t *testing.T, s string) any {
	t.Helper()
	v, err := decode([]byte(s))
	if err != nil {
		t.Fatal(s, err)
	}
	return v
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

// FuzzQuery: no query and no document may end the process, a selector and its
// negation never match the same document, and bookmarks come back as they were.
func FuzzQuery(f *testing.F) {
	f.Add(`{"selector":{"a":{"$gt":1}},"sort":["a"],"fields":["a.b"]}`, `{"a":{"b":2}}`)
	f.Add(`{"selector":{"$or":[{"a":{"$elemMatch":{"$not":{"x":{"$mod":[3,1]}}}}},{"b":{"$in":[1,null]}}]},"limit":3,"skip":1}`, `{"a":[{"x":4}],"b":1e5}`)
	f.Add(`{"selector":{"a.0\\.b":{"$regex":"^x+"}},"use_index":["d","n"],"execution_stats":true}`, `{"a":["x"]}`)
	f.Fuzz(func(t *testing.T, query, doc string) {
		q, err := Parse([]byte(query))
		if err != nil {
			return
		}
		rows := memory{{"k1", doc}, {"k2", `{"a":1}`}, {"k3", doc}}
		r, err := q.Run(t.Context(), rows, 1, "")
		if err != nil {
			return // the query's own bookmark
		}
		if _, _, ok, err := r.Next(); err != nil {
			t.Fatal(err)
		} else if ok {
			if _, err := q.parseBookmark(r.Bookmark()); err != nil && len(r.Bookmark()) <= maxBookmarkSize {
				t.Fatalf("bookmark %s: %v", r.Bookmark(), err)
			}
		}
		var parts struct{ Selector json.RawMessage }
		if err := json.Unmarshal([]byte(query), &parts); err != nil {
			return
		}
		negated, err := Parse(fmt.Appendf(nil, `{"selector":{"$not":%s}}`, parts.Selector))
		if err != nil || strings.Contains(query, "$and") || strings.Contains(query, "$or") || strings.Contains(query, "$nor") {
			return // CouchDB's $and [], $or [] and their negations match everything
		}
		if d := document([]byte(doc)); d != nil && q.where.match(newOrder(t.Context()), d) && negated.where.match(newOrder(t.Context()), d) {
			t.Fatalf("%s and its negation match %s", query, doc)
		}
	})
}
