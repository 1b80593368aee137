package softhsmtests

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"strongroom/appliance/client"
	"strongroom/bccsp"
	"strongroom/msp"
	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
	"strongroom/wire/peerpb"
)

// TestRefusedProposals sends what a peer must refuse: each gets a clear answer that
// tells an outsider nothing, and the peer goes on.
func TestRefusedProposals(t *testing.T) {
	n := start(t)
	u := n.dialUser(t, "org1")
	endorser := peerpb.NewEndorserClient(u.conn)
	propose := func(id *msp.LocalIdentity, inv client.Invocation) *peerpb.SignedProposal {
		t.Helper()
		p, _, err := client.Propose(t.Context(), id, inv)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	read := call("AssetExists", "nothing")
	unknown := read
	unknown.Channel = "atlantis"
	forged := propose(u.identity, read)
	forged.Signature = propose(u.identity, read).Signature
	broken := propose(u.identity, read)
	broken.ProposalBytes = broken.ProposalBytes[:len(broken.ProposalBytes)/2]

	for name, tc := range map[string]struct {
		proposal *peerpb.SignedProposal
		want     string
	}{
		"empty":               {&peerpb.SignedProposal{}, ""},
		"cut off":             {broken, ""},
		"another's signature": {forged, "access denied"},
		"foreign certificate": {propose(foreigner(t), read), "access denied"},
		"unknown channel":     {propose(u.identity, unknown), "atlantis"},
	} {
		t.Run(name, func(t *testing.T) {
			response, err := endorser.ProcessProposal(t.Context(), tc.proposal)
			said := response.GetResponse().GetMessage()
			if err != nil {
				said = err.Error()
			} else if response.GetResponse().GetStatus() < 400 || response.GetEndorsement() != nil {
				t.Fatalf("the peer endorsed it: %v", response)
			}
			if said == "" || !strings.Contains(said, tc.want) {
				t.Errorf("the peer said %q, want something with %q", said, tc.want)
			}
		})
	}
	if _, err := u.Evaluate(t.Context(), read); err != nil {
		t.Errorf("the peer does not go on: %v", err)
	}
}

// TestReplay submits a transaction twice: the second time it is committed as a
// duplicate, and proposing it again is refused.
func TestReplay(t *testing.T) {
	n := start(t)
	u := n.dialUser(t, "org1")
	proposal, txID, err := client.Propose(t.Context(), u.identity, call("CreateAsset", "replayed-"+rand.Text(), "red", "1", "Rae", "1"))
	if err != nil {
		t.Fatal(err)
	}
	envelope := u.endorse(t, proposal, txID)
	u.submit(t, envelope, txID)
	if code, _, err := u.CommitStatus(t.Context(), "main", txID); err != nil || code != peerpb.TxValidationCode_VALID {
		t.Fatalf("first time: %v, %v", code, err)
	}
	before := n.height(t)
	u.submit(t, envelope, txID)
	deadline := time.Now().Add(20 * time.Second)
	for n.height(t) == before {
		if time.Now().After(deadline) {
			t.Fatal("the replayed transaction was not ordered")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if code, _, err := u.CommitStatus(t.Context(), "main", txID); err != nil || code != peerpb.TxValidationCode_VALID {
		t.Errorf("the first verdict stands: %v, %v", code, err)
	}
	response, err := peerpb.NewEndorserClient(u.conn).ProcessProposal(t.Context(), proposal)
	said := response.GetResponse().GetMessage()
	if err != nil {
		said = err.Error()
	}
	if !strings.Contains(said, "duplicate transaction") {
		t.Errorf("proposing it again: %q", said)
	}
}

// TestOversizedMessage sends a proposal beyond the limit of the peer's port.
func TestOversizedMessage(t *testing.T) {
	n := start(t)
	u := n.dialUser(t, "org1")
	_, err := peerpb.NewEndorserClient(u.conn).ProcessProposal(t.Context(), &peerpb.SignedProposal{ProposalBytes: make([]byte, 101<<20)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Fatalf("got %v", err)
	}
}

// TestOrdererRefuses sends the ordering node what it must not order.
func TestOrdererRefuses(t *testing.T) {
	n := start(t)
	u := n.dialUser(t, "org1")
	conn := n.dialOrderer(t)
	proposal, txID, err := client.Propose(t.Context(), u.identity, call("CreateAsset", "forged-"+rand.Text(), "red", "1", "Rae", "1"))
	if err != nil {
		t.Fatal(err)
	}
	envelope := u.endorse(t, proposal, txID)
	envelope.Signature = bytes.Repeat([]byte{0x30}, 70)
	for name, tc := range map[string]struct {
		envelope *commonpb.Envelope
		want     commonpb.Status
	}{
		"nothing":         {&commonpb.Envelope{}, commonpb.Status_BAD_REQUEST},
		"false signature": {envelope, commonpb.Status_FORBIDDEN},
	} {
		stream, err := ordererpb.NewAtomicBroadcastClient(conn).Broadcast(t.Context()) // a refusal ends it
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(tc.envelope); err != nil {
			t.Fatal(err)
		}
		response, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if response.GetStatus() != tc.want || response.GetInfo() == "" {
			t.Errorf("%s: the ordering node said %v, want %v with a reason", name, response, tc.want)
		}
	}
}

// TestProcessRefusesToStart starts a peer with something wrong in its
// configuration: it says what and what to do, and never the PIN.
func TestProcessRefusesToStart(t *testing.T) {
	n := start(t)
	original, err := os.ReadFile(filepath.Join(n.dir, "org1", "peer.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	pin := filepath.Join(dir, "wrong.pin")
	if err := os.WriteFile(pin, []byte("not-the-pin-4711"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open.pin")
	if err := os.WriteFile(open, []byte("readable-by-all"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ from, to, want string }{
		"wrong PIN":            {"{file: org1.pin}", "{file: " + pin + "}", "PIN"},
		"PIN file open to all": {"{file: org1.pin}", "{file: " + open + "}", "chmod 600"},
		"missing token":        {"label: org1", "label: atlantis", "atlantis"},
		"missing module":       {"libsofthsm2.so", "libmissing.so", "libmissing.so"},
		"unknown field":        {"data: data", "dat: data", "dat"},
		"another's key":        {"certificate: identities/peer0.pem", "certificate: " + filepath.Join(n.dir, "org2", "identities", "peer0.pem"), "is of key"},
		"one key for two uses": {"certificate: identities/peer0.pem", "certificate: identities/peer0-tls.pem", "serves an identity already"},
		"data is a file":       {"data: data", "data: " + file, file},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(string(original), tc.from, tc.to, 1)
			if text == string(original) {
				t.Fatalf("the configuration has no %q", tc.from)
			}
			text = operationsAddress.ReplaceAllString(text, "operations:\n  address: 127.0.0.1:0\n") // the peer that runs has the other
			config := filepath.Join(n.dir, "org1", "refused.yaml")
			if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := n.try("peer", "--config", config)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "4711") {
				t.Error("the PIN is in the error")
			}
		})
	}
}

var operationsAddress = regexp.MustCompile(`operations:\n.*\n`)

// foreigner is an identity of nobody's: it claims Org1MSP with a certificate that it
// signed itself.
func foreigner(t *testing.T) *msp.LocalIdentity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mallory", OrganizationalUnit: []string{"client"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := bccsp.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	id, err := msp.LoadLocalIdentity("Org1MSP", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), bccsp.NewSigner(userKey{key, public}))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// height is the height of Org1's ledger.
func (n network) height(t *testing.T) uint64 {
	t.Helper()
	info := &commonpb.BlockchainInfo{}
	if err := n.dialUser(t, "org1").Query(context.WithoutCancel(t.Context()), "main", "qscc", "GetChainInfo", info, "main"); err != nil {
		t.Fatal(err)
	}
	return info.GetHeight()
}
