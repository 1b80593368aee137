package ccpackage

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// DefaultDialTimeout bounds connecting to a chaincode service and its
// registration when connection.json has no dial_timeout (Fabric's value).
const DefaultDialTimeout = 3 * time.Second

// maxDialTimeout bounds dial_timeout: proposals wait for it.
const maxDialTimeout = 5 * time.Minute

// Connection is connection.json of a chaincode as a service: where the service
// listens and how to speak to it. The field names are Fabric's
// (core/container/externalbuilder, ChaincodeServerUserData).
type Connection struct {
	Address            string   `json:"address"` // host:port; may hold {{.name}} places, see Resolve
	DialTimeout        Duration `json:"dial_timeout,omitempty"`
	TLSRequired        bool     `json:"tls_required"`
	ClientAuthRequired bool     `json:"client_auth_required,omitempty"`
	ClientKey          string   `json:"client_key,omitempty"`  // PEM; may be left out where the peer presents its own key
	ClientCert         string   `json:"client_cert,omitempty"` // PEM
	RootCert           string   `json:"root_cert,omitempty"`   // PEM: issuers of the service's certificate
	Domain             string   `json:"domain,omitempty"`      // name in the service's certificate, when not the address's host
}

// Duration is a time.Duration written as "10s" or as a number of nanoseconds.
type Duration time.Duration

// UnmarshalJSON reads either form.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) == nil {
		v, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("dial_timeout %q is not a duration; write it like \"10s\"", text)
		}
		*d = Duration(v)
		return nil
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
	if err != nil {
		return fmt.Errorf("dial_timeout %q is neither a duration like \"10s\" nor a number of nanoseconds", b)
	}
	*d = Duration(n)
	return nil
}

// MarshalJSON writes the text form.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// ParseConnection reads connection.json strictly: an unknown field is an error,
// so that a misspelt tls_required cannot turn TLS off. The result is validated.
func ParseConnection(data []byte) (Connection, error) {
	var c Connection
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return Connection{}, fmt.Errorf("connection.json: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Connection{}, errors.New("connection.json: there is more after the object; keep one JSON object")
	}
	if err := c.Validate(); err != nil {
		return Connection{}, err
	}
	return c, nil
}

// Validate says which field is wrong and how to put it right.
func (c Connection) Validate() error {
	if c.Address == "" {
		return errors.New("connection.json: address is missing; give host:port of the chaincode service")
	}
	if !c.isTemplate() {
		if err := checkAddress(c.Address); err != nil {
			return err
		}
	}
	if d := time.Duration(c.DialTimeout); d < 0 || d > maxDialTimeout {
		return fmt.Errorf("connection.json: dial_timeout %s is out of range; use 1s to %s, or leave it out for %s", d, maxDialTimeout, DefaultDialTimeout)
	}
	if !c.TLSRequired {
		if c.ClientAuthRequired {
			return errors.New("connection.json: client_auth_required is true but tls_required is false; set tls_required to true")
		}
		return nil // certificates, if any, have no meaning: Fabric ignores them too
	}
	if c.RootCert == "" {
		return errors.New("connection.json: root_cert is missing; tls_required needs the PEM certificate that issued the service's certificate")
	}
	if !x509.NewCertPool().AppendCertsFromPEM([]byte(c.RootCert)) {
		return errors.New("connection.json: root_cert holds no PEM certificate")
	}
	if (c.ClientCert == "") != (c.ClientKey == "") {
		return errors.New("connection.json: client_cert and client_key belong together; give both or neither")
	}
	if c.ClientCert != "" && !c.ClientAuthRequired {
		return errors.New("connection.json: client_cert is set but client_auth_required is false; set it to true or remove it")
	}
	if c.ClientCert != "" {
		if _, err := tls.X509KeyPair([]byte(c.ClientCert), []byte(c.ClientKey)); err != nil {
			// The error of the standard library names no key material.
			return fmt.Errorf("connection.json: client_cert and client_key are not a pair: %w", err)
		}
	}
	return nil
}

// Timeout is DialTimeout, or the default where there is none.
func (c Connection) Timeout() time.Duration {
	if c.DialTimeout == 0 {
		return DefaultDialTimeout
	}
	return time.Duration(c.DialTimeout)
}

// Resolve fills in places like {{.peername}} in the address, as Fabric's ccaas
// builder does from CHAINCODE_AS_A_SERVICE_BUILDER_CONFIG. A place that has no
// value is an error which names it.
func (c Connection) Resolve(values map[string]string) (Connection, error) {
	if !c.isTemplate() {
		return c, c.Validate()
	}
	var out strings.Builder
	rest := c.Address
	for {
		before, after, found := strings.Cut(rest, "{{")
		out.WriteString(before)
		if !found {
			break
		}
		place, tail, closed := strings.Cut(after, "}}")
		name, dotted := strings.CutPrefix(strings.TrimSpace(place), ".")
		value, known := values[name]
		if !closed || !dotted || !known {
			return Connection{}, fmt.Errorf("connection.json: address %q: no value for {{%s}}; configure it for this peer or write the address itself", c.Address, strings.TrimSpace(place))
		}
		out.WriteString(value)
		rest = tail
	}
	c.Address = out.String()
	if err := checkAddress(c.Address); err != nil {
		return Connection{}, err
	}
	return c, c.Validate()
}

func (c Connection) isTemplate() bool { return strings.Contains(c.Address, "{{") }

func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || strings.ContainsAny(host, "/ \t\r\n") {
		return fmt.Errorf("connection.json: address %q is not host:port", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("connection.json: address %q: port %q is not 1 to 65535", address, port)
	}
	return nil
}
