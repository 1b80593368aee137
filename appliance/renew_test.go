package appliance

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"strongroom/appliance/config"
	"strongroom/appliance/operations"
	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
	"strongroom/msp"
	"strongroom/wire/msppb"
)

// renewable is a node's certificates under renewal, with a log to read.
type renewable struct {
	*renewal
	ca    *bccsptest.CA
	peer  *bccsptest.Identity
	tls   *bccsptest.Identity
	creds credentials.TransportCredentials
	log   bytes.Buffer
}

func named(names ...string) bccsptest.Option {
	return bccsptest.Template(func(c *x509.Certificate) { c.DNSNames = names })
}

func newRenewable(t *testing.T) *renewable {
	t.Helper()
	token := bccsptest.OpenShared(t)
	r := &renewable{ca: bccsptest.NewCA(t, token, "Org1MSP")}
	r.peer = r.ca.Issue(t, "peer0", "peer")
	r.tls = &bccsptest.Identity{Label: "tls-of-" + t.Name()}
	key, err := token.GenerateKey(t.Context(), r.tls.Label, elliptic.P256())
	if err != nil {
		t.Fatal(err)
	}
	r.tls.Certificate, r.tls.CertPEM = r.ca.IssueFor(t, key.ECDSA(), "peer0-tls", "", named("localhost"))
	dir := t.TempDir()
	id := config.Node{MSPID: "Org1MSP", Key: r.peer.Label, Certificate: filepath.Join(dir, "peer.pem")}
	listen := config.Listen{TLSKey: r.tls.Label, TLSCertificate: filepath.Join(dir, "tls.pem")}
	put(t, id.Certificate, r.peer.CertPEM)
	put(t, listen.TLSCertificate, r.tls.CertPEM)

	identity, err := LoadIdentity(t.Context(), token, id)
	if err != nil {
		t.Fatal(err)
	}
	local, err := msp.NewSet(t.Context(), token, []*msppb.MSPConfig{r.ca.MSPConfig()})
	if err != nil {
		t.Fatal(err)
	}
	creds, served, err := serverTLS(t.Context(), token, listen)
	if err != nil {
		t.Fatal(err)
	}
	r.creds = creds
	n := &node{tokens: alone(t, token), identity: identity, metrics: operations.NewMetrics(), log: slog.New(slog.NewTextHandler(&r.log, nil))}
	r.renewal = n.newRenewal(id, listen, served, local)
	return r
}

func put(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// shown is the certificate that a client of the endpoint gets to see.
func (r *renewable) shown(t *testing.T) *x509.Certificate {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, _, err = r.creds.ServerHandshake(conn)
		}
		done <- err
	}()
	roots := x509.NewCertPool()
	roots.AddCert(r.ca.Certificate)
	conn, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return conn.ConnectionState().PeerCertificates[0]
}

func TestRenewedCertificatesComeIntoForce(t *testing.T) {
	r := newRenewable(t)
	r.look(t.Context(), false)
	if r.node.identity.Current() != r.node.identity {
		t.Error("the unchanged certificate was taken for a new one")
	}
	if !r.shown(t).Equal(r.tls.Certificate) {
		t.Error("the endpoint does not show its certificate")
	}
	end := time.Now().AddDate(2, 0, 0)
	cert, pem := r.ca.IssueFor(t, r.peer.Certificate.PublicKey, "peer0", "peer", bccsptest.Valid(time.Now().Add(-time.Minute), end))
	put(t, r.id.Certificate, pem)
	tlsCert, tlsPEM := r.ca.IssueFor(t, r.tls.Certificate.PublicKey, "peer0-tls", "", named("localhost", "peer0"))
	put(t, r.listen.TLSCertificate, tlsPEM)
	r.look(t.Context(), false)

	now := r.node.identity.Current()
	if !now.Certificate.Equal(cert) || !now.PublicKey().Equal(r.node.identity.PublicKey()) || !bytes.Equal(now.Serialized, bccsptest.Serialize("Org1MSP", pem)) {
		t.Errorf("identity in force: %s until %s", now.Certificate.Subject, now.Certificate.NotAfter)
	}
	if !r.shown(t).Equal(tlsCert) {
		t.Error("the endpoint shows the former certificate")
	}
	if n := strings.Count(r.log.String(), "renewed certificate is in force"); n != 2 {
		t.Errorf("%d certificates were renewed by the log, want 2:\n%s", n, &r.log)
	}
	if w := r.warnings(time.Now()); len(w) > 0 {
		t.Errorf("warnings: %v", w)
	}
}

