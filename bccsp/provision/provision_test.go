package provision_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
	"strongroom/bccsp/provision"
)

func config(t *testing.T) (provision.Config, pkcs11.Config) {
	t.Helper()
	cfg := bccsptest.Config(t)
	return provision.Config{Module: cfg.Module, TokenLabel: cfg.TokenLabel, PIN: cfg.PIN}, cfg
}

// open opens a token for provisioning; done closes it, so that the peer's driver can.
func open(t *testing.T, cfg provision.Config) (p *provision.Provisioner, done func()) {
	t.Helper()
	p, err := provision.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	done = func() {
		if !closed {
			closed = true
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(done)
	return p, done
}

func name(s string) pkix.Name { return pkix.Name{CommonName: s, Organization: []string{"Org1"}} }

// TestWhatIsProvisionedServes makes an organization and hands it to the peer's driver.
func TestWhatIsProvisionedServes(t *testing.T) {
	cfg, driver := config(t)
	p, done := open(t, cfg)
	root, err := p.NewCA("ca", name("ca.org1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	middle, err := p.NewIntermediateCA(root, "ica", name("ica.org1"), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.GenerateKey("peer0", elliptic.P384()); err != nil {
		t.Fatal(err)
	}
	peer, err := p.Issue(middle, "peer0", provision.Request{Profile: provision.Peer, Subject: name("peer0.org1")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.GenerateKey("tls", elliptic.P256()); err != nil {
		t.Fatal(err)
	}
	server, err := p.Issue(root, "tls", provision.Request{Profile: provision.TLSServer, Subject: name("peer0.org1"), Hosts: []string{"peer0.org1", "127.0.0.1", "::1"}})
	if err != nil {
		t.Fatal(err)
	}
	user, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	app, err := p.IssueFor(root, &user.PublicKey, provision.Request{Profile: provision.Client, Subject: name("app"), Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	crl, err := p.CRL(root, 3, []*big.Int{app.SerialNumber}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	done()

	if peer.NotAfter.After(middle.Certificate.NotAfter) || app.NotAfter.Sub(app.NotBefore) > 2*time.Hour {
		t.Error("a certificate outlives its CA or its request")
	}
	if ou := peer.Subject.OrganizationalUnit; len(ou) != 1 || ou[0] != "peer" {
		t.Errorf("OU %q", ou)
	}
	if peer.SerialNumber.BitLen() != 127 || peer.SerialNumber.Cmp(server.SerialNumber) == 0 {
		t.Errorf("serial numbers %x and %x", peer.SerialNumber, server.SerialNumber)
	}
	if len(server.DNSNames) != 1 || len(server.IPAddresses) != 2 {
		t.Errorf("hosts %v %v", server.DNSNames, server.IPAddresses)
	}
	chain(t, root, middle, peer, x509.ExtKeyUsageAny)
	chain(t, root, middle, server, x509.ExtKeyUsageServerAuth)
	chain(t, root, middle, app, x509.ExtKeyUsageAny)

	ctx, token := context.Background(), bccsptest.OpenWith(t, driver)
	for _, c := range []struct {
		issuer *provision.CA
		cert   *x509.Certificate
	}{{root, root.Certificate}, {root, middle.Certificate}, {middle, peer}, {root, server}, {root, app}} {
		verifyIn(t, token, c.issuer, c.cert.RawTBSCertificate, c.cert.Signature)
		key, err := bccsp.NewPublicKey(c.cert.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		if ski := sha256.Sum256(key.Point()); !bytes.Equal(c.cert.SubjectKeyId, ski[:]) || !bytes.Equal(c.cert.AuthorityKeyId, c.issuer.Certificate.SubjectKeyId) && c.cert != root.Certificate {
			t.Errorf("%s: key identifiers are wrong", c.cert.Subject)
		}
	}
	block, _ := pem.Decode(crl)
	list, err := x509.ParseRevocationList(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	verifyIn(t, token, root, list.RawTBSRevocationList, list.Signature)
	if len(list.RevokedCertificateEntries) != 1 || list.Number.Int64() != 3 {
		t.Errorf("list %v", list.RevokedCertificateEntries)
	}

	signer, err := token.Signer(ctx, "peer0")
	if err != nil {
		t.Fatal(err)
	}
	if !signer.PublicKey().ECDSA().Equal(peer.PublicKey) {
		t.Error("the driver finds another key")
	}
	if _, err := token.TLSKey(ctx, "tls"); err != nil {
		t.Error(err)
	}
	keys, err := token.Keys(ctx)
	if err != nil || len(keys) != 4 {
		t.Errorf("%d keys, %v", len(keys), err)
	}
	for _, k := range keys {
		if !k.Protected {
			t.Errorf("key %q may leave the token", k.Label)
		}
	}
	// crypto11 cannot come in while the driver is open.
	if _, err := provision.Open(cfg); err == nil || !strings.Contains(err.Error(), "close it first") {
		t.Errorf("got %v", err)
	}
}

func chain(t *testing.T, root, middle *provision.CA, cert *x509.Certificate, usage x509.ExtKeyUsage) {
	t.Helper()
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root.Certificate)
	between.AddCert(middle.Certificate)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		t.Error(err)
	}
}

// verifyIn checks a certificate's signature in the token as a Fabric message's: with
// low S.
func verifyIn(t *testing.T, token *pkcs11.Token, issuer *provision.CA, tbs, sig []byte) {
	t.Helper()
	key, err := bccsp.NewPublicKey(issuer.Certificate.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(tbs)
	if err := token.Verify(context.Background(), key, digest[:], sig); err != nil {
		t.Error(err)
	}
}

func TestRequests(t *testing.T) {
	cfg, _ := config(t)
	p, _ := open(t, cfg)
	if _, err := p.GenerateKey("k", elliptic.P256()); err != nil {
		t.Fatal(err)
	}
	text, err := p.CSR("k", name("node"), []string{"node.example", "10.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	csr, err := provision.ParseCSR(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := csr.CheckSignature(); err != nil {
		t.Error(err)
	}
	if csr.Subject.CommonName != "node" || len(csr.DNSNames) != 1 || len(csr.IPAddresses) != 1 {
		t.Errorf("request %+v", csr.Subject)
	}
	ca, err := p.NewCA("ca", name("ca"), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := p.IssueFor(ca, csr.PublicKey, provision.Request{Profile: provision.Orderer, Subject: csr.Subject})
	if err != nil || cert.Subject.OrganizationalUnit[0] != "orderer" {
		t.Errorf("%v", err)
	}
	again, err := p.OpenCA("ca", ca.Certificate)
	if err != nil || !again.Certificate.Equal(ca.Certificate) {
		t.Error(err)
	}
	if _, err := p.OpenCA("k", ca.Certificate); err == nil || !strings.Contains(err.Error(), "not the certificate's") {
		t.Errorf("another key as the CA's: got %v", err)
	}
	if _, err := p.OpenCA("ca", cert); err == nil {
		t.Error("opened a CA with a node's certificate")
	}
	for _, bad := range [][]byte{nil, []byte("x"), text[1:], append(bytes.Clone(text), text...), bytes.Replace(text, []byte("REQUEST"), []byte("RUBBISH"), 2)} {
		if _, err := provision.ParseCSR(bad); err == nil {
			t.Errorf("read %q", bad)
		}
	}
}

func TestRefusals(t *testing.T) {
	cfg, _ := config(t)
	p, _ := open(t, cfg)
	if _, err := p.GenerateKey("k", elliptic.P256()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.GenerateKey("k", elliptic.P256()); !errors.Is(err, provision.ErrKeyExists) {
		t.Errorf("got %v, want ErrKeyExists", err)
	}
	if _, err := p.GenerateKey("p521", elliptic.P521()); err == nil {
		t.Error("made a key on P-521")
	}
	if _, err := p.CSR("none", name("x"), nil); !errors.Is(err, provision.ErrKeyNotFound) {
		t.Errorf("got %v, want ErrKeyNotFound", err)
	}
	ca, err := p.NewCA("ca", name("ca"), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for want, r := range map[string]provision.Request{
		"profile \"\"":      {Subject: name("x")},
		"profile \"king\"":  {Profile: "king", Subject: name("x")},
		"no common name":    {Profile: provision.Peer},
		"hosts is empty":    {Profile: provision.TLSServer, Subject: name("x")},
		"hosts are given":   {Profile: provision.Peer, Subject: name("x"), Hosts: []string{"a"}},
		"host \"a b\"":      {Profile: provision.TLSServer, Subject: name("x"), Hosts: []string{"a b"}},
		"host \"a..b\"":     {Profile: provision.TLSServer, Subject: name("x"), Hosts: []string{"a..b"}},
		"lifetime is -1ns":  {Profile: provision.Peer, Subject: name("x"), Lifetime: -1},
		"lifetime is -24h0": {Profile: provision.Peer, Subject: name("x"), Lifetime: -24 * time.Hour},
	} {
		if _, err := p.Issue(ca, "k", r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	if _, err := p.IssueFor(ca, crypto.PublicKey("key"), provision.Request{Profile: provision.Peer, Subject: name("x")}); err == nil {
		t.Error("issued for a string")
	}
	if _, err := p.CRL(ca, 0, nil, time.Hour); err == nil {
		t.Error("made a list without a number")
	}
	if _, err := p.NewCA("ca2", pkix.Name{}, 0); err == nil {
		t.Error("made a CA without a name")
	}
}

func TestWrongPINIsTriedOnce(t *testing.T) {
	cfg, _ := config(t)
	right := cfg.PIN
	cfg.PIN.File = filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(cfg.PIN.File, []byte("not-the-pin"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := provision.Open(cfg); !errors.Is(err, provision.ErrPINRefused) || strings.Contains(err.Error(), "not-the-pin") {
			t.Errorf("got %v, want ErrPINRefused without the PIN", err)
		}
		cfg.PIN = right // is not tried
	}
}

func FuzzParseCSR(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, text []byte) {
		if csr, err := provision.ParseCSR(text); err == nil && csr.PublicKey == nil {
			t.Error("a request without a key")
		}
	})
}
