package channel

import (
	"context"
	"sync"
)

// pool runs tasks on a fixed number of goroutines. A task must not wait for
// another task of the pool.
type pool struct {
	tasks chan func()
	wg    sync.WaitGroup
}

// newPool starts a pool; close ends it.
func newPool(workers int) *pool {
	p := &pool{tasks: make(chan func())}
	for range workers {
		p.wg.Go(func() {
			for task := range p.tasks {
				task()
			}
		})
	}
	return p
}

// close waits for the tasks that were taken. No batch may be used after it.
func (p *pool) close() {
	close(p.tasks)
	p.wg.Wait()
}

// batch is a group of tasks that belong together. Its first error ends it: tasks
// that have not begun are dropped.
type batch struct {
	pool   *pool
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
}

func (p *pool) batch(ctx context.Context) *batch {
	b := &batch{pool: p}
	b.ctx, b.cancel = context.WithCancelCause(ctx)
	return b
}

// do hands a task to the pool, waiting for a free worker.
func (b *batch) do(task func(ctx context.Context) error) {
	if b.ctx.Err() != nil {
		return
	}
	b.wg.Add(1)
	run := func() {
		defer b.wg.Done()
		if b.ctx.Err() != nil {
			return
		}
		if err := task(b.ctx); err != nil {
			b.cancel(err)
		}
	}
	select {
	case b.pool.tasks <- run:
	case <-b.ctx.Done():
		b.wg.Done()
	}
}

// each hands out the numbers from 0 to n-1 in chunks, each chunk one task.
func (b *batch) each(n, chunk int, task func(ctx context.Context, i int) error) {
	for from := 0; from < n; from += chunk {
		to := min(from+chunk, n)
		b.do(func(ctx context.Context) error {
			for i := from; i < to; i++ {
				if err := task(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// wait waits for all tasks and returns the first error.
func (b *batch) wait() error {
	b.wg.Wait()
	err := context.Cause(b.ctx)
	b.cancel(nil)
	return err
}
