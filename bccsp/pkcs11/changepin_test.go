package pkcs11_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
)

func TestChangePIN(t *testing.T) {
	cfg := bccsptest.Config(t)
	change := func(before, after string) error {
		return pkcs11.ChangePIN(cfg.Module, "", cfg.TokenLabel, "", []byte(before), []byte(after))
	}
	const second = "another PIN, not the first"
	for name, c := range map[string]struct{ before, after, want string }{
		"the same":    {bccsptest.PIN, bccsptest.PIN, "choose another"},
		"too short":   {bccsptest.PIN, "abc", "3 bytes"},
		"too long":    {bccsptest.PIN, strings.Repeat("x", 256), "256 bytes"},
		"empty":       {bccsptest.PIN, "", "0 bytes"},
		"a wrong one": {"wrong " + bccsptest.PIN, second, "CKR_PIN_INCORRECT"},
	} {
		err := change(c.before, c.after)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), bccsptest.PIN) || strings.Contains(err.Error(), second)) {
			t.Errorf("%s: the error shows a PIN: %v", name, err)
		}
	}
	if err := change(bccsptest.PIN, second); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(file, []byte(second), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.PIN = pkcs11.PINSource{File: file}
	bccsptest.OpenWith(t, cfg)
	if err := change(bccsptest.PIN, "a third"); err == nil {
		t.Error("the old PIN changes the PIN")
	}
}

func TestChangePINOfNoToken(t *testing.T) {
	cfg := bccsptest.Config(t)
	err := pkcs11.ChangePIN(cfg.Module, "", "no such token", "", []byte("a"), []byte("b"))
	if err == nil || !strings.Contains(err.Error(), "no such token") || errors.Is(err, pkcs11.ErrPINRefused) {
		t.Error(err)
	}
}
