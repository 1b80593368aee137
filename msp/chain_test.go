package msp_test

import (
	"context"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"testing"
	"time"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/msp"
	"strongroom/wire/msppb"
)

func isBadSignature(err error) bool { return errors.Is(err, bccsp.ErrBadSignature) }

// TestChainVerdictsEqualX509 holds our chain building, whose signatures the token
// checks, against crypto/x509 used as Fabric uses it.
func TestChainVerdictsEqualX509(t *testing.T) {
	token := bccsptest.OpenShared(t)
	past := func(years int) time.Time { return time.Now().AddDate(-years, 0, 0) }
	tmpl := bccsptest.Template
	critical := tmpl(func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}})
	})
	usage := func(u ...x509.ExtKeyUsage) bccsptest.Option {
		return tmpl(func(c *x509.Certificate) { c.ExtKeyUsage = u })
	}
	long := bccsptest.Valid(past(10), time.Now().AddDate(10, 0, 0))

	root := bccsptest.NewCA(t, token, "Org1MSP", long)
	root384 := bccsptest.NewCA(t, token, "Org1MSP", long, bccsptest.OnCurve(elliptic.P384()))
	stranger := bccsptest.NewCA(t, token, "Org1MSP", long) // same name, another key
	mid := root.Intermediate(t, "mid", long)
	low := mid.Intermediate(t, "low", long)
	short := root.Intermediate(t, "short", long, tmpl(func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }))
	belowShort := short.Intermediate(t, "below short", long)
	young := root.Intermediate(t, "young", bccsptest.Valid(past(1), time.Now().AddDate(5, 0, 0)))
	ended := root.Intermediate(t, "ended", bccsptest.Valid(past(9), past(8)))
	noSign := root.Intermediate(t, "no sign", long, tmpl(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }))
	clientsOnly := root.Intermediate(t, "clients only", long, usage(x509.ExtKeyUsageClientAuth))

	for name, c := range map[string]struct {
		issuer        *bccsptest.CA
		intermediates []*bccsptest.CA // in the MSP
		root          *bccsptest.CA
		options       []bccsptest.Option
		want          bool
	}{
		"root":                    {issuer: root, want: true},
		"root on P-384":           {issuer: root384, root: root384, want: true},
		"key on P-384":            {issuer: root, options: []bccsptest.Option{bccsptest.OnCurve(elliptic.P384())}, want: true},
		"high S":                  {issuer: root, options: []bccsptest.Option{bccsptest.HighS()}, want: true},
		"another CA of that name": {issuer: stranger},
		"intermediate":            {issuer: mid, intermediates: []*bccsptest.CA{mid}, want: true},
		"two intermediates":       {issuer: low, intermediates: []*bccsptest.CA{low, mid}, want: true},
		"unknown intermediate":    {issuer: mid},
		"path too long":           {issuer: belowShort, intermediates: []*bccsptest.CA{belowShort, short}},
		"path length kept":        {issuer: short, intermediates: []*bccsptest.CA{mid, short}, want: true},
		"before its CA":           {issuer: young, intermediates: []*bccsptest.CA{young}, options: []bccsptest.Option{bccsptest.Valid(past(3), past(2))}},
		"after its CA":            {issuer: ended, intermediates: []*bccsptest.CA{ended}},
		"in its CA's time":        {issuer: ended, intermediates: []*bccsptest.CA{ended}, options: []bccsptest.Option{bccsptest.Valid(past(9).AddDate(0, 1, 0), past(8))}, want: true},
		"ends before it starts":   {issuer: root, options: []bccsptest.Option{bccsptest.Valid(past(1), past(2))}},
		"CA may not sign":         {issuer: noSign, intermediates: []*bccsptest.CA{noSign}},
		"CA for clients only":     {issuer: clientsOnly, intermediates: []*bccsptest.CA{}},
		"critical extension":      {issuer: root, options: []bccsptest.Option{critical}},
		"for clients only":        {issuer: root, options: []bccsptest.Option{usage(x509.ExtKeyUsageClientAuth)}},
		"for servers":             {issuer: root, options: []bccsptest.Option{usage(x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth)}, want: true},
		"for any use":             {issuer: root, options: []bccsptest.Option{usage(x509.ExtKeyUsageAny)}, want: true},
		"SHA-384":                 {issuer: root, options: []bccsptest.Option{tmpl(func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA384 })}, want: true},
		"SHA-512":                 {issuer: root384, root: root384, options: []bccsptest.Option{tmpl(func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA512 })}, want: true},
		"another key identifier":  {issuer: root, options: []bccsptest.Option{tmpl(func(c *x509.Certificate) { c.AuthorityKeyId = []byte{1, 2, 3} })}, want: true},
		"below the path length":   {issuer: belowShort, intermediates: []*bccsptest.CA{}},
		"issued by an intermediate of another name": {issuer: low, intermediates: []*bccsptest.CA{mid}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.root == nil {
				c.root = root
			}
			leaf := c.issuer.Issue(t, name, "client", c.options...)

			opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: leaf.Certificate.NotBefore.Add(time.Second)}
			opts.Roots.AddCert(c.root.Certificate)
			conf := c.root.FabricConfig(c.intermediates...)
			for _, i := range c.intermediates {
				opts.Intermediates.AddCert(i.Certificate)
			}
			chains, err := leaf.Certificate.Verify(opts)
			if standard := err == nil && len(chains) == 1; standard != c.want {
				t.Fatalf("the test expects %t, crypto/x509 says %v", c.want, err)
			}

			s := newSet(t, token, []*msppb.MSPConfig{bccsptest.MSPConfig(conf)})
			_, err = s.Identity(t.Context(), leaf.Serialized())
			if c.want && err != nil || !c.want && !msp.IsInvalid(err) {
				t.Errorf("want %t, got %v", c.want, err)
			}
		})
	}
}

