package chaincodetest

import (
	"context"
	_ "embed" // the client's certificate
	"encoding/hex"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"strongroom/chaincode"
	"strongroom/chaincode/shim"
	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
	"strongroom/wire/peerpb"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// PackageID is the package id that Start registers under.
const PackageID = "test_1.0:0000000000000000000000000000000000000000000000000000000000000000"

// Time is the timestamp of the first proposal that Proposal makes.
var Time = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Peer is a host with a store, as much of a peer as chaincode notices.
type Peer struct {
	T         testing.TB
	Host      *chaincode.Host
	Store     *Store
	ChannelID string
	Name      string // of the chaincode that Submit and Evaluate call
	PackageID string

	mu sync.Mutex // one Submit commits at a time
}

// Start runs a chaincode as a service on a loopback port and a host that is
// connected to it. Both end with the test.
func Start(t testing.TB, cc shim.Chaincode, cfg chaincode.Config) *Peer {
	t.Helper()
	p := NewPeer(t, cfg)
	p.PackageID = PackageID
	p.Serve(cc, PackageID)
	return p
}

// NewPeer is a peer without any chaincode yet.
func NewPeer(t testing.TB, cfg chaincode.Config) *Peer {
	t.Helper()
	h := chaincode.New(cfg)
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Peer{T: t, Host: h, Store: NewStore(), ChannelID: "main", Name: "basic"}
}

// Serve runs a chaincode as a service and connects the host to it.
func (p *Peer) Serve(cc shim.Chaincode, packageID string) {
	p.T.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.T.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- shim.Serve(ctx, cc, shim.Config{Listener: lis, PackageID: packageID}) }()
	p.T.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			p.T.Error(err)
		}
	})
	if err := p.Host.AddService(packageID, chaincode.Connection{Address: lis.Addr().String()}); err != nil {
		p.T.Fatal(err)
	}
}

var txCount atomic.Uint64

// Invocation is a call as an endorser makes it, with a signed proposal whose
// signature is empty: the host and the chaincode do not look at it.
func (p *Peer) Invocation(state chaincode.State, transient map[string][]byte, function string, args ...string) chaincode.Invocation {
	p.T.Helper()
	n := txCount.Add(1)
	txID := hex.EncodeToString(big.NewInt(0).SetUint64(n).FillBytes(make([]byte, 32)))
	input := &peerpb.ChaincodeInput{Args: [][]byte{[]byte(function)}}
	for _, a := range args {
		input.Args = append(input.Args, []byte(a))
	}
	return chaincode.Invocation{
		ChannelID: p.ChannelID, TxID: txID, Namespace: p.Name, PackageID: p.PackageID,
		Input: input, State: state, Proposal: p.proposal(txID, input, transient, Time.Add(time.Duration(n)*time.Second)),
	}
}

// Evaluate runs a call and drops its writes.
func (p *Peer) Evaluate(function string, args ...string) (*chaincode.Outcome, error) {
	p.T.Helper()
	inv := p.Invocation(nil, nil, function, args...)
	inv.State = p.Store.Simulate(inv.TxID)
	return p.Host.Execute(p.T.Context(), inv)
}

// Submit runs a call and commits its writes if it succeeds.
func (p *Peer) Submit(function string, args ...string) (*chaincode.Outcome, error) {
	p.T.Helper()
	inv := p.Invocation(nil, nil, function, args...)
	state := p.Store.Simulate(inv.TxID)
	inv.State = state
	out, err := p.Host.Execute(p.T.Context(), inv)
	if err == nil && out.Response.Status < 400 {
		p.mu.Lock()
		defer p.mu.Unlock()
		state.Commit(Time)
	}
	return out, err
}

func (p *Peer) proposal(txID string, input *peerpb.ChaincodeInput, transient map[string][]byte, at time.Time) *peerpb.SignedProposal {
	in := p.marshal(&peerpb.ChaincodeInvocationSpec{ChaincodeSpec: &peerpb.ChaincodeSpec{ChaincodeId: &peerpb.ChaincodeID{Name: p.Name}, Input: input}})
	header := p.marshal(&commonpb.Header{
		ChannelHeader:   p.marshal(&commonpb.ChannelHeader{Type: int32(commonpb.HeaderType_ENDORSER_TRANSACTION), ChannelId: p.ChannelID, TxId: txID, Timestamp: timestamppb.New(at)}),
		SignatureHeader: p.marshal(&commonpb.SignatureHeader{Creator: p.marshal(&msppb.SerializedIdentity{Mspid: "Org1MSP", IdBytes: certificate}), Nonce: []byte(txID)}),
	})
	return &peerpb.SignedProposal{ProposalBytes: p.marshal(&peerpb.Proposal{Header: header, Payload: p.marshal(&peerpb.ChaincodeProposalPayload{Input: in, TransientMap: transient})})}
}

func (p *Peer) marshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		p.T.Fatal(err)
	}
	return b
}

// certificate is the PEM certificate of the client that all proposals come from:
// CN=user1, with the attribute role=broker as Fabric CA writes it. Nobody checks
// its signature and its key was thrown away.
//
//go:embed client.pem
var certificate []byte
