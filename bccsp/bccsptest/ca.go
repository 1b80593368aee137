package bccsptest

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"strongroom/bccsp"
	"strongroom/bccsp/pkcs11"
	"strongroom/wire/msppb"
)

// CA is a certification authority whose key lives in a token.
type CA struct {
	MSPID       string
	Certificate *x509.Certificate
	CertPEM     []byte
	Parent      *CA // nil for a root

	token *pkcs11.Token
	key   crypto.Signer
}

// Identity is a certificate and the signing key in the token that it is for.
type Identity struct {
	MSPID       string
	Name        string // the subject's common name
	Certificate *x509.Certificate
	CertPEM     []byte
	Label       string // of the key in the token
	Signer      *bccsp.Signer
}

// Serialized is the msp.SerializedIdentity that Fabric's messages carry.
func (i *Identity) Serialized() []byte { return Serialize(i.MSPID, i.CertPEM) }

// Serialize is an msp.SerializedIdentity.
func Serialize(mspID string, certPEM []byte) []byte {
	out, err := proto.MarshalOptions{Deterministic: true}.Marshal(&msppb.SerializedIdentity{Mspid: mspID, IdBytes: certPEM})
	if err != nil {
		panic("bccsptest: " + err.Error()) // a MSP id that is not UTF-8: the test's own error
	}
	return out
}

// labels numbers keys, so that labels are unique in a token.
var labels atomic.Int64

func newLabel(kind string) string { return fmt.Sprintf("%s-%d", kind, labels.Add(1)) }

// NewCA makes a root CA for an MSP.
func NewCA(t testing.TB, token *pkcs11.Token, mspID string, opts ...Option) *CA {
	t.Helper()
	return newCA(t, token, mspID, "ca."+mspID, nil, opts)
}

// Intermediate makes a CA below this one, of the same MSP.
func (c *CA) Intermediate(t testing.TB, name string, opts ...Option) *CA {
	t.Helper()
	return newCA(t, c.token, c.MSPID, name, c, opts)
}

func newCA(t testing.TB, token *pkcs11.Token, mspID, name string, parent *CA, opts []Option) *CA {
	t.Helper()
	ca := &CA{MSPID: mspID, Parent: parent, token: token}
	r := newRequest(name, "", opts)
	r.template.IsCA = true
	r.template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	r.apply()
	label := newLabel("ca")
	pub := generate(t, token, label, r.curve)
	ca.key = rawSigner(t, token, label)
	issuer, key := &r.template, ca.key
	if parent != nil {
		issuer, key = parent.Certificate, parent.key
	}
	ca.Certificate, ca.CertPEM = r.sign(t, issuer, pub.ECDSA(), key)
	return ca
}

// Root is the CA at the top.
func (c *CA) Root() *CA {
	for c.Parent != nil {
		c = c.Parent
	}
	return c
}

// Issue makes a key in the token and a certificate for it. The unit is the node OU:
// "client", "peer", "admin", "orderer", or "" for none.
func (c *CA) Issue(t testing.TB, name, unit string, opts ...Option) *Identity {
	t.Helper()
	r := newRequest(name, unit, opts)
	r.template.KeyUsage = x509.KeyUsageDigitalSignature
	r.apply()
	id := &Identity{MSPID: c.MSPID, Name: name, Label: newLabel("identity")}
	pub := generate(t, c.token, id.Label, r.curve)
	signer, err := c.token.Signer(context.Background(), id.Label)
	if err != nil {
		t.Fatal(err)
	}
	id.Signer = signer
	id.Certificate, id.CertPEM = r.sign(t, c.Certificate, pub.ECDSA(), c.key)
	return id
}

// IssueFor makes a certificate for a key that is elsewhere, as an application's is.
func (c *CA) IssueFor(t testing.TB, pub crypto.PublicKey, name, unit string, opts ...Option) (*x509.Certificate, []byte) {
	t.Helper()
	r := newRequest(name, unit, opts)
	r.template.KeyUsage = x509.KeyUsageDigitalSignature
	r.apply()
	return r.sign(t, c.Certificate, pub, c.key)
}

