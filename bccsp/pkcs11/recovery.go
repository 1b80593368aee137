package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"time"

	p11 "github.com/miekg/pkcs11"
)

// Recovery. An operation that fails for a reason that can pass (Class.Retryable) is
// asked again after what the reason calls for, as long as its caller's context allows:
//
//	handle stale   find or import the key again
//	session lost   look after the anchor session: open it, log in
//	login lost     the same
//	device lost    C_Finalize and C_Initialize, find the token, open, log in
//	busy           wait
//
// What does not help is followed by the next stronger one. One recovery runs at a time
// for a token; all callers wait for it. It ends when the anchor session is logged in, a
// known signature verifies, and every key in use was found again and proved to be the
// same key.

const (
	firstPause = 20 * time.Millisecond
	longPause  = 2 * time.Second
	// patience is how often the gentle remedy is tried for one operation.
	patience = 2
)

// ErrStopped means that the token waits for its operator: its PIN was refused or its
// login failed for no known reason. Nothing is tried again in this process.
var ErrStopped = errors.New("token is stopped until an operator has looked: correct what is wrong and restart this process")

// errStale means that a handle is of an earlier life of the token: the object must be
// found or imported again. It is of ClassHandle.
var errStale = errors.New("the object's handle is of an earlier connection")

// errPINSource means that the source has another PIN than at the last login. Libraries that
// keep what they know of the token in the process, as SoftHSM does, know the PIN of their
// start: before the new one is tried the module is started again. It is of ClassModule.
var errPINSource = errors.New("the PIN's source has changed since the last login: the module is to be started again first")

// errElsewhere ends an operation that another token of a Group can do.
var errElsewhere = errors.New("left to another token")

// Event is what Config.Alarm tells.
type Event uint8

// The events of a token's life.
const (
	// EventDown: the token does not answer or has lost what is needed; it is being
	// recovered without end.
	EventDown Event = iota
	// EventUp: it works again.
	EventUp
	// EventStopped: recovery has ended with ErrStopped: an operator is needed.
	EventStopped
	// EventFailed: one operation failed for a reason of ClassStop. It was not repeated.
	EventFailed
	// EventHung: so many calls hang in the module that no further sessions are opened
	// until some come back.
	EventHung
)

var eventNames = [...]string{"down", "up", "stopped", "failed", "hung"}

// String names the event in one word.
func (e Event) String() string {
	if int(e) < len(eventNames) {
		return eventNames[e]
	}
	return fmt.Sprintf("event %d", uint8(e))
}

// epoch is the life of a token's handles: the module's generation and the anchor's.
type epoch struct{ generation, life uint64 }

func (t *Token) epoch() epoch { return epoch{t.module.generation.Load(), t.lives.Load()} }

// current tells whether a handle may be used. It is asked before an operation, and
// after it too: a number that was given to another object meanwhile would make a wrong
// verdict of a lost handle.
func (t *Token) current(h *handle) bool { return h.epoch == t.epoch() }

// mending is a recovery that runs.
type mending struct {
	done       chan struct{}
	restart    bool   // start the module again
	generation uint64 // that failed
}

// ask runs f on a session of the pool, and again after recovery.
func (t *Token) ask(ctx context.Context, op string, f func(*session) error) error {
	return t.persist(ctx, func() error { return t.pool.do(ctx, op, f) })
}

// persist runs f, which asks the token and changes nothing in it, and again after
// recovery when its error says that this can help.
func (t *Token) persist(ctx context.Context, f func() error) error {
	if t.mending.Load() == nil && t.stopped.Load() == nil {
		err := f()
		if err == nil {
			return nil
		}
		return t.persistAfter(ctx, err, f)
	}
	if err := t.await(ctx); err != nil {
		return err
	}
	err := f()
	if err == nil {
		return nil
	}
	return t.persistAfter(ctx, err, f)
}

