package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// plan says how much work is done, how fast and for how long.
type plan struct {
	inFlight int
	rate     float64       // pieces of work a second; 0: as fast as they are answered
	ramp     time.Duration // until inFlight, or rate, is reached
	warmUp   time.Duration // not counted
	duration time.Duration // counted
	count    uint64        // pieces of work at most, warm-up included
	interval time.Duration // of progress and of the time series
	timeout  time.Duration // of one piece
}

func (p *plan) validate() error {
	switch {
	case p.inFlight < 1 || p.inFlight > 10_000:
		return fmt.Errorf("--in-flight is %d: give 1 to 10000", p.inFlight)
	case p.rate < 0 || p.rate > 1e6:
		return fmt.Errorf("--rate is %v: give 0 (no limit) to 1000000", p.rate)
	case p.duration <= 0 || p.duration > 24*time.Hour:
		return fmt.Errorf("--duration is %s: give up to 24h", p.duration)
	case p.ramp < 0 || p.warmUp < 0 || p.ramp+p.warmUp > time.Hour:
		return errors.New("--ramp and --warm-up: together at most 1h")
	case p.count < 1 || p.count > 1e9:
		return fmt.Errorf("--count is %d: give 1 to 1000000000", p.count)
	case p.interval < 100*time.Millisecond:
		return fmt.Errorf("--interval is %s: give at least 100ms", p.interval)
	case p.timeout <= 0:
		return fmt.Errorf("--timeout is %s: give more than 0", p.timeout)
	}
	// A page of plots and a report need not hold more points than this.
	if most := p.duration / 2000; p.interval < most {
		p.interval = most
	}
	return nil
}

// doer does one piece of work and calls done once with what became of it: at once, or
// later when only the commit is still to come. The error is of this process, not of
// the peer.
type doer func(ctx context.Context, c call, worker int, done func(outcome, laps)) error

// Point is one interval of the time series.
type Point struct {
	Seconds float64 `json:"seconds"` // since the counting began
	Rate    float64 `json:"perSecond"`
	Failed  uint64  `json:"failed"`
	P50     float64 `json:"p50Ms"`
	P99     float64 `json:"p99Ms"`
}

// runner does a plan.
type runner struct {
	plan  plan
	draw  func() call
	do    doer
	tell  func(Point)
	tally atomic.Pointer[tally] // replaced when the warm-up ends

	begun  atomic.Uint64
	points []Point
	took   time.Duration // counted
}

var errDone = errors.New("the plan is done")

// run does the plan. Work that is under way when the time is over is waited for, but
// not counted.
func (r *runner) run(ctx context.Context) (*tally, error) {
	r.tally.Store(newTally())
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	issue, stop := context.WithCancelCause(ctx) // ends before ctx: nothing more is begun
	defer stop(nil)
	began := time.Now()
	var wg sync.WaitGroup
	for w := range r.plan.inFlight {
		wg.Go(func() {
			if err := r.worker(ctx, issue, w, began); err != nil && !errors.Is(err, errDone) {
				cancel(err)
			} else if errors.Is(err, errDone) {
				stop(errDone)
			}
		})
	}
	counted := r.watch(issue)
	stop(errDone)
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return counted, nil
}

// worker does one piece of work after the other.
func (r *runner) worker(ctx, issue context.Context, w int, began time.Time) error {
	if r.plan.rate == 0 && r.plan.ramp > 0 { // workers join one by one
		if !pause(issue, r.plan.ramp*time.Duration(w)/time.Duration(r.plan.inFlight)) {
			return nil
		}
	}
	for issue.Err() == nil {
		n := r.begun.Add(1)
		if n > r.plan.count {
			return errDone
		}
		due := time.Now()
		if r.plan.rate > 0 {
			// Latency counts from when the work was due: a peer that stalls must not
			// hide by keeping work from being sent.
			due = began.Add(dueAt(n-1, r.plan.rate, r.plan.ramp))
			if !pause(issue, time.Until(due)) {
				return nil
			}
		}
		c := r.draw()
		one, cancel := context.WithTimeout(ctx, r.plan.timeout)
		err := r.do(one, c, w, func(o outcome, l laps) {
			if issue.Err() == nil {
				r.tally.Load().add(c.kind, o, time.Since(due), l)
			}
		})
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// dueAt is when the nth piece of work is due at a rate that rises evenly from 0 in the
// time of the ramp: n = rate·t²/(2·ramp) until then.
func dueAt(n uint64, rate float64, ramp time.Duration) time.Duration {
	inRamp := rate * ramp.Seconds() / 2
	if float64(n) < inRamp {
		return time.Duration(sqrt(2*float64(n)*ramp.Seconds()/rate) * float64(time.Second))
	}
	return ramp + time.Duration((float64(n)-inRamp)/rate*float64(time.Second))
}

func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// watch lets ramp and warm-up pass, then counts for the plan's duration and notes a
// point for each interval. It returns what was counted.
func (r *runner) watch(ctx context.Context) *tally {
	pause(ctx, r.plan.ramp+r.plan.warmUp)
	t := newTally()
	if ctx.Err() != nil { // all was done in the warm-up: count that
		t = r.tally.Load()
		return t
	}
	r.tally.Store(t)
	began := time.Now()
	last, lastFailed, lastTime := t.all.counts(), uint64(0), began
	for ctx.Err() == nil && time.Since(began) < r.plan.duration {
		pause(ctx, min(r.plan.interval, r.plan.duration-time.Since(began)))
		now, counts, failed := time.Now(), t.all.counts(), t.failed()
		c := counts.since(last)
		p := Point{
			Seconds: round(now.Sub(began).Seconds()), Rate: round(float64(c.total()) / now.Sub(lastTime).Seconds()),
			Failed: failed - lastFailed, P50: ms(c.quantile(.5)), P99: ms(c.quantile(.99)),
		}
		last, lastFailed, lastTime = counts, failed, now
		r.points = append(r.points, p)
		r.tell(p)
	}
	r.took = time.Since(began)
	return t
}
