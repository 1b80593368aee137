package chaincode_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"strongroom/chaincode"
	"strongroom/chaincode/chaincodetest"
	"strongroom/chaincode/shim"
)

// query runs a rich query: its text and how many rows to read before leaving, or
// its text, the size of the page and the bookmark.
func (everything) query(stub *shim.Stub, f string, args []string) (any, error) {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return nil, err
	}
	if f == "queryPage" {
		kvs, page, err := stub.GetQueryResultWithPagination(args[0], int32(n), args[2])
		if err != nil {
			return nil, err
		}
		out := queryPage{Bookmark: page.Bookmark, Count: page.Count}
		for _, kv := range kvs {
			out.Rows = append(out.Rows, row{kv.Key, string(kv.Value)})
		}
		return out, nil
	}
	var out []row
	for kv, err := range stub.GetQueryResult(args[0]) {
		if err != nil {
			return nil, err
		}
		if out = append(out, row{kv.Key, string(kv.Value)}); len(out) == n {
			break
		}
	}
	return out, nil
}

type queryPage struct {
	Bookmark string
	Count    int32
	Rows     []row
}

// Rich queries over the wire: batches, pages, leaving early, refusals.
func TestRichQuery(t *testing.T) {
	p := chaincodetest.Start(t, everything{}, chaincode.Config{})
	state := p.Store.Simulate("")
	for i := range 450 {
		if err := state.Put("basic", fmt.Sprintf("key%03d", i), fmt.Appendf(nil, `{"n":%d,"even":%v}`, i, i%2 == 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := state.Put("another", "key000", []byte(`{"n":0,"even":true}`)); err != nil {
		t.Fatal(err)
	}
	state.Commit(chaincodetest.Time)

	for limit, want := range map[string]int{"-1": 225, "1": 1, "100": 100, "101": 101, "224": 224} {
		inv := p.Invocation(nil, nil, "query", `{"selector":{"even":true},"sort":[{"n":"desc"}]}`, limit)
		state := p.Store.Simulate(inv.TxID)
		inv.State = state
		out, err := p.Host.Execute(t.Context(), inv)
		rows := result[[]row](t, out, err)
		same(t, len(rows), want)
		same(t, rows[0], row{"key448", `{"n":448,"even":true}`})
		same(t, state.OpenIterators(), 0)
	}
	out, err := p.Evaluate("query", `{"selector":{"n":{"$in":[7,8]}},"fields":["n"]}`, "-1")
	same(t, result[[]row](t, out, err), []row{{"key007", `{"n":7}`}, {"key008", `{"n":8}`}})

	const query = `{"selector":{"n":{"$gte":100,"$lt":350}}}`
	var counts []int32
	var last string
	for bookmark := ""; ; {
		out, err := p.Evaluate("queryPage", query, "120", bookmark)
		page := result[queryPage](t, out, err)
		same(t, len(page.Rows), int(page.Count))
		counts = append(counts, page.Count)
		last = page.Rows[len(page.Rows)-1].Key
		if bookmark = page.Bookmark; page.Count < 120 {
			break
		}
	}
	same(t, counts, []int32{120, 120, 10})
	same(t, last, "key349")

	for _, c := range []struct{ f, query, n, bookmark, want string }{
		{"query", `{"selector":{"n":{"$near":1}}}`, "-1", "", `operator "$near" of field "n" is not known`},
		{"queryPage", query, "10", "key100", "the bookmark is damaged"},
		{"queryPage", query, "0", "", "page size 0 is not positive"},
	} {
		out, err := p.Evaluate(c.f, c.query, c.n, c.bookmark)
		if err != nil || out.Response.Status != 500 || !strings.Contains(out.Response.Message, c.want) {
			t.Errorf("%s %s: %v %v, want %q", c.f, c.query, out, err, c.want)
		}
	}
}
