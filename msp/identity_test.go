package msp_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/msp"
	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
)

func TestPrincipals(t *testing.T) {
	token := bccsptest.OpenShared(t)
	ca := bccsptest.NewCA(t, token, "Org1MSP")
	s := newSet(t, token, []*msppb.MSPConfig{ca.MSPConfig()})
	client := ca.Issue(t, "client", "client")
	id, err := s.Identity(t.Context(), client.Serialized())
	if err != nil {
		t.Fatal(err)
	}
	member := rolePrincipal(t, "Org1MSP", commonpb.MSPRole_MEMBER)
	peer := rolePrincipal(t, "Org1MSP", commonpb.MSPRole_PEER)
	combined := func(ps ...*commonpb.MSPPrincipal) *commonpb.MSPPrincipal {
		return principal(t, commonpb.MSPPrincipal_COMBINED, &commonpb.CombinedPrincipal{Principals: ps})
	}
	anonymity := func(a commonpb.MSPIdentityAnonymity_MSPIdentityAnonymityType) *commonpb.MSPPrincipal {
		return principal(t, commonpb.MSPPrincipal_ANONYMITY, &commonpb.MSPIdentityAnonymity{AnonymityType: a})
	}
	broken := []byte{0xff}
	for name, c := range map[string]struct {
		p    *commonpb.MSPPrincipal
		want bool
		err  bool
	}{
		"member":             {p: member, want: true},
		"peer":               {p: peer},
		"unknown role":       {p: rolePrincipal(t, "Org1MSP", 9), err: true},
		"own identity":       {p: &commonpb.MSPPrincipal{PrincipalClassification: commonpb.MSPPrincipal_IDENTITY, Principal: client.Serialized()}, want: true},
		"another identity":   {p: &commonpb.MSPPrincipal{PrincipalClassification: commonpb.MSPPrincipal_IDENTITY, Principal: ca.Issue(t, "client", "client").Serialized()}},
		"identity of an MSP": {p: &commonpb.MSPPrincipal{PrincipalClassification: commonpb.MSPPrincipal_IDENTITY, Principal: bccsptest.Serialize("Org2MSP", client.CertPEM)}},
		"nominal":            {p: anonymity(commonpb.MSPIdentityAnonymity_NOMINAL), want: true},
		"anonymous":          {p: anonymity(commonpb.MSPIdentityAnonymity_ANONYMOUS)},
		"unknown anonymity":  {p: anonymity(7), err: true},
		"both":               {p: combined(member, combined(member)), want: true},
		"one of two":         {p: combined(member, peer)},
		"malformed part":     {p: combined(peer, &commonpb.MSPPrincipal{Principal: broken}), err: true},
		"none combined":      {p: combined(), err: true},
		"unknown class":      {p: &commonpb.MSPPrincipal{PrincipalClassification: 9}, err: true},
		"malformed role":     {p: &commonpb.MSPPrincipal{Principal: broken}, err: true},
		"malformed unit":     {p: &commonpb.MSPPrincipal{PrincipalClassification: commonpb.MSPPrincipal_ORGANIZATION_UNIT, Principal: broken}, err: true},
		"malformed identity": {p: &commonpb.MSPPrincipal{PrincipalClassification: commonpb.MSPPrincipal_IDENTITY, Principal: broken}, err: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := s.Satisfies(id, c.p)
			if got != c.want || (err != nil) != c.err {
				t.Errorf("got %t, %v", got, err)
			}
		})
	}
}

func TestAttributes(t *testing.T) {
	token := bccsptest.OpenShared(t)
	ca := bccsptest.NewCA(t, token, "Org1MSP")
	s := newSet(t, token, []*msppb.MSPConfig{ca.MSPConfig()})
	with := func(value string) map[string]string {
		t.Helper()
		id, err := s.Identity(t.Context(), ca.Issue(t, "x", "client", bccsptest.Template(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4, 5, 6, 7, 8, 1}, Value: []byte(value)}}
		})).Serialized())
		if err != nil {
			t.Fatal(err)
		}
		attrs, err := id.Attributes()
		if err != nil {
			return nil
		}
		return attrs
	}
	if diff := cmp.Diff(map[string]string{"hf.Type": "client", "desk": "7"}, with(`{"attrs":{"hf.Type":"client","desk":"7"}}`)); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
	if got := with(`{}`); got == nil || len(got) != 0 {
		t.Errorf("no attributes: %v", got)
	}
	if got := with(`{"attrs":7}`); got != nil {
		t.Errorf("malformed attributes give %v", got)
	}
}

func TestLocalIdentity(t *testing.T) {
	token := bccsptest.OpenShared(t)
	ca := bccsptest.NewCA(t, token, "Org1MSP")
	peer, other := ca.Issue(t, "peer", "peer"), ca.Issue(t, "other", "peer")
	local, err := msp.LoadLocalIdentity("Org1MSP", peer.CertPEM, peer.Signer)
	if err != nil {
		t.Fatal(err)
	}
	s := newSet(t, token, []*msppb.MSPConfig{ca.MSPConfig()})
	id, err := s.Identity(t.Context(), local.Serialized)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := local.SignProposal(t.Context(), []byte("proposal"))
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Verify(t.Context(), []byte("proposal"), sig); err != nil {
		t.Error(err)
	}
	_, err = msp.LoadLocalIdentity("Org1MSP", other.CertPEM, peer.Signer)
	for _, key := range []*bccsp.Signer{peer.Signer, other.Signer} {
		if err == nil || !strings.Contains(err.Error(), key.PublicKey().ID().String()) {
			t.Errorf("another certificate: %v does not name key %s", err, key.PublicKey().ID())
		}
	}
	for name, text := range map[string][]byte{
		"no PEM": []byte("x"), "a key": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY"}), "two": append(bytes.Clone(peer.CertPEM), ca.CertPEM...),
	} {
		if _, err := msp.LoadLocalIdentity("Org1MSP", text, peer.Signer); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
