package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestTokenURI(t *testing.T) {
	for uri, want := range map[string]tokenURI{
		"pkcs11:token=org1": {Token: "org1"},
		"pkcs11:token=My%20token%3B%25;serial=00ff?module-path=/usr/lib/libx.so&pin-source=file:/etc/pin": {
			Token: "My token;%", Serial: "00ff", Module: "/usr/lib/libx.so", PINFile: "/etc/pin"},
		"pkcs11:serial=1?pin-source=file:///run/pin":          {Serial: "1", PINFile: "/run/pin"},
		"pkcs11:serial=1?pin-source=file://localhost/run/pin": {Serial: "1", PINFile: "/run/pin"},
		"pkcs11:serial=1?pin-source=/run/my%20pin":            {Serial: "1", PINFile: "/run/my pin"},
		"pkcs11:token=a&b=c":                                  {Token: "a&b=c"},
		"pkcs11:token=%c3%A9":                                 {Token: "é"},
	} {
		if got, err := parseTokenURI(uri); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", uri, got, err, want)
		}
	}
}

func TestTokenURIRefusals(t *testing.T) {
	for uri, want := range map[string]string{
		"PKCS11:token=a":                               "begin with pkcs11:",
		"pkcs11:":                                      "no value",
		"pkcs11:?module-path=/m.so":                    "no value",
		"pkcs11:token=":                                "is empty",
		"pkcs11:token=a;token=b":                       "stands twice",
		"pkcs11:token=a;":                              "no value",
		"pkcs11:slot-id=1;token=a":                     "numbered anew",
		"pkcs11:token=a;object=peer0":                  "node.key",
		"pkcs11:token=a;pin-source=file:/p":            "after the ?",
		"pkcs11:token=a?token=b":                       "before the ?",
		"pkcs11:token=a;x-vendor=1":                    `"x-vendor" is not known`,
		"pkcs11:token=a?pin-value=1234":                "use pin-source",
		"pkcs11:token=a?module-name=x":                 "module-path",
		"pkcs11:token=a?module-path=lib.so":            "not an absolute path",
		"pkcs11:token=a?pin-source=%7Ccat%20/pin":      "is a command",
		"pkcs11:token=a?pin-source=file:pin":           "absolute path",
		"pkcs11:token=a?pin-source=file://host/p":      `host "host"`,
		"pkcs11:token=a?pin-source=https://host/p":     "absolute path",
		"pkcs11:token=a b":                             "written as %20",
		"pkcs11:token=a/b":                             "written as %2F",
		"pkcs11:token=a%2":                             "two hexadecimal digits",
		"pkcs11:token=a%zz":                            "two hexadecimal digits",
		"pkcs11:token=a%00":                            "zero byte",
		"pkcs11:token=a?module-path=/m&module-path=/n": "stands twice",
	} {
		if got, err := parseTokenURI(uri); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v; want an error with %q", uri, got, err, want)
		} else if strings.Contains(err.Error(), "1234") {
			t.Errorf("%s: the error shows the PIN: %v", uri, err)
		}
	}
}

// TestTokenURIInConfiguration replaces the token's fields by a URI.
func TestTokenURIInConfiguration(t *testing.T) {
	const uri = "uri: 'pkcs11:token=org1?module-path=/m.so&pin-source=file:/run/pin'"
	for name, c := range map[string]struct{ token, want string }{
		"all in the URI":      {uri, ""},
		"module apart":        {"module: /m.so, pin: {env: PIN}, uri: 'pkcs11:token=org1'", ""},
		"label and serial":    {"uri: 'pkcs11:token=org1;serial=7?module-path=/m.so&pin-source=/run/pin'", ""},
		"label twice":         {uri + ", label: org1", "leave them out"},
		"module twice":        {uri + ", module: /m.so", "only one of them"},
		"PIN twice":           {uri + ", pin: {env: PIN}", "only one of them"},
		"no module":           {"uri: 'pkcs11:token=org1?pin-source=/run/pin'", "token.module is missing"},
		"no PIN":              {"uri: 'pkcs11:token=org1?module-path=/m.so'", "token.pin"},
		"not a URI of tokens": {"uri: 'file:/run/pin'", "token.uri"},
	} {
		file := filepath.Join(t.TempDir(), "orderer.yaml")
		text := "node: {mspId: M, certificate: c, key: k}\ntoken: {" + c.token + "}\n" +
			"listen: {address: 'x:1', tlsCertificate: c, tlsKey: k}\ndata: d\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := LoadOrderer(file)
		switch {
		case c.want != "":
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want an error with %q", name, err, c.want)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case got.Token.Module != "/m.so" || got.Token.Label != "org1" || got.Token.PIN == (PIN{}):
			t.Errorf("%s: %+v", name, got.Token)
		}
	}
}

// TestVerifierURI names a further token by a URI; an error says which one it is.
func TestVerifierURI(t *testing.T) {
	load := func(verifier string) (*Orderer, error) {
		file := filepath.Join(t.TempDir(), "orderer.yaml")
		text := "node: {mspId: M, certificate: c, key: k}\ntoken: {module: /m.so, label: a, pin: {env: PIN}}\n" +
			"verifiers: [{" + verifier + "}]\nlisten: {address: 'x:1', tlsCertificate: c, tlsKey: k}\ndata: d\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return LoadOrderer(file)
	}
	c, err := load("uri: 'pkcs11:token=second?module-path=/n.so&pin-source=/run/pin'")
	if err != nil {
		t.Fatal(err)
	}
	if v := c.Verifiers[0]; v.Module != "/n.so" || v.Label != "second" || v.PIN.File != "/run/pin" {
		t.Errorf("verifier: %+v", v)
	}
	if _, err := load("uri: 'pkcs11:slot-id=1'"); err == nil || !strings.Contains(err.Error(), "verifiers[0].uri") {
		t.Errorf("bad URI: %v", err)
	}
}

// escape writes a value with every byte escaped that need not be.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteByte('%')
		b.WriteByte("0123456789ABCDEF"[s[i]>>4])
		b.WriteByte("0123456789abcdef"[s[i]&15])
	}
	return b.String()
}

func FuzzTokenURI(f *testing.F) {
	f.Add("pkcs11:token=My%20token;serial=00ff?module-path=/usr/lib/libx.so&pin-source=file:/etc/pin")
	f.Add("pkcs11:token=a&b=c?pin-source=%7Ccat")
	f.Add("pkcs11:serial=%c3%A9?pin-source=file://localhost/p&module-path=/%25")
	f.Fuzz(func(t *testing.T, uri string) {
		u, err := parseTokenURI(uri)
		if err != nil {
			if utf8.ValidString(uri) && !utf8.ValidString(err.Error()) {
				t.Errorf("error of %q is no text: %q", uri, err)
			}
			return
		}
		again := "pkcs11:"
		var path, query []string
		for _, a := range []struct {
			to          *[]string
			name, value string
		}{{&path, "token", u.Token}, {&path, "serial", u.Serial}, {&query, "module-path", u.Module}, {&query, "pin-source", u.PINFile}} {
			if a.value != "" {
				*a.to = append(*a.to, a.name+"="+escape(a.value))
			}
		}
		again += strings.Join(path, ";")
		if len(query) > 0 {
			again += "?" + strings.Join(query, "&")
		}
		if got, err := parseTokenURI(again); err != nil || got != u {
			t.Errorf("%q means %+v; written out as %q it means %+v, %v", uri, u, again, got, err)
		}
	})
}
