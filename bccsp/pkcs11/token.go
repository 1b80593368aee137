package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	p11 "github.com/miekg/pkcs11"

	"strongroom/bccsp"
)

// Token is an open token: logged in, tested, with its pool of sessions. It is safe
// for concurrent use.
type Token struct {
	cfg    Config // with defaults
	module *module
	slot   atomic.Uint64 // changes when the module is started again
	info   Info

	// lives counts the anchor's sessions and logins: with each, handles end.
	lives   atomic.Uint64
	ready   atomic.Bool // Open has succeeded: recovery may begin
	mending atomic.Pointer[mending]
	down    atomic.Pointer[error] // why the last attempt to recover failed
	stopped atomic.Pointer[error] // why nothing is tried any more
	doubt   atomic.Bool           // the last login failed, perhaps for its PIN

	// Of the last login; guarded by mu.
	pinStamp      stamp
	pinGeneration uint64 // of the module

	anchor *queue // one session: keeps the login, owns the imported keys
	pool   *queue // Config.Sessions sessions

	foreign *keyCache

	generating sync.Mutex                  // held over "is the label free?" and the making of the key
	mu         sync.Mutex                  // guards signing, purposes, wrapping and what says so
	signing    map[bccsp.KeyID]*privateKey // in use
	purposes   map[bccsp.KeyID]purpose     // of every key that is or was in use
	wrapping   *wrappingKey
	retired    []session // anchors that were given up; guarded by mu

	closeOnce sync.Once
	closeErr  error

	life   context.Context // ends with Close
	end    context.CancelFunc
	gate   sync.Mutex     // guards closed
	closed bool           // no task may start
	tasks  sync.WaitGroup // goroutines of sessions, imports, destruction of evicted keys
}

var (
	_ bccsp.Verifier   = (*Token)(nil)
	_ bccsp.KeyWrapper = (*Token)(nil)
)

// handle is a token's number for an object, good for one epoch. The zero handle is
// never current.
type handle struct {
	object p11.ObjectHandle
	epoch  epoch
}

// Open finds the token, logs in (once: a PIN that was refused is not tried again in
// this process), opens the sessions and tests the token with known answers. The
// caller closes it.
func Open(ctx context.Context, cfg Config) (*Token, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var m *module
	var found foundToken
	var info Info
	err := bounded(ctx, cfg.CallTimeout, func() (err error) {
		if m, err = acquireModule(cfg.Module, cfg.Reserved); err != nil {
			return err
		}
		m.enter()
		found, err = findToken(m, cfg.TokenLabel, cfg.TokenSerial)
		m.leave()
		if err != nil {
			return errors.Join(err, m.release())
		}
		info = tokenInfo(m, found)
		return nil
	}, func() { _ = m.release() })
	if err != nil {
		return nil, err
	}
	t, err := open(ctx, cfg, m, found, info)
	if err != nil {
		return nil, errors.Join(err, m.release())
	}
	return t, nil
}

// bounded runs f and waits for it no longer than limit and ctx allow. If f succeeds
// after that, undo is called. What f sets may be read only when bounded returns nil.
func bounded(ctx context.Context, limit time.Duration, f func() error, undo func()) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w: no answer after %s", ErrTimeout, limit))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		go func() {
			if <-done == nil {
				undo()
			}
		}()
		return fmt.Errorf("module does not start: %w", context.Cause(ctx))
	}
}

func open(ctx context.Context, cfg Config, m *module, found foundToken, info Info) (*Token, error) {
	t := &Token{
		cfg: cfg, module: m, info: info,
		signing: make(map[bccsp.KeyID]*privateKey), purposes: make(map[bccsp.KeyID]purpose),
	}
	t.life, t.end = context.WithCancel(context.Background())
	t.slot.Store(uint64(found.slot))
	t.anchor = &queue{token: t, anchor: true}
	t.pool = &queue{token: t}
	t.foreign = newKeyCache(t, cfg.KeyCache)
	if err := t.start(ctx, found.info); err != nil {
		t.stop()
		return nil, fmt.Errorf("token %q: %w", t.info.Label, err)
	}
	t.ready.Store(true)
	return t, nil
}

func (t *Token) start(ctx context.Context, raw p11.TokenInfo) error {
	if err := t.anchor.start(1); err != nil {
		return err
	}
	if err := t.anchor.do(ctx, "login", func(s *session) error { return s.login(raw) }); err != nil {
		return err
	}
	if err := t.pool.start(t.cfg.Sessions); err != nil {
		return err
	}
	if err := t.selfTest(ctx); err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	if t.cfg.WrappingKeyLabel == "" {
		return nil
	}
	key, err := t.findWrappingKey(ctx, t.cfg.WrappingKeyLabel)
	if err != nil {
		return err
	}
	return t.useWrappingKey(ctx, key)
}

