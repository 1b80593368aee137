package devnet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	profiles "strongroom/firmware-profiles"
)

// organization is one of the network's three.
type organization struct {
	name  string // folder and token label
	mspID string
	node  string // name of its node
	role  string // OU of its node
	users bool   // has an application user
}

var organizations = []organization{
	{name: "orderer", mspID: "OrdererMSP", node: "orderer0", role: "orderer"},
	{name: "org1", mspID: "Org1MSP", node: "peer0", role: "peer", users: true},
	{name: "org2", mspID: "Org2MSP", node: "peer0", role: "peer", users: true},
}

// module finds SoftHSM's library; $SOFTHSM2_MODULE overrides.
func module() (string, error) {
	if m := os.Getenv("SOFTHSM2_MODULE"); m != "" {
		return m, nil
	}
	profile, err := profiles.Load("softhsm-2.6")
	if err != nil {
		return "", err
	}
	m, err := profile.FindModule()
	if err != nil {
		return "", fmt.Errorf("%w: on Debian, `apt-get install softhsm2`", err)
	}
	return m, nil
}

// provision makes tokens, certification authorities, identities and configuration
// files; the organisations side by side.
func (n *Network) provision(ctx context.Context) error {
	mod, err := module()
	if err != nil {
		return err
	}
	n.say("making tokens, certification authorities and identities")
	group, groupCtx := errgroup.WithContext(ctx)
	for _, org := range organizations {
		group.Go(func() error { return n.provisionOrganization(groupCtx, mod, org) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := n.writeConfigurations(mod); err != nil {
		return err
	}
	_, err = n.run(ctx, "channel", "genesis", "--description", n.path("main.yaml"), "--out", n.path("main.block"))
	return err
}

func (n *Network) provisionOrganization(ctx context.Context, mod string, org organization) error {
	dir := n.path(org.name)
	for _, d := range []string{"tokens", "identities", "msp/cacerts", "msp/tlscacerts"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return err
		}
	}
	conf := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", filepath.Join(dir, "tokens"))
	if err := os.WriteFile(filepath.Join(dir, "softhsm2.conf"), []byte(conf), 0o600); err != nil {
		return err
	}
	p := provisioner{n: n, dir: dir, module: mod, org: org}
	for _, label := range []string{org.name, org.name + "-ca"} {
		if err := p.token(ctx, label); err != nil {
			return err
		}
	}
	if err := p.authorities(ctx); err != nil {
		return err
	}
	if err := p.identity(ctx, org.node, org.role, false); err != nil {
		return err
	}
	if err := p.identity(ctx, org.node+"-tls", "tls-server", true); err != nil {
		return err
	}
	if err := p.identity(ctx, "admin", "admin", false); err != nil {
		return err
	}
	if org.users {
		if err := p.user(ctx); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "msp", "config.yaml"), []byte(nodeOUs), 0o644)
}

// nodeOUs is the role rule of each MSP, as Fabric's tools write it.
const nodeOUs = `NodeOUs:
  Enable: true
  ClientOUIdentifier: {Certificate: cacerts/ca.pem, OrganizationalUnitIdentifier: client}
  PeerOUIdentifier: {Certificate: cacerts/ca.pem, OrganizationalUnitIdentifier: peer}
  AdminOUIdentifier: {Certificate: cacerts/ca.pem, OrganizationalUnitIdentifier: admin}
  OrdererOUIdentifier: {Certificate: cacerts/ca.pem, OrganizationalUnitIdentifier: orderer}
`

// provisioner runs the provisioning commands of one organisation.
type provisioner struct {
	n      *Network
	dir    string
	module string
	org    organization
}

func (p *provisioner) file(parts ...string) string {
	return filepath.Join(append([]string{p.dir}, parts...)...)
}

// tokenFlags select a token of the organisation.
func (p *provisioner) tokenFlags(label string) []string {
	return []string{
		"--module", p.module, "--softhsm-conf", p.file("softhsm2.conf"),
		"--token", label, "--pin-file", p.file(label + ".pin"),
	}
}

func (p *provisioner) run(ctx context.Context, label string, args ...string) error {
	_, err := p.n.run(ctx, append(args, p.tokenFlags(label)...)...)
	return err
}

func (p *provisioner) token(ctx context.Context, label string) error {
	for _, f := range []string{label + ".pin", label + ".so-pin"} {
		pin := make([]byte, 12)
		if _, err := rand.Read(pin); err != nil {
			return err
		}
		if err := os.WriteFile(p.file(f), []byte(hex.EncodeToString(pin)), 0o600); err != nil {
			return err
		}
	}
	args := []string{"token", "init", "--so-pin-file", p.file(label + ".so-pin")}
	if !strings.HasSuffix(label, "-ca") {
		args = append(args, "--wrapping-key", "strongroom-kek")
	}
	return p.run(ctx, label, args...)
}

func (p *provisioner) authorities(ctx context.Context) error {
	for key, out := range map[string]string{"ca": "msp/cacerts/ca.pem", "tlsca": "msp/tlscacerts/tlsca.pem"} {
		if err := p.run(ctx, p.org.name+"-ca", "ca", "new",
			"--key", key, "--name", key+"."+p.org.name, "--organization", p.org.name, "--out", p.file(out)); err != nil {
			return err
		}
	}
	return nil
}

// identity makes a key in the organisation's token and a certificate for it.
func (p *provisioner) identity(ctx context.Context, name, profile string, tls bool) error {
	csr, cert := p.file("identities", name+".csr"), p.file("identities", name+".pem")
	create := []string{"identity", "new", "--key", name, "--name", name + "." + p.org.name, "--out", csr}
	ca, caCert := "ca", "msp/cacerts/ca.pem"
	if tls {
		create = append(create, "--host", "localhost", "--host", name+"."+p.org.name, "--host", "127.0.0.1")
		ca, caCert = "tlsca", "msp/tlscacerts/tlsca.pem"
	}
	if err := p.run(ctx, p.org.name, create...); err != nil {
		return err
	}
	if err := p.run(ctx, p.org.name+"-ca", "ca", "issue",
		"--key", ca, "--certificate", p.file(caCert), "--csr", csr, "--profile", profile, "--out", cert); err != nil {
		return err
	}
	return p.run(ctx, p.org.name, "identity", "import", "--key", name, "--certificate", cert)
}

// user makes an application user, whose key is a file: it belongs to a client
// application, not to an appliance.
func (p *provisioner) user(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	public := p.file("identities", "user.pub")
	for file, block := range map[string]*pem.Block{
		p.file("identities", "user.key"): {Type: "PRIVATE KEY", Bytes: pkcs8},
		public:                           {Type: "PUBLIC KEY", Bytes: spki},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return p.run(ctx, p.org.name+"-ca", "ca", "issue", "--key", "ca", "--certificate", p.file("msp/cacerts/ca.pem"),
		"--public-key", public, "--name", "user."+p.org.name, "--profile", "client", "--out", p.file("identities", "user.pem"))
}
