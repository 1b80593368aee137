package pkcs11

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"
)

// queue brings jobs to sessions: a pool's, or the anchor's. Sessions that were used
// last are used first, since what belongs to them is then still at hand. Jobs that
// find no idle session wait in the order in which they came, and the session that
// takes one wakes nobody: only the answer does.
type queue struct {
	token *Token

	mu      sync.Mutex // guards what follows
	idle    []*worker  // the last is the one that was used last
	pending list.List  // of *job
	closed  bool
}

// worker is a session and its goroutine.
type worker struct {
	session *session
	next    chan *job // capacity 1: what it does next, nil for the end
}

// job is one operation on its way through a session. The function must not keep or
// read what the caller may change after it gave up waiting: callers copy their input.
type job struct {
	run func(*session) error
	// once forbids a second run on a fresh session: the operation changes the token.
	once bool
	// after, when set, is called once, when no session works on the job any more: for
	// an abandoned job long after its caller has gone.
	after func(error)
	done  chan error // capacity 1: an abandoned answer never blocks a session
	timer *time.Timer
	place *list.Element // in queue.pending, guarded by queue.mu

	mu           sync.Mutex // guards what follows
	state        jobState
	began, ended time.Time // set before done is sent
}

type jobState uint8

const (
	waiting   jobState = iota // for a session
	running                   // in the token
	finished                  // the session has come back
	withdrawn                 // the caller gave up before it ran
	abandoned                 // its time in the token is over
)

var jobs = sync.Pool{New: func() any {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &job{done: make(chan error, 1), timer: t}
}}

// do runs f on an idle session and waits for it: first for a session, as long as ctx
// allows, then for the answer, at most Config.CallTimeout.
func (q *queue) do(ctx context.Context, op string, f func(*session) error) error {
	return q.submit(ctx, op, f, false, nil)
}

// doOnce is do for an operation that changes the token: it is not repeated on a fresh
// session.
func (q *queue) doOnce(ctx context.Context, op string, f func(*session) error) error {
	return q.submit(ctx, op, f, true, nil)
}

// doThen is do with a function that is called once, with f's error, when no session
// works on f any more; which may be after doThen has returned.
func (q *queue) doThen(ctx context.Context, op string, f func(*session) error, after func(error)) error {
	return q.submit(ctx, op, f, false, after)
}

func (q *queue) submit(ctx context.Context, op string, f func(*session) error, once bool, after func(error)) error {
	// Were it left to the select below, an ended context would win only by chance.
	if err := ctx.Err(); err != nil {
		if after != nil {
			after(err)
		}
		return fmt.Errorf("%s: %w", op, err)
	}
	j := jobs.Get().(*job)
	j.run, j.once, j.after, j.state, j.place = f, once, after, waiting, nil
	asked, queued, err := q.hand(j)
	if err != nil {
		return j.refuse(fmt.Errorf("%s: %w", op, err))
	}
	cfg := &q.token.cfg
	j.timer.Reset(cfg.CallTimeout)
	for {
		select {
		case err := <-j.done:
			j.timer.Stop()
			if queued {
				cfg.PoolWait(j.began.Sub(asked))
			}
			cfg.Observe(op, j.ended.Sub(j.began), err)
			j.recycle()
			return err
		case <-j.timer.C:
			if left := j.expire(cfg.CallTimeout); left > 0 {
				j.timer.Reset(left)
				continue
			}
			q.replace()
			err = fmt.Errorf("%s: %w: no answer after %s", op, ErrTimeout, cfg.CallTimeout)
		case <-ctx.Done():
			if q.withdraw(j) {
				cfg.PoolWait(time.Since(asked))
				return j.refuse(fmt.Errorf("%s: waiting for an idle session: %w", op, context.Cause(ctx)))
			}
			q.token.spawn(func() { q.watch(j) })
			err = fmt.Errorf("%s: %w", op, context.Cause(ctx))
		}
		cfg.Observe(op, time.Since(asked), err)
		return err
	}
}

// hand gives j to an idle session or puts it into the queue.
func (q *queue) hand(j *job) (asked time.Time, queued bool, err error) {
	asked = time.Now()
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return asked, false, ErrClosed
	}
	n := len(q.idle)
	if n == 0 {
		j.place = q.pending.PushBack(j)
		q.mu.Unlock()
		return asked, true, nil
	}
	w := q.idle[n-1]
	q.idle = q.idle[:n-1]
	q.mu.Unlock()
	w.next <- j
	return asked, false, nil
}