// CRL is a PEM revocation list, signed now, of certificates that this CA issued.
func (c *CA) CRL(t testing.TB, revoked ...*x509.Certificate) []byte {
	t.Helper()
	now := time.Now()
	list := &x509.RevocationList{Number: big.NewInt(labels.Add(1)), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(24 * time.Hour)}
	for _, cert := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: cert.SerialNumber, RevocationTime: now.Add(-time.Hour)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, c.Certificate, c.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// FabricConfig is the MSP of this CA's organization with node OUs, for a test to
// change. Intermediates are other CAs below its root.
func (c *CA) FabricConfig(intermediates ...*CA) *msppb.FabricMSPConfig {
	root := c.Root()
	ou := func(name string) *msppb.FabricOUIdentifier {
		return &msppb.FabricOUIdentifier{OrganizationalUnitIdentifier: name}
	}
	cfg := &msppb.FabricMSPConfig{
		Name:         c.MSPID,
		RootCerts:    [][]byte{root.CertPEM},
		TlsRootCerts: [][]byte{root.CertPEM},
		CryptoConfig: &msppb.FabricCryptoConfig{SignatureHashFamily: "SHA2", IdentityIdentifierHashFunction: "SHA256"},
		FabricNodeOus: &msppb.FabricNodeOUs{
			Enable:             true,
			ClientOuIdentifier: ou("client"), PeerOuIdentifier: ou("peer"),
			AdminOuIdentifier: ou("admin"), OrdererOuIdentifier: ou("orderer"),
		},
	}
	if c != root {
		intermediates = append([]*CA{c}, intermediates...)
	}
	for _, i := range intermediates {
		cfg.IntermediateCerts = append(cfg.IntermediateCerts, i.CertPEM)
	}
	return cfg
}

// MSPConfig is FabricConfig as a channel configuration holds it.
func (c *CA) MSPConfig(intermediates ...*CA) *msppb.MSPConfig {
	return MSPConfig(c.FabricConfig(intermediates...))
}

// MSPConfig wraps a Fabric MSP (type 0) as a channel configuration does.
func MSPConfig(cfg *msppb.FabricMSPConfig) *msppb.MSPConfig {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(cfg)
	if err != nil {
		panic("bccsptest: " + err.Error())
	}
	return &msppb.MSPConfig{Config: raw}
}

func generate(t testing.TB, token *pkcs11.Token, label string, curve elliptic.Curve) *bccsp.PublicKey {
	t.Helper()
	pub, err := token.GenerateKey(context.Background(), label, curve)
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

// rawSigner is a key that signs what a test likes. A CA is none of the peer's
// purposes: tests borrow the one that crypto/x509 can use.
func rawSigner(t testing.TB, token *pkcs11.Token, label string) crypto.Signer {
	t.Helper()
	key, err := token.TLSKey(context.Background(), label)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign makes the certificate.
func (r *request) sign(t testing.TB, issuer *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, []byte) {
	t.Helper()
	if r.highS {
		key = highSigner{key}
	}
	der, err := x509.CreateCertificate(rand.Reader, &r.template, issuer, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// highSigner makes signatures with high S.
type highSigner struct{ crypto.Signer }

func (h highSigner) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	sig, err := h.Signer.Sign(r, digest, opts)
	if err != nil {
		return nil, err
	}
	pub, err := bccsp.NewPublicKey(h.Public())
	if err != nil {
		return nil, err
	}
	return Twin(pub.Curve(), sig), nil
}

// Twin is the other signature, with n-s for s, that verifies wherever sig does.
func Twin(curve elliptic.Curve, sig []byte) []byte {
	var v struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(sig, &v); err != nil {
		panic("bccsptest: " + err.Error()) // the test's own error
	}
	v.S.Sub(curve.Params().N, v.S)
	out, err := asn1.Marshal(v)
	if err != nil {
		panic("bccsptest: " + err.Error())
	}
	return out
}

// request is a certificate to be made.
type request struct {
	template x509.Certificate
	curve    elliptic.Curve
	highS    bool
	opts     []Option
}

func newRequest(name, unit string, opts []Option) *request {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic("bccsptest: " + err.Error())
	}
	now := time.Now()
	r := &request{curve: elliptic.P256(), opts: opts, template: x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-time.Hour).Truncate(time.Second),
		NotAfter:              now.AddDate(1, 0, 0).Truncate(time.Second),
		BasicConstraintsValid: true,
	}}
	if unit != "" {
		r.template.Subject.OrganizationalUnit = []string{unit}
	}
	return r
}

func (r *request) apply() {
	for _, opt := range r.opts {
		opt(r)
	}
}

// Option changes a certificate that is to be made.
type Option func(*request)

// Expired makes a certificate that ended an hour ago.
func Expired() Option {
	return Valid(time.Now().Add(-48*time.Hour), time.Now().Add(-time.Hour))
}

// Valid sets when a certificate begins and ends.
func Valid(from, to time.Time) Option {
	return func(r *request) {
		r.template.NotBefore, r.template.NotAfter = from.Truncate(time.Second), to.Truncate(time.Second)
	}
}

// OnCurve puts the key on another curve than P-256.
func OnCurve(curve elliptic.Curve) Option { return func(r *request) { r.curve = curve } }

// HighS has the certificate signed with a high S, which X.509 allows.
func HighS() Option { return func(r *request) { r.highS = true } }

// Template changes anything else of the certificate.
func Template(change func(*x509.Certificate)) Option {
	return func(r *request) { change(&r.template) }
}
