package pkcs11

import (
	"bytes"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"
)

// ChangePIN changes the user's PIN of the token that label and serial select, and logs
// in once with the new one to see that it holds. The old PIN is tried once, and not at all if the
// token says that one more wrong PIN locks it. Nodes that are logged in stay so. The
// caller wipes both PINs. reserved is Config.Reserved.
func ChangePIN(module, reserved, label, serial string, before, after []byte) (err error) {
	if bytes.Equal(before, after) {
		return errors.New("the new PIN is the old one: choose another")
	}
	m, err := acquireModule(module, reserved)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.release()) }()
	m.enter()
	defer m.leave()
	t, err := findToken(m, label, serial)
	if err != nil {
		return err
	}
	if err := pinChangeable(t.info, after); err != nil {
		return err
	}
	h, err := m.ctx.OpenSession(t.slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil {
		return tokenError("C_OpenSession", t.slot, err)
	}
	defer func() { err = errors.Join(err, tokenError("C_CloseSession", t.slot, m.ctx.CloseSession(h))) }()
	if err := tokenError("C_Login", t.slot, m.calls.login(h, p11.CKU_USER, before)); err != nil {
		return fmt.Errorf("the PIN is as it was: log in with the old one: %w", err)
	}
	if err := tokenError("C_SetPIN", t.slot, m.calls.setPIN(h, before, after)); err != nil {
		return errors.Join(fmt.Errorf("the token does not take the new PIN: %w", err), tokenError("C_Logout", t.slot, m.ctx.Logout(h)))
	}
	if err := tokenError("C_Logout", t.slot, m.ctx.Logout(h)); err != nil {
		return fmt.Errorf("the PIN is changed: %w", err)
	}
	if err := tokenError("C_Login", t.slot, m.calls.login(h, p11.CKU_USER, after)); err != nil {
		return fmt.Errorf("the token says that the PIN is changed, and does not take the new one: keep both, and log in by hand with its vendor's tool: %w", err)
	}
	return tokenError("C_Logout", t.slot, m.ctx.Logout(h))
}

// pinChangeable checks what the token says before anything is tried.
func pinChangeable(info p11.TokenInfo, after []byte) error {
	switch {
	case info.Flags&p11.CKF_PROTECTED_AUTHENTICATION_PATH != 0:
		return errors.New("the token takes its PIN on a path of its own (a keypad): change it there")
	case info.Flags&p11.CKF_USER_PIN_INITIALIZED == 0:
		return errors.New("it has no user PIN yet: `strongroom token init` or its vendor's tool sets the first")
	case info.Flags&p11.CKF_USER_PIN_LOCKED != 0:
		return fmt.Errorf("%w: it is locked: unlock it with its vendor's tool", ErrPINRefused)
	case info.Flags&p11.CKF_USER_PIN_FINAL_TRY != 0:
		return fmt.Errorf("%w before: one more wrong PIN locks the token: log in by hand with its vendor's tool first", ErrPINRefused)
	case info.MaxPinLen > 0 && (uint(len(after)) < info.MinPinLen || uint(len(after)) > info.MaxPinLen):
		return fmt.Errorf("the new PIN has %d bytes, the token takes %d to %d", len(after), info.MinPinLen, info.MaxPinLen)
	}
	return nil
}
