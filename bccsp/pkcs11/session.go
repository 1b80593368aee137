package pkcs11

import (
	"context"
	"fmt"
	"sync"
	"time"

	p11 "github.com/miekg/pkcs11"
)

// session is one PKCS #11 session. Only its own goroutine touches it.
type session struct {
	token  *Token
	handle p11.SessionHandle
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

	mu        sync.Mutex // guards what follows
	abandoned bool       // the caller's time is over
	finished  bool       // the session has come back
}

var jobs = sync.Pool{New: func() any {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &job{done: make(chan error, 1), timer: t}
}}

// queue hands jobs to idle sessions: a pool's, or the anchor's.
type queue struct {
	token *Token
	work  chan *job
}

// start opens n sessions, each with its goroutine.
func (q *queue) start(n int) error {
	for range n {
		s, err := q.token.openSession()
		if err != nil {
			return err
		}
		q.token.tasks.Add(1)
		go q.serve(s)
	}
	return nil
}

// serve runs jobs on s until the token is closed or a job's caller gave up on s.
func (q *queue) serve(s *session) {
	defer q.token.tasks.Done()
	defer s.close()
	for {
		select {
		case <-q.token.closing:
			return
		case j := <-q.work:
			if !q.serveOne(s, j) {
				return
			}
		}
	}
}

// serveOne tells whether s may be used again.
func (q *queue) serveOne(s *session, j *job) bool {
	err := j.run(s)
	if classOf(err) == ClassSession {
		if reopenErr := s.reopen(); reopenErr != nil {
			err = fmt.Errorf("%w; a fresh session does not open: %w", err, reopenErr)
		} else if !j.once {
			err = j.run(s)
		}
	}
	j.mu.Lock()
	j.finished = true
	abandoned := j.abandoned
	j.mu.Unlock()
	if j.after != nil {
		j.after(err)
	}
	j.done <- err
	return !abandoned
}

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
	t := q.token
	j := jobs.Get().(*job)
	j.run, j.once, j.after, j.abandoned, j.finished = f, once, after, false, false
	select {
	case q.work <- j:
	default:
		if err := q.enqueue(ctx, op, j); err != nil {
			if after != nil {
				after(err)
			}
			j.recycle()
			return err
		}
	}
	began := time.Now()
	j.timer.Reset(t.cfg.CallTimeout)
	var err error
	select {
	case err = <-j.done:
		j.timer.Stop()
		j.recycle()
	case <-j.timer.C:
		err = fmt.Errorf("%s: %w: no answer after %s", op, ErrTimeout, t.cfg.CallTimeout)
		q.abandon(j)
	case <-ctx.Done():
		err = fmt.Errorf("%s: %w", op, context.Cause(ctx))
		q.watch(j)
	}
	t.cfg.Observe(op, time.Since(began), err)
	return err
}

// recycle makes j ready for another caller. No session may know it any more.
func (j *job) recycle() {
	j.run, j.after = nil, nil
	jobs.Put(j)
}

// enqueue waits for an idle session.
func (q *queue) enqueue(ctx context.Context, op string, j *job) error {
	began := time.Now()
	defer func() { q.token.cfg.PoolWait(time.Since(began)) }()
	select {
	case q.work <- j:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: waiting for an idle session: %w", op, context.Cause(ctx))
	case <-q.token.closing:
		return fmt.Errorf("%s: %w", op, ErrClosed)
	}
}

// watch waits in place of a caller that has gone: the call goes on in the token, and
// its session is well if it comes back in time.
func (q *queue) watch(j *job) {
	q.token.spawn(func() {
		select {
		case <-j.done:
			j.timer.Stop()
		case <-j.timer.C:
			q.abandon(j)
		}
	})
}

// abandon gives up a job's session, unless it has just come back, and puts a fresh
// one in its place. Where the module hangs altogether no fresh one opens before it
// answers again; until then callers wait for a session as long as their contexts allow.
func (q *queue) abandon(j *job) {
	j.mu.Lock()
	j.abandoned = !j.finished
	stuck := j.abandoned
	j.mu.Unlock()
	if stuck {
		q.token.spawn(func() { q.replenish() })
	}
}

// replenish opens one session in place of a lost one.
func (q *queue) replenish() {
	began := time.Now()
	err := q.start(1)
	q.token.cfg.Observe("reopen", time.Since(began), err)
}

func (t *Token) openSession() (*session, error) {
	h, err := t.module.ctx.OpenSession(t.slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil {
		return nil, tokenError("C_OpenSession", t.slot, err)
	}
	return &session{token: t, handle: h}, nil
}

// reopen replaces the PKCS #11 session behind s.
func (s *session) reopen() error {
	s.close()
	fresh, err := s.token.openSession()
	if err != nil {
		return err
	}
	s.handle = fresh.handle
	return nil
}

// close ignores the answer: a session that is lost cannot be closed.
func (s *session) close() { _ = s.token.module.ctx.CloseSession(s.handle) }

// err makes an *Error of what op returned.
func (s *session) err(op string, err error) error { return tokenError(op, s.token.slot, err) }
