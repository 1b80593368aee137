package softhsmtests

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"strongroom/appliance/client"
	"strongroom/wire/msppb"
	"strongroom/wire/peerpb"
)

// certificates replaces the certificates of a configuration by copies that a test may
// change, and returns their files.
func certificates(t *testing.T, text string) (edited, identity, served string) {
	t.Helper()
	dir := t.TempDir()
	own := func(field, name string) string {
		re := regexp.MustCompile(`(?m)^  ` + field + `: (.*)$`)
		m := re.FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("peer.yaml has no %s", field)
		}
		content, err := os.ReadFile(m[1])
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		write(t, file, content)
		text = re.ReplaceAllLiteralString(text, "  "+field+": "+file)
		return file
	}
	identity, served = own("certificate", "peer.pem"), own("tlsCertificate", "tls.pem")
	return text, identity, served
}

// newKey makes a key in the token of org1 and has the organisation's CA certify it.
func (n network) newKey(t *testing.T, label, profile string, arguments ...string) []byte {
	t.Helper()
	org := filepath.Join(n.dir, "org1")
	config, err := os.ReadFile(filepath.Join(org, "peer.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	module := regexp.MustCompile(`(?m)^  module: (.*)$`).FindSubmatch(config)
	if module == nil {
		t.Fatal("peer.yaml names no module")
	}
	token := func(label string) []string {
		return []string{"--module", string(module[1]), "--softhsm-conf", filepath.Join(org, "softhsm2.conf"),
			"--token", label, "--pin-file", filepath.Join(org, label+".pin")}
	}
	dir := t.TempDir()
	csr, out := filepath.Join(dir, "request.csr"), filepath.Join(dir, "certificate.pem")
	create := append([]string{"identity", "new", "--key", label, "--name", label, "--out", csr}, arguments...)
	n.run(t, append(create, token("org1")...)...)
	ca, file := "ca", "msp/cacerts/ca.pem"
	if profile == "tls-server" {
		ca, file = "tlsca", "msp/tlscacerts/tlsca.pem"
	}
	n.run(t, append([]string{"ca", "issue", "--key", ca, "--certificate", filepath.Join(org, file),
		"--csr", csr, "--profile", profile, "--out", out}, token("org1-ca")...)...)
	pem, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return pem
}

// endorsed has the peer endorse once, checks the signature in software, and returns the
// endorser's certificate.
func endorsed(ctx context.Context, u *user, inv client.Invocation) (*x509.Certificate, error) {
	proposal, _, err := client.Propose(ctx, u.identity, inv)
	if err != nil {
		return nil, err
	}
	response, err := peerpb.NewEndorserClient(u.conn).ProcessProposal(ctx, proposal)
	if err != nil {
		return nil, err
	}
	if status := response.GetResponse().GetStatus(); status != 200 {
		return nil, fmt.Errorf("status %d: %s", status, response.GetResponse().GetMessage())
	}
	endorser := &msppb.SerializedIdentity{}
	if err := proto.Unmarshal(response.GetEndorsement().GetEndorser(), endorser); err != nil {
		return nil, err
	}
	block, _ := pem.Decode(endorser.GetIdBytes())
	if block == nil {
		return nil, fmt.Errorf("endorser %q is no certificate", endorser.GetIdBytes())
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(append(bytes.Clone(response.GetPayload()), response.GetEndorsement().GetEndorser()...))
	if !ecdsa.VerifyASN1(certificate.PublicKey.(*ecdsa.PublicKey), digest[:], response.GetEndorsement().GetSignature()) {
		return nil, fmt.Errorf("endorsement is not by the key of %s", certificate.Subject)
	}
	return certificate, nil
}

// endorsements are what callers got while they endorsed without a pause.
type endorsements struct {
	mu    sync.Mutex
	all   []endorsement
	fault error
}

type endorsement struct {
	asked, answered time.Time
	by              string // the endorser's common name
}

func (e *endorsements) run(ctx context.Context, u *user, inv client.Invocation) {
	for ctx.Err() == nil {
		asked := time.Now()
		certificate, err := endorsed(context.WithoutCancel(ctx), u, inv)
		e.mu.Lock()
		if err != nil && e.fault == nil {
			e.fault = err
		}
		if err == nil {
			e.all = append(e.all, endorsement{asked, time.Now(), certificate.Subject.CommonName})
		}
		e.mu.Unlock()
	}
}

// by counts the endorsements by an endorser.
func (e *endorsements) by(name string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, one := range e.all {
		if one.by == name {
			n++
		}
	}
	return n
}

// TestKeyRotation gives a peer that endorses and orders new keys, for its identity and for
// TLS, while four callers endorse without a pause: none fails, and from some moment on
// only the new key signs, blocks and statements too.
func TestKeyRotation(t *testing.T) {
	n := start(t)
	var identity, served string
	a := startApplianceWith(t, n, "rotated", func(text string) string {
		text, identity, served = certificates(t, text)
		return text
	})
	tlsCA := filepath.Join(n.dir, "org1", "msp", "tlscacerts", "tlsca.pem")
	transact := func(name string) {
		t.Helper()
		n.run(t, "chaincode", "approve", "--channel", "rotated", "--name", name, "--config", a.admin)
	}
	transact("before")
	nextIdentity := n.newKey(t, "peer0-rotated", "peer")
	nextTLS := n.newKey(t, "peer0-tls-rotated", "tls-server", "--host", "localhost", "--host", "peer0.org1", "--host", "127.0.0.1", "--host", "peer0-tls.org1")

	inv := client.Invocation{Channel: "rotated", Chaincode: "qscc", Args: [][]byte{[]byte("GetChainInfo"), []byte("rotated")}}
	var got endorsements
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var callers sync.WaitGroup
	base := n.dialUser(t, "org1")
	for range 4 {
		u := base.at(t, a.listen(t), tlsCA)
		callers.Go(func() { got.run(ctx, u, inv) })
	}
	until := func(what string, done func() bool) {
		t.Helper()
		deadline := time.Now().Add(30 * time.Second)
		for !done() {
			if time.Now().After(deadline) {
				t.Fatalf("not within 30 s: %s", what)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	until("endorsements by the old key", func() bool { return got.by("peer0.org1") > 20 })
	replace(t, identity, nextIdentity)
	replace(t, served, nextTLS)
	if err := syscall.Kill(a.process.PID, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	until("endorsements by the new key", func() bool { return got.by("peer0-rotated") > 20 })
	transact("after")
	cancel()
	callers.Wait()
	if got.fault != nil {
		t.Errorf("a request failed: %v", got.fault)
	}
	var first time.Time
	for _, e := range got.all {
		if e.by == "peer0-rotated" && (first.IsZero() || e.answered.Before(first)) {
			first = e.answered
		}
	}
	for _, e := range got.all {
		if e.by != "peer0-rotated" && e.asked.After(first) {
			t.Errorf("the old key %s endorsed what was asked %s after the new key's first endorsement", e.by, e.asked.Sub(first))
		}
	}
	t.Logf("%d endorsements by the old key, %d by the new one", got.by("peer0.org1"), got.by("peer0-rotated"))

	conn, err := tls.Dial("tcp", a.listen(t), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if name := conn.ConnectionState().PeerCertificates[0].Subject.CommonName; name != "peer0-tls-rotated" {
		t.Errorf("the endpoint shows the certificate of %s", name)
	}
	a.waitReady(t)

	// The auditor's tool follows the statements over the change of key; so does openssl.
	pack := filepath.Join(t.TempDir(), "pack.tar.zst")
	n.run(t, "audit", "export", "rotated", "--config", a.admin, "--out", pack)
	if out, err := n.audit(pack); err != nil || !strings.Contains(out, "VERIFIED") {
		t.Errorf("the channel does not verify: %s\n%v", out, err)
	}
	dir := unpack(t, pack)
	signers, err := os.ReadFile(filepath.Join(dir, "signer.pem"))
	if err != nil || bytes.Count(signers, []byte("BEGIN CERTIFICATE")) != 2 {
		t.Errorf("signer.pem holds %d certificates, want the new key's and the old one's: %v", bytes.Count(signers, []byte("BEGIN CERTIFICATE")), err)
	}
	if out, err := withoutOurSoftware(t, dir); err != nil || strings.Count(out, "Verified OK") != 2 {
		t.Errorf("VERIFY.md's commands: %s\n%v", out, err)
	}
	inForce, _ := pem.Decode(signers)
	write(t, filepath.Join(dir, "signer.pem"), pem.EncodeToMemory(inForce))
	if out, err := n.audit(dir); err == nil || !strings.Contains(out+err.Error(), "signer.pem has no certificate") {
		t.Errorf("without the old key's certificate: %s\n%v", out, err)
	}
}

// replace puts a file in the place of another at once, as mv does.
func replace(t *testing.T, file string, content []byte) {
	t.Helper()
	write(t, file+".new", content)
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}