func (t *Token) persistAfter(ctx context.Context, err error, f func() error) error {
	for n := 0; t.canHelp(err); n++ {
		if e := t.remedy(ctx, err, n); e != nil {
			return fmt.Errorf("%w; then: %w", err, e)
		}
		if err = f(); err == nil {
			return nil
		}
	}
	if classOf(err) == ClassStop {
		t.cfg.Alarm(EventFailed, err)
	}
	return err
}

// canHelp tells whether recovery can help after err. A call that hung is its caller's
// to ask again.
func (t *Token) canHelp(err error) bool {
	return t.ready.Load() && classOf(err).Retryable() &&
		!errors.Is(err, ErrClosed) && !errors.Is(err, ErrTimeout) && !errors.Is(err, ErrStopped)
}

// remedy does what the class of err calls for, for the n-th time in one operation.
func (t *Token) remedy(ctx context.Context, err error, n int) error {
	class := classOf(err)
	if inHurry(ctx) && (n > patience || class == ClassModule || class == ClassBusy) {
		if class != ClassBusy {
			t.mend(class == ClassModule, generationOf(err, t.module.generation.Load()))
		}
		return errElsewhere
	}
	if n > 0 || class == ClassBusy {
		if e := pause(ctx, backoff(n)); e != nil {
			return fmt.Errorf("waiting to try again: %w", e)
		}
	}
	if class == ClassBusy || class == ClassHandle && n == 0 {
		return nil
	}
	t.mend(class == ClassModule || n > patience, generationOf(err, t.module.generation.Load()))
	return t.await(ctx)
}

func backoff(n int) time.Duration { return min(firstPause<<min(n, 10), longPause) }

// generationOf is the module's generation in which err happened.
func generationOf(err error, now uint64) uint64 {
	var e *Error
	if errors.As(err, &e) && e.generation != 0 {
		return e.generation
	}
	return now
}

// mend starts a recovery, unless one runs.
func (t *Token) mend(restart bool, generation uint64) {
	m := &mending{done: make(chan struct{}), restart: restart, generation: generation}
	if !t.mending.CompareAndSwap(nil, m) {
		return
	}
	if !t.spawn(func() { t.recover(m) }) {
		t.mending.Store(nil)
		close(m.done)
	}
}

// await waits for the end of the recovery that runs, if any.
func (t *Token) await(ctx context.Context) error {
	if m := t.mending.Load(); m != nil {
		select {
		case <-m.done:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the token's recovery: %w", errors.Join(context.Cause(ctx), t.Down()))
		case <-t.life.Done():
			return ErrClosed
		case <-hurried(ctx):
			return errElsewhere
		}
	}
	if stopped := t.stopped.Load(); stopped != nil {
		return *stopped
	}
	return nil
}

// always is closed.
var always = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func hurried(ctx context.Context) <-chan struct{} {
	if inHurry(ctx) {
		return always
	}
	return nil
}

// Down says why the token cannot be used now, nil when nothing is known against it. It
// does not ask the token.
func (t *Token) Down() error {
	if stopped := t.stopped.Load(); stopped != nil {
		return *stopped
	}
	if down := t.down.Load(); down != nil {
		return fmt.Errorf("token is down and being recovered: %w", *down)
	}
	return nil
}

// recover restores the token, however long it takes, until it is closed or stopped.
func (t *Token) recover(m *mending) {
	defer func() {
		t.mending.Store(nil)
		close(m.done)
	}()
	for n := 0; ; n++ {
		err := t.restore(m)
		switch {
		case err == nil:
			if t.down.Swap(nil) != nil {
				t.cfg.Alarm(EventUp, nil)
			}
			return
		case t.life.Err() != nil:
			return
		case t.stopped.Load() != nil:
			return
		}
		if t.down.Swap(&err) == nil {
			t.cfg.Alarm(EventDown, err)
		}
		if errors.Is(err, errVerifier) {
			// The other token is away: nothing of this one can be proved meanwhile.
		} else if c := classOf(err); c == ClassModule || c == ClassOther || n > patience && n%4 == 0 {
			m.restart, m.generation = true, t.module.generation.Load()
		}
		if pause(t.life, backoff(n)) != nil {
			return
		}
	}
}

