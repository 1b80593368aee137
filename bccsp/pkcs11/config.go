package pkcs11

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"strongroom/bccsp"
)

// Bounds and defaults of Config.
const (
	DefaultSessions    = 8
	MaxSessions        = 1024
	DefaultKeyCache    = 1024
	MinKeyCache        = 1
	DefaultCallTimeout = 10 * time.Second
	maxReserved        = 4095 // and a NUL byte: one page
)

// Config says which token to open and how to use it. A slot's number is no part of
// it: modules number their slots anew at each start.
type Config struct {
	// Module is the path of the PKCS #11 library, as /usr/lib/softhsm/libsofthsm2.so.
	Module string
	// Reserved is the string that the library wants in pReserved of C_Initialize, as NSS
	// softokn does; "" for all that keep to the standard. One library takes one string:
	// tokens of one Module that give different ones are an error. It is no secret.
	Reserved string
	// TokenLabel and TokenSerial select the token, one or both. Two tokens that
	// match are an error.
	TokenLabel, TokenSerial string
	// PIN is where the user's PIN is read from: when the token is opened, and again
	// when the login was lost.
	PIN PINSource
	// Sessions is the number of operations that may be in the token at a time:
	// 1 to MaxSessions, 0 means DefaultSessions. One more session is the anchor.
	Sessions int
	// KeyCache is the number of foreign public keys that stay imported: at least
	// MinKeyCache, 0 means DefaultKeyCache.
	KeyCache int
	// CallTimeout bounds one operation in the token, 0 means DefaultCallTimeout.
	CallTimeout time.Duration
	// WrappingKeyLabel names the AES-256 key for WrapKey and UnwrapKey, as Token.Signer
	// names keys. Without it
	// the token wraps nothing.
	WrappingKeyLabel string

	// Verifier, when set, verifies in this token's place, which then only signs (and wraps,
	// if it has a wrapping key): another token or a Group of them, for a device that takes
	// no foreign public keys or verifies outside itself. Token.Verify asks it too, and the
	// proofs that private keys match their public halves are checked by it. It must stay
	// open for longer than this token.
	Verifier bccsp.Verifier

	// Observe, when set, is called after each operation with its kind ("sign",
	// "verify", "import", "wrap", …), the time it took in the token and its error. A
	// false signature is an error that wraps bccsp.ErrBadSignature. It is called from
	// many goroutines and must not block.
	Observe func(op string, d time.Duration, err error)
	// PoolWait, when set, is called with the time that an operation waited because
	// all sessions were busy; not for one that found an idle session. As Observe.
	PoolWait func(d time.Duration)
	// Alarm, when set, is called when the token goes down, comes back or needs an
	// operator, with the reason (nil for EventUp). As Observe.
	Alarm func(event Event, err error)

	// CheckSignatures has the token verify each signature that it made before the
	// signature is given out. It halves the rate of signing, and finds a device that
	// makes false signatures, which otherwise those find who verify them.
	CheckSignatures bool
}

// Validate names the first field that is wrong and how to put it right.
func (c Config) Validate() error {
	switch {
	case c.Module == "":
		return errors.New("module is empty: give the path of the PKCS #11 library, as /usr/lib/softhsm/libsofthsm2.so")
	case !filepath.IsAbs(c.Module):
		return fmt.Errorf("module %q is not an absolute path: give the full path of the PKCS #11 library", c.Module)
	case strings.ContainsRune(c.Reserved, 0) || len(c.Reserved) > maxReserved:
		return fmt.Errorf("reserved is a string of %d bytes: give at most %d, without NUL bytes", len(c.Reserved), maxReserved)
	case c.TokenLabel == "" && c.TokenSerial == "":
		return errors.New("tokenLabel and tokenSerial are both empty: name the token by at least one of them")
	case c.Sessions < 0 || c.Sessions > MaxSessions:
		return fmt.Errorf("sessions is %d: give 1 to %d, or 0 for %d", c.Sessions, MaxSessions, DefaultSessions)
	case c.KeyCache < 0:
		return fmt.Errorf("keyCache is %d: give at least %d, or 0 for %d", c.KeyCache, MinKeyCache, DefaultKeyCache)
	case c.CallTimeout < 0:
		return fmt.Errorf("callTimeout is %s: give a positive time, or 0 for %s", c.CallTimeout, DefaultCallTimeout)
	}
	if err := c.PIN.Validate(); err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Sessions == 0 {
		c.Sessions = DefaultSessions
	}
	if c.KeyCache == 0 {
		c.KeyCache = DefaultKeyCache
	}
	if c.CallTimeout == 0 {
		c.CallTimeout = DefaultCallTimeout
	}
	if c.Observe == nil {
		c.Observe = func(string, time.Duration, error) {}
	}
	if c.PoolWait == nil {
		c.PoolWait = func(time.Duration) {}
	}
	if c.Alarm == nil {
		c.Alarm = func(Event, error) {}
	}
	return c
}
