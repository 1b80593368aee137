package profiles

import (
	"strings"
	"testing"
)

func TestMayChangePIN(t *testing.T) {
	for _, c := range []struct{ form, login, pin, want string }{
		{"4 to 255 bytes", "required", "abcd", ""},
		{"4 to 255 bytes", "required", "abc", "3 bytes"},
		{"6 to 16 digits", "required", "123456", ""},
		{"6 to 16 digits", "required", "12345a", "digits"},
		{"6 to 16 digits", "required", "12345678901234567", "17 bytes"},
		{"passphrase of the card set", "required", "x", ""},
		{"any; it is ignored", "ignored", "x", "no PIN to change"},
	} {
		p := &Profile{ID: "device", PIN: PIN{Form: c.form, Login: c.login}}
		err := p.MayChangePIN([]byte(c.pin))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
		if err != nil && strings.Contains(err.Error(), c.pin) && len(c.pin) > 3 {
			t.Errorf("the error shows the PIN: %v", err)
		}
	}
}
