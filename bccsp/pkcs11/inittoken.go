package pkcs11

import (
	"errors"
	"fmt"
	"sync"

	p11 "github.com/miekg/pkcs11"
)

// maxTokenLabel is the length of CK_TOKEN_INFO.label.
const maxTokenLabel = 32

// initializing is held while a slot is chosen and initialized, so that no two callers
// of this process choose the same.
var initializing sync.Mutex

// InitToken initializes the first slot of the module whose token is not initialized
// yet: it sets the label, the security officer's PIN and the user's PIN. A label that
// a token of the module bears already is refused. The caller wipes both PINs. It
// returns the new token's serial number.
func InitToken(module, label string, soPIN, pin []byte) (serial string, err error) {
	switch {
	case label == "" || len(label) > maxTokenLabel:
		return "", fmt.Errorf("token label has %d bytes: give 1 to %d", len(label), maxTokenLabel)
	case len(soPIN) == 0:
		return "", errors.New("security officer's PIN is empty")
	case len(pin) == 0:
		return "", errors.New("user's PIN is empty")
	}
	initializing.Lock()
	defer initializing.Unlock()
	m, err := acquireModule(module, "")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, m.release()) }()
	m.enter()
	defer m.leave()
	slot, err := freeSlot(m, label)
	if err != nil {
		return "", err
	}
	if err := m.calls.initToken(slot, soPIN, label); err != nil {
		return "", tokenError("C_InitToken", slot, err)
	}
	// SoftHSM gives the token another slot once it is initialized, and shows that
	// when it is asked for the number of slots.
	f, err := findToken(m, label, "")
	if err != nil {
		return "", fmt.Errorf("after initialization: %w", err)
	}
	return text(f.info.SerialNumber), initPIN(m, f.slot, soPIN, pin)
}

func freeSlot(m *module, label string) (uint, error) {
	tokens, _, err := listTokens(m)
	if err != nil {
		return 0, err
	}
	for _, f := range tokens {
		if f.info.Flags&p11.CKF_TOKEN_INITIALIZED != 0 && text(f.info.Label) == label {
			return 0, fmt.Errorf("%s has a token with this label already: %s: choose another label", m.path, f)
		}
	}
	for _, f := range tokens {
		if f.info.Flags&p11.CKF_TOKEN_INITIALIZED == 0 {
			return f.slot, nil
		}
	}
	return 0, fmt.Errorf("%s has no slot with a token to initialize: make one with the device's own tool", m.path)
}

// initPIN sets the user's PIN as the security officer.
func initPIN(m *module, slot uint, soPIN, pin []byte) (err error) {
	h, err := m.ctx.OpenSession(slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil {
		return tokenError("C_OpenSession", slot, err)
	}
	defer func() { err = errors.Join(err, tokenError("C_CloseSession", slot, m.ctx.CloseSession(h))) }()
	if err := m.calls.login(h, p11.CKU_SO, soPIN); err != nil {
		return tokenError("C_Login", slot, err)
	}
	err = tokenError("C_InitPIN", slot, m.calls.initPIN(h, pin))
	return errors.Join(err, tokenError("C_Logout", slot, m.ctx.Logout(h)))
}
