package selector

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// memory is a Source of keys and values in order.
type memory [][2]string

func (m memory) Scan(from string) (Rows, error) {
	i, _ := slices.BinarySearchFunc(m, from, func(row [2]string, key string) int { return strings.Compare(row[0], key) })
	return &memoryRows{rows: m[i:]}, nil
}

func (m memory) Get(key string) ([]byte, error) {
	for _, row := range m {
		if row[0] == key {
			return []byte(row[1]), nil
		}
	}
	return nil, errors.New("no such key")
}

func (m memory) Indexes() []*Index { return nil }

func (m memory) ScanIndex(int, []byte, []byte, bool) (Keys, error) {
	return nil, errors.New("there is no index")
}

type memoryRows struct{ rows memory }

func (r *memoryRows) Next() (string, []byte, bool, error) {
	if len(r.rows) == 0 {
		return "", nil, false, nil
	}
	row := r.rows[0]
	r.rows = r.rows[1:]
	return row[0], []byte(row[1]), true, nil
}

func (r *memoryRows) Close() {}

func page(t *testing.T, q *Query, m Source, limit int, bookmark string) (rows [][2]string, next string) {
	t.Helper()
	r, err := q.Run(t.Context(), m, limit, bookmark)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		key, value, ok, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return rows, r.Bookmark()
		}
		rows = append(rows, [2]string{key, string(value)})
	}
}

func keys(t *testing.T, q *Query, m Source, limit int, bookmark string) (list []string) {
	t.Helper()
	rows, _ := page(t, q, m, limit, bookmark)
	for _, row := range rows {
		list = append(list, row[0])
	}
	return list
}

func mustParse(t testing.TB, query string) *Query {
	t.Helper()
	q, err := Parse([]byte(query))
	if err != nil {
		t.Fatal(err)
	}
	return q
}

var cars = memory{
	{"c1", `{"color":"red","size":5,"owner":{"name":"ann"}}`},
	{"c2", `{"color":"Blue","size":10,"owner":{"name":"bob"}}`},
	{"c3", `not JSON`},
	{"c4", `{"color":"blue","size":10}`},
	{"c5", `{"size":2}`},
	{"c6", `{"color":"red","size":5,"tags":["<x>",1.50]}`},
}

func TestRun(t *testing.T) {
	for query, want := range map[string]string{
		`{"selector":{}}`:                                                      "c1 c2 c4 c5 c6",
		`{"selector":{},"limit":2}`:                                            "c1 c2",
		`{"selector":{},"limit":0}`:                                            "",
		`{"selector":{},"skip":3}`:                                             "c5 c6",
		`{"selector":{},"skip":9}`:                                             "",
		`{"selector":{},"sort":["size"]}`:                                      "c5 c1 c6 c2 c4",
		`{"selector":{},"sort":[{"size":"desc"}]}`:                             "c4 c2 c6 c1 c5", // the keys go down too
		`{"selector":{},"sort":["color"]}`:                                     "c4 c2 c1 c6",    // c5 has none; "blue" before "Blue"
		`{"selector":{},"sort":["size","color"],"limit":3}`:                    "c1 c6 c4",
		`{"selector":{},"sort":["size"],"skip":1,"limit":2}`:                   "c1 c6",
		`{"selector":{"size":{"$gt":2}},"sort":[{"_id":"desc"}],"limit":2}`:    "c6 c4",
		`{"selector":{"size":{"$gt":2}},"sort":["owner.name"]}`:                "c1 c2",
		`{"selector":{"color":"red"},"use_index":["ddoc","name"]}`:             "c1 c6",
		`{"selector":{"color":"red"},"use_index":"_design/ddoc/name"}`:         "c1 c6",
		`{"selector":{"color":"red"},"execution_stats":true,"bookmark":"nil"}`: "c1 c6",
	} {
		if got := strings.Join(keys(t, mustParse(t, query), cars, 100, ""), " "); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	for query, want := range map[string]string{
		`{"selector":{"_id":"c1"}}`:                                             cars[0][1],
		`{"selector":{"_id":"c1"},"fields":[]}`:                                 cars[0][1],
		`{"selector":{"_id":"c1"},"fields":["size","owner.name","no","_id"]}`:   `{"owner":{"name":"ann"},"size":5}`,
		`{"selector":{"_id":"c6"},"fields":["tags.1","size.x"],"sort":["_id"]}`: `{"tags":{"1":1.50}}`,
		`{"selector":{"_id":"c6"},"fields":["tags","tags.0"]}`:                  `{"tags":["\u003cx\u003e",1.50]}`, // as Fabric's json.Marshal writes it
	} {
		if rows, _ := page(t, mustParse(t, query), cars, 100, ""); len(rows) != 1 || rows[0][1] != want {
			t.Errorf("%s: %q, want %s", query, rows, want)
		}
	}
}

// TestPages: pages of any size, put together, are the whole, for any order.
func TestPages(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var m memory
	for i := range 200 {
		m = append(m, [2]string{fmt.Sprintf("k%03d", i), fmt.Sprintf(`{"n":%d,"s":"%c","o":{"x":[%d]}}`, random.IntN(20), 'A'+rune(random.IntN(50)), random.IntN(3))})
	}
	for _, order := range []string{`[]`, `["n"]`, `[{"n":"desc"},{"s":"desc"}]`, `["o","s"]`, `["_id"]`} {
		query := `{"selector":{"n":{"$lt":15}},"sort":` + order + `}`
		q := mustParse(t, query)
		whole := keys(t, q, m, 1000, "")
		if len(whole) < 100 {
			t.Fatalf("%s: %d rows", query, len(whole))
		}
		for _, size := range []int{1, 7, 50, 500} {
			var got []string
			bookmark := ""
			for {
				rows, next := page(t, q, m, size, bookmark)
				for _, row := range rows {
					got = append(got, row[0])
				}
				if len(rows) == 0 {
					if next != bookmark {
						t.Errorf("an empty page's bookmark is %q, want the one before", next)
					}
					break
				}
				bookmark = next
			}
			if !slices.Equal(got, whole) {
				t.Errorf("%s in pages of %d:\n%v, want\n%v", query, size, got, whole)
			}
		}
	}
}

func TestBookmark(t *testing.T) {
	q := mustParse(t, `{"selector":{"size":{"$gt":1}},"sort":["size"]}`)
	_, bookmark := page(t, q, cars, 2, "")
	if got := keys(t, q, cars, 2, bookmark); !slices.Equal(got, []string{"c6", "c2"}) {
		t.Errorf("the second page is %v", got)
	}
	within := mustParse(t, `{"sort":["size"],"selector":{"size":{"$gt":1}},"limit":1,"fields":["size"],"bookmark":"`+bookmark+`"}`)
	if got := keys(t, within, cars, 9, ""); !slices.Equal(got, []string{"c6"}) {
		t.Errorf("by the bookmark in the query: %v", got)
	}
	// The last row is gone: the next page goes on behind its place.
	if got := keys(t, q, slices.Concat(cars[1:5], memory{{"c9", `{"size":5}`}}), 2, bookmark); !slices.Equal(got, []string{"c9", "c2"}) {
		t.Errorf("after a delete: %v", got)
	}
	refused := func(q *Query, bookmark, want string) {
		t.Helper()
		if _, err := q.Run(t.Context(), cars, 2, bookmark); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("bookmark %q: %v, want %q", bookmark, err, want)
		}
	}
	refused(mustParse(t, `{"selector":{},"sort":["size"]}`), bookmark, "another selector or sort")
	refused(q, strings.Repeat("A", maxBookmarkSize+1), "at most 1048576 are allowed")
	for i := range bookmark { // every character counts
		b := []byte(bookmark)
		if b[i] = 'A'; bookmark[i] == 'A' {
			b[i] = 'B'
		}
		refused(q, string(b), "damaged or not one of this peer's")
	}
	for i := 1; i < len(bookmark); i++ {
		refused(q, bookmark[:i], "damaged or not one of this peer's")
	}
	if _, none := page(t, mustParse(t, `{"selector":{"x":1}}`), cars, 2, ""); none != "nil" {
		t.Errorf("bookmark of nothing: %q", none)
	}
}

