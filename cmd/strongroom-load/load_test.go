package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/xml"
	"errors"
	"math/big"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A quantile is never below the true one and at most 1/32 above it, and a microsecond.
func TestQuantilesAreCloseToExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Int64Range(0, int64(20*time.Minute)), 1, 200).Draw(t, "durations")
		q := rapid.Float64Range(0.01, 1).Draw(t, "q")
		var h histogram
		for _, v := range values {
			h.add(time.Duration(v))
		}
		slices.Sort(values)
		rank := 0
		for float64(rank+1) < q*float64(len(values)) {
			rank++
		}
		exact, got := time.Duration(values[rank]), h.counts().quantile(q)
		if got < exact || got > exact+exact/32+time.Microsecond {
			t.Fatalf("quantile %v of %v is %s, exactly %s", q, values, got, exact)
		}
	})
}

// Work is due evenly: never before work that was drawn earlier, and at the rate in the
// end.
func TestDue(t *testing.T) {
	const rate, ramp = 100.0, 2 * time.Second
	last := time.Duration(-1)
	for n := range uint64(1000) {
		at := dueAt(n, rate, ramp)
		if at < last {
			t.Fatalf("work %d is due at %s, before the one before it at %s", n, at, last)
		}
		last = at
	}
	// 100 in the ramp, the other 900 at 100 a second.
	if want := ramp + 8990*time.Millisecond; last < want-time.Millisecond || last > want+time.Millisecond {
		t.Errorf("work 999 is due at %s, want %s", last, want)
	}
	if got := dueAt(50, rate, 0); got != 500*time.Millisecond {
		t.Errorf("without ramp work 50 is due at %s", got)
	}
}

