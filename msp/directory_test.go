package msp_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"strongroom/bccsp/bccsptest"
	"strongroom/msp"
	"strongroom/wire/msppb"
)

// writeTree writes files below a new folder.
func writeTree(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoadDirectory(t *testing.T) {
	token := bccsptest.OpenShared(t)
	root := bccsptest.NewCA(t, token, "Org1MSP")
	mid := root.Intermediate(t, "mid")
	admin, gone := mid.Issue(t, "admin", "client"), mid.Issue(t, "gone", "client")
	list := mid.CRL(t, gone.Certificate)
	dir := writeTree(t, map[string][]byte{
		"cacerts/root.pem":             root.CertPEM,
		"intermediatecerts/mid.pem":    mid.CertPEM,
		"admincerts/admin.pem":         admin.CertPEM,
		"crls/list.pem":                list,
		"tlscacerts/root.pem":          root.CertPEM,
		"tlsintermediatecerts/mid.pem": mid.CertPEM,
		"keystore/key":                 []byte("not looked at"),
		"cacerts/folder/x":             []byte("not looked at"),
		"config.yaml": []byte(`
OrganizationalUnitIdentifiers:
  - Certificate: intermediatecerts/mid.pem
    OrganizationalUnitIdentifier: sales
NodeOUs:
  Enable: true
  ClientOUIdentifier:
    Certificate: intermediatecerts/mid.pem
    OrganizationalUnitIdentifier: client
  PeerOUIdentifier:
    OrganizationalUnitIdentifier: peer
`),
	})
	got, err := msp.LoadDirectory(dir, "Org1MSP")
	if err != nil {
		t.Fatal(err)
	}
	conf := &msppb.FabricMSPConfig{}
	if err := proto.Unmarshal(got.GetConfig(), conf); err != nil {
		t.Fatal(err)
	}
	want := &msppb.FabricMSPConfig{
		Name:      "Org1MSP",
		RootCerts: [][]byte{root.CertPEM}, IntermediateCerts: [][]byte{mid.CertPEM}, Admins: [][]byte{admin.CertPEM},
		RevocationList: [][]byte{list}, TlsRootCerts: [][]byte{root.CertPEM}, TlsIntermediateCerts: [][]byte{mid.CertPEM},
		OrganizationalUnitIdentifiers: []*msppb.FabricOUIdentifier{{Certificate: mid.CertPEM, OrganizationalUnitIdentifier: "sales"}},
		CryptoConfig:                  &msppb.FabricCryptoConfig{SignatureHashFamily: "SHA2", IdentityIdentifierHashFunction: "SHA256"},
		FabricNodeOus: &msppb.FabricNodeOUs{
			Enable:             true,
			ClientOuIdentifier: &msppb.FabricOUIdentifier{Certificate: mid.CertPEM, OrganizationalUnitIdentifier: "client"},
			PeerOuIdentifier:   &msppb.FabricOUIdentifier{OrganizationalUnitIdentifier: "peer"},
		},
	}
	if diff := cmp.Diff(want, conf, protocmp.Transform()); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	s := newSet(t, token, []*msppb.MSPConfig{got})
	if id, err := s.Identity(t.Context(), admin.Serialized()); err != nil || id.Role != msp.RoleClient {
		t.Errorf("admin: %v", err)
	}
	if _, err := s.Identity(t.Context(), gone.Serialized()); !msp.IsInvalid(err) {
		t.Errorf("revoked: %v", err)
	}
}

func TestLoadDirectoryErrors(t *testing.T) {
	root := bccsptest.NewCA(t, bccsptest.OpenShared(t), "Org1MSP")
	for want, files := range map[string]map[string][]byte{
		"no certificate in":      {"config.yaml": nil},
		"no PEM in it":           {"cacerts/readme.txt": []byte("hello")},
		"field NodeOU not found": {"cacerts/ca.pem": root.CertPEM, "config.yaml": []byte("NodeOU: {}")},
		"NodeOUs.PeerOUIdentifier": {"cacerts/ca.pem": root.CertPEM,
			"config.yaml": []byte("NodeOUs: {Enable: true, PeerOUIdentifier: {Certificate: cacerts/other.pem, OrganizationalUnitIdentifier: peer}}")},
		"OrganizationalUnitIdentifiers[0]": {"cacerts/ca.pem": root.CertPEM,
			"config.yaml": []byte("OrganizationalUnitIdentifiers: [{Certificate: x.pem, OrganizationalUnitIdentifier: sales}]")},
	} {
		t.Run(want, func(t *testing.T) {
			if _, err := msp.LoadDirectory(writeTree(t, files), "Org1MSP"); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestNewConfig: certificates in memory, with the standard node OUs, make a good MSP.
func TestNewConfig(t *testing.T) {
	token := bccsptest.OpenShared(t)
	ca := bccsptest.NewCA(t, token, "Org1MSP")
	c, err := msp.NewConfig(&msppb.FabricMSPConfig{Name: "Org1MSP", RootCerts: [][]byte{ca.CertPEM}, FabricNodeOus: msp.StandardNodeOUs(ca.CertPEM)})
	if err != nil {
		t.Fatal(err)
	}
	s := newSet(t, token, []*msppb.MSPConfig{c})
	if id, err := s.Identity(t.Context(), ca.Issue(t, "o", "orderer").Serialized()); err != nil || id.Role != msp.RoleOrderer {
		t.Errorf("orderer: %v", err)
	}
	if _, err := msp.NewConfig(&msppb.FabricMSPConfig{}); err == nil {
		t.Error("an MSP without name")
	}
}
