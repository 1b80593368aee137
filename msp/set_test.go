package msp_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/msp"
	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
)

func newKey(t testing.TB, curve elliptic.Curve) crypto.PublicKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &key.PublicKey
}

func newEd25519(t testing.TB) crypto.PublicKey {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func pemBytes(t testing.TB, text []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no PEM")
	}
	return block.Bytes
}

// observed counts a token's certificate checks, and can hold them up or fail them.
type observed struct {
	bccsp.Verifier
	x509 atomic.Int64
	hold chan struct{} // if set, a check waits until it is closed
	here chan struct{} // if set, a check that waits says so
	fail atomic.Bool
}

var errDevice = errors.New("CKR_DEVICE_ERROR")

func (o *observed) VerifyX509(ctx context.Context, key *bccsp.PublicKey, digest, sig []byte) error {
	o.x509.Add(1)
	if o.hold != nil {
		select {
		case o.here <- struct{}{}:
		default:
		}
		select {
		case <-o.hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if o.fail.Load() {
		return errDevice
	}
	return o.Verifier.VerifyX509(ctx, key, digest, sig)
}

func TestCache(t *testing.T) {
	token := &observed{Verifier: bccsptest.OpenShared(t)}
	ca := bccsptest.NewCA(t, bccsptest.OpenShared(t), "Org1MSP")
	other := bccsptest.NewCA(t, bccsptest.OpenShared(t), "Org2MSP")
	s := newSet(t, token, []*msppb.MSPConfig{ca.MSPConfig(), other.MSPConfig()})
	client := ca.Issue(t, "client", "client").Serialized()
	twoUnits := ca.Issue(t, "two", "client", bccsptest.Template(func(c *x509.Certificate) {
		c.Subject.OrganizationalUnit = []string{"client", "peer"}
	})).Serialized()

	asked := func(f func()) int64 {
		before := token.x509.Load()
		f()
		return token.x509.Load() - before
	}
	t.Run("a failure is not remembered", func(t *testing.T) {
		token.fail.Store(true)
		_, err := s.Identity(t.Context(), client)
		token.fail.Store(false)
		if !errors.Is(err, errDevice) || msp.IsInvalid(err) {
			t.Fatalf("got %v", err)
		}
		if tokenErr := (*msp.TokenError)(nil); !errors.As(err, &tokenErr) {
			t.Errorf("%v is not a TokenError", err)
		}
	})
	var first *msp.Identity
	if n := asked(func() {
		var err error
		if first, err = s.Identity(t.Context(), client); err != nil {
			t.Fatal(err)
		}
	}); n != 1 {
		t.Errorf("the first request asked the token %d times", n)
	}
	if n := asked(func() {
		for range 3 {
			id, err := s.Identity(t.Context(), bytes.Clone(client))
			if err != nil || id != first {
				t.Fatalf("another identity or %v", err)
			}
		}
	}); n != 0 {
		t.Errorf("further requests asked the token %d times", n)
	}
	if n := asked(func() {
		for range 3 {
			if _, err := s.Identity(t.Context(), twoUnits); !msp.IsInvalid(err) {
				t.Fatalf("got %v", err)
			}
		}
	}); n != 1 {
		t.Errorf("an invalid identity asked the token %d times", n)
	}

	t.Run("the next set keeps what did not change", func(t *testing.T) {
		changed := other.FabricConfig()
		changed.TlsRootCerts = nil
		var next *msp.Set
		if n := asked(func() {
			next = newSet(t, token, []*msppb.MSPConfig{ca.MSPConfig(), bccsptest.MSPConfig(changed)}, msp.WithPrevious(s))
		}); n != 1 {
			t.Errorf("making the set asked the token %d times, once for the changed MSP is right", n)
		}
		if id, err := next.Identity(t.Context(), client); err != nil || id != first {
			t.Errorf("another identity or %v", err)
		}
		if id, err := newSet(t, bccsptest.OpenShared(t), []*msppb.MSPConfig{ca.MSPConfig()}, msp.WithPrevious(s)).Identity(t.Context(), client); err != nil || id == first {
			t.Errorf("kept for another token, or %v", err)
		}
	})
	t.Run("small", func(t *testing.T) {
		small := newSet(t, token, []*msppb.MSPConfig{ca.MSPConfig()}, msp.WithCacheSize(1))
		second := ca.Issue(t, "second", "client").Serialized()
		if n := asked(func() {
			for range 2 {
				for _, id := range [][]byte{client, second} {
					if _, err := small.Identity(t.Context(), id); err != nil {
						t.Fatal(err)
					}
				}
			}
		}); n != 4 {
			t.Errorf("asked the token %d times", n)
		}
	})
}

func TestHitDoesNotAllocate(t *testing.T) {
	s := newSet(t, bccsptest.OpenShared(t), fabricConfigs(t))
	id := serialize(t, "Org1MSP", readFile(t, "testdata", "identities", "org1-peer.pem"))
	if n := testing.AllocsPerRun(100, func() {
		if _, err := s.Identity(context.Background(), id); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestConcurrent: many requests for one identity ask the token once, and one whose
// context ends does not take the others with it.
func TestConcurrent(t *testing.T) {
	token := &observed{Verifier: bccsptest.OpenShared(t)}
	ca := bccsptest.NewCA(t, bccsptest.OpenShared(t), "Org1MSP")
	s := newSet(t, token, []*msppb.MSPConfig{ca.MSPConfig()})
	client := ca.Issue(t, "client", "client").Serialized()

	token.hold, token.here = make(chan struct{}), make(chan struct{}, 1)
	before := token.x509.Load()
	leader, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := s.Identity(leader, client)
		left <- err
	}()
	<-token.here
	var (
		wg   sync.WaitGroup
		good atomic.Int64
	)
	for range 16 {
		wg.Go(func() {
			if id, err := s.Identity(t.Context(), client); err == nil && id != nil {
				good.Add(1)
			}
		})
	}
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the one that gave up got %v", err)
	}
	close(token.hold)
	wg.Wait()
	if good.Load() != 16 {
		t.Errorf("%d of 16 got the identity", good.Load())
	}
	if n := token.x509.Load() - before; n != 2 {
		t.Errorf("the token was asked %d times: twice is right", n)
	}
}

func TestLowS(t *testing.T) {
	token := bccsptest.OpenShared(t)
	ca := bccsptest.NewCA(t, token, "Org1MSP", bccsptest.HighS())
	admin := ca.Issue(t, "admin", "", bccsptest.HighS())
	conf := ca.FabricConfig()
	conf.FabricNodeOus = nil
	conf.Admins = [][]byte{admin.CertPEM}
	s := newSet(t, token, []*msppb.MSPConfig{bccsptest.MSPConfig(conf)})

	// The same certificate with its signature's twin.
	var whole struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(admin.Certificate.Raw, &whole); err != nil {
		t.Fatal(err)
	}
	low := bccsptest.Twin(elliptic.P256(), whole.Signature.Bytes)
	whole.Signature = asn1.BitString{Bytes: low, BitLength: 8 * len(low)}
	raw, err := asn1.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	twin := bccsptest.Serialize("Org1MSP", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}))

	a, err := s.Identity(t.Context(), admin.Serialized())
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Identity(t.Context(), twin)
	if err != nil {
		t.Fatal(err)
	}
	if a.ID() == b.ID() || a.CertificateID() != b.CertificateID() {
		t.Error("the same certificate with high and low S must be told apart by ID and not by CertificateID")
	}
	for _, id := range []*msp.Identity{a, b} {
		for name, p := range map[string]*commonpb.MSPPrincipal{
			"admin": rolePrincipal(t, "Org1MSP", commonpb.MSPRole_ADMIN),
			"high":  {PrincipalClassification: commonpb.MSPPrincipal_IDENTITY, Principal: admin.Serialized()},
			"low":   {PrincipalClassification: commonpb.MSPPrincipal_IDENTITY, Principal: twin},
		} {
			if ok, err := s.Satisfies(id, p); err != nil || !ok {
				t.Errorf("principal %s: %t, %v", name, ok, err)
			}
		}
	}
}

func TestConfigErrors(t *testing.T) {
	token := bccsptest.OpenShared(t)
	ca := bccsptest.NewCA(t, token, "Org1MSP")
	mid := ca.Intermediate(t, "mid")
	client := ca.Issue(t, "client", "client")
	peer := ca.Issue(t, "peer", "peer")
	_, p521 := ca.IssueFor(t, newKey(t, elliptic.P521()), "large", "", bccsptest.Template(func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.SubjectKeyId = true, x509.KeyUsageCertSign, []byte{1}
	}))
	_, constrained := ca.IssueFor(t, newKey(t, elliptic.P256()), "constrained", "", bccsptest.Template(func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.SubjectKeyId, c.PermittedDNSDomains = true, x509.KeyUsageCertSign, []byte{1}, []string{"example.com"}
	}))
	for want, change := range map[string]func(*msppb.FabricMSPConfig){
		"name is empty":                           func(c *msppb.FabricMSPConfig) { c.Name = "" },
		"root_certs is empty":                     func(c *msppb.FabricMSPConfig) { c.RootCerts = nil },
		"root_certs[0]: not a certificate in PEM": func(c *msppb.FabricMSPConfig) { c.RootCerts = [][]byte{[]byte("x")} },
		"is not a CA's":                           func(c *msppb.FabricMSPConfig) { c.RootCerts = [][]byte{client.CertPEM} },
		"did not sign itself":                     func(c *msppb.FabricMSPConfig) { c.RootCerts = [][]byte{mid.CertPEM} },
		"P-256 or P-384 is needed":                func(c *msppb.FabricMSPConfig) { c.IntermediateCerts = [][]byte{p521} },
		"name or policy constraints":              func(c *msppb.FabricMSPConfig) { c.IntermediateCerts = [][]byte{constrained} },
		"no certificate chain": func(c *msppb.FabricMSPConfig) {
			c.RootCerts = [][]byte{bccsptest.NewCA(t, token, "X").CertPEM}
			c.IntermediateCerts = [][]byte{mid.CertPEM}
		},
		"revocation_list[0]":                 func(c *msppb.FabricMSPConfig) { c.RevocationList = [][]byte{{1}} },
		"tls_root_certs[0]":                  func(c *msppb.FabricMSPConfig) { c.TlsRootCerts = [][]byte{client.CertPEM} },
		"admins is empty":                    func(c *msppb.FabricMSPConfig) { c.FabricNodeOus.AdminOuIdentifier = nil },
		"admins[0]":                          func(c *msppb.FabricMSPConfig) { c.Admins = [][]byte{peer.CertPEM} },
		"signature_hash_family":              func(c *msppb.FabricMSPConfig) { c.CryptoConfig.SignatureHashFamily = "SHA3" },
		"identity_identifier_hash_function":  func(c *msppb.FabricMSPConfig) { c.CryptoConfig.IdentityIdentifierHashFunction = "SHA3_256" },
		"fabric_node_ous.peer_ou_identifier": func(c *msppb.FabricMSPConfig) { c.FabricNodeOus.PeerOuIdentifier.Certificate = mid.CertPEM },
		"organizational_unit_identifiers[0]": func(c *msppb.FabricMSPConfig) {
			c.OrganizationalUnitIdentifiers = []*msppb.FabricOUIdentifier{{Certificate: []byte("x")}}
		},
	} {
		t.Run(want, func(t *testing.T) {
			conf := ca.FabricConfig()
			change(conf)
			_, err := msp.NewSet(t.Context(), token, []*msppb.MSPConfig{bccsptest.MSPConfig(conf)})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := msp.NewSet(t.Context(), token, []*msppb.MSPConfig{ca.MSPConfig(), ca.MSPConfig()}); err == nil || !strings.Contains(err.Error(), "defined twice") {
		t.Errorf("twice: %v", err)
	}
	if _, err := msp.NewSet(t.Context(), token, []*msppb.MSPConfig{{Type: 1}}); err == nil || !strings.Contains(err.Error(), "idemix") {
		t.Errorf("idemix: %v", err)
	}
	failing := &observed{Verifier: token}
	failing.fail.Store(true)
	_, err := msp.NewSet(t.Context(), failing, []*msppb.MSPConfig{ca.MSPConfig()})
	if tokenErr := (*msp.TokenError)(nil); !errors.As(err, &tokenErr) || !errors.Is(err, errDevice) {
		t.Errorf("device: %v", err)
	}
}

func TestInvalidIdentities(t *testing.T) {
	token := bccsptest.OpenShared(t)
	ca := bccsptest.NewCA(t, token, "Org1MSP")
	s := newSet(t, token, []*msppb.MSPConfig{ca.MSPConfig()})
	client := ca.Issue(t, "client", "client")
	for name, b := range map[string][]byte{
		"nothing":        nil,
		"not a message":  {0xff, 0xff},
		"unknown MSP":    bccsptest.Serialize("Org9MSP", client.CertPEM),
		"no PEM":         bccsptest.Serialize("Org1MSP", []byte("-----BEGIN")),
		"no certificate": bccsptest.Serialize("Org1MSP", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}})),
		"no unit":        ca.Issue(t, "x", "").Serialized(),
		"foreign unit":   ca.Issue(t, "x", "gardener").Serialized(),
		"two units":      ca.Issue(t, "x", "", units("client", "admin")).Serialized(),
		"one unit twice": ca.Issue(t, "x", "", units("client", "client")).Serialized(),
		"self-signed":    bccsptest.NewCA(t, token, "Org1MSP").Issue(t, "x", "client").Serialized(),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := s.Identity(t.Context(), b); !msp.IsInvalid(err) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("as Fabric reads PEM", func(t *testing.T) {
		der := client.Certificate.Raw
		for name, text := range map[string][]byte{
			"another type":  pem.EncodeToMemory(&pem.Block{Type: "ANYTHING", Bytes: der}),
			"text before":   append([]byte("text\n"), client.CertPEM...),
			"text after":    append(bytes.Clone(client.CertPEM), "text"...),
			"another after": append(bytes.Clone(client.CertPEM), ca.CertPEM...),
		} {
			if _, err := s.Identity(t.Context(), bccsptest.Serialize("Org1MSP", text)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	ok, err := s.Identity(t.Context(), ca.Issue(t, "x", "", units("client", "gardener")).Serialized())
	if err != nil || ok.Role != msp.RoleClient {
		t.Errorf("client and another unit: %v", err)
	}
}

func units(names ...string) bccsptest.Option {
	return bccsptest.Template(func(c *x509.Certificate) { c.Subject.OrganizationalUnit = names })
}

// TestListedUnits: without node OUs an identity needs one of the listed units,
// certified by the listed CA.
func TestListedUnits(t *testing.T) {
	token := bccsptest.OpenShared(t)
	root := bccsptest.NewCA(t, token, "Org1MSP")
	a, b := root.Intermediate(t, "a"), root.Intermediate(t, "b")
	conf := root.FabricConfig(a, b)
	conf.FabricNodeOus = nil
	admin := a.Issue(t, "admin", "sales")
	conf.Admins = [][]byte{admin.CertPEM}
	conf.OrganizationalUnitIdentifiers = []*msppb.FabricOUIdentifier{{Certificate: a.CertPEM, OrganizationalUnitIdentifier: "sales"}}
	s := newSet(t, token, []*msppb.MSPConfig{bccsptest.MSPConfig(conf)})
	id, err := s.Identity(t.Context(), admin.Serialized())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]commonpb.MSPRole_MSPRoleType{commonpb.MSPRole_MEMBER, commonpb.MSPRole_ADMIN}, satisfied(t, s, id, "Org1MSP")); diff != "" {
		t.Errorf("roles (-want +got):\n%s", diff)
	}
	for _, x := range []*bccsptest.Identity{b.Issue(t, "x", "sales"), a.Issue(t, "x", "finance"), a.Issue(t, "x", "")} {
		if _, err := s.Identity(t.Context(), x.Serialized()); !msp.IsInvalid(err) {
			t.Errorf("issued by %s: %v", x.Certificate.Issuer, err)
		}
	}
	unit := func(certifiers []byte) *commonpb.MSPPrincipal {
		return principal(t, commonpb.MSPPrincipal_ORGANIZATION_UNIT, &commonpb.OrganizationUnit{
			MspIdentifier: "Org1MSP", OrganizationalUnitIdentifier: "sales", CertifiersIdentifier: certifiers,
		})
	}
	if ok, err := s.Satisfies(id, unit(id.OUs[0].Certifiers)); err != nil || !ok {
		t.Errorf("unit: %t, %v", ok, err)
	}
	if ok, err := s.Satisfies(id, unit([]byte{1})); err != nil || ok {
		t.Errorf("unit of another chain: %t, %v", ok, err)
	}
}

// TestNodeUnitCertifier: a node OU may ask for a CA.
func TestNodeUnitCertifier(t *testing.T) {
	token := bccsptest.OpenShared(t)
	root := bccsptest.NewCA(t, token, "Org1MSP")
	a, b := root.Intermediate(t, "a"), root.Intermediate(t, "b")
	conf := root.FabricConfig(a, b)
	conf.FabricNodeOus.PeerOuIdentifier.Certificate = a.CertPEM
	s := newSet(t, token, []*msppb.MSPConfig{bccsptest.MSPConfig(conf)})
	if _, err := s.Identity(t.Context(), a.Issue(t, "peer", "peer").Serialized()); err != nil {
		t.Error(err)
	}
	if _, err := s.Identity(t.Context(), b.Issue(t, "peer", "peer").Serialized()); !msp.IsInvalid(err) {
		t.Errorf("peer of another CA: %v", err)
	}
	if _, err := s.Identity(t.Context(), b.Issue(t, "client", "client").Serialized()); err != nil {
		t.Error(err)
	}
}

func BenchmarkIdentityHit(b *testing.B) {
	s := newSet(b, bccsptest.OpenShared(b), fabricConfigs(b))
	id := serialize(b, "Org1MSP", readFile(b, "testdata", "identities", "org1-peer.pem"))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Identity(context.Background(), id); err != nil {
				b.Error(err)
			}
		}
	})
}