// TestIssuerWithIntermediate: a CA that has an intermediate below it may not issue
// identities, although crypto/x509 finds the chain good.
func TestIssuerWithIntermediate(t *testing.T) {
	token := bccsptest.OpenShared(t)
	root := bccsptest.NewCA(t, token, "Org1MSP")
	mid := root.Intermediate(t, "mid")
	s := newSet(t, token, []*msppb.MSPConfig{root.MSPConfig(mid)})
	if _, err := s.Identity(t.Context(), root.Issue(t, "x", "client").Serialized()); !msp.IsInvalid(err) {
		t.Errorf("issued by the root: %v", err)
	}
	if _, err := s.Identity(t.Context(), mid.Issue(t, "x", "client").Serialized()); err != nil {
		t.Errorf("issued by the intermediate: %v", err)
	}
	if _, err := s.Identity(t.Context(), bccsptest.Serialize("Org1MSP", mid.CertPEM)); !msp.IsInvalid(err) {
		t.Errorf("a CA's certificate: %v", err)
	}
}

// TestTwoChains: an issuer whose key is certified twice gives two chains, and so
// nobody's identity.
func TestTwoChains(t *testing.T) {
	token := bccsptest.OpenShared(t)
	a := bccsptest.NewCA(t, token, "Org1MSP")
	b := bccsptest.NewCA(t, token, "Org1MSP")
	mid := a.Intermediate(t, "mid")
	_, cross := b.IssueFor(t, mid.Certificate.PublicKey, "mid", "", bccsptest.Template(func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.SubjectKeyId = true, x509.KeyUsageCertSign, mid.Certificate.SubjectKeyId
	}))
	conf := a.FabricConfig(mid)
	s := newSet(t, token, []*msppb.MSPConfig{bccsptest.MSPConfig(conf)})
	id := mid.Issue(t, "x", "client").Serialized()
	if _, err := s.Identity(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	conf.RootCerts = append(conf.RootCerts, b.CertPEM)
	conf.IntermediateCerts = append(conf.IntermediateCerts, cross)
	s = newSet(t, token, []*msppb.MSPConfig{bccsptest.MSPConfig(conf)})
	if _, err := s.Identity(t.Context(), id); !msp.IsInvalid(err) {
		t.Errorf("two chains: %v", err)
	}
}

