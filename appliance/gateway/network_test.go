package gateway_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	net "strongroom/appliance/endorser/endorsertest"
	"strongroom/appliance/gateway"
	"strongroom/bccsp/bccsptest"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/gatewaypb"
	"strongroom/wire/ordererpb"
	"strongroom/wire/peerpb"
)

// remotes are the other peers of a network, over gRPC.
type remotes []gateway.Endorser

func (r remotes) Endorsers(string) []gateway.Endorser { return append([]gateway.Endorser(nil), r...) }

// start runs a network and a gateway at its first peer. The others are reached
// through change, which may replace an endorser.
func start(t testing.TB, change func(gateway.Endorser) gateway.Endorser, orgs ...string) (*net.Network, gatewaypb.GatewayClient) {
	t.Helper()
	n := net.Start(t, nil, orgs...)
	n.Deploy(t, "kv")
	var others remotes
	for _, p := range n.Peers[1:] {
		e := gateway.Remote(p.MSPID, "peer."+string(p.MSPID)+":7051", peerpb.NewEndorserClient(p.Conn))
		if change != nil {
			e = change(e)
		}
		others = append(others, e)
	}
	p := n.Peers[0]
	g, err := gateway.New(gateway.Config{
		Local:     gateway.Endorser{MSPID: p.MSPID, Address: "local:7051", Process: p.Endorser.ProcessProposal},
		Endorsers: others,
		Channels:  func(id string) (gateway.Channel, bool) { return p.Channel, id == net.ChannelID },
		Orderers:  func(id string) (gateway.Orderers, bool) { return n.Orderer, id == net.ChannelID },
		Access:    p.Guard,
	})
	if err != nil {
		t.Fatal(err)
	}
	address := net.Serve(t, func(s *grpc.Server) { gatewaypb.RegisterGatewayServer(s, g) })
	return n, gatewaypb.NewGatewayClient(net.Dial(t, address))
}

func kv(args ...string) net.Call {
	return net.Call{Channel: net.ChannelID, Chaincode: "kv", Args: net.Args(args...)}
}

// submit takes a proposal through the gateway as a client library does.
func submit(t *testing.T, c gatewaypb.GatewayClient, by *bccsptest.Identity, call net.Call) (txID string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	signed := net.Propose(t, by, call)
	txID = net.TxID(t, signed)
	endorsed, err := c.Endorse(ctx, &gatewaypb.EndorseRequest{TransactionId: txID, ChannelId: net.ChannelID, ProposedTransaction: signed})
	if err != nil {
		t.Fatal(err, status.Convert(err).Details())
	}
	env := net.Sign(t, by, endorsed.GetPreparedTransaction().GetPayload())
	if _, err := c.Submit(ctx, &gatewaypb.SubmitRequest{TransactionId: txID, ChannelId: net.ChannelID, PreparedTransaction: env}); err != nil {
		t.Fatal(err)
	}
	resp, err := c.CommitStatus(ctx, statusRequest(t, by, txID))
	if err != nil {
		t.Fatal(err)
	}
	if resp.GetResult() != peerpb.TxValidationCode_VALID {
		t.Fatalf("transaction %s is %s", txID, resp.GetResult())
	}
	return txID
}