// accepting is a verifier for fuzzing: every signature is good, so that the code
// behind the signature checks is reached.
type accepting struct{}

func (accepting) Verify(context.Context, *bccsp.PublicKey, []byte, []byte) error     { return nil }
func (accepting) VerifyX509(context.Context, *bccsp.PublicKey, []byte, []byte) error { return nil }

func FuzzIdentity(f *testing.F) {
	s := newSet(f, accepting{}, fabricConfigs(f))
	for _, file := range []string{"org1-peer", "org1-admin", "org1-client"} {
		f.Add(serialize(f, "Org1MSP", readFile(f, "testdata", "identities", file+".pem")))
	}
	f.Add([]byte{0x0a, 0x07, 'O', 'r', 'g', '1', 'M', 'S', 'P'})
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := s.Identity(t.Context(), b)
		if err == nil {
			if !bytes.Equal(id.Serialized, b) {
				t.Error("another identity's verdict")
			}
			id.Attributes()
			for _, class := range []commonpb.MSPPrincipal_Classification{0, 1, 2, 3, 4, 5} {
				s.Satisfies(id, &commonpb.MSPPrincipal{PrincipalClassification: class, Principal: b})
			}
		}
		again, err2 := s.Identity(t.Context(), b)
		if again != id && err == nil || (err == nil) != (err2 == nil) {
			t.Errorf("first %v, then %v", err, err2)
		}
	})
}
