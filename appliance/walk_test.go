package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strongroom/acl"
	"strongroom/appliance/config"
	"strongroom/appliance/deliver"
	"strongroom/appliance/discovery"
	network "strongroom/appliance/endorser/endorsertest"
	"strongroom/appliance/gateway"
	"strongroom/appliance/operations"
	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
	"strongroom/chaincode"
	"strongroom/channel/configtx"
	"strongroom/ledger/seal"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/wire/commonpb"
	"strongroom/wire/discoverypb"
	"strongroom/wire/gatewaypb"
	"strongroom/wire/ordererpb"
	"strongroom/wire/peerpb"
)

// registered are the services that this package's source registers: a service that is
// added without a request in TestEveryServiceAsks fails it.
func registered(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		source, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\.Register(\w+)Server\(`).FindAllSubmatch(source, -1) {
			names[string(m[1])] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// walk is one server with every service of a peer and an ordering node, made as they
// make it, and a conversation for each method.
type walk struct {
	network *network.Network
	guard   *acl.Guard
	server  *grpc.Server
	conn    *grpc.ClientConn
}

func newWalk(t *testing.T) *walk {
	t.Helper()
	w := &walk{network: network.Start(t, nil, "Org1MSP", "Org2MSP")}
	w.network.Deploy(t, "kv")
	p := w.network.Peers[0]
	w.guard = p.Guard
	health := slog.New(slog.DiscardHandler)
	w.server, _ = newServer(config.Listen{}, insecure.NewCredentials(), w.guard, health)
	remote := w.network.Peers[1]
	g, err := gateway.New(gateway.Config{
		Local:     gateway.Endorser{MSPID: p.MSPID, Address: "local", Process: p.Endorser.ProcessProposal},
		Endorsers: others{gateway.Remote(remote.MSPID, "remote", peerpb.NewEndorserClient(remote.Conn))},
		Channels:  func(id string) (gateway.Channel, bool) { return p.Channel, id == network.ChannelID },
		Orderers:  func(id string) (gateway.Orderers, bool) { return w.network.Orderer, id == network.ChannelID },
		Access:    w.guard,
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := deliver.New(deliver.Config{
		Access: w.guard, Channels: func(id string) (deliver.Channel, bool) { return p.Channel, id == network.ChannelID },
	})
	if err != nil {
		t.Fatal(err)
	}
	told, err := discovery.New(discovery.Config{
		Access: w.guard, LocalMSP: p.Local, Identity: func() *msp.LocalIdentity { return p.Identity }, Address: "local:7051",
		Channels: func() []string { return []string{network.ChannelID} },
		Channel: func(id string) (*discovery.Channel, bool) {
			return &discovery.Channel{Config: p.Channel.Config(), Height: p.Channel.Height()}, id == network.ChannelID
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	host := chaincode.New(chaincode.Config{})
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	peerpb.RegisterEndorserServer(w.server, p.Endorser)
	gatewaypb.RegisterGatewayServer(w.server, g)
	peerpb.RegisterDeliverServer(w.server, d)
	discoverypb.RegisterDiscoveryServer(w.server, told)
	peerpb.RegisterChaincodeSupportServer(w.server, host)
	ordererpb.RegisterAtomicBroadcastServer(w.server, w.ordering(t))
	w.serve(t)
	return w
}

// ordering is an ordering service of a channel "ordered", under the same guard.
func (w *walk) ordering(t *testing.T) ordererpb.AtomicBroadcastServer {
	t.Helper()
	p, ca := w.network.Peers[0], bccsptest.NewCA(t, w.network.Token, "OrdererMSP")
	genesis, err := configtx.BuildGenesis(&configtx.Description{
		Channel: "ordered",
		Organizations: []configtx.OrganizationDescription{
			{Name: "OrdererOrg", MSPID: "OrdererMSP", MSPConfig: ca.MSPConfig(), OrdererEndpoints: []string{"orderer.invalid:7050"}},
			{Name: "Org1", MSPID: p.MSPID, MSPConfig: p.CA.MSPConfig()},
		},
		Orderer:     configtx.OrdererDescription{Organizations: []string{"OrdererOrg"}},
		Application: configtx.ApplicationDescription{Organizations: []string{"Org1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	issued := ca.Issue(t, "orderer", "orderer")
	identity, err := msp.LoadLocalIdentity("OrdererMSP", issued.CertPEM, issued.Signer)
	if err != nil {
		t.Fatal(err)
	}
	keyring, err := seal.OpenKeyring(t.Context(), t.TempDir(), w.network.Token)
	if err != nil {
		t.Fatal(err)
	}
	group, err := pkcs11.NewGroup(w.network.Token)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{log: slog.New(slog.DiscardHandler), metrics: operations.NewMetrics(), identity: identity, engine: w.network.Deps.Engine,
		tokens: &Tokens{Group: group, Own: w.network.Token, Keeper: w.network.Token}}
	service, err := n.newOrdering(t.Context(), t.TempDir(), keyring, w.guard, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := service.Close(); err != nil {
			t.Error(err)
		}
		if err := keyring.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := service.Join(context.Background(), genesis); err != nil {
		t.Fatal(err)
	}
	return service
}

func (w *walk) serve(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.server.Serve(listener) }()
	t.Cleanup(func() {
		w.server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	w.conn = network.Dial(t, listener.Addr().String())
}

// others are endorsers of every channel.
type others []gateway.Endorser

func (o others) Endorsers(string) []gateway.Endorser { return slices.Clone(o) }

// rules puts Rego in force for some layers, as a bundle would.
func (w *walk) rules(t *testing.T, layers map[acl.Layer]string) {
	t.Helper()
	programs := map[acl.Layer]*policy.Program{}
	for l, rego := range layers {
		p, err := policy.ParseProgram(t.Context(), l.Program(0), map[string][]byte{"rules.rego": []byte("package " + l.Package() + "\n\ndefault allow := false\n\n" + rego + "\n")})
		if err != nil {
			t.Fatal(err)
		}
		programs[l] = p
	}
	if err := w.guard.Replace(t.Context(), programs); err != nil {
		t.Fatal(err)
	}
}

// methods are all methods of the server, in full.
func (w *walk) methods() []string {
	var names []string
	for service, info := range w.server.GetServiceInfo() {
		for _, m := range info.Methods {
			names = append(names, "/"+service+"/"+m.Name)
		}
	}
	slices.Sort(names)
	return names
}

// TestEveryMethodAsksConnection calls each method of each service with an empty message:
// the layer connection refuses it, and a call that it admits reaches the service.
func TestEveryMethodAsksConnection(t *testing.T) {
	w := newWalk(t)
	call := func(method string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		stream, err := w.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
		if err != nil {
			return err
		}
		_ = stream.SendMsg(&emptypb.Empty{}) // whether the server read it shows in the answer
		_ = stream.CloseSend()
		return stream.RecvMsg(&emptypb.Empty{})
	}
	w.rules(t, map[acl.Layer]string{acl.Connection: `allow if input.remote.address == "192.0.2.1"`})
	methods := w.methods()
	if len(methods) < 12 {
		t.Fatalf("methods: %v", methods)
	}
	for _, m := range methods {
		if err := call(m); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "access denied: decision ") {
			t.Errorf("%s: %v", m, err)
		}
	}
	for _, m := range methods {
		service, name, _ := strings.Cut(m[1:], "/")
		w.rules(t, map[acl.Layer]string{acl.Connection: fmt.Sprintf("allow if {\n\tinput.service == %q\n\tinput.method == %q\n\tinput.remote.address == \"127.0.0.1\"\n}", service, name)})
		if err := call(m); err != nil && strings.Contains(err.Error(), "access denied: decision ") {
			t.Errorf("%s is refused though it alone is allowed: %v", m, err)
		}
	}
}

// TestEveryServiceAsks holds a conversation with each method of each service: it works
// while every layer allows it, and does not once one of the layers that it must ask
// denies. What is only asked about its connection is named here.
func TestEveryServiceAsks(t *testing.T) {
	w := newWalk(t)
	ctx := t.Context()
	client := w.network.Peers[0].Client
	kv := func(args ...string) network.Call {
		return network.Call{Channel: network.ChannelID, Chaincode: "kv", Args: network.Args(args...)}
	}
	g := gatewaypb.NewGatewayClient(w.conn)
	process := func() error {
		resp, err := peerpb.NewEndorserClient(w.conn).ProcessProposal(ctx, network.Propose(t, client, kv("put", "a", "1")))
		if err == nil && resp.GetResponse().GetStatus() != 200 {
			return fmt.Errorf("%d %s", resp.GetResponse().GetStatus(), resp.GetResponse().GetMessage())
		}
		return err
	}
	evaluate := func(orgs ...string) func() error {
		return func() error {
			_, err := g.Evaluate(ctx, &gatewaypb.EvaluateRequest{ChannelId: network.ChannelID, ProposedTransaction: network.Propose(t, client, kv("get", "a")), TargetOrganizations: orgs})
			return err
		}
	}
	endorse := func(orgs ...string) func() error {
		return func() error {
			_, err := g.Endorse(ctx, &gatewaypb.EndorseRequest{ChannelId: network.ChannelID, ProposedTransaction: network.Propose(t, client, kv("put", "b", "1")), EndorsingOrganizations: orgs})
			if err != nil {
				return fmt.Errorf("%w: %v", err, status.Convert(err).Details())
			}
			return nil
		}
	}
	prepared, err := g.Endorse(ctx, &gatewaypb.EndorseRequest{ChannelId: network.ChannelID, ProposedTransaction: network.Propose(t, client, kv("put", "c", "1"))})
	if err != nil {
		t.Fatal(err)
	}
	transaction := network.Sign(t, client, prepared.GetPreparedTransaction().GetPayload())
	conversations := map[string][]func() error{
		"/protos.Endorser/ProcessProposal": {process},
		"/gateway.Gateway/Evaluate":        {evaluate(), evaluate("Org2MSP")},
		"/gateway.Gateway/Endorse":         {endorse(), endorse("Org2MSP")},
		"/gateway.Gateway/Submit": {func() error {
			_, err := g.Submit(ctx, &gatewaypb.SubmitRequest{ChannelId: network.ChannelID, PreparedTransaction: transaction})
			return err
		}},
		"/gateway.Gateway/CommitStatus": {func() error {
			raw := network.Marshal(t, &gatewaypb.CommitStatusRequest{ChannelId: network.ChannelID, TransactionId: w.lastTx(t), Identity: client.Serialized()})
			_, err := g.CommitStatus(ctx, &gatewaypb.SignedCommitStatusRequest{Request: raw, Signature: signRequest(t, client, raw)})
			return err
		}},
		"/gateway.Gateway/ChaincodeEvents": {func() error {
			ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			defer cancel()
			raw := network.Marshal(t, &gatewaypb.ChaincodeEventsRequest{ChannelId: network.ChannelID, ChaincodeId: "kv", Identity: client.Serialized()})
			stream, err := g.ChaincodeEvents(ctx, &gatewaypb.SignedChaincodeEventsRequest{Request: raw, Signature: signRequest(t, client, raw)})
			if err == nil {
				_, err = stream.Recv()
			}
			if status.Code(err) == codes.DeadlineExceeded {
				return nil // it was served, and nothing happened
			}
			return err
		}},
		"/discovery.Discovery/Discover": {func() error {
			raw := network.Marshal(t, &discoverypb.Request{Authentication: &discoverypb.AuthInfo{ClientIdentity: client.Serialized()},
				Queries: []*discoverypb.Query{{Channel: network.ChannelID, Query: &discoverypb.Query_ConfigQuery{ConfigQuery: &discoverypb.ConfigQuery{}}}}})
			resp, err := discoverypb.NewDiscoveryClient(w.conn).Discover(ctx, &discoverypb.SignedRequest{Payload: raw, Signature: signRequest(t, client, raw)})
			if err == nil && resp.GetResults()[0].GetError() != nil {
				err = errors.New(resp.GetResults()[0].GetError().GetContent())
			}
			return err
		}},
		"/protos.Deliver/Deliver": {func() error {
			stream, err := peerpb.NewDeliverClient(w.conn).Deliver(ctx)
			return read(stream, err, seekOldest(t, client, network.ChannelID))
		}},
		"/protos.Deliver/DeliverFiltered": {func() error {
			stream, err := peerpb.NewDeliverClient(w.conn).DeliverFiltered(ctx)
			return read(stream, err, seekOldest(t, client, network.ChannelID))
		}},
		"/orderer.AtomicBroadcast/Deliver": {func() error {
			stream, err := ordererpb.NewAtomicBroadcastClient(w.conn).Deliver(ctx)
			return readOrderer(stream, err, seekOldest(t, client, "ordered"))
		}},
		"/orderer.AtomicBroadcast/Broadcast": {func() error {
			stream, err := ordererpb.NewAtomicBroadcastClient(w.conn).Broadcast(ctx)
			if err == nil {
				err = stream.Send(message(t, client, "ordered", commonpb.HeaderType_MESSAGE, []byte("x")))
			}
			if err != nil {
				return err
			}
			resp, err := stream.Recv()
			if err == nil && resp.GetStatus() != commonpb.Status_SUCCESS {
				return fmt.Errorf("%s %s", resp.GetStatus(), resp.GetInfo())
			}
			return err
		}},
	}
	for _, m := range []string{
		"/protos.Deliver/DeliverWithPrivateData", // refused to everybody
		"/protos.ChaincodeSupport/Register",      // chaincode that dials in, in development mode: it has no identity
		"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List", "/grpc.health.v1.Health/Watch",
	} {
		conversations[m] = nil
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(conversations)), w.methods()); diff != "" {
		t.Fatalf("a method has no conversation here (-conversations +methods):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"AtomicBroadcast", "ChaincodeSupport", "Deliver", "Discovery", "Endorser", "Gateway", "Health"}, registered(t)); diff != "" {
		t.Fatalf("give the service to newWalk, and each of its methods a conversation:\n%s", diff)
	}
	must := map[acl.Layer]func(method string) bool{
		acl.Appliance: func(string) bool { return true },
		acl.Channel:   func(string) bool { return true },
		acl.Ordering:  func(m string) bool { return strings.HasPrefix(m, "/orderer.") },
		acl.Chaincode: func(m string) bool { return m == "/protos.Endorser/ProcessProposal" || m == "/gateway.Gateway/Submit" },
		acl.Function:  func(m string) bool { return m == "/protos.Endorser/ProcessProposal" },
	}
	for _, relayed := range []string{"/gateway.Gateway/Evaluate", "/gateway.Gateway/Endorse"} {
		for _, l := range []acl.Layer{acl.Chaincode, acl.Function} {
			other := must[l]
			must[l] = func(m string) bool { return m == relayed || other(m) }
		}
	}
	everything := map[acl.Layer]string{}
	for _, l := range acl.Layers()[1:] {
		everything[l] = "allow if input.caller.mspid == \"Org1MSP\""
	}
	for method, talks := range conversations {
		for i, talk := range talks {
			w.rules(t, everything)
			if err := talk(); err != nil {
				t.Errorf("%s (%d): with all layers open: %v", method, i, err)
				continue
			}
			for l, asked := range must {
				rules := maps.Clone(everything)
				rules[l] = "allow if input.caller.mspid == \"Org9MSP\""
				w.rules(t, rules)
				if err := talk(); (err != nil) != asked(method) {
					t.Errorf("%s (%d): with the layer %s closed: %v; it must ask it: %t", method, i, l, err, asked(method))
				} else if err != nil && !strings.Contains(strings.ToLower(err.Error()), "denied") && !strings.Contains(err.Error(), "FORBIDDEN") {
					t.Errorf("%s (%d): with the layer %s closed it failed, but not for that: %v", method, i, l, err)
				}
			}
		}
	}
}

// lastTx is a transaction that is committed.
func (w *walk) lastTx(t *testing.T) string {
	t.Helper()
	l := w.network.Peers[0].Channel.Ledger()
	for b, err := range l.ParsedBlocks(t.Context(), l.Height()-1) {
		if err != nil {
			t.Fatal(err)
		}
		return b.Txs[0].TxID()
	}
	t.Fatal("no block")
	return ""
}

func signRequest(t *testing.T, by *bccsptest.Identity, raw []byte) []byte {
	t.Helper()
	signature, err := by.Signer.SignGatewayRequest(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

// message is a signed envelope of a type.
func message(t *testing.T, by *bccsptest.Identity, channelID string, kind commonpb.HeaderType, data []byte) *commonpb.Envelope {
	t.Helper()
	return network.Sign(t, by, network.Marshal(t, &commonpb.Payload{
		Header: &commonpb.Header{
			ChannelHeader:   network.Marshal(t, &commonpb.ChannelHeader{Type: int32(kind), ChannelId: channelID, Timestamp: timestamppb.Now()}),
			SignatureHeader: network.Marshal(t, &commonpb.SignatureHeader{Creator: by.Serialized(), Nonce: []byte("nonce")}),
		},
		Data: data,
	}))
}

func seekOldest(t *testing.T, by *bccsptest.Identity, channelID string) *commonpb.Envelope {
	oldest := &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_Oldest{Oldest: &ordererpb.SeekOldest{}}}
	return message(t, by, channelID, commonpb.HeaderType_DELIVER_SEEK_INFO, network.Marshal(t, &ordererpb.SeekInfo{Start: oldest, Stop: oldest}))
}

func read(s grpc.BidiStreamingClient[commonpb.Envelope, peerpb.DeliverResponse], err error, seek *commonpb.Envelope) error {
	if err == nil {
		err = s.Send(seek)
	}
	if err != nil {
		return err
	}
	resp, err := s.Recv()
	if err == nil && resp.GetStatus() != commonpb.Status_UNKNOWN {
		return fmt.Errorf("%s", resp.GetStatus())
	}
	return err
}

func readOrderer(s grpc.BidiStreamingClient[commonpb.Envelope, ordererpb.DeliverResponse], err error, seek *commonpb.Envelope) error {
	if err == nil {
		err = s.Send(seek)
	}
	if err != nil {
		return err
	}
	resp, err := s.Recv()
	if err == nil && resp.GetBlock() == nil {
		return fmt.Errorf("%s", resp.GetStatus())
	}
	return err
}
