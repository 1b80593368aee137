package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/gatewaypb"
	"strongroom/wire/peerpb"
)

// peer is a peer that knows one user: it checks what a peer checks of a client's
// messages, refuses reads of keys that were not written, and commits each transaction
// in a block of its own.
type peer struct {
	peerpb.UnimplementedEndorserServer
	gatewaypb.UnimplementedGatewayServer
	peerpb.UnimplementedDeliverServer
	key    *ecdsa.PublicKey
	blocks chan string // transaction ids, for the one follower
}

func (p *peer) signed(message, sig []byte) error {
	digest := sha256.Sum256(message)
	if !ecdsa.VerifyASN1(p.key, digest[:], sig) {
		return status.Error(codes.PermissionDenied, "the signature is false")
	}
	return nil
}

func (p *peer) check(s *peerpb.SignedProposal) (*wire.Proposal, error) {
	parsed, err := wire.ParseSignedProposal(s)
	if err == nil {
		err = p.signed(s.GetProposalBytes(), s.GetSignature())
	}
	if err == nil && (parsed.ChannelID() != "main" || parsed.ChaincodeID.GetName() != "kv") {
		err = status.Error(codes.InvalidArgument, "another chaincode")
	}
	return parsed, err
}

func (p *peer) ProcessProposal(_ context.Context, s *peerpb.SignedProposal) (*peerpb.ProposalResponse, error) {
	if _, err := p.check(s); err != nil {
		return nil, err
	}
	return &peerpb.ProposalResponse{Response: &peerpb.Response{Status: 200}}, nil
}

func (p *peer) Evaluate(_ context.Context, r *gatewaypb.EvaluateRequest) (*gatewaypb.EvaluateResponse, error) {
	if _, err := p.check(r.GetProposedTransaction()); err != nil {
		return nil, err
	}
	return &gatewaypb.EvaluateResponse{}, nil
}

func (p *peer) Endorse(_ context.Context, r *gatewaypb.EndorseRequest) (*gatewaypb.EndorseResponse, error) {
	parsed, err := p.check(r.GetProposedTransaction())
	if err != nil {
		return nil, err
	}
	return &gatewaypb.EndorseResponse{PreparedTransaction: &commonpb.Envelope{Payload: []byte(parsed.TxID())}}, nil
}

func (p *peer) Submit(ctx context.Context, r *gatewaypb.SubmitRequest) (*gatewaypb.SubmitResponse, error) {
	env := r.GetPreparedTransaction()
	if err := p.signed(env.GetPayload(), env.GetSignature()); err != nil {
		return nil, err
	}
	select {
	case p.blocks <- string(env.GetPayload()):
	default: // nobody follows
	}
	return &gatewaypb.SubmitResponse{}, nil
}

func (p *peer) CommitStatus(_ context.Context, r *gatewaypb.SignedCommitStatusRequest) (*gatewaypb.CommitStatusResponse, error) {
	if err := p.signed(r.GetRequest(), r.GetSignature()); err != nil {
		return nil, err
	}
	request := &gatewaypb.CommitStatusRequest{}
	if err := proto.Unmarshal(r.GetRequest(), request); err != nil || len(request.GetTransactionId()) != 64 {
		return nil, status.Error(codes.InvalidArgument, "no such transaction")
	}
	return &gatewaypb.CommitStatusResponse{Result: code(request.GetTransactionId())}, nil
}

// code makes about one in sixteen transactions a conflict.
func code(txID string) peerpb.TxValidationCode {
	if txID[0] == '0' {
		return peerpb.TxValidationCode_MVCC_READ_CONFLICT
	}
	return peerpb.TxValidationCode_VALID
}

func (p *peer) DeliverFiltered(stream peerpb.Deliver_DeliverFilteredServer) error {
	env, err := stream.Recv()
	if err == nil {
		err = p.signed(env.GetPayload(), env.GetSignature())
	}
	if err == nil {
		err = stream.Send(&peerpb.DeliverResponse{Type: &peerpb.DeliverResponse_FilteredBlock{FilteredBlock: &peerpb.FilteredBlock{}}})
	}
	for err == nil {
		select {
		case id := <-p.blocks:
			err = stream.Send(&peerpb.DeliverResponse{Type: &peerpb.DeliverResponse_FilteredBlock{FilteredBlock: &peerpb.FilteredBlock{
				FilteredTransactions: []*peerpb.FilteredTransaction{{Txid: id, TxValidationCode: code(id)}},
			}}})
		case <-stream.Context().Done():
			return nil
		}
	}
	return err
}