func statusRequest(t *testing.T, by *bccsptest.Identity, txID string) *gatewaypb.SignedCommitStatusRequest {
	t.Helper()
	raw := net.Marshal(t, &gatewaypb.CommitStatusRequest{TransactionId: txID, ChannelId: net.ChannelID, Identity: by.Serialized()})
	sig, err := by.Signer.SignGatewayRequest(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	return &gatewaypb.SignedCommitStatusRequest{Request: raw, Signature: sig}
}

func TestGatewayOverNetwork(t *testing.T) {
	n, c := start(t, nil, "Org1MSP", "Org2MSP", "Org3MSP")
	client := n.Peers[0].Client

	first := submit(t, c, client, kv("put", "a", "1"))
	tx, err := n.Peers[0].Channel.Ledger().Transaction(first)
	if err != nil {
		t.Fatal(err)
	}
	if got := endorsersOf(t, tx.GetTransactionEnvelope()); got != 2 {
		t.Errorf("transaction has %d endorsements, a majority of three needs 2", got)
	}

	n.Await(t, first)
	t.Run("evaluate", func(t *testing.T) {
		resp, err := c.Evaluate(t.Context(), &gatewaypb.EvaluateRequest{ChannelId: net.ChannelID, ProposedTransaction: net.Propose(t, client, kv("get", "a"))})
		if err != nil || string(resp.GetResult().GetPayload()) != "1" {
			t.Errorf("evaluate = %v, %v", resp, err)
		}
		resp, err = c.Evaluate(t.Context(), &gatewaypb.EvaluateRequest{ChannelId: net.ChannelID, ProposedTransaction: net.Propose(t, client, kv("get", "a")), TargetOrganizations: []string{"Org3MSP"}})
		if err != nil || string(resp.GetResult().GetPayload()) != "1" {
			t.Errorf("evaluate at Org3 = %v, %v", resp, err)
		}
	})
	t.Run("chaincode error", func(t *testing.T) {
		_, err := c.Evaluate(t.Context(), &gatewaypb.EvaluateRequest{ChannelId: net.ChannelID, ProposedTransaction: net.Propose(t, client, kv("nix"))})
		wantDetail(t, err, codes.Unknown, "evaluate call to endorser returned error: chaincode response 500, unknown function nix", "local:7051")
		_, err = c.Endorse(t.Context(), &gatewaypb.EndorseRequest{ChannelId: net.ChannelID, ProposedTransaction: net.Propose(t, client, kv("refuse"))})
		wantDetail(t, err, codes.Aborted, "failed to endorse transaction, see attached details for more info", "local:7051")
	})
	t.Run("refused creator", func(t *testing.T) {
		stranger := bccsptest.NewCA(t, n.Token, "Org1MSP").Issue(t, "stranger", "client")
		_, err := c.Evaluate(t.Context(), &gatewaypb.EvaluateRequest{ChannelId: net.ChannelID, ProposedTransaction: net.Propose(t, stranger, kv("get", "a"))})
		wantDetail(t, err, codes.FailedPrecondition, "access denied: channel [testchannel] creator org [Org1MSP]", "local:7051")
		_, err = c.CommitStatus(t.Context(), statusRequest(t, stranger, first))
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("commit status = %v", err)
		}
		forged := statusRequest(t, client, first)
		forged.Signature = statusRequest(t, n.Peers[0].Admin, first).Signature
		if _, err = c.CommitStatus(t.Context(), forged); status.Code(err) != codes.PermissionDenied {
			t.Errorf("commit status with a false signature = %v", err)
		}
	})
	t.Run("organisations of the client's choice", func(t *testing.T) {
		signed := net.Propose(t, client, kv("put", "b", "2"))
		resp, err := c.Endorse(t.Context(), &gatewaypb.EndorseRequest{ChannelId: net.ChannelID, ProposedTransaction: signed, EndorsingOrganizations: []string{"Org2MSP", "Org3MSP", "Org1MSP"}})
		if err != nil {
			t.Fatal(err)
		}
		if got := endorsersOf(t, resp.GetPreparedTransaction()); got != 3 {
			t.Errorf("%d endorsements, want 3", got)
		}
		_, err = c.Endorse(t.Context(), &gatewaypb.EndorseRequest{ChannelId: net.ChannelID, ProposedTransaction: signed, EndorsingOrganizations: []string{"NoMSP"}})
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "NoMSP") {
			t.Errorf("unknown organisation = %v", err)
		}
	})
	t.Run("bad requests", func(t *testing.T) {
		for name, call := range map[string]func() error{
			"endorse nothing":  func() error { _, err := c.Endorse(t.Context(), &gatewaypb.EndorseRequest{}); return err },
			"evaluate nothing": func() error { _, err := c.Evaluate(t.Context(), &gatewaypb.EvaluateRequest{}); return err },
			"submit nothing":   func() error { _, err := c.Submit(t.Context(), &gatewaypb.SubmitRequest{}); return err },
			"submit unsigned": func() error {
				_, err := c.Submit(t.Context(), &gatewaypb.SubmitRequest{PreparedTransaction: &commonpb.Envelope{}})
				return err
			},
			"status of nothing": func() error {
				_, err := c.CommitStatus(t.Context(), &gatewaypb.SignedCommitStatusRequest{})
				return err
			},
			"status of garbage": func() error {
				_, err := c.CommitStatus(t.Context(), &gatewaypb.SignedCommitStatusRequest{Request: []byte{0xff}})
				return err
			},
		} {
			if err := call(); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s: %v, want %s", name, err, codes.InvalidArgument)
			}
		}
		_, err := c.Submit(t.Context(), &gatewaypb.SubmitRequest{ChannelId: net.ChannelID, PreparedTransaction: &commonpb.Envelope{Payload: []byte{0xff}, Signature: []byte{1}}})
		if status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), "received unsuccessful response from orderer: status=BAD_REQUEST") {
			t.Errorf("submit of garbage = %v", err)
		}
	})
	t.Run("events", func(t *testing.T) { testEvents(t, n, c) })
}

