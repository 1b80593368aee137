package pkcs11

import (
	"errors"

	p11 "github.com/miekg/pkcs11"
)

// session is one PKCS #11 session. Only its own goroutine touches it, between the
// module's enter and leave.
type session struct {
	token      *Token
	anchor     bool
	handle     p11.SessionHandle
	opened     bool
	generation uint64 // of the module, when it was opened
}

// open opens s unless it is open. A session of an earlier generation died with it.
// When an anchor session opens, what the former one owned is gone, and the login may
// be.
func (s *session) open() error {
	t := s.token
	generation := t.module.generation.Load()
	if s.opened && s.generation == generation {
		return nil
	}
	s.opened, s.generation = false, generation
	// Some modules refuse everything on read-only sessions: all are read-write.
	h, err := t.module.ctx.OpenSession(uint(t.slot.Load()), p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil {
		return s.err("C_OpenSession", err)
	}
	s.handle, s.opened = h, true
	if !s.anchor {
		return nil
	}
	t.lives.Add(1)
	if !t.ready.Load() {
		return nil // Open logs in
	}
	if err := s.loginAgain(); err != nil {
		s.close()
		return err
	}
	return nil
}

// retire gives s up. A session of the pool is closed; an anchor stays open until the
// token closes or the module starts again, since other sessions may be using its
// objects in this moment, which modules do not bear.
func (s *session) retire() {
	if s.anchor && s.opened {
		s.token.keepRetired(*s)
		s.opened = false
		return
	}
	s.close()
}

// close ignores the answer: a session that is lost cannot be closed. The handle of an
// earlier generation is left alone: its number may be another's.
func (s *session) close() {
	if s.opened {
		s.opened = false
		if s.generation == s.token.module.generation.Load() {
			_ = s.token.module.ctx.CloseSession(s.handle)
		}
	}
}

// spoilt tells whether an error leaves the session in doubt: an operation may still be
// active in it. The anchor is given up only when it is lost, since it owns the imported
// keys.
func (s *session) spoilt(err error) bool {
	var e *Error
	if !errors.As(err, &e) || e.Class == ClassBadSignature {
		return false
	}
	return !s.anchor || e.Class == ClassSession
}

// err makes an *Error of what op returned.
func (s *session) err(op string, err error) error {
	err = tokenError(op, uint(s.token.slot.Load()), err)
	var e *Error
	if errors.As(err, &e) {
		e.generation = s.generation
	}
	return err
}
