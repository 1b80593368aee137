package main

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
)

func sqrt(x float64) float64  { return math.Sqrt(x) }
func round(x float64) float64 { return math.Round(x*100) / 100 }

// prepare submits the keys that reads and conflicts need, a few at a time.
func prepare(ctx context.Context, w *work, clients []*client, p plan) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for i := range min(64, w.keys) {
		wg.Go(func() {
			for ctx.Err() == nil {
				n := int(next.Add(1)) - 1
				if n >= w.keys {
					return
				}
				one, done := context.WithTimeout(ctx, p.timeout)
				o := make(chan outcome, 1)
				err := clients[i%len(clients)].submit(one, w.prepared(n), func(came outcome, _ laps) { o <- came })
				if err == nil {
					err = written(one, o, n+1, w.keys)
				}
				done()
				if err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

func written(ctx context.Context, came <-chan outcome, n, of int) error {
	select {
	case o := <-came:
		if o.name != ok.name {
			return fmt.Errorf("writing key %d of the %d that work needs: %s: %s", n, of, o.name, o.said)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("writing key %d of the %d that work needs: %w", n, of, ctx.Err())
	}
}