func testWork(t *testing.T, w *work) *work {
	t.Helper()
	w.write, w.read, w.conflict = []string{"put", "{key}", "<{value}>"}, []string{"get", "{key}"}, []string{"touch", "{key}"}
	w.keySize, w.valueSize = max(w.keySize, minKey), max(w.valueSize, 1)
	made, err := newWork(w)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestWork(t *testing.T) {
	w := testWork(t, &work{kind: mixedKind, reads: 50, conflicts: 50, hot: 2, keys: 10, keySize: 30, valueSize: 40})
	seen, written := map[string]int{}, map[string]bool{}
	prepared := map[string]bool{}
	for n := range w.keys {
		prepared[w.prepared(n)[1]] = true
	}
	for range 1000 {
		c := w.draw()
		seen[c.args[0]]++
		key := c.args[1]
		if len(key) != 30 {
			t.Fatalf("key %q has %d bytes", key, len(key))
		}
		switch c.args[0] {
		case "put":
			if c.kind != submitKind || len(c.args[2]) != 42 || written[key] || prepared[key] {
				t.Fatalf("write %v (written before: %v)", c, written[key])
			}
			written[key] = true
		default:
			if !prepared[key] {
				t.Fatalf("%v is of a key that is not there", c)
			}
		}
	}
	for _, f := range []string{"put", "get", "touch"} {
		if seen[f] < 100 {
			t.Errorf("%s was drawn %d times of 1000", f, seen[f])
		}
	}
	for _, bad := range []*work{
		{kind: "other", hot: 1, keys: 1, keySize: minKey, valueSize: 1},
		{kind: evaluateKind, hot: 1, keySize: minKey, valueSize: 1},
		{kind: submitKind, hot: 1, keys: 1, keySize: minKey - 1, valueSize: 1},
		{kind: submitKind, hot: 1, keys: 1, keySize: minKey, valueSize: 1, conflicts: 101},
		{kind: submitKind, keys: 1, keySize: minKey, valueSize: 1},
	} {
		if _, err := newWork(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

func TestRunIsBoundedByCount(t *testing.T) {
	var done atomic.Uint64
	r := &runner{plan: plan{inFlight: 7, duration: time.Minute, count: 500, interval: time.Second, timeout: time.Second},
		draw: func() call { return call{endorseKind, nil} },
		do: func(_ context.Context, _ call, _ int, tell func(outcome, laps)) error {
			if done.Add(1)%5 == 0 {
				tell(outcome{"refused", "because"}, laps{})
			} else {
				tell(ok, laps{})
			}
			return nil
		},
		tell: func(Point) {}}
	if _, err := r.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if done.Load() != 500 {
		t.Errorf("%d pieces of work, 500 were wanted", done.Load())
	}
}

func TestRunIsBoundedByTimeAndCounts(t *testing.T) {
	var under, most atomic.Int64
	r := &runner{plan: plan{inFlight: 4, duration: 300 * time.Millisecond, count: 1e6, interval: 100 * time.Millisecond, timeout: time.Second},
		draw: func() call { return call{evaluateKind, nil} },
		do: func(_ context.Context, _ call, w int, tell func(outcome, laps)) error {
			now := under.Add(1)
			for was := most.Load(); now > was && !most.CompareAndSwap(was, now); was = most.Load() {
			}
			time.Sleep(time.Millisecond)
			under.Add(-1)
			tell(ok, laps{})
			return nil
		},
		tell: func(Point) {}}
	counted, err := r.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := counted.all.percentiles(); n.Count == 0 || n.P50 < 1 || n.Max < n.P50/1.04 {
		t.Errorf("latencies: %+v", n)
	}
	if len(r.points) < 3 || r.took < 300*time.Millisecond || r.took > 5*time.Second {
		t.Errorf("%d points in %s", len(r.points), r.took)
	}
	if most.Load() > 4 {
		t.Errorf("%d in flight, at most 4 were wanted", most.Load())
	}
	failure := errors.New("no key")
	r.do = func(context.Context, call, int, func(outcome, laps)) error { return failure }
	if _, err := r.run(t.Context()); !errors.Is(err, failure) {
		t.Errorf("a failure of this process: %v", err)
	}
}

func TestSignaturesHaveLowS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u := &user{key: key}
	half := new(big.Int).Rsh(elliptic.P256().Params().N, 1)
	for range 40 {
		sig, err := u.sign([]byte("message"))
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256([]byte("message"))
		var v struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(sig, &v); err != nil || v.S.Cmp(half) > 0 || !ecdsa.VerifyASN1(&key.PublicKey, digest[:], sig) {
			t.Fatalf("signature %x: %v", sig, err)
		}
	}
}

// The page is well-formed and loads nothing, and what a peer says is only text in it.
func TestPage(t *testing.T) {
	counted := newTally()
	for i := range 1000 {
		counted.add(submitKind, ok, time.Duration(i)*time.Millisecond, laps{1, 1, 1})
	}
	counted.add(submitKind, outcome{"gRPC Aborted", `<script src="https://peer.example/x.js">`}, 0, laps{})
	r := &runner{plan: plan{inFlight: 3}, took: 2 * time.Second, points: []Point{{1, 400, 0, 3, 9}, {2, 600, 1, 4, 8}}}
	p := newReport(&target{Endpoint: "localhost:1"}, testWork(t, &work{kind: submitKind, hot: 1}), r, counted)
	if p.PerSecond != 500 || p.FirstTenth.PerSecond != 400 || p.LastTenth.P99 != 8 || p.Outcomes["gRPC Aborted"] != 1 {
		t.Errorf("report: %+v", p)
	}
	var out bytes.Buffer
	if err := p.html(&out); err != nil {
		t.Fatal(err)
	}
	page := out.String()
	if strings.Count(page, "<polyline") != 4 || strings.Contains(page, "<script") || strings.Contains(page, "src=") && !strings.Contains(page, "src=&#34;") {
		t.Errorf("page:\n%s", page)
	}
	d := xml.NewDecoder(strings.NewReader(page[strings.Index(page, "<svg"):strings.LastIndex(page, "</figure>")]))
	d.Strict = true
	d.Entity = xml.HTMLEntity
	depth := 0
	for {
		tok, err := d.Token()
		if tok == nil {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch tok.(type) {
		case xml.StartElement:
			depth++
		case xml.EndElement:
			depth--
		}
		if depth == 0 {
			break
		}
	}
	var text bytes.Buffer
	if err := p.text(&text); err != nil || !strings.Contains(text.String(), "500.0 a second") {
		t.Errorf("text: %v\n%s", err, text.String())
	}
}
