package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"strongroom/ledger"
	"strongroom/ledger/ledgertest"
	"strongroom/ledger/rwset"
	"strongroom/ledger/selector"
	"strongroom/wire"
	"strongroom/wire/peerpb"
)

// fillJSON commits n documents k000… with a number and its rest by 3, a value that
// is no document, and a document in another namespace.
func fillJSON(t *testing.T, l *ledger.Ledger, n int) {
	t.Helper()
	run(t, l, func(s *ledger.Simulator) {
		for i := range n {
			ok(t, s.Put("kv", fmt.Sprintf("k%03d", i), fmt.Appendf(nil, `{"n":%d,"rest":%d}`, i, i%3)))
		}
		ok(t, s.Put("kv", "a list", []byte(`[{"n":1}]`)))
		ok(t, s.Put("other", "k000", []byte(`{"n":1,"rest":1}`)))
	})
}

func values(t *testing.T, it rwset.KVIterator) (list []string) {
	t.Helper()
	for {
		kv, err := it.Next()
		ok(t, err)
		if kv == nil {
			return list
		}
		list = append(list, kv.Namespace+"/"+kv.Key+"="+string(kv.Value))
	}
}

// TestQuery: a query sees one snapshot, without the transaction's own writes, and
// enters each row that it gave into the read set and nothing else, as Fabric does.
func TestQuery(t *testing.T) {
	l := ledgertest.Open(t, channelID)
	fillJSON(t, l, 7)
	s := simulate(t, l)
	run(t, l, func(s *ledger.Simulator) { ok(t, s.Put("kv", "k001", []byte(`{"n":1,"rest":2}`))) }) // not in the snapshot
	ok(t, s.Put("kv", "k007", []byte(`{"n":7,"rest":1}`)))
	it, err := s.Query(t.Context(), "kv", `{"selector":{"rest":1}}`)
	ok(t, err)
	if diff := cmp.Diff([]string{`kv/k001={"n":1,"rest":1}`, `kv/k004={"n":4,"rest":1}`}, values(t, it)); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	sorted, err := s.Query(t.Context(), "kv", `{"selector":{"rest":0},"sort":[{"n":"desc"}],"limit":2,"fields":["n"]}`)
	ok(t, err)
	if diff := cmp.Diff([]string{`kv/k006={"n":6}`, `kv/k003={"n":3}`}, values(t, sorted)); diff != "" {
		t.Errorf("sorted rows (-want +got):\n%s", diff)
	}
	unread, err := s.Query(t.Context(), "kv", `{"selector":{"rest":2}}`)
	ok(t, err)
	unread.Close()
	if _, err := unread.Next(); !errors.Is(err, ledger.ErrDone) {
		t.Errorf("after Close: %v", err)
	}
	raw, _, err := s.Results()
	ok(t, err)
	set, err := wire.ParseReadWriteSet(raw)
	ok(t, err)
	kv := set.Namespaces[0].KV
	var reads []string
	for _, r := range kv.Reads {
		reads = append(reads, fmt.Sprintf("%s@%d.%d", r.Key, r.Version.GetBlockNum(), r.Version.GetTxNum()))
	}
	if diff := cmp.Diff([]string{"k001@0.0", "k003@0.0", "k004@0.0", "k006@0.0"}, reads); diff != "" {
		t.Errorf("read set (-want +got):\n%s", diff)
	}
	if len(kv.RangeQueriesInfo) != 0 || len(set.Namespaces) != 1 {
		t.Errorf("the query was recorded as a range: %v", set.Namespaces)
	}
	// k001 changed meanwhile: what the query read is checked like any read.
	envelope, _ := ledgertest.Envelope(t, channelID, "kv", raw)
	if diff := cmp.Diff([]peerpb.TxValidationCode{peerpb.TxValidationCode_MVCC_READ_CONFLICT}, ledgertest.Commit(t, l, envelope)); diff != "" {
		t.Errorf("flags (-want +got):\n%s", diff)
	}
}

// TestQueryEqualsReads: a query leaves the same bytes as plain reads of its rows.
func TestQueryEqualsReads(t *testing.T) {
	l := ledgertest.Open(t, channelID)
	fillJSON(t, l, 9)
	query, plain := simulate(t, l), simulate(t, l)
	it, err := query.Query(t.Context(), "kv", `{"selector":{"n":{"$gte":6}}}`)
	ok(t, err)
	values(t, it)
	for _, key := range []string{"k006", "k007", "k008"} {
		_, err := plain.Get("kv", key)
		ok(t, err)
	}
	got, _, err := query.Results()
	ok(t, err)
	want, _, err := plain.Results()
	ok(t, err)
	if string(got) != string(want) {
		t.Errorf("results\n%x, want\n%x", got, want)
	}
}