// TestRotatedKeysComeIntoForce replaces both keys by new ones under new labels, which the
// certificates alone name, and starts anew with the old configuration.
func TestRotatedKeysComeIntoForce(t *testing.T) {
	r := newRenewable(t)
	token := r.node.tokens.Own
	next := r.ca.Issue(t, "peer0", "peer")
	put(t, r.id.Certificate, next.CertPEM)
	key, err := token.GenerateKey(t.Context(), "second-tls-of-"+t.Name(), elliptic.P384())
	if err != nil {
		t.Fatal(err)
	}
	tlsCert, tlsPEM := r.ca.IssueFor(t, key.ECDSA(), "peer0-tls", "", named("localhost"))
	put(t, r.listen.TLSCertificate, tlsPEM)
	before := r.node.identity.Current()
	r.look(t.Context(), false)
	now := r.node.identity.Current()
	if !now.Certificate.Equal(next.Certificate) || !now.PublicKey().Equal(next.Signer.PublicKey()) {
		t.Errorf("identity in force: %s of key %s", now.Certificate.Subject, now.PublicKey().ID())
	}
	if !r.shown(t).Equal(tlsCert) {
		t.Error("the endpoint shows the former certificate")
	}
	if log := r.log.String(); !strings.Contains(log, "identity's key is rotated") || !strings.Contains(log, "TLS key is rotated") {
		t.Errorf("the log does not tell of the rotation:\n%s", log)
	}
	for name, id := range map[string]*msp.LocalIdentity{"before": before, "now": now} {
		signed, err := id.SignProposal(t.Context(), []byte(name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		digest := sha256.Sum256([]byte(name))
		if err := token.Verify(t.Context(), id.PublicKey(), digest[:], signed); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	again, err := LoadIdentity(t.Context(), token, r.id)
	if err != nil || !again.Certificate.Equal(next.Certificate) {
		t.Errorf("a start with the old node.key: %v", err)
	}
	if _, served, err := serverTLS(t.Context(), token, r.listen); err != nil || !served.Load().Leaf.Equal(tlsCert) {
		t.Errorf("a start with the old listen.tlsKey: %v", err)
	}
}

func TestBadRenewalsLeaveTheOldInForce(t *testing.T) {
	software := func(t *testing.T, r *renewable) []byte { // a key that is in no token
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		_, pem := r.ca.IssueFor(t, key.Public(), "peer0", "peer", named("localhost"))
		return pem
	}
	foreign := func(r *renewable, of *bccsptest.Identity) func(*testing.T) []byte {
		return func(t *testing.T) []byte {
			_, pem := bccsptest.NewCA(t, r.node.tokens.Own, "Org1MSP").IssueFor(t, of.Certificate.PublicKey, "peer0", "peer", named("localhost"))
			return pem
		}
	}
	for name, c := range map[string]struct {
		make func(*testing.T, *renewable) []byte
		tls  bool
		want string
	}{
		"identity of no key": {software, false, "not found in the token"},
		"TLS of no key":      {software, true, "not found in the token"},
		"identity of the TLS key": {func(t *testing.T, r *renewable) []byte {
			_, p := r.ca.IssueFor(t, r.tls.Certificate.PublicKey, "peer0", "peer")
			return p
		}, false, "serves TLS already"},
		"TLS of the identity's key": {func(t *testing.T, r *renewable) []byte {
			_, p := r.ca.IssueFor(t, r.peer.Certificate.PublicKey, "tls", "", named("localhost"))
			return p
		}, true, "serves an identity already"},
		"identity of an administrator": {func(t *testing.T, r *renewable) []byte {
			return r.ca.Issue(t, "admin", "admin").CertPEM
		}, false, "another role"},
		"identity that a channel does not take": {func(t *testing.T, r *renewable) []byte {
			r.admit = func(context.Context, *msp.LocalIdentity) error { return errors.New("channel main does not take it") }
			return r.ca.Issue(t, "peer1", "peer").CertPEM
		}, false, "does not take it"},
		"identity of a foreign CA": {func(t *testing.T, r *renewable) []byte { return foreign(r, r.peer)(t) }, false, "MSP"},
		"identity that has expired": {func(t *testing.T, r *renewable) []byte {
			_, p := r.ca.IssueFor(t, r.peer.Certificate.PublicKey, "peer0", "peer", bccsptest.Valid(time.Now().Add(-30*time.Minute), time.Now().Add(-time.Minute)))
			return p
		}, false, "valid from"},
		"TLS that has expired": {func(t *testing.T, r *renewable) []byte {
			_, p := r.ca.IssueFor(t, r.tls.Certificate.PublicKey, "tls", "", named("localhost"), bccsptest.Expired())
			return p
		}, true, "valid from"},
		"TLS without the old name": {func(t *testing.T, r *renewable) []byte {
			_, p := r.ca.IssueFor(t, r.tls.Certificate.PublicKey, "tls", "", named("elsewhere"))
			return p
		}, true, `lacks the DNS name "localhost"`},
		"identity that is no PEM": {func(*testing.T, *renewable) []byte { return []byte("renewed") }, false, "PEM"},
		"TLS that is half a file": {func(_ *testing.T, r *renewable) []byte { return r.tls.CertPEM[:100] }, true, "PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRenewable(t)
			file := r.id.Certificate
			if c.tls {
				file = r.listen.TLSCertificate
			}
			before, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			put(t, file, c.make(t, r))
			r.look(t.Context(), false)
			r.look(t.Context(), false)
			if r.node.identity.Current() != r.node.identity || !r.served.Load().Leaf.Equal(r.tls.Certificate) {
				t.Error("it came into force")
			}
			log := strings.ReplaceAll(r.log.String(), `\`, "")
			if n := strings.Count(log, "stays in force"); n != 1 || !strings.Contains(log, c.want) {
				t.Errorf("log says it %d times, want once with %q:\n%s", n, c.want, log)
			}
			if w := r.warnings(time.Now()); len(w) != 1 || !strings.Contains(w[0], c.want) {
				t.Errorf("warnings %q, want one with %q", w, c.want)
			}
			put(t, file, before)
			r.look(t.Context(), false)
			if w := r.warnings(time.Now()); len(w) != 0 {
				t.Errorf("the old file is back, and there are warnings: %v", w)
			}
		})
	}
}

func TestRenewalWhileTheContextEnds(t *testing.T) {
	r := newRenewable(t)
	_, pem := r.ca.IssueFor(t, r.peer.Certificate.PublicKey, "peer0", "peer")
	put(t, r.id.Certificate, pem)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.look(ctx, false)
	if w := r.warnings(time.Now()); len(w) != 0 {
		t.Errorf("a node that stops blames the certificate: %v", w)
	}
}

func TestExpiryIsWarnedOfInTime(t *testing.T) {
	r := newRenewable(t)
	end := r.peer.Certificate.NotAfter
	for _, c := range []struct {
		left time.Duration
		want string
	}{
		{31 * 24 * time.Hour, ""},
		{30*24*time.Hour - time.Second, "in 29 days"},
		{0, "expired"},
	} {
		got := strings.Join(r.warnings(end.Add(-c.left)), "\n")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s before the end: %q, want %q", c.left, got, c.want)
		}
	}
}

// alone is a node's tokens where there is but one, which the test closes.
func alone(t *testing.T, token *pkcs11.Token) *Tokens {
	t.Helper()
	group, err := pkcs11.NewGroup(token)
	if err != nil {
		t.Fatal(err)
	}
	return &Tokens{Group: group, Own: token, Keeper: token}
}