// refuse ends a job that no session has seen or will see.
func (j *job) refuse(err error) error {
	if j.after != nil {
		j.after(err)
	}
	return err
}

// recycle makes j ready for another caller. No session may know it any more.
func (j *job) recycle() {
	j.run, j.after = nil, nil
	jobs.Put(j)
}

// withdraw takes back a job that does not run yet.
func (q *queue) withdraw(j *job) bool {
	q.mu.Lock()
	if j.place != nil {
		q.pending.Remove(j.place)
		j.place = nil
	}
	q.mu.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.state != waiting {
		return false
	}
	j.state = withdrawn
	return true
}

// expire gives up a job that has been in the token for limit. It returns the time that
// is left until then, or 0.
func (j *job) expire(limit time.Duration) time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch j.state {
	case waiting: // its time has not begun; its context ends the waiting
		return limit
	case running:
		if left := time.Until(j.began.Add(limit)); left > 0 {
			return left
		}
		j.state = abandoned
		return 0
	}
	return limit // its answer is on the way
}

// watch waits in place of a caller that has gone: the call goes on in the token, and
// its session is well if it comes back in time.
func (q *queue) watch(j *job) {
	for {
		select {
		case <-j.done:
			j.timer.Stop()
			return
		case <-j.timer.C:
			left := j.expire(q.token.cfg.CallTimeout)
			if left == 0 {
				q.replace()
				return
			}
			j.timer.Reset(left)
		}
	}
}

// replace puts a session that is yet to be opened in the place of an abandoned one: the
// first job that it gets opens it, within that job's time.
func (q *queue) replace() { q.staff(&session{token: q.token}) }

// start opens n sessions, each with its goroutine.
func (q *queue) start(n int) error {
	for range n {
		s := &session{token: q.token}
		if err := s.open(); err != nil {
			return err
		}
		if !q.staff(s) {
			s.close()
			return ErrClosed
		}
	}
	return nil
}

// staff gives s its goroutine, unless the token is closed.
func (q *queue) staff(s *session) bool {
	w := &worker{session: s, next: make(chan *job, 1)}
	return q.token.spawn(func() { q.serve(w) })
}

// serve runs jobs on a session until the queue is closed or a job's caller gave up on
// the session.
func (q *queue) serve(w *worker) {
	defer w.session.close()
	for {
		j := q.next(w)
		if j == nil || !w.session.serve(j) {
			return
		}
	}
}

// next is the job that has waited longest, or the next one that comes.
func (q *queue) next(w *worker) *job {
	q.mu.Lock()
	if first := q.pending.Front(); first != nil {
		j := q.pending.Remove(first).(*job)
		j.place = nil
		q.mu.Unlock()
		return j
	}
	if q.closed {
		q.mu.Unlock()
		return nil
	}
	q.idle = append(q.idle, w)
	q.mu.Unlock()
	return <-w.next
}

// close sends idle sessions home. Sessions that work go when they have finished what
// is there.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, w := range q.idle {
		w.next <- nil
	}
	q.idle = nil
}

// fail ends the jobs that still wait when all sessions are gone.
func (q *queue) fail() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for e := q.pending.Front(); e != nil; e = q.pending.Front() {
		j := q.pending.Remove(e).(*job)
		j.place = nil
		j.mu.Lock()
		if j.state == waiting {
			j.state, j.began = finished, time.Now()
			j.ended = j.began
			if j.after != nil {
				j.after(ErrClosed)
			}
			j.done <- ErrClosed
		}
		j.mu.Unlock()
	}
}

// serve runs a job and tells whether the session may be used again.
func (s *session) serve(j *job) bool {
	j.mu.Lock()
	if j.state != waiting {
		j.mu.Unlock()
		return true
	}
	j.state, j.began = running, time.Now()
	j.mu.Unlock()

	err := s.run(j)

	j.mu.Lock()
	keep := j.state == running
	if keep {
		j.state = finished
	}
	j.ended = time.Now()
	j.mu.Unlock()
	if j.after != nil {
		j.after(err)
	}
	j.done <- err
	return keep
}

// run runs a job, on a fresh session where the session was lost.
func (s *session) run(j *job) error {
	if err := s.open(); err != nil {
		return err
	}
	err := j.run(s)
	if classOf(err) != ClassSession {
		return err
	}
	s.close()
	if j.once {
		return err
	}
	if openErr := s.open(); openErr != nil {
		return fmt.Errorf("%w; a fresh session does not open: %w", err, openErr)
	}
	return j.run(s)
}
