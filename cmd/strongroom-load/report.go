package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
)

// Report is the result of a run.
type Report struct {
	Time      time.Time `json:"time"`
	Endpoint  string    `json:"endpoint"`
	Channel   string    `json:"channel"`
	Chaincode string    `json:"chaincode"`
	Work      kind      `json:"work"`
	InFlight  int       `json:"inFlight"`
	RateLimit float64   `json:"rateLimit"` // 0: none
	KeySize   int       `json:"keySize"`
	ValueSize int       `json:"valueSize"`
	Conflicts int       `json:"conflictsPercent"`

	// Followed tells that commits were counted from the stream of blocks, and
	// Uncommitted how many of the ordered transactions were not seen there in time.
	Followed    bool `json:"followed"`
	Uncommitted int  `json:"uncommitted"`

	Seconds   float64           `json:"seconds"`   // counted, without ramp and warm-up
	PerSecond float64           `json:"perSecond"` // successful
	Outcomes  map[string]uint64 `json:"outcomes"`
	Said      map[string]string `json:"said,omitempty"` // the first message of each outcome that is not OK

	Latency Percentiles            `json:"latency"`
	ByKind  map[string]Percentiles `json:"byKind"`
	Steps   map[string]Percentiles `json:"steps,omitempty"` // of submissions
	// First and last tenth of the counted time: they differ when a soak drifts.
	FirstTenth Drift   `json:"firstTenth"`
	LastTenth  Drift   `json:"lastTenth"`
	Points     []Point `json:"points"`

	LoadBefore float64 `json:"loadAverageBefore"` // of this machine, over one minute
	LoadAfter  float64 `json:"loadAverageAfter"`

	distribution *counts
}

// Drift is what a part of the run was like: means over its intervals.
type Drift struct {
	PerSecond float64 `json:"perSecond"`
	P50       float64 `json:"p50Ms"`
	P99       float64 `json:"p99Ms"`
}

func drift(points []Point) (d Drift) {
	for _, p := range points {
		d.PerSecond += p.Rate / float64(len(points))
		d.P50 += p.P50 / float64(len(points))
		d.P99 += p.P99 / float64(len(points))
	}
	return Drift{round(d.PerSecond), round(d.P50), round(d.P99)}
}

func newReport(t *target, w *work, r *runner, counted *tally) *Report {
	p := &Report{
		Time: time.Now().UTC(), Endpoint: t.Endpoint, Channel: t.Channel, Chaincode: t.Chaincode, Work: w.kind, InFlight: r.plan.inFlight,
		RateLimit: r.plan.rate, KeySize: w.keySize, ValueSize: w.valueSize, Conflicts: w.conflicts,
		Seconds: round(r.took.Seconds()), Latency: counted.all.percentiles(), ByKind: map[string]Percentiles{}, Steps: map[string]Percentiles{},
		Points: r.points, distribution: counted.all.counts(), LoadAfter: machineLoad(),
	}
	counted.mu.Lock()
	p.Outcomes, p.Said = maps.Clone(counted.names), maps.Clone(counted.samples)
	counted.mu.Unlock()
	if r.took > 0 {
		p.PerSecond = round(float64(p.Latency.Count) / r.took.Seconds())
	}
	for k, h := range counted.byKind {
		if s := h.percentiles(); s.Count > 0 {
			p.ByKind[string(k)] = s
		}
	}
	for name, h := range counted.steps {
		if s := h.percentiles(); s.Count > 0 {
			p.Steps[name] = s
		}
	}
	if n := len(p.Points); n > 0 {
		tenth := max(n/10, 1)
		p.FirstTenth, p.LastTenth = drift(p.Points[:tenth]), drift(p.Points[n-tenth:])
	}
	return p
}

func (p *Report) text(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "%s at %s\tchannel %s, chaincode %s\nin flight\t%d\ncounted\t%.1f s\nsuccessful\t%d, %.1f a second\n",
		p.Work, p.Endpoint, p.Channel, p.Chaincode, p.InFlight, p.Seconds, p.Latency.Count, p.PerSecond)
	for _, name := range slices.Sorted(maps.Keys(p.Outcomes)) {
		if name != ok.name {
			fmt.Fprintf(w, "%s\t%d\t%s\n", name, p.Outcomes[name], p.Said[name])
		}
	}
	if p.Uncommitted > 0 {
		fmt.Fprintf(w, "ordered, not committed\t%d\n", p.Uncommitted)
	}
	fmt.Fprintf(w, "load average\t%.2f before, %.2f after\n", p.LoadBefore, p.LoadAfter)
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprint(w, "\nLATENCY (ms)\tCOUNT\tMEAN\tP50\tP90\tP99\tP99.9\tMAX\n")
	row := func(name string, s Percentiles) {
		fmt.Fprintf(w, "%s\t%d\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\n", name, s.Count, s.Mean, s.P50, s.P90, s.P99, s.P999, s.Max)
	}
	row("all", p.Latency)
	for _, name := range slices.Sorted(maps.Keys(p.ByKind)) {
		row(name, p.ByKind[name])
	}
	for _, name := range []string{"endorse", "submit", "commit"} {
		if s, there := p.Steps[name]; there {
			row("step "+name, s)
		}
	}
	fmt.Fprintf(w, "\nDRIFT\tA SECOND\tP50\tP99\nfirst tenth\t%.1f\t%.3f\t%.3f\nlast tenth\t%.1f\t%.3f\t%.3f\n",
		p.FirstTenth.PerSecond, p.FirstTenth.P50, p.FirstTenth.P99, p.LastTenth.PerSecond, p.LastTenth.P50, p.LastTenth.P99)
	return w.Flush()
}

// machineLoad is this machine's load average over one minute; 0 where it is not told.
func machineLoad() float64 {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := bytes.Cut(raw, []byte(" "))
	load, err := strconv.ParseFloat(string(first), 64)
	if err != nil {
		return 0
	}
	return load
}
