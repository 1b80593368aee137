package faulty_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
	"strongroom/softhsm-tests/faulty"
)

// TestRefusedPINStops changes the PIN file to a wrong one while the login is lost: the
// PIN is tried once, and then nothing any more.
func TestRefusedPINStops(t *testing.T) {
	pin := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(pin, []byte(bccsptest.PIN), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, func(c *pkcs11.Config) { c.PIN = pkcs11.PINSource{File: pin} })
	if err := os.WriteFile(pin, []byte("not-the-pin"), 0o600); err != nil {
		t.Fatal(err)
	}
	set(t, module, // the module answers C_Login in the token's place, and counts
		faulty.Rule{Function: "C_SignInit", From: 1, Count: 1, Action: faulty.Drop},
		faulty.Rule{Function: "C_Login", From: 1, Action: faulty.Return, Arg: 0xA0})
	failed := b.rounds(t, 4, 4, 5*time.Second)
	if len(failed) == 0 {
		t.Fatal("operations went on without a login")
	}
	for _, err := range failed {
		if !errors.Is(err, pkcs11.ErrStopped) || !errors.Is(err, pkcs11.ErrPINRefused) {
			t.Errorf("got %v, want ErrStopped with ErrPINRefused", err)
		}
		if strings.Contains(err.Error(), "not-the-pin") {
			t.Error("the error shows the PIN")
		}
	}
	if err := b.token.Healthy(context.Background()); !errors.Is(err, pkcs11.ErrStopped) {
		t.Errorf("health: got %v, want ErrStopped", err)
	}
	fired, err := module.Fired()
	if err != nil || fired["C_Login"] != 1 {
		t.Errorf("C_Login was called %d times, %v", fired["C_Login"], err)
	}
	if !b.saw(pkcs11.EventStopped) {
		t.Error("no alarm was raised")
	}
}

// TestPINIsReadAgain logs in with the PIN that the source has now.
func TestPINIsReadAgain(t *testing.T) {
	pin := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(pin, []byte(bccsptest.PIN), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, func(c *pkcs11.Config) { c.PIN = pkcs11.PINSource{File: pin} })
	if err := os.Remove(pin); err != nil {
		t.Fatal(err)
	}
	set(t, module, faulty.Rule{Function: "C_SignInit", From: 1, Count: 1, Action: faulty.Drop})
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := b.signer.SignProposal(ctx, []byte("m")); err == nil {
		t.Fatal("signed without a login")
	}
	if err := b.token.Healthy(context.Background()); err == nil {
		t.Error("healthy without a login")
	}
	if err := os.WriteFile(pin, []byte(bccsptest.PIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.serves(t, back)
	if !b.saw(pkcs11.EventDown) || !b.saw(pkcs11.EventUp) {
		t.Errorf("events %v, want down and up", b.events)
	}
}

// TestHungDevice hangs every call: callers get ErrTimeout or their context's end, the
// number of calls in the module stays bounded, health is red, and all works again when
// the device answers.
func TestHungDevice(t *testing.T) {
	b := newBench(t, func(c *pkcs11.Config) { c.Sessions, c.CallTimeout = 2, 200*time.Millisecond })
	set(t, module, faulty.Rule{Function: "*", From: 1, Action: faulty.Hang})
	failed := b.rounds(t, 8, 4, 2*time.Second)
	timeouts := 0
	for _, err := range failed {
		if errors.Is(err, bccsp.ErrBadSignature) {
			t.Errorf("a verdict of a hung device: %v", err)
		}
		if errors.Is(err, pkcs11.ErrTimeout) {
			timeouts++
		}
	}
	if timeouts == 0 {
		t.Error("no caller got ErrTimeout")
	}
	fired, err := module.Fired()
	if err != nil {
		t.Fatal(err)
	}
	hung := 0
	for _, n := range fired {
		hung += n
	}
	if hung > 4+3 { // pool: 2 and as many replacements; anchor: 1 and 2
		t.Errorf("%d calls hang in the module: %v", hung, fired)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if b.token.Healthy(ctx) == nil {
		t.Error("healthy while every call hangs")
	}
	if !b.saw(pkcs11.EventHung) {
		t.Error("no alarm was raised")
	}
	set(t, module)
	b.serves(t, back)
}

// TestTokensOfOneModuleRecoverTogether starts the module again because of one token:
// the other one follows.
func TestTokensOfOneModuleRecoverTogether(t *testing.T) {
	one, two := newBench(t, nil), newBench(t, nil)
	for range 5 {
		set(t, module, faulty.Rule{Function: "C_SignInit", From: 1, Count: 1, Action: faulty.Lose, Arg: 200})
		if failed := one.rounds(t, 2, 2, 5*time.Second); len(failed) > 0 {
			t.Fatal(errors.Join(failed...))
		}
		if failed := two.rounds(t, 2, 2, 5*time.Second); len(failed) > 0 {
			t.Fatal(errors.Join(failed...))
		}
	}
	fired, err := module.Fired()
	if err != nil || fired["C_SignInit"] != 1 {
		t.Errorf("the token was lost %d times, %v", fired["C_SignInit"], err)
	}
	if one.token.Down() != nil || two.token.Down() != nil {
		t.Errorf("down: %v, %v", one.token.Down(), two.token.Down())
	}
}

// TestCorruptSignature has the device make false signatures: with CheckSignatures none
// is given out, and health finds them without it.
func TestCorruptSignature(t *testing.T) {
	b := newBench(t, func(c *pkcs11.Config) { c.CheckSignatures = true })
	set(t, module, faulty.Rule{Function: "C_Sign", From: 1, Action: faulty.Corrupt})
	for range 5 {
		_, err := b.signer.SignProposal(context.Background(), []byte("m"))
		if !errors.Is(err, pkcs11.ErrFalseAnswer) || errors.Is(err, bccsp.ErrBadSignature) {
			t.Errorf("got %v, want ErrFalseAnswer and no verdict", err)
		}
	}
	if !b.saw(pkcs11.EventFailed) {
		t.Error("no alarm was raised")
	}
	set(t, module)
	b.serves(t, back)

	plain := newBench(t, nil)
	set(t, module, faulty.Rule{Function: "C_Sign", From: 1, Action: faulty.Corrupt})
	if err := plain.token.Healthy(context.Background()); !errors.Is(err, pkcs11.ErrFalseAnswer) || errors.Is(err, bccsp.ErrBadSignature) {
		t.Errorf("health: got %v, want ErrFalseAnswer", err)
	}
}