// startPeer serves a peer and writes the connection file for it.
func startPeer(t *testing.T) (file string) {
	t.Helper()
	folder := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "user"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(folder, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	put(t, filepath.Join(folder, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{key: &key.PublicKey, blocks: make(chan string, 10_000)}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})))
	peerpb.RegisterEndorserServer(server, p)
	gatewaypb.RegisterGatewayServer(server, p)
	peerpb.RegisterDeliverServer(server, p)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	raw, err := json.Marshal(target{Endpoint: listener.Addr().String(), TLSCACert: "cert.pem", ServerName: "localhost", MSPID: "Org1MSP",
		ClientCert: "cert.pem", ClientKey: "key.pem", Channel: "main", Chaincode: "kv"})
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(folder, "connection.json")
	put(t, file, raw)
	return file
}

func put(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, args ...string) (*Report, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := root()
	cmd.SetArgs(append(args, "--output", "json"))
	cmd.SetOut(&out)
	cmd.SetErr(&bytes.Buffer{})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		return nil, err
	}
	r := &Report{}
	if err := json.Unmarshal(out.Bytes(), r); err != nil {
		t.Fatal(err)
	}
	return r, nil
}

func TestAgainstAPeer(t *testing.T) {
	file := startPeer(t)
	short := []string{"--in-flight", "4", "--duration", "300ms", "--warm-up", "20ms", "--interval", "100ms", "--keys", "0", "--timeout", "5s"}
	for _, tt := range []struct {
		work string
		more []string
	}{
		{"endorse", nil},
		{"endorse", []string{"--rate", "200", "--ramp", "50ms"}},
		{"submit", nil},
		{"submit", []string{"--follow"}},
	} {
		html := filepath.Join(t.TempDir(), "page.html")
		r, err := load(t, append(append([]string{file, tt.work, "--html", html}, short...), tt.more...)...)
		if err != nil {
			t.Errorf("%s %v: %v", tt.work, tt.more, err)
			continue
		}
		allowed := map[string]bool{"OK": true, "committed as MVCC_READ_CONFLICT": tt.work == "submit"}
		for name, n := range r.Outcomes {
			if !allowed[name] {
				t.Errorf("%s %v: %d times %s: %s", tt.work, tt.more, n, name, r.Said[name])
			}
		}
		if r.Outcomes["OK"] == 0 || r.Latency.Count == 0 || r.Latency.P50 <= 0 || len(r.Points) < 3 || r.Uncommitted != 0 {
			t.Errorf("%s %v: %+v", tt.work, tt.more, r)
		}
		if page, err := os.ReadFile(html); err != nil || !strings.Contains(string(page), "<polyline") {
			t.Errorf("%s %v: page: %v", tt.work, tt.more, err)
		}
	}
}

// Evaluation writes its keys first; a peer that makes one of them a conflict says so.
func TestEvaluateAgainstAPeer(t *testing.T) {
	file := startPeer(t)
	for range 20 { // a key is a conflict once in sixteen times
		r, err := load(t, file, "evaluate", "--keys", "1", "--duration", "100ms", "--interval", "100ms", "--warm-up", "0")
		if err == nil {
			if r.Outcomes["OK"] == 0 || r.ByKind["evaluate"].Count == 0 {
				t.Errorf("report: %+v", r)
			}
			return
		}
		if !strings.Contains(err.Error(), "MVCC_READ_CONFLICT") {
			t.Fatal(err)
		}
	}
	t.Error("no run of 20 could write its key")
}

func TestRefusedConnectionFiles(t *testing.T) {
	file := startPeer(t)
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(other)
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(filepath.Dir(file), "other.pem"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	for _, tt := range []struct{ old, new, want string }{
		{`"channel":"main"`, `"channel":""`, "channel is missing"},
		{`"clientKey":"key.pem"`, `"clientKey":"other.pem"`, "not the key of clientCert"},
		{`"clientKey":"key.pem"`, `"clientKey":"cert.pem"`, "neither PKCS #8"},
		{`"tlsCACert":"cert.pem"`, `"tlsCACert":"key.pem"`, "holds no certificate"},
		{`{`, `[`, "connection file"},
	} {
		bad := filepath.Join(filepath.Dir(file), "bad.json")
		put(t, bad, bytes.Replace(raw, []byte(tt.old), []byte(tt.new), 1))
		if _, err := load(t, bad, "endorse"); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.new, err, tt.want)
		}
	}
	for _, args := range [][]string{{"other"}, {"endorse", "--in-flight", "0"}, {"endorse", "--duration", "25h"}, {"endorse", "--connections", "0"}, {"endorse", "--rate", "-1"}} {
		if _, err := load(t, append([]string{file}, args...)...); err == nil {
			t.Errorf("%v was taken", args)
		}
	}
}