func TestQueryPages(t *testing.T) {
	l := ledgertest.Open(t, channelID)
	fillJSON(t, l, 8)
	for query, want := range map[string][][]string{
		`{"selector":{"rest":{"$lt":2}},"fields":["n"]}`:                       {{"k000", "k001"}, {"k003", "k004"}, {"k006", "k007"}, nil},
		`{"selector":{"n":{"$gt":2}},"sort":[{"rest":"desc"}],"fields":["n"]}`: {{"k005", "k007"}, {"k004", "k006"}, {"k003"}},
	} {
		s := simulate(t, l)
		var pages [][]string
		for bookmark := ""; len(pages) == 0 || len(pages[len(pages)-1]) == 2; {
			it, err := s.QueryPage(t.Context(), "kv", query, 2, bookmark)
			ok(t, err)
			pages = append(pages, read(t, it, 2))
			bookmark = it.Bookmark()
			it.Close()
		}
		if diff := cmp.Diff(want, pages); diff != "" {
			t.Errorf("%s: pages (-want +got):\n%s", query, diff)
		}
		if err := s.Put("kv", "a", []byte("1")); err == nil || !strings.Contains(err.Error(), "already performed a paginated query. Writes are not allowed") {
			t.Errorf("write after pages: %v", err)
		}
	}
	s := simulate(t, l)
	ok(t, s.Put("kv", "a", []byte("1")))
	_, afterWrite := s.QueryPage(t.Context(), "kv", `{"selector":{}}`, 2, "")
	s = simulate(t, l)
	_, noSize := s.QueryPage(t.Context(), "kv", `{"selector":{}}`, 0, "")
	_, forged := s.QueryPage(t.Context(), "kv", `{"selector":{}}`, 2, "k001")
	_, noQuery := s.Query(t.Context(), "kv", `{"selector":{"n":{"$near":1}}}`)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	it, err := s.Query(ctx, "kv", `{"selector":{"none":1}}`)
	ok(t, err)
	_, ended := it.Next()
	ok(t, s.Put("kv", "a", []byte("1"))) // refused pages do not forbid it
	s.Done()
	_, done := s.Query(t.Context(), "kv", `{"selector":{}}`)
	for want, err := range map[string]error{
		"only in a read-only transaction": afterWrite,
		"page size is 0":                  noSize,
		"bookmark is damaged":             forged,
		`"$near" of field "n"`:            noQuery,
		context.Canceled.Error():          ended,
		ledger.ErrDone.Error():            done,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func BenchmarkRichQuery(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		l := benchLedger(b)
		fillAssets(b, l, n)
		benchQueries(b, l, n, "scan")
		ok(b, l.SetIndexes("kv", []*selector.Index{
			index(b, "owner", `["Owner"]`), index(b, "size", `["Size"]`), index(b, "value", `["AppraisedValue"]`),
		}))
		started := time.Now()
		untilBuilt(b, l, 3)
		b.Logf("keys=%d: 3 indexes built in %s", n, time.Since(started).Round(time.Millisecond))
		benchQueries(b, l, n, "index")
	}
}

// fillAssets commits n JSON documents.
func fillAssets(b *testing.B, l *ledger.Ledger, n int) {
	b.Helper()
	for done := 0; done < n; done += 10_000 {
		set := &rwset.Builder{}
		for i := done; i < done+10_000; i++ {
			set.Write("kv", fmt.Sprintf("asset%07d", i), fmt.Appendf(nil,
				`{"AppraisedValue":%d,"Color":"color%d","ID":"asset%07d","Owner":"owner%d","Size":%d}`, i*7919%100_003, i%10, i, i%1000, i%50))
		}
		msg, _, err := set.Build()
		ok(b, err)
		results, err := proto.Marshal(msg)
		ok(b, err)
		envelope, _ := ledgertest.Envelope(b, channelID, "kv", results)
		ledgertest.Commit(b, l, envelope)
	}
}

func benchQueries(b *testing.B, l *ledger.Ledger, n int, how string) {
	b.Helper()
	for _, c := range []struct {
		name, query string
		page        int32
		want        int
	}{
		{"equal-0.1percent", `{"selector":{"Owner":"owner7"}}`, 0, n / 1000},
		{"regex-none", `{"selector":{"Owner":{"$regex":"^nobody$"}}}`, 0, 0},
		{"sort-first100", `{"selector":{"Size":{"$gt":10}},"sort":["AppraisedValue"]}`, 100, 100},
		{"first-page100", `{"selector":{"Size":{"$gt":10}}}`, 100, 100},
		{"range-2percent-page100", `{"selector":{"AppraisedValue":{"$gt":50000,"$lt":52000}}}`, 100, 100},
	} {
		b.Run(fmt.Sprintf("keys=%d/%s/%s", n, c.name, how), func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				s, err := l.NewSimulator("tx")
				ok(b, err)
				var it rwset.KVIterator
				if c.page > 0 {
					it, err = s.QueryPage(b.Context(), "kv", c.query, c.page, "")
				} else {
					it, err = s.Query(b.Context(), "kv", c.query)
				}
				ok(b, err)
				rows := 0
				for kv, err := it.Next(); kv != nil || err != nil; kv, err = it.Next() {
					ok(b, err)
					rows++
				}
				if s.Done(); rows != c.want {
					b.Fatalf("%d rows, want %d", rows, c.want)
				}
			}
		})
	}
}
