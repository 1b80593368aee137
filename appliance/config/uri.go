package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// tokenURI is what a PKCS #11 URI (RFC 7512) says of a token.
type tokenURI struct {
	Token, Serial string
	Module        string // absolute path of the library
	PINFile       string // absolute path
}

// refusedAttributes are attributes of RFC 7512 that are not accepted, and why.
var refusedAttributes = map[string]string{
	"slot-id":              "slots are numbered anew at each start: name the token by token or serial",
	"slot-description":     "slots change: name the token by token or serial",
	"slot-manufacturer":    "slots change: name the token by token or serial",
	"manufacturer":         "name the token by token or serial alone",
	"model":                "name the token by token or serial alone",
	"library-description":  "name the library by module-path",
	"library-manufacturer": "name the library by module-path",
	"library-version":      "name the library by module-path",
	"module-name":          "give the library's full path as module-path",
	"object":               "keys are named by node.key, listen.tlsKey and token.wrappingKey",
	"id":                   "keys are named by node.key, listen.tlsKey and token.wrappingKey",
	"type":                 "keys are named by node.key, listen.tlsKey and token.wrappingKey",
	"pin-value":            "a PIN must not stand in the configuration: use pin-source",
}

// parseTokenURI reads a URI strictly: every attribute is known and stands once, every
// character is one that RFC 7512 section 2.3 allows there. An error never repeats the
// value of pin-value.
func parseTokenURI(uri string) (tokenURI, error) {
	var u tokenURI
	rest, ok := strings.CutPrefix(uri, "pkcs11:")
	if !ok {
		return u, errors.New("it does not begin with pkcs11: as RFC 7512 asks")
	}
	path, query, hasQuery := strings.Cut(rest, "?")
	var source string
	fields := map[string]*string{"token": &u.Token, "serial": &u.Serial}
	if err := attributes(path, ";", pathCharacters, "module-path and pin-source stand after the ?", fields); err != nil {
		return u, err
	}
	if hasQuery {
		fields := map[string]*string{"module-path": &u.Module, "pin-source": &source}
		if err := attributes(query, "&", queryCharacters, "token and serial stand before the ?", fields); err != nil {
			return u, err
		}
	}
	if u.Token == "" && u.Serial == "" {
		return u, errors.New("it names no token: give token or serial")
	}
	if u.Module != "" && !filepath.IsAbs(u.Module) {
		return u, fmt.Errorf("module-path %q is not an absolute path", u.Module)
	}
	if source == "" {
		return u, nil
	}
	var err error
	u.PINFile, err = pinFile(source)
	return u, err
}

// Characters that stand for themselves beside letters and digits (RFC 7512 section 2.3).
const (
	pathCharacters  = "-._~:[]@!$'()*+,=&"
	queryCharacters = "-._~:[]@!$'()*+,=/?|"
)

// attributes reads name=value pairs into fields.
func attributes(text, separator, characters, misplaced string, fields map[string]*string) error {
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(text, separator) {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("attribute %q has no value: write name=value", name)
		}
		if why, ok := refusedAttributes[name]; ok {
			return fmt.Errorf("attribute %s is not accepted: %s", name, why)
		}
		field, ok := fields[name]
		switch {
		case !ok:
			return fmt.Errorf("attribute %q is not known here: %s", name, misplaced)
		case seen[name]:
			return fmt.Errorf("attribute %s stands twice", name)
		case value == "":
			return fmt.Errorf("attribute %s is empty", name)
		}
		seen[name] = true
		var err error
		if *field, err = unescape(value, characters); err != nil {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	return nil
}

// unescape decodes a value (RFC 3986 section 2.1).
func unescape(value, characters string) (string, error) {
	out := make([]byte, 0, len(value))
	for i := 0; i < len(value); i++ {
		c := value[i]
		switch {
		case c == '%':
			if i+2 >= len(value) || !isHex(value[i+1]) || !isHex(value[i+2]) {
				return "", fmt.Errorf("%% at byte %d is not followed by two hexadecimal digits", i)
			}
			c = nibble(value[i+1])<<4 | nibble(value[i+2])
			if c == 0 {
				return "", errors.New("it holds a zero byte")
			}
			i += 2
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', strings.IndexByte(characters, c) >= 0:
		default:
			return "", fmt.Errorf("%q at byte %d must be written as %%%02X", c, i, c)
		}
		out = append(out, c)
	}
	return string(out), nil
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func nibble(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}

// pinFile is the file that a pin-source names: an absolute path, or a file URI of this
// machine (RFC 8089).
func pinFile(source string) (string, error) {
	if strings.HasPrefix(source, "|") {
		return "", errors.New("pin-source is a command, and none is run: name a file, or use token.pin")
	}
	path, isURI := strings.CutPrefix(source, "file:")
	if authority, ok := strings.CutPrefix(path, "//"); isURI && ok {
		host, _, _ := strings.Cut(authority, "/")
		if host != "" && host != "localhost" {
			return "", fmt.Errorf("pin-source names the host %q: give a file of this machine", host)
		}
		path = authority[len(host):]
	}
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("pin-source %q is not file: and an absolute path", source)
	}
	return path, nil
}

// applyURI fills the fields for which the token's uri speaks. What the URI says must not
// be said a second time.
func (t *Token) applyURI(at string) error {
	if t.URI == "" {
		return nil
	}
	u, err := parseTokenURI(t.URI)
	if err != nil {
		return fmt.Errorf("%s.uri: %w", at, err)
	}
	if t.Label != "" || t.Serial != "" {
		return fmt.Errorf("%s: label and serial are for a configuration without uri: leave them out", at)
	}
	t.Label, t.Serial = u.Token, u.Serial
	if u.Module != "" {
		if t.Module != "" {
			return fmt.Errorf("%s.module and module-path in %[1]s.uri: give only one of them", at)
		}
		t.Module = u.Module
	}
	if u.PINFile != "" {
		if t.PIN != (PIN{}) {
			return fmt.Errorf("%s.pin and pin-source in %[1]s.uri: give only one of them", at)
		}
		t.PIN.File = u.PINFile
	}
	return nil
}

func applyURI(c any) error {
	var token *Token
	var verifiers []Token
	switch c := c.(type) {
	case *Peer:
		token, verifiers = &c.Token, c.Verifiers
	case *Orderer:
		token, verifiers = &c.Token, c.Verifiers
	case *Client:
		token, verifiers = &c.Token, c.Verifiers
	default:
		return nil
	}
	err := token.applyURI("token")
	for i := range verifiers {
		err = errors.Join(err, verifiers[i].applyURI(fmt.Sprintf("verifiers[%d]", i)))
	}
	return err
}
