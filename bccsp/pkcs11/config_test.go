package pkcs11_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"strongroom/bccsp"
	"strongroom/bccsp/pkcs11"
)

func TestConfigNamesTheField(t *testing.T) {
	good := pkcs11.Config{Module: "/lib/m.so", TokenLabel: "a", PIN: pkcs11.PINSource{Env: "PIN"}}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*pkcs11.Config){
		"module is empty":            func(c *pkcs11.Config) { c.Module = "" },
		"absolute":                   func(c *pkcs11.Config) { c.Module = "m.so" },
		"reserved is a string":       func(c *pkcs11.Config) { c.Reserved = "a\x00b" },
		"tokenLabel":                 func(c *pkcs11.Config) { c.TokenLabel = "" },
		"sessions is -1":             func(c *pkcs11.Config) { c.Sessions = -1 },
		"sessions is 5000":           func(c *pkcs11.Config) { c.Sessions = 5000 },
		"keyCache":                   func(c *pkcs11.Config) { c.KeyCache = -1 },
		"callTimeout":                func(c *pkcs11.Config) { c.CallTimeout = -time.Second },
		"pin: no source":             func(c *pkcs11.Config) { c.PIN = pkcs11.PINSource{} },
		"pin: several sources":       func(c *pkcs11.Config) { c.PIN.File = "x" },
		"pin: credential \"../pin\"": func(c *pkcs11.Config) { c.PIN = pkcs11.PINSource{Credential: "../pin"} },
	} {
		cfg := good
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func TestPINSources(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("TEST_PIN", "from env")
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	write("cred", "from systemd\r\n", 0o440)
	for want, source := range map[string]pkcs11.PINSource{
		"from file":    {File: write("good", "from file\n", 0o600)},
		"no line end":  {File: write("bare", "no line end", 0o400)},
		"from env":     {Env: "TEST_PIN"},
		"from systemd": {Credential: "cred"},
	} {
		pin, err := source.Read()
		if err != nil || string(pin) != want {
			t.Errorf("%s: got %q, %v, want %q", source, pin, err, want)
		}
	}
	const secret = "hush-hush"
	for want, source := range map[string]pkcs11.PINSource{
		"no such file":   {File: filepath.Join(dir, "none")},
		"chmod 600":      {File: write("open", secret, 0o644)},
		"is empty":       {File: write("empty", "\n", 0o600)},
		"one line":       {File: write("lines", secret+"\nmore\n", 0o600)},
		"bytes":          {File: write("long", strings.Repeat(secret, 1000), 0o600)},
		"not a regular":  {File: dir},
		"is not set":     {Env: "TEST_PIN_THAT_IS_NOT_SET"},
		"no such file o": {Credential: "none"},
	} {
		_, err := source.Read()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: got %v, want an error with %q and no PIN", source, err, want)
		}
	}
	os.Unsetenv("CREDENTIALS_DIRECTORY")
	if _, err := (pkcs11.PINSource{Credential: "cred"}).Read(); err == nil || !strings.Contains(err.Error(), "LoadCredential=") {
		t.Errorf("got %v", err)
	}
}

func TestErrorClasses(t *testing.T) {
	for _, tt := range []struct {
		op    string
		code  uint
		class pkcs11.Class
		name  string
		retry bool
	}{
		{"C_Verify", p11.CKR_SIGNATURE_INVALID, pkcs11.ClassBadSignature, "CKR_SIGNATURE_INVALID", false},
		{"C_Verify", p11.CKR_SIGNATURE_LEN_RANGE, pkcs11.ClassBadSignature, "CKR_SIGNATURE_LEN_RANGE", false},
		{"C_Sign", p11.CKR_SIGNATURE_INVALID, pkcs11.ClassOther, "CKR_SIGNATURE_INVALID", false},
		{"C_Verify", p11.CKR_DATA_LEN_RANGE, pkcs11.ClassOther, "CKR_DATA_LEN_RANGE", false},
		{"C_Sign", p11.CKR_SESSION_HANDLE_INVALID, pkcs11.ClassSession, "CKR_SESSION_HANDLE_INVALID", true},
		{"C_Sign", p11.CKR_OPERATION_ACTIVE, pkcs11.ClassSession, "CKR_OPERATION_ACTIVE", true},
		{"C_SignInit", p11.CKR_OBJECT_HANDLE_INVALID, pkcs11.ClassHandle, "CKR_OBJECT_HANDLE_INVALID", true},
		{"C_SignInit", p11.CKR_KEY_HANDLE_INVALID, pkcs11.ClassHandle, "CKR_KEY_HANDLE_INVALID", true},
		{"C_Sign", p11.CKR_USER_NOT_LOGGED_IN, pkcs11.ClassLogin, "CKR_USER_NOT_LOGGED_IN", true},
		{"C_Sign", p11.CKR_DEVICE_ERROR, pkcs11.ClassModule, "CKR_DEVICE_ERROR", true},
		{"C_OpenSession", p11.CKR_GENERAL_ERROR, pkcs11.ClassModule, "CKR_GENERAL_ERROR", true},
		{"C_Sign", p11.CKR_GENERAL_ERROR, pkcs11.ClassOther, "CKR_GENERAL_ERROR", false},
		{"C_Sign", 0x80000123, pkcs11.ClassModule, "CKR_0x80000123", true},
		{"C_OpenSession", p11.CKR_SESSION_COUNT, pkcs11.ClassBusy, "CKR_SESSION_COUNT", true},
		{"C_Login", p11.CKR_PIN_INCORRECT, pkcs11.ClassStop, "CKR_PIN_INCORRECT", false},
		{"C_Sign", p11.CKR_FUNCTION_FAILED, pkcs11.ClassStop, "CKR_FUNCTION_FAILED", false},
	} {
		err := pkcs11.TokenError(tt.op, 7, tt.code)
		var e *pkcs11.Error
		if !errors.As(err, &e) {
			t.Fatalf("%v is no *Error", err)
		}
		if e.Class != tt.class || e.Name != tt.name || e.Slot != 7 || e.Op != tt.op || e.Class.Retryable() != tt.retry {
			t.Errorf("%s %#x: got %+v, want class %s, name %s, retry %t", tt.op, tt.code, e, tt.class, tt.name, tt.retry)
		}
		if !strings.Contains(err.Error(), tt.name) || !strings.Contains(err.Error(), "slot 7") {
			t.Errorf("error does not name code and slot: %v", err)
		}
		if errors.Is(err, bccsp.ErrBadSignature) != (tt.class == pkcs11.ClassBadSignature) {
			t.Errorf("%s %s: wrong about ErrBadSignature", tt.op, tt.name)
		}
	}
}