func testEvents(t *testing.T, n *net.Network, c gatewaypb.GatewayClient) {
	client := n.Peers[0].Client
	one := submit(t, c, client, kv("event", "first", "p1"))
	submit(t, c, client, kv("put", "c", "3"))
	two := submit(t, c, client, kv("event", "second", "p2"))
	open := func(ctx context.Context, by *bccsptest.Identity, change func(*gatewaypb.ChaincodeEventsRequest)) gatewaypb.Gateway_ChaincodeEventsClient {
		t.Helper()
		req := &gatewaypb.ChaincodeEventsRequest{ChannelId: net.ChannelID, ChaincodeId: "kv", Identity: by.Serialized()}
		change(req)
		raw := net.Marshal(t, req)
		sig, err := by.Signer.SignGatewayRequest(t.Context(), raw)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := c.ChaincodeEvents(ctx, &gatewaypb.SignedChaincodeEventsRequest{Request: raw, Signature: sig})
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	next := func(s gatewaypb.Gateway_ChaincodeEventsClient, txID, payload string) {
		t.Helper()
		resp, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e := resp.GetEvents(); len(e) != 1 || e[0].GetTxId() != txID || string(e[0].GetPayload()) != payload || resp.GetBlockNumber() == 0 {
			t.Fatalf("events = %v, want one of %s", resp, txID)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	fromStart := open(ctx, client, func(r *gatewaypb.ChaincodeEventsRequest) {
		r.StartPosition = &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_Specified{Specified: &ordererpb.SeekSpecified{}}}
	})
	next(fromStart, one, "p1")
	next(fromStart, two, "p2")
	after := open(ctx, client, func(r *gatewaypb.ChaincodeEventsRequest) { r.AfterTransactionId = one })
	next(after, two, "p2")
	three := submit(t, c, client, kv("event", "third", "p3"))
	next(fromStart, three, "p3")
	next(after, three, "p3")

	refused := open(ctx, bccsptest.NewCA(t, n.Token, "Org1MSP").Issue(t, "stranger", "client"), func(*gatewaypb.ChaincodeEventsRequest) {})
	if _, err := refused.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("events for a stranger = %v", err)
	}
	oldest := open(ctx, client, func(r *gatewaypb.ChaincodeEventsRequest) {
		r.StartPosition = &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_Oldest{Oldest: &ordererpb.SeekOldest{}}}
	})
	if _, err := oldest.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("events from the oldest block = %v", err)
	}
	cancel()
	if _, err := fromStart.Recv(); err == nil || err == io.EOF {
		t.Errorf("stream after the client left = %v", err)
	}
}

// TestEndorsersDisagree has a peer that simulates otherwise: the transaction must
// not be assembled, and the client learns where the payloads differ.
func TestEndorsersDisagree(t *testing.T) {
	n, c := start(t, func(e gateway.Endorser) gateway.Endorser {
		honest := e.Process
		e.Process = func(ctx context.Context, p *peerpb.SignedProposal) (*peerpb.ProposalResponse, error) {
			resp, err := honest(ctx, p)
			if err == nil {
				resp.Payload = append(resp.Payload[:len(resp.Payload)-1:len(resp.Payload)-1], '7')
			}
			return resp, err
		}
		return e
	}, "Org1MSP", "Org2MSP")
	_, err := c.Endorse(t.Context(), &gatewaypb.EndorseRequest{ChannelId: net.ChannelID, ProposedTransaction: net.Propose(t, n.Peers[0].Client, kv("put", "a", "1"))})
	wantDetail(t, err, codes.Aborted, "failed to collect enough transaction endorsements, see attached details for more info", "peer.Org2MSP:7051")
	if d := status.Convert(err).Details(); len(d) == 1 {
		if text := d[0].(*gatewaypb.ErrorDetail).GetMessage(); !strings.Contains(text, `ProposalResponsePayloads do not match: chaincode version "1.0" against "1.7"`) {
			t.Errorf("detail = %q", text)
		}
	}
}

func wantDetail(t *testing.T, err error, code codes.Code, text, address string) {
	t.Helper()
	st := status.Convert(err)
	if st.Code() != code || !strings.Contains(st.Message(), text) {
		t.Errorf("status = %s %q, want %s with %q", st.Code(), st.Message(), code, text)
	}
	for _, d := range st.Details() {
		if e, ok := d.(*gatewaypb.ErrorDetail); ok && e.GetAddress() == address && e.GetMspId() != "" && e.GetMessage() != "" {
			return
		}
	}
	t.Errorf("details = %v, want one of %s", st.Details(), address)
}

func endorsersOf(t *testing.T, env *commonpb.Envelope) int {
	t.Helper()
	b, err := wire.ParseBlock(&commonpb.Block{Header: &commonpb.BlockHeader{}, Data: &commonpb.BlockData{Data: [][]byte{net.Marshal(t, env)}}, Metadata: &commonpb.BlockMetadata{}})
	if err != nil {
		t.Fatal(err)
	}
	if b.Txs[0].Endorsed == nil {
		t.Fatalf("transaction does not parse: %v %v", b.Txs[0].HeaderFault, b.Txs[0].BodyFault)
	}
	return len(b.Txs[0].Endorsed.Endorsements)
}