func TestRevocation(t *testing.T) {
	token := bccsptest.OpenShared(t)
	root := bccsptest.NewCA(t, token, "Org1MSP")
	mid := root.Intermediate(t, "mid")
	good, bad := mid.Issue(t, "good", "client"), mid.Issue(t, "bad", "client")
	stranger := bccsptest.NewCA(t, token, "Org1MSP")
	for name, c := range map[string]struct {
		list    []byte
		revoked bool
	}{
		"by the issuer":          {mid.CRL(t, bad.Certificate), true},
		"by the root":            {root.CRL(t, bad.Certificate), false},
		"by another CA":          {stranger.CRL(t, bad.Certificate), false},
		"of another certificate": {mid.CRL(t, stranger.Certificate), false},
		"of no one":              {mid.CRL(t), false},
	} {
		t.Run(name, func(t *testing.T) {
			conf := root.FabricConfig(mid)
			conf.RevocationList = [][]byte{c.list}
			s := newSet(t, token, []*msppb.MSPConfig{bccsptest.MSPConfig(conf)})
			if _, err := s.Identity(t.Context(), good.Serialized()); err != nil {
				t.Errorf("good: %v", err)
			}
			if _, err := s.Identity(t.Context(), bad.Serialized()); msp.IsInvalid(err) != c.revoked || !c.revoked && err != nil {
				t.Errorf("bad: %v", err)
			}
		})
	}
	t.Run("of an intermediate", func(t *testing.T) {
		conf := root.FabricConfig(mid)
		conf.RevocationList = [][]byte{root.CRL(t, mid.Certificate)}
		if _, err := msp.NewSet(t.Context(), token, []*msppb.MSPConfig{bccsptest.MSPConfig(conf)}); err == nil {
			t.Error("taken")
		}
	})
	t.Run("forged", func(t *testing.T) {
		conf := root.FabricConfig(mid)
		list := mid.CRL(t, bad.Certificate)
		der := pemBytes(t, list)
		der[len(der)-1] ^= 1
		conf.RevocationList = [][]byte{der}
		s := newSet(t, token, []*msppb.MSPConfig{bccsptest.MSPConfig(conf)})
		if _, err := s.Identity(t.Context(), bad.Serialized()); err != nil {
			t.Errorf("a list with a false signature counts: %v", err)
		}
	})
}

// TestUnsupportedKey: a curve that Fabric takes and our tokens cannot verify is not
// called invalid.
func TestUnsupportedKey(t *testing.T) {
	token := bccsptest.OpenShared(t)
	ca := bccsptest.NewCA(t, token, "Org1MSP")
	s := newSet(t, token, []*msppb.MSPConfig{ca.MSPConfig()})
	_, text := ca.IssueFor(t, newKey(t, elliptic.P521()), "large", "client")
	_, err := s.Identity(context.Background(), bccsptest.Serialize("Org1MSP", text))
	var unsupported *msp.UnsupportedError
	if !errors.As(err, &unsupported) || msp.IsInvalid(err) {
		t.Errorf("P-521: %v", err)
	}
	_, text = ca.IssueFor(t, newEd25519(t), "edwards", "client")
	if _, err = s.Identity(context.Background(), bccsptest.Serialize("Org1MSP", text)); !msp.IsInvalid(err) {
		t.Errorf("Ed25519 before V3_0: %v", err)
	}
	s = newSet(t, token, []*msppb.MSPConfig{ca.MSPConfig()}, msp.WithEdwardsKeys())
	if _, err = s.Identity(context.Background(), bccsptest.Serialize("Org1MSP", text)); !errors.As(err, &unsupported) {
		t.Errorf("Ed25519 under V3_0: %v", err)
	}
}
