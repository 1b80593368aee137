package provision

import (
	"crypto"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"time"

	"strongroom/bccsp"
)

// Profile says what a certificate is for.
type Profile string

// The profiles. The first four are Fabric's node OUs: the OU of the subject.
const (
	Client    Profile = "client"
	Peer      Profile = "peer"
	Orderer   Profile = "orderer"
	Admin     Profile = "admin"
	TLSServer Profile = "tls-server" // also a client's: nodes dial each other with it
	TLSClient Profile = "tls-client"
)

// backdate makes a certificate good for machines whose clock is a little behind.
const backdate = 5 * time.Minute

// Lifetimes where a request names none.
const (
	DefaultLifetime   = 365 * 24 * time.Hour
	DefaultCALifetime = 10 * 365 * 24 * time.Hour
)

// Request describes a certificate. The zero value lacks a profile and a name.
type Request struct {
	Profile Profile
	// Subject has a CommonName. The OU of a node OU profile is put before its others.
	Subject pkix.Name
	// Hosts are DNS names and IP addresses, for TLSServer.
	Hosts []string
	// Lifetime is DefaultLifetime when 0. It ends with the CA's certificate at latest.
	Lifetime time.Duration
}

// Validate names the first field that is wrong and how to put it right.
func (r Request) Validate() error {
	switch r.Profile {
	case Client, Peer, Orderer, Admin, TLSClient:
		if len(r.Hosts) > 0 {
			return fmt.Errorf("hosts are given for profile %q: only %q has them", r.Profile, TLSServer)
		}
	case TLSServer:
		if len(r.Hosts) == 0 {
			return fmt.Errorf("hosts is empty: profile %q needs the names or addresses by which it is dialled", r.Profile)
		}
	default:
		return fmt.Errorf("profile %q: give client, peer, orderer, admin, tls-server or tls-client", r.Profile)
	}
	if r.Lifetime < 0 {
		return fmt.Errorf("lifetime is %s: give a positive time, or 0 for %s", r.Lifetime, DefaultLifetime)
	}
	for _, host := range r.Hosts {
		if _, err := netip.ParseAddr(host); err != nil && !isDNSName(host) {
			return fmt.Errorf("host %q is neither a DNS name nor an IP address", host)
		}
	}
	return checkSubject(r.Subject)
}

func checkSubject(subject pkix.Name) error {
	if subject.CommonName == "" {
		return errors.New("subject has no common name: name the certificate's owner")
	}
	return nil
}

// isDNSName allows letters, digits, hyphens and underscores in labels, and a first
// label of one star.
func isDNSName(host string) bool {
	if host == "" || len(host) > 253 {
		return false
	}
	for i, label := range strings.Split(host, ".") {
		if i == 0 && label == "*" {
			continue
		}
		if label == "" || len(label) > 63 || strings.Trim(label, "-") != label {
			return false
		}
		for _, c := range label {
			if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
				return false
			}
		}
	}
	return true
}

// CA is a certification authority whose key is in the token.
type CA struct {
	Certificate *x509.Certificate
	key         crypto.Signer
	random      io.Reader // the token's
}

// PEM is the CA's certificate.
func (c *CA) PEM() []byte { return encode("CERTIFICATE", c.Certificate.Raw) }

// NewCA makes a key on P-256 in the token and a root certificate, signed by itself,
// for it. A lifetime of 0 is DefaultCALifetime.
func (p *Provisioner) NewCA(label string, subject pkix.Name, lifetime time.Duration) (*CA, error) {
	return p.newCA(nil, label, subject, lifetime)
}

// NewIntermediateCA is NewCA for a CA below another. It may issue no further CAs.
func (p *Provisioner) NewIntermediateCA(parent *CA, label string, subject pkix.Name, lifetime time.Duration) (*CA, error) {
	return p.newCA(parent, label, subject, lifetime)
}

func (p *Provisioner) newCA(parent *CA, label string, subject pkix.Name, lifetime time.Duration) (*CA, error) {
	if err := checkSubject(subject); err != nil {
		return nil, err
	}
	if lifetime == 0 {
		lifetime = DefaultCALifetime
	}
	public, err := p.GenerateKey(label, elliptic.P256())
	if err != nil {
		return nil, err
	}
	key, err := p.signer(label)
	if err != nil {
		return nil, err
	}
	template, err := p.template(subject, public, lifetime, parent)
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	ca := &CA{Certificate: template, key: key, random: p.random}
	issuer := ca
	if parent != nil {
		issuer = parent
		template.MaxPathLenZero = true
	}
	cert, err := issuer.sign(template, public)
	if err != nil {
		return nil, fmt.Errorf("CA %q: %w", label, err)
	}
	ca.Certificate = cert
	return ca, nil
}

