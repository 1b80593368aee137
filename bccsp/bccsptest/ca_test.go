package bccsptest_test

import (
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"strongroom/bccsp/bccsptest"
	"strongroom/wire/msppb"
)

func TestCAIssuesChains(t *testing.T) {
	token := bccsptest.OpenShared(t)
	root := bccsptest.NewCA(t, token, "Org1MSP", bccsptest.OnCurve(elliptic.P384()))
	middle := root.Intermediate(t, "ica.org1", bccsptest.HighS())
	id := middle.Issue(t, "peer0", "peer")
	pool := x509.NewCertPool()
	pool.AddCert(middle.Certificate)
	opts := x509.VerifyOptions{Roots: root.Pool(), Intermediates: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if _, err := id.Certificate.Verify(opts); err != nil {
		t.Fatal(err)
	}
	if got := id.Certificate.Subject.OrganizationalUnit; len(got) != 1 || got[0] != "peer" {
		t.Errorf("OU %q", got)
	}
	if !id.Signer.PublicKey().ECDSA().Equal(id.Certificate.PublicKey) {
		t.Error("the signer's key is not the certificate's")
	}
	expired := root.Issue(t, "old", "client", bccsptest.Expired())
	if time.Now().Before(expired.Certificate.NotAfter) {
		t.Error("expired certificate is valid")
	}
	block, _ := pem.Decode(root.CRL(t, id.Certificate))
	list, err := x509.ParseRevocationList(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := list.CheckSignatureFrom(root.Certificate); err != nil {
		t.Error(err)
	}
	var cfg msppb.FabricMSPConfig
	if err := proto.Unmarshal(middle.MSPConfig().Config, &cfg); err != nil {
		t.Fatal(err)
	}
	if cfg.Name != "Org1MSP" || len(cfg.RootCerts) != 1 || len(cfg.IntermediateCerts) != 1 || !cfg.FabricNodeOus.Enable {
		t.Errorf("MSP configuration: %v", &cfg)
	}
}

func TestTLSKeysInTheToken(t *testing.T) {
	ca := bccsptest.NewCA(t, bccsptest.OpenShared(t), "Org2MSP")
	server, client := net.Pipe()
	serve := tls.Server(server, &tls.Config{
		Certificates: []tls.Certificate{ca.IssueTLS(t, "server", "localhost", "127.0.0.1")},
		ClientCAs:    ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert,
	})
	dial := tls.Client(client, &tls.Config{
		Certificates: []tls.Certificate{ca.IssueTLS(t, "client")}, RootCAs: ca.Pool(), ServerName: "localhost",
	})
	done := make(chan error, 1)
	go func() {
		done <- serve.Handshake()
		serve.Close()
	}()
	if err := dial.Handshake(); err != nil {
		t.Fatal(err)
	}
	client.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