// endless gives the same rows for ever.
type endless struct{ value string }

func (e endless) Scan(string) (Rows, error) { return &endlessRows{value: e.value}, nil }
func (endless) Get(string) ([]byte, error)  { return nil, nil }

type endlessRows struct {
	value string
	n     int
}

func (r *endlessRows) Next() (string, []byte, bool, error) {
	r.n++
	return fmt.Sprint(r.n), []byte(r.value), true, nil
}
func (*endlessRows) Close() {}

func TestRunEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, err := mustParse(t, `{"selector":{"b":1}}`).Run(ctx, endless{`{"a":1}`}, 10, "")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, _, _, err := r.Next(); !errors.Is(err, context.Canceled) {
		t.Errorf("after the context's end: %v", err)
	}
	big := endless{`{"a":"` + strings.Repeat("x", 1<<20) + `"}`}
	if r, err = mustParse(t, `{"selector":{},"sort":["a"]}`).Run(t.Context(), big, 1000, ""); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := r.Next(); err == nil || !strings.Contains(err.Error(), "its sort holds more than") {
		t.Errorf("a sort without end: %v", err)
	}
}

// TestOneRowEnds: a single row that takes long does not outlive the context, and a
// regular expression has a bound on what it reads.
func TestOneRowEnds(t *testing.T) {
	numbers := func(from int) string {
		list := make([]string, 60_000)
		for i := range list {
			list[i] = fmt.Sprint(from + i)
		}
		return "[" + strings.Join(list, ",") + "]"
	}
	m := memory{{"k", `{"a":` + numbers(1_000_000) + `}`}}
	q := mustParse(t, `{"selector":{"a":{"$in":`+numbers(0)+`}}}`)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("the transaction's time is over"))
	defer cancel()
	r, err := q.Run(ctx, m, 1, "")
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if _, _, _, err := r.Next(); err == nil || !strings.Contains(err.Error(), `key "k": the transaction's time is over`) {
		t.Errorf("3.6 thousand million comparisons: %v", err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("gave up after %s", took)
	}
	m = memory{{"k", `{"a":"` + strings.Repeat("x", MaxRegexText+1) + `"}`}}
	if r, err = mustParse(t, `{"selector":{"a":{"$regex":"y"}}}`).Run(t.Context(), m, 1, ""); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := r.Next(); err == nil || !strings.Contains(err.Error(), `key "k": $regex met a string of 1048577 bytes; it reads at most 1048576`) {
		t.Errorf("a long string: %v", err)
	}
}

func (endless) Indexes() []*Index { return nil }

func (endless) ScanIndex(int, []byte, []byte, bool) (Keys, error) {
	return nil, errors.New("there is no index")
}