// OpenCA finds a CA's key by its label and sees that it is the certificate's.
func (p *Provisioner) OpenCA(label string, cert *x509.Certificate) (*CA, error) {
	if cert == nil || !cert.IsCA {
		return nil, fmt.Errorf("CA %q: the certificate is not a CA's", label)
	}
	key, err := p.signer(label)
	if err != nil {
		return nil, err
	}
	inToken, err := bccsp.NewPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("CA %q: %w", label, err)
	}
	inCert, err := bccsp.NewPublicKey(cert.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("CA %q: its certificate: %w", label, err)
	}
	if !inToken.Equal(inCert) {
		return nil, fmt.Errorf("CA %q: the key in the token is not the certificate's: give the certificate that was made with this label", label)
	}
	return &CA{Certificate: cert, key: key, random: p.random}, nil
}

// Issue makes a certificate for the key in the token with the label.
func (p *Provisioner) Issue(ca *CA, label string, r Request) (*x509.Certificate, error) {
	key, err := p.signer(label)
	if err != nil {
		return nil, err
	}
	return p.IssueFor(ca, key.Public(), r)
}

// IssueFor makes a certificate for a public key that may be anywhere: of an
// application's user, or of a request that ParseCSR read. That its owner has the
// private half is the caller's to know.
func (p *Provisioner) IssueFor(ca *CA, public crypto.PublicKey, r Request) (*x509.Certificate, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	key, err := bccsp.NewPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("certificate for %q: %w", r.Subject.CommonName, err)
	}
	lifetime := r.Lifetime
	if lifetime == 0 {
		lifetime = DefaultLifetime
	}
	template, err := p.template(r.Subject, key, lifetime, ca)
	if err != nil {
		return nil, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	switch r.Profile {
	case TLSServer:
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		addHosts(&template.DNSNames, &template.IPAddresses, r.Hosts)
	case TLSClient:
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	default:
		template.Subject.OrganizationalUnit = append([]string{string(r.Profile)}, r.Subject.OrganizationalUnit...)
	}
	cert, err := ca.sign(template, key)
	if err != nil {
		return nil, fmt.Errorf("certificate for %q: %w", r.Subject.CommonName, err)
	}
	return cert, nil
}

func addHosts(names *[]string, ips *[]net.IP, hosts []string) {
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			*ips = append(*ips, ip)
		} else {
			*names = append(*names, host)
		}
	}
}

// template is what all certificates have.
func (p *Provisioner) template(subject pkix.Name, key *bccsp.PublicKey, lifetime time.Duration, issuer *CA) (*x509.Certificate, error) {
	serial, err := p.number()
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	end := now.Add(lifetime)
	if lifetime <= 0 {
		return nil, fmt.Errorf("lifetime is %s: give a positive time", lifetime)
	}
	if issuer != nil && end.After(issuer.Certificate.NotAfter) {
		end = issuer.Certificate.NotAfter
	}
	ski := sha256.Sum256(key.Point()) // as Fabric's own tools do
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: subject, SubjectKeyId: ski[:],
		NotBefore: now.Add(-backdate), NotAfter: end, BasicConstraintsValid: true,
	}, nil
}

func (c *CA) sign(template *x509.Certificate, key *bccsp.PublicKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(c.random, template, c.Certificate, key.ECDSA(), c.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// CRL makes a revocation list in PEM: its number must be higher than the last one's.
func (p *Provisioner) CRL(ca *CA, number int64, revoked []*big.Int, lifetime time.Duration) ([]byte, error) {
	if number < 1 || lifetime <= 0 {
		return nil, fmt.Errorf("revocation list number %d with lifetime %s: both must be positive", number, lifetime)
	}
	now := time.Now().UTC().Truncate(time.Second)
	list := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: now.Add(-backdate), NextUpdate: now.Add(lifetime)}
	for _, serial := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: now})
	}
	der, err := x509.CreateRevocationList(p.random, list, ca.Certificate, ca.key)
	if err != nil {
		return nil, fmt.Errorf("revocation list: %w", err)
	}
	return encode("X509 CRL", der), nil
}

// CSR makes a PKCS #10 request in PEM for the key in the token with the label. Hosts
// are DNS names and IP addresses, or none.
func (p *Provisioner) CSR(label string, subject pkix.Name, hosts []string) ([]byte, error) {
	r := Request{Profile: Client, Subject: subject}
	if len(hosts) > 0 {
		r.Profile, r.Hosts = TLSServer, hosts
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	key, err := p.signer(label)
	if err != nil {
		return nil, err
	}
	template := &x509.CertificateRequest{Subject: subject}
	addHosts(&template.DNSNames, &template.IPAddresses, hosts)
	der, err := x509.CreateCertificateRequest(p.random, template, key)
	if err != nil {
		return nil, fmt.Errorf("request for key %q: %w", label, err)
	}
	return encode("CERTIFICATE REQUEST", der), nil
}

// ParseCSR reads a PKCS #10 request in PEM, to be issued by IssueFor. Its signature is
// not checked, since that would be done in software: before issuing, the caller makes
// sure by other means that the request comes from its subject.
func ParseCSR(text []byte) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New("not one PEM block of type CERTIFICATE REQUEST")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if _, err := bccsp.NewPublicKey(request.PublicKey); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return request, nil
}

// Encode is a certificate in PEM.
func Encode(cert *x509.Certificate) []byte { return encode("CERTIFICATE", cert.Raw) }

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
