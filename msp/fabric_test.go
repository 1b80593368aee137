package msp_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/msp"
	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
)

// fabricMSPs are the MSP folders that Fabric's cryptogen made.
var fabricMSPs = map[msp.ID]string{"Org1MSP": "org1", "Org2MSP": "org2", "OrdererMSP": "orderer"}

func fabricConfigs(t testing.TB) []*msppb.MSPConfig {
	t.Helper()
	var configs []*msppb.MSPConfig
	for _, id := range []msp.ID{"OrdererMSP", "Org1MSP", "Org2MSP"} {
		c, err := msp.LoadDirectory(filepath.Join("testdata", fabricMSPs[id], "msp"), id)
		if err != nil {
			t.Fatal(err)
		}
		configs = append(configs, c)
	}
	return configs
}

func newSet(t testing.TB, v bccsp.Verifier, configs []*msppb.MSPConfig, opts ...msp.Option) *msp.Set {
	t.Helper()
	s, err := msp.NewSet(context.Background(), v, configs, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func serialize(t testing.TB, id msp.ID, certPEM []byte) []byte {
	t.Helper()
	b, err := msp.Serialize(id, certPEM)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readFile(t testing.TB, parts ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func rolePrincipal(t testing.TB, id string, role commonpb.MSPRole_MSPRoleType) *commonpb.MSPPrincipal {
	return principal(t, commonpb.MSPPrincipal_ROLE, &commonpb.MSPRole{MspIdentifier: id, Role: role})
}

func principal(t testing.TB, class commonpb.MSPPrincipal_Classification, m proto.Message) *commonpb.MSPPrincipal {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return &commonpb.MSPPrincipal{PrincipalClassification: class, Principal: b}
}

// satisfied lists the roles of an MSP that an identity satisfies.
func satisfied(t testing.TB, s *msp.Set, id *msp.Identity, of string) []commonpb.MSPRole_MSPRoleType {
	t.Helper()
	var got []commonpb.MSPRole_MSPRoleType
	for r := range commonpb.MSPRole_MSPRoleType_name {
		role := commonpb.MSPRole_MSPRoleType(r)
		ok, err := s.Satisfies(id, rolePrincipal(t, of, role))
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			got = append(got, role)
		}
	}
	slices.Sort(got)
	return got
}

// TestFabricIdentities: identities of a real Fabric network are accepted, with the
// roles that their units give them.
func TestFabricIdentities(t *testing.T) {
	s := newSet(t, bccsptest.OpenShared(t), fabricConfigs(t))
	if diff := cmp.Diff([]msp.ID{"OrdererMSP", "Org1MSP", "Org2MSP"}, s.IDs()); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
	type roles = []commonpb.MSPRole_MSPRoleType
	const member, admin, client, peer, orderer = commonpb.MSPRole_MEMBER, commonpb.MSPRole_ADMIN, commonpb.MSPRole_CLIENT, commonpb.MSPRole_PEER, commonpb.MSPRole_ORDERER
	for file, want := range map[string]struct {
		msp   msp.ID
		role  msp.Role
		roles roles
	}{
		"org1-peer":       {"Org1MSP", msp.RolePeer, roles{member, peer}},
		"org1-admin":      {"Org1MSP", msp.RoleAdmin, roles{member, admin}},
		"org1-client":     {"Org1MSP", msp.RoleClient, roles{member, client}},
		"org2-peer":       {"Org2MSP", msp.RolePeer, roles{member, peer}},
		"org2-admin":      {"Org2MSP", msp.RoleAdmin, roles{member, admin}},
		"org2-client":     {"Org2MSP", msp.RoleClient, roles{member, client}},
		"orderer-orderer": {"OrdererMSP", msp.RoleOrderer, roles{member, orderer}},
		"orderer-admin":   {"OrdererMSP", msp.RoleAdmin, roles{member, admin}},
	} {
		t.Run(file, func(t *testing.T) {
			text := readFile(t, "testdata", "identities", file+".pem")
			serialized := serialize(t, want.msp, text)
			id, err := s.Identity(t.Context(), serialized)
			if err != nil {
				t.Fatal(err)
			}
			if id.MSPID != want.msp || id.Role != want.role || !slices.Equal(id.Serialized, serialized) {
				t.Errorf("identity is of %s with role %s", id.MSPID, id.Role)
			}
			if diff := cmp.Diff(want.roles, satisfied(t, s, id, string(want.msp))); diff != "" {
				t.Errorf("roles (-want +got):\n%s", diff)
			}
			for _, other := range s.IDs() {
				if other == want.msp {
					continue
				}
				if got := satisfied(t, s, id, string(other)); got != nil {
					t.Errorf("satisfies %v of %s", got, other)
				}
				if _, err := s.Identity(t.Context(), serialize(t, other, text)); !msp.IsInvalid(err) {
					t.Errorf("taken as an identity of %s: %v", other, err)
				}
			}
			if year := id.ExpiresAt().Year(); year != 2036 {
				t.Errorf("expires in %d", year)
			}
		})
	}
}

// TestExpiryDoesNotCount: an expired certificate is a valid identity, as in Fabric.
func TestExpiryDoesNotCount(t *testing.T) {
	token := bccsptest.OpenShared(t)
	ca := bccsptest.NewCA(t, token, "Org1MSP", bccsptest.Valid(time.Now().AddDate(-5, 0, 0), time.Now().AddDate(5, 0, 0)))
	old := ca.Issue(t, "old", "client", bccsptest.Expired())
	s := newSet(t, token, []*msppb.MSPConfig{ca.MSPConfig()})
	id, err := s.Identity(t.Context(), old.Serialized())
	if err != nil {
		t.Fatal(err)
	}
	if !id.ExpiresAt().Before(time.Now()) {
		t.Errorf("expires at %s", id.ExpiresAt())
	}
}

func TestVerify(t *testing.T) {
	token := bccsptest.OpenShared(t)
	ca := bccsptest.NewCA(t, token, "Org1MSP")
	client := ca.Issue(t, "client", "client")
	s := newSet(t, token, []*msppb.MSPConfig{ca.MSPConfig()})
	id, err := s.Identity(t.Context(), client.Serialized())
	if err != nil {
		t.Fatal(err)
	}
	sig, err := client.Signer.SignPayload(t.Context(), []byte("message"))
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Verify(t.Context(), []byte("message"), sig); err != nil {
		t.Error(err)
	}
	if err := id.Verify(t.Context(), []byte("messagE"), sig); !isBadSignature(err) {
		t.Errorf("another message: %v", err)
	}
	if err := id.Verify(t.Context(), []byte("message"), bccsptest.Twin(id.PublicKey.Curve(), sig)); !isBadSignature(err) {
		t.Errorf("high S: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := id.Verify(ended, []byte("message"), sig); err == nil || isBadSignature(err) {
		t.Errorf("ended context: %v", err)
	}
}
