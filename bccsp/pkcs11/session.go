package pkcs11

import p11 "github.com/miekg/pkcs11"

// session is one PKCS #11 session. Only its own goroutine touches it.
type session struct {
	token  *Token
	handle p11.SessionHandle
	opened bool
}

// open opens s unless it is open.
func (s *session) open() error {
	if s.opened {
		return nil
	}
	// Some modules refuse everything on read-only sessions: all are read-write.
	h, err := s.token.module.ctx.OpenSession(s.token.slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil {
		return s.err("C_OpenSession", err)
	}
	s.handle, s.opened = h, true
	return nil
}

// close ignores the answer: a session that is lost cannot be closed.
func (s *session) close() {
	if s.opened {
		s.opened = false
		_ = s.token.module.ctx.CloseSession(s.handle)
	}
}

// err makes an *Error of what op returned.
func (s *session) err(op string, err error) error { return tokenError(op, s.token.slot, err) }