// restore makes one attempt.
func (t *Token) restore(m *mending) error {
	ctx, cancel := context.WithTimeoutCause(t.life, t.cfg.CallTimeout, ErrTimeout)
	defer cancel()
	if m.restart {
		if err := t.module.restart(ctx, m.generation); err != nil {
			return err
		}
		if err := t.locate(ctx); err != nil {
			return err
		}
		m.restart = false
	}
	err := t.anchor.do(ctx, "recover", (*session).lookAfter)
	if classOf(err) == ClassSession { // it was lost, and is opened anew
		err = t.anchor.do(ctx, "recover", (*session).lookAfter)
	}
	if err != nil {
		return err
	}
	if !t.onlySigns() {
		if err := t.testKnown(ctx, knownSignatures[0]); err != nil {
			return err
		}
	}
	return t.findKeysAgain(ctx)
}

// locate finds the token's slot again: modules number slots anew. A module without the
// token is started again next time.
func (t *Token) locate(ctx context.Context) error {
	var found foundToken
	err := bounded(ctx, t.cfg.CallTimeout, func() (err error) {
		t.module.enter()
		defer t.module.leave()
		found, err = findToken(t.module, t.cfg.TokenLabel, t.cfg.TokenSerial)
		return err
	}, func() {})
	if err != nil {
		return err
	}
	t.slot.Store(uint64(found.slot))
	return nil
}

// lookAfter sees that the anchor session lives and is logged in.
func (s *session) lookAfter() error {
	info, err := s.token.module.ctx.GetSessionInfo(s.handle)
	if err != nil {
		return s.err("C_GetSessionInfo", err)
	}
	if info.State == p11.CKS_RW_USER_FUNCTIONS || info.State == p11.CKS_RO_USER_FUNCTIONS {
		return nil
	}
	return s.loginAgain()
}

// loginAgain reads the PIN anew and tries it once.
func (s *session) loginAgain() error {
	t := s.token
	raw, err := t.module.ctx.GetTokenInfo(uint(t.slot.Load()))
	if err != nil {
		return s.err("C_GetTokenInfo", err)
	}
	// A login of ours that failed for an unclear reason may have cost a try.
	if t.doubt.Load() && raw.Flags&p11.CKF_USER_PIN_COUNT_LOW != 0 {
		return t.stopFor(errors.New("a login failed, and the token counts it as a wrong PIN"))
	}
	err = s.login(raw)
	switch {
	case err == nil:
		t.doubt.Store(false)
		t.lives.Add(1) // handles of private keys died with the former login
		return nil
	case errors.Is(err, errPINSource):
		return err // nothing was tried
	case errors.Is(err, ErrPINRefused) || classOf(err) == ClassStop:
		return t.stopFor(err)
	}
	t.doubt.Store(true)
	return err
}

// stopFor ends all recovery in this process.
func (t *Token) stopFor(cause error) error {
	err := fmt.Errorf("%w: %w", ErrStopped, cause)
	if t.stopped.CompareAndSwap(nil, &err) {
		t.cfg.Alarm(EventStopped, err)
	}
	return err
}

// findKeysAgain finds the keys in use again and proves them.
func (t *Token) findKeysAgain(ctx context.Context) error {
	t.mu.Lock()
	keys, wrapping := make([]*privateKey, 0, len(t.signing)), t.wrapping
	for _, k := range t.signing {
		keys = append(keys, k)
	}
	t.mu.Unlock()
	for _, k := range keys {
		if err := k.findAgain(ctx); err != nil {
			return err
		}
	}
	if wrapping == nil {
		return nil
	}
	return t.findWrappingKeyAgain(ctx, wrapping)
}
