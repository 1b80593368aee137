package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/appliance/config"
)

const peer = `
node: {name: peer0, mspId: Org1MSP, msp: msp, certificate: cert.pem, key: peer0}
token: {module: /lib/softhsm.so, label: org1, pin: {file: pin}, environment: {SOFTHSM2_CONF: ./softhsm2.conf}}
listen: {address: 127.0.0.1:7051, tlsCertificate: tls.pem, tlsKey: peer0-tls}
data: data
chaincode: {executeTimeout: 45s}
`

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "peer.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadPeer(t *testing.T) {
	path := write(t, peer)
	t.Setenv("STRONGROOM_TOKEN_SESSIONS", "12")
	t.Setenv("STRONGROOM_NODE_MSPID", "Org9MSP")
	c, err := config.LoadPeer(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(path)
	if c.Token.Sessions != 12 || c.Node.MSPID != "Org9MSP" {
		t.Errorf("the environment did not override: %+v", c)
	}
	if c.Data != filepath.Join(dir, "data") || c.Token.Environment["SOFTHSM2_CONF"] != filepath.Join(dir, "softhsm2.conf") {
		t.Errorf("paths are not relative to the file: %s, %v", c.Data, c.Token.Environment)
	}
	if c.Chaincode.ExecuteTimeout.Or(0) != 45*time.Second {
		t.Errorf("executeTimeout = %v", c.Chaincode.ExecuteTimeout)
	}
}

func TestLoadPeerNamesWhatIsWrong(t *testing.T) {
	for name, tc := range map[string]struct{ from, to, want string }{
		"unknown field":      {"data: data", "dta: data", "field dta not found"},
		"missing field":      {"key: peer0}", "}", "node.key is missing"},
		"label and serial":   {"label: org1,", "label: org1, serial: a1,", "either label or serial"},
		"two PIN sources":    {"{file: pin}", "{file: pin, env: PIN}", "token.pin"},
		"bad duration":       {"45s", "45", "500ms, 10s or 2m"},
		"unknown layer":      {"data: data", "data: data\npolicy: {layers: {network: x.rego}}", `"network" is not a layer`},
		"bundle and layers":  {"data: data", "data: data\npolicy: {layers: {function: x.rego}, bundle: {file: b.tar.gz, publicKey: k.pem, keyId: k}}", "either bundle, or layers and guard"},
		"bundle and guard":   {"data: data", "data: data\npolicy: {guard: x.rego, bundle: {file: b.tar.gz, publicKey: k.pem, keyId: k}}", "either bundle, or layers and guard"},
		"bundle of nobody":   {"data: data", "data: data\npolicy: {bundle: {file: b.tar.gz}}", "policy.bundle.publicKey is missing"},
		"url of nobody":      {"data: data", "data: data\npolicy: {bundle: {url: https://x/b, publicKey: k.pem, keyId: k}}", "url and tlsCACert belong together"},
		"half a ledger key":  {"data: data", "data: data\npolicy: {bundle: {file: b, ledger: {channel: main}, publicKey: k.pem, keyId: k}}", "policy.bundle.ledger needs channel, chaincode and key"},
		"no network":         {"listen: {", "listen: {networks: [10.0.0.1], ", "listen.networks[0]: \"10.0.0.1\" is no network"},
		"two bundles":        {"data: data", "data: data\npolicy: {bundle: {file: b, folder: c, publicKey: k.pem, keyId: k}}", "either file or folder"},
		"peer without a MSP": {"data: data", "data: data\npeers: [{address: a:1, tlsCACert: c}]", "peers[0].mspId"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := config.LoadPeer(write(t, strings.Replace(peer, tc.from, tc.to, 1)))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestEnvironmentErrorNamesTheVariable(t *testing.T) {
	t.Setenv("STRONGROOM_TOKEN_SESSIONS", "many")
	if _, err := config.LoadPeer(write(t, peer)); err == nil || !strings.Contains(err.Error(), "STRONGROOM_TOKEN_SESSIONS") {
		t.Fatalf("got %v", err)
	}
}

func TestVerifiersAreChecked(t *testing.T) {
	load := func(verifiers string) (*config.Peer, error) {
		path := filepath.Join(t.TempDir(), "peer.yaml")
		if err := os.WriteFile(path, []byte(peer+"verifiers: "+verifiers+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return config.LoadPeer(path)
	}
	_, err := load("[{module: /m.so, label: a, pin: {env: P}, wrappingKey: v}, {label: b, pin: {env: P}, wrappingKey: w}]")
	for _, want := range []string{"verifiers[1].module", "verifiers[1].wrappingKey"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not named in: %v", want, err)
		}
	}
	c, err := load("[{module: /m.so, label: a, pin: {file: pin}}]")
	if err != nil && !strings.Contains(err.Error(), "ordering") {
		t.Fatal(err)
	}
	if got := c.Verifiers[0].PIN.File; !filepath.IsAbs(got) {
		t.Errorf("the verifier's PIN file is %q: not beside the configuration", got)
	}
}
