package main

import (
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/status"

	"strongroom/wire/gatewaypb"
)

// histogram counts durations, in buckets at most 1/32 of their value wide. It is safe
// for concurrent use.
type histogram struct {
	buckets [40 * 32]atomic.Uint64 // microseconds
	sum     atomic.Int64           // nanoseconds
	max     atomic.Int64
}

func bucketOf(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 0))
	if us < 32 {
		return int(us)
	}
	e := bits.Len64(us) - 6 // us>>e is in [32, 64)
	return min((e+1)*32+int(us>>e)-32, 40*32-1)
}

// upper is the end of a bucket.
func upper(bucket int) time.Duration {
	if bucket < 32 {
		return time.Duration(bucket+1) * time.Microsecond
	}
	e := bucket/32 - 1
	return time.Duration(uint64(bucket%32+33)<<e) * time.Microsecond
}

func (h *histogram) add(d time.Duration) {
	h.buckets[bucketOf(d)].Add(1)
	h.sum.Add(int64(d))
	for {
		was := h.max.Load()
		if int64(d) <= was || h.max.CompareAndSwap(was, int64(d)) {
			return
		}
	}
}

// counts is a histogram at one moment.
type counts [40 * 32]uint64

func (h *histogram) counts() *counts {
	c := &counts{}
	for i := range h.buckets {
		c[i] = h.buckets[i].Load()
	}
	return c
}

// since is what was counted after an earlier moment.
func (c *counts) since(earlier *counts) *counts {
	out := &counts{}
	for i := range c {
		out[i] = c[i] - earlier[i]
	}
	return out
}

func (c *counts) total() (n uint64) {
	for _, v := range c {
		n += v
	}
	return n
}

// quantile is the duration that the share q of all did not exceed, 0 without any.
func (c *counts) quantile(q float64) time.Duration {
	total := c.total()
	if total == 0 {
		return 0
	}
	want := max(uint64(math.Ceil(q*float64(total))), 1)
	for i, v := range c {
		if want <= v {
			return upper(i)
		}
		want -= v
	}
	return upper(len(c) - 1)
}

// Percentiles are latencies in milliseconds, of successful work.
type Percentiles struct {
	Count uint64  `json:"count"`
	Mean  float64 `json:"meanMs"`
	P50   float64 `json:"p50Ms"`
	P90   float64 `json:"p90Ms"`
	P99   float64 `json:"p99Ms"`
	P999  float64 `json:"p999Ms"`
	Max   float64 `json:"maxMs"`
}

func ms(d time.Duration) float64 { return math.Round(float64(d.Nanoseconds())/1e3) / 1e3 }

func (h *histogram) percentiles() Percentiles {
	c := h.counts()
	p := Percentiles{Count: c.total(), P50: ms(c.quantile(.5)), P90: ms(c.quantile(.9)), P99: ms(c.quantile(.99)), P999: ms(c.quantile(.999)),
		Max: ms(time.Duration(h.max.Load()))}
	if p.Count > 0 {
		p.Mean = ms(time.Duration(h.sum.Load() / int64(p.Count)))
	}
	return p
}

// tally counts outcomes. It is safe for concurrent use.
type tally struct {
	all    histogram
	byKind map[kind]*histogram // fixed
	steps  map[string]*histogram

	mu      sync.Mutex // guards what follows
	names   map[string]uint64
	samples map[string]string // the first that was said, by outcome
}

func newTally() *tally {
	t := &tally{byKind: map[kind]*histogram{}, steps: map[string]*histogram{}, names: map[string]uint64{}, samples: map[string]string{}}
	for _, k := range []kind{endorseKind, evaluateKind, submitKind} {
		t.byKind[k] = &histogram{}
	}
	for _, s := range []string{"endorse", "submit", "commit"} {
		t.steps[s] = &histogram{}
	}
	return t
}

func (t *tally) add(k kind, o outcome, took time.Duration, l laps) {
	if o.name == ok.name {
		t.all.add(took)
		t.byKind[k].add(took)
		if l.commit > 0 {
			t.steps["endorse"].add(l.endorse)
			t.steps["submit"].add(l.submit)
			t.steps["commit"].add(l.commit)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.names[o.name]++
	if o.said != "" && t.samples[o.name] == "" {
		t.samples[o.name] = o.said[:min(len(o.said), 300)]
	}
}

func (t *tally) failed() (n uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, count := range t.names {
		if name != ok.name {
			n += count
		}
	}
	return n
}

// refused is the outcome of a gRPC error.
func refused(err error) outcome {
	st := status.Convert(err)
	said := st.Message()
	for _, d := range st.Details() {
		if detail, ok := d.(*gatewaypb.ErrorDetail); ok {
			said += "; " + detail.GetAddress() + ": " + detail.GetMessage()
		}
	}
	return outcome{"gRPC " + st.Code().String(), said}
}