// login logs the user in by the anchor session.
func (s *session) login(raw p11.TokenInfo) error {
	t := s.token
	if raw.Flags&p11.CKF_LOGIN_REQUIRED == 0 {
		return nil
	}
	switch {
	case raw.Flags&p11.CKF_USER_PIN_INITIALIZED == 0:
		return errors.New("it has no user PIN yet: initialize it with its vendor's tool or `strongroom token init`")
	case raw.Flags&p11.CKF_USER_PIN_LOCKED != 0:
		return fmt.Errorf("%w: it is locked: unlock it with its vendor's tool", ErrPINRefused)
	case raw.Flags&p11.CKF_USER_PIN_FINAL_TRY != 0:
		return fmt.Errorf("%w before: one more wrong PIN locks the token: log in by hand with its vendor's tool first", ErrPINRefused)
	case pinWasRefused(t.module.path, t.info.Serial):
		return fmt.Errorf("%w before, and it is not tried again: put the right PIN into %s and restart this process", ErrPINRefused, t.cfg.PIN)
	}
	pin, of, err := t.cfg.PIN.readStamped()
	if err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	defer clear(pin)
	t.mu.Lock()
	changed := of != t.pinStamp && s.generation == t.pinGeneration
	t.mu.Unlock()
	if t.ready.Load() && changed {
		return errPINSource
	}
	err = s.err("C_Login", t.module.calls.login(s.handle, p11.CKU_USER, pin))
	switch {
	case err == nil:
		t.mu.Lock()
		t.pinStamp, t.pinGeneration = of, s.generation
		t.mu.Unlock()
	case hasCode(err, p11.CKR_USER_ALREADY_LOGGED_IN):
		return nil
	case hasCode(err, p11.CKR_PIN_INCORRECT, p11.CKR_PIN_LOCKED, p11.CKR_PIN_EXPIRED, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE):
		notePINRefused(t.module.path, t.info.Serial)
		return fmt.Errorf("%w from %s; it is not tried again in this process: %w", ErrPINRefused, t.cfg.PIN, err)
	}
	return err
}

// Close ends all operations' waiting, closes the sessions and gives the module back.
// Operations that are in the token are waited for, except those that were abandoned.
func (t *Token) Close() error {
	t.closeOnce.Do(func() {
		t.stop()
		t.closeErr = t.module.release()
	})
	return t.closeErr
}

// stop ends the goroutines of the sessions.
func (t *Token) stop() {
	t.end()
	t.gate.Lock()
	t.closed = true
	t.gate.Unlock()
	t.pool.close()
	t.anchor.close()
	ended := make(chan struct{})
	go func() {
		t.tasks.Wait()
		close(ended)
	}()
	limit := time.NewTimer(t.cfg.CallTimeout)
	defer limit.Stop()
	select {
	case <-ended:
		t.closeRetired()
	case <-limit.C:
		// A call hangs in the module and cannot be called back: the module is not
		// finalized, and what waits for the call goes down with the process.
		t.pool.fail()
		t.anchor.fail()
	}
}

// keepRetired keeps an anchor until closeRetired. Those of earlier generations are gone.
func (t *Token) keepRetired(s session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.retired = slices.DeleteFunc(t.retired, func(r session) bool { return r.generation != s.generation })
	t.retired = append(t.retired, s)
}

func (t *Token) closeRetired() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.module.enter()
	defer t.module.leave()
	for _, s := range t.retired {
		s.close()
	}
	t.retired = nil
}

// spawn runs f on a goroutine that Close waits for. It tells false, and does nothing,
// when the token is closed.
func (t *Token) spawn(f func()) bool {
	t.gate.Lock()
	defer t.gate.Unlock()
	if t.closed {
		return false
	}
	t.tasks.Add(1)
	go func() {
		defer t.tasks.Done()
		f()
	}()
	return true
}

// Info describes an open token.
type Info struct {
	Label, Serial, Manufacturer, Model string
	Firmware, Hardware                 string // of the token, as "2.6"
	Library, LibraryVersion            string // what the module says of itself
	CryptokiVersion                    string
	Module                             string // resolved path
	Slot                               uint   // this time: modules number slots anew
}

// Info describes the token. It does not ask the token.
func (t *Token) Info() Info { return t.info }

func tokenInfo(m *module, found foundToken) Info {
	raw := found.info
	info := Info{
		Label: text(raw.Label), Serial: text(raw.SerialNumber), Manufacturer: text(raw.ManufacturerID), Model: text(raw.Model),
		Firmware: version(raw.FirmwareVersion), Hardware: version(raw.HardwareVersion), Module: m.path, Slot: found.slot,
	}
	if lib, err := m.ctx.GetInfo(); err == nil {
		info.Library, info.LibraryVersion = text(lib.LibraryDescription), version(lib.LibraryVersion)
		info.CryptokiVersion = version(lib.CryptokiVersion)
	}
	return info
}

// text trims the padding of a PKCS #11 string: blanks, or NUL bytes where a module
// errs.
func text(s string) string { return strings.TrimRight(s, " \x00") }

func version(v p11.Version) string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }
