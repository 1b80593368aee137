package discovery_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	stdnet "net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"strongroom/appliance/discovery"
	"strongroom/appliance/endorser"
	net "strongroom/appliance/endorser/endorsertest"
	"strongroom/appliance/gateway"
	"strongroom/appliance/lifecycle"
	"strongroom/appliance/peers"
	"strongroom/appliance/qscc"
	"strongroom/bccsp/bccsptest"
	"strongroom/channel/configtx"
	"strongroom/msp"
	"strongroom/ordering/deliver"
	"strongroom/wire/commonpb"
	"strongroom/wire/discoverypb"
	"strongroom/wire/gatewaypb"
	"strongroom/wire/gossippb"
	"strongroom/wire/msppb"
	"strongroom/wire/peerpb"
)

// site is a network with a directory, a gateway and a discovery service at its first
// peer, which knows the others as anchor peers alone.
type site struct {
	*net.Network
	anchors   map[msp.ID][]configtx.AnchorPeer
	directory *peers.Directory
	discovery discoverypb.DiscoveryClient
	gateway   gatewaypb.GatewayClient
}

func start(t *testing.T, orgs ...string) *site {
	t.Helper()
	s := &site{anchors: map[msp.ID][]configtx.AnchorPeer{}}
	s.Network = net.Start(t, func(p *net.Peer, cfg *endorser.Config) {
		q, err := qscc.New(qscc.Config{Access: p.Guard, Channel: func(id string) (qscc.Ledger, *configtx.Config, bool) {
			return p.Channel.Ledger(), p.Channel.Config(), id == net.ChannelID
		}})
		if err != nil {
			t.Fatal(err)
		}
		cfg.System = append(cfg.System, q)
	}, orgs...)
	s.Deploy(t, "kv")
	for _, p := range s.Peers {
		s.anchor(t, p.MSPID, p.Conn.Target())
	}
	first := s.Peers[0]
	var err error
	s.directory, err = peers.New(peers.Config{
		Identity: func() *msp.LocalIdentity { return first.Identity },
		Channels: func() map[string]*configtx.Config { return map[string]*configtx.Config{net.ChannelID: s.config()} },
		Dial: func(address string, _ [][]byte) (peers.Connection, error) {
			return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		},
		Timeout: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.directory.Close(); err != nil {
			t.Error(err)
		}
	})
	service, err := discovery.New(discovery.Config{
		Access: first.Guard, LocalMSP: first.Local, Identity: func() *msp.LocalIdentity { return first.Identity }, Address: "first.example:7051",
		Channels: func() []string { return []string{net.ChannelID} },
		Channel: func(id string) (*discovery.Channel, bool) {
			return &discovery.Channel{
				Config: s.config(), Height: first.Channel.Ledger().Height(),
				Peers:      func() []*peers.Peer { return s.directory.Peers(id) },
				Chaincodes: func() ([]lifecycle.Chaincode, error) { return first.Lifecycle.Chaincodes(id) },
				Layouts: func(interest *peerpb.ChaincodeInterest, has func(msp.ID) bool) ([]discovery.Layout, error) {
					return layouts(first, interest, has)
				},
			}, id == net.ChannelID
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(gateway.Config{
		Local:     gateway.Endorser{MSPID: first.MSPID, Address: "local", Process: first.Endorser.ProcessProposal},
		Endorsers: s,
		Channels:  func(id string) (gateway.Channel, bool) { return first.Channel, id == net.ChannelID },
		Orderers:  func(id string) (gateway.Orderers, bool) { return s.Orderer, id == net.ChannelID },
		Access:    first.Guard,
	})
	if err != nil {
		t.Fatal(err)
	}
	conn := net.Dial(t, net.Serve(t, func(r *grpc.Server) {
		discoverypb.RegisterDiscoveryServer(r, service)
		gatewaypb.RegisterGatewayServer(r, g)
	}))
	s.discovery, s.gateway = discoverypb.NewDiscoveryClient(conn), gatewaypb.NewGatewayClient(conn)
	return s
}

func layouts(p *net.Peer, interest *peerpb.ChaincodeInterest, has func(msp.ID) bool) ([]discovery.Layout, error) {
	found, err := gateway.Layouts(p.Channel, interest, has)
	out := make([]discovery.Layout, len(found))
	for i, l := range found {
		out[i] = discovery.Layout(l)
	}
	return out, err
}

// Endorsers gives the gateway what the directory knows.
func (s *site) Endorsers(channelID string) []gateway.Endorser {
	var out []gateway.Endorser
	for _, p := range s.directory.Peers(channelID) {
		out = append(out, gateway.Remote(p.MSPID, p.Address, p.Client))
	}
	return out
}

func (s *site) anchor(t *testing.T, org msp.ID, address string) {
	t.Helper()
	host, digits, err := stdnet.SplitHostPort(strings.TrimPrefix(address, "dns:///"))
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(digits)
	if err != nil {
		t.Fatal(err)
	}
	s.anchors[org] = append(s.anchors[org], configtx.AnchorPeer{Host: host, Port: int32(port)})
}

// config is the channel's configuration with the anchor peers, whose ports were not
// known when the channel was made.
func (s *site) config() *configtx.Config {
	c := *s.Peers[0].Channel.Config()
	c.Organizations = slices.Clone(c.Organizations)
	for i := range c.Organizations {
		c.Organizations[i].AnchorPeers = s.anchors[c.Organizations[i].MSPID]
	}
	return &c
}

// ask signs a request and returns its results.
func (s *site) ask(t *testing.T, by *bccsptest.Identity, queries ...*discoverypb.Query) []*discoverypb.QueryResult {
	t.Helper()
	payload := net.Marshal(t, &discoverypb.Request{Authentication: &discoverypb.AuthInfo{ClientIdentity: by.Serialized()}, Queries: queries})
	signature, err := by.Signer.SignGatewayRequest(t.Context(), payload) // a signature over a request's bytes, as here
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.discovery.Discover(t.Context(), &discoverypb.SignedRequest{Payload: payload, Signature: signature})
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.GetResults()) != len(queries) {
		t.Fatalf("%d results for %d queries", len(resp.GetResults()), len(queries))
	}
	return resp.GetResults()
}

func peersQuery(chaincodes ...string) *discoverypb.Query {
	q := &discoverypb.PeerMembershipQuery{}
	if len(chaincodes) > 0 {
		q.Filter = interest(chaincodes...)
	}
	return &discoverypb.Query{Channel: net.ChannelID, Query: &discoverypb.Query_PeerQuery{PeerQuery: q}}
}

func interest(chaincodes ...string) *peerpb.ChaincodeInterest {
	i := &peerpb.ChaincodeInterest{}
	for _, name := range chaincodes {
		i.Chaincodes = append(i.Chaincodes, &peerpb.ChaincodeCall{Name: name})
	}
	return i
}

func endorsersQuery(interests ...*peerpb.ChaincodeInterest) *discoverypb.Query {
	return &discoverypb.Query{Channel: net.ChannelID, Query: &discoverypb.Query_CcQuery{CcQuery: &discoverypb.ChaincodeQuery{Interests: interests}}}
}

var (
	configQuery = &discoverypb.Query{Channel: net.ChannelID, Query: &discoverypb.Query_ConfigQuery{ConfigQuery: &discoverypb.ConfigQuery{}}}
	localQuery  = &discoverypb.Query{Query: &discoverypb.Query_LocalPeers{LocalPeers: &discoverypb.LocalPeerQuery{}}}
)

// shown is a peer of a result in one line, as a client reads it.
func shown(t *testing.T, p *discoverypb.Peer) string {
	t.Helper()
	id, alive, state := &msppb.SerializedIdentity{}, &gossippb.GossipMessage{}, &gossippb.GossipMessage{}
	for into, b := range map[proto.Message][]byte{id: p.GetIdentity(), alive: p.GetMembershipInfo().GetPayload(), state: p.GetStateInfo().GetPayload()} {
		if err := proto.Unmarshal(b, into); err != nil {
			t.Fatal(err)
		}
	}
	if alive.GetAliveMsg().GetTimestamp() == nil || len(alive.GetAliveMsg().GetMembership().GetPkiId()) != 32 {
		t.Errorf("alive message is %v", alive)
	}
	out := id.GetMspid() + " " + alive.GetAliveMsg().GetMembership().GetEndpoint()
	if p.GetStateInfo() == nil {
		return out
	}
	out += fmt.Sprintf(" height %d", state.GetStateInfo().GetProperties().GetLedgerHeight())
	for _, c := range state.GetStateInfo().GetProperties().GetChaincodes() {
		out += fmt.Sprintf(" %s %s", c.GetName(), c.GetVersion())
	}
	return out
}

func members(t *testing.T, r *discoverypb.QueryResult) []string {
	t.Helper()
	if r.GetMembers() == nil {
		t.Fatalf("result is %v", r)
	}
	var out []string
	for org, list := range r.GetMembers().GetPeersByOrg() {
		for _, p := range list.GetPeers() {
			line := shown(t, p)
			if !strings.HasPrefix(line, org+" ") {
				t.Errorf("%s stands under %s", line, org)
			}
			out = append(out, line)
		}
	}
	slices.Sort(out)
	return out
}

func TestDiscovery(t *testing.T) {
	s := start(t, "Org1MSP", "Org2MSP", "Org3MSP")
	s.anchor(t, "Org3MSP", s.Peers[1].Conn.Target()+"0") // nobody is there
	client, admin := s.Peers[0].Client, s.Peers[0].Admin
	height := s.Peers[0].Channel.Ledger().Height()
	line := func(i int, address string) string {
		return fmt.Sprintf("%s %s height %d kv 1.0", s.Peers[i].MSPID, address, height)
	}
	address := func(i int) string {
		a := s.anchors[s.Peers[i].MSPID][0]
		return fmt.Sprintf("%s:%d", a.Host, a.Port)
	}

	// Nobody was asked yet: this peer knows itself alone.
	if diff := cmp.Diff([]string{line(0, "first.example:7051")}, members(t, s.ask(t, client, peersQuery())[0])); diff != "" {
		t.Errorf("peers at first (-want +got):\n%s", diff)
	}
	s.directory.Refresh(t.Context())
	all := []string{line(0, "first.example:7051"), line(1, address(1)), line(2, address(2))}
	for _, q := range []*discoverypb.Query{peersQuery(), peersQuery("kv")} {
		if diff := cmp.Diff(all, members(t, s.ask(t, client, q)[0])); diff != "" {
			t.Errorf("peers (-want +got):\n%s", diff)
		}
	}
	local := []string{"Org1MSP first.example:7051", "Org2MSP " + address(1), "Org3MSP " + address(2)}
	if diff := cmp.Diff(local, members(t, s.ask(t, admin, localQuery)[0])); diff != "" {
		t.Errorf("local peers (-want +got):\n%s", diff)
	}

	config := s.ask(t, client, configQuery)[0].GetConfigResult()
	if got := config.GetOrderers()["OrdererMSP"].GetEndpoint(); len(got) != 1 || got[0].GetHost() != "orderer.invalid" || got[0].GetPort() != 7050 {
		t.Errorf("orderers are %v", config.GetOrderers())
	}
	for _, id := range []string{"Org1MSP", "Org2MSP", "Org3MSP", "OrdererMSP"} {
		if m := config.GetMsps()[id]; m.GetName() != id || len(m.GetRootCerts()) != 1 {
			t.Errorf("MSP %s is %v", id, m)
		}
	}

	results := s.ask(t, client, endorsersQuery(interest("kv"), interest("_lifecycle")), endorsersQuery(interest("none")), peersQuery("none"), configQuery)
	for i, d := range results[0].GetCcQueryRes().GetContent() {
		if d.GetChaincode() != []string{"kv", "_lifecycle"}[i] || len(d.GetLayouts()) != 3 || len(d.GetEndorsersByGroups()) != 3 {
			t.Errorf("descriptor is %v", d)
		}
		for _, l := range d.GetLayouts() { // two of three
			for group, n := range l.GetQuantitiesByGroup() {
				if n != 1 || len(d.GetEndorsersByGroups()[group].GetPeers()) != 1 {
					t.Errorf("layout %v: group %s has %v", l, group, d.GetEndorsersByGroups()[group])
				}
			}
			if len(l.GetQuantitiesByGroup()) != 2 {
				t.Errorf("layout is %v", l)
			}
		}
	}
	if len(results[0].GetCcQueryRes().GetContent()) != 2 {
		t.Errorf("endorsers: %v", results[0])
	}
	for i, want := range map[int]string{
		1: "failed constructing descriptor for [none]: chaincode none isn't defined on the channel",
		2: "No metadata was found for chaincode none in channel testchannel",
	} {
		if got := results[i].GetError().GetContent(); got != want {
			t.Errorf("result %d is %q, want %q", i, got, want)
		}
	}
	if results[3].GetConfigResult() == nil {
		t.Error("a query after one that fails is not answered")
	}
}

func TestDiscoveryRefuses(t *testing.T) {
	s := start(t, "Org1MSP")
	p := s.Peers[0]
	peerIdentity := &bccsptest.Identity{MSPID: string(p.MSPID), CertPEM: certificate(t, p.Identity.Serialized), Signer: p.Identity.Signer}
	stranger := bccsptest.NewCA(t, s.Token, "Org1MSP").Issue(t, "stranger", "client")
	elsewhere := &discoverypb.Query{Channel: "other", Query: configQuery.Query}
	nowhere := &discoverypb.Query{Query: configQuery.Query}
	localOfChannel := &discoverypb.Query{Channel: net.ChannelID, Query: localQuery.Query}
	for _, test := range []struct {
		name  string
		by    *bccsptest.Identity
		query *discoverypb.Query
		want  string
	}{
		{"a peer is no writer", peerIdentity, configQuery, "access denied"},
		{"another CA", stranger, configQuery, "access denied"},
		{"local peers for a client", p.Client, localQuery, "access denied"},
		{"a channel that is not joined", p.Client, elsewhere, "access denied"},
		{"no query", p.Client, &discoverypb.Query{Channel: net.ChannelID}, "unknown or missing request type"},
		{"configuration of no channel", p.Admin, nowhere, "unknown or missing request type"},
		{"local peers of a channel", p.Admin, localOfChannel, "unknown or missing request type"},
		{"no interest", p.Client, endorsersQuery(), "chaincode query must have at least one chaincode interest"},
		{"an empty interest", p.Client, endorsersQuery(interest()), "chaincode interest must contain at least one chaincode"},
		{"no name", p.Client, endorsersQuery(interest("")), "chaincode name in interest cannot be empty"},
	} {
		if got := s.ask(t, test.by, test.query)[0].GetError().GetContent(); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	payload := net.Marshal(t, &discoverypb.Request{Authentication: &discoverypb.AuthInfo{ClientIdentity: p.Client.Serialized()}, Queries: []*discoverypb.Query{configQuery}})
	signature, err := p.Client.Signer.SignGatewayRequest(t.Context(), payload)
	if err != nil {
		t.Fatal(err)
	}
	forged := slices.Clone(signature)
	forged[len(forged)-1] ^= 1
	resp, err := s.discovery.Discover(t.Context(), &discoverypb.SignedRequest{Payload: payload, Signature: forged})
	if err != nil || resp.GetResults()[0].GetError().GetContent() != "access denied" {
		t.Errorf("a false signature gives %v, %v", resp, err)
	}
	many := &discoverypb.Request{Authentication: &discoverypb.AuthInfo{ClientIdentity: p.Client.Serialized()}, Queries: slices.Repeat([]*discoverypb.Query{configQuery}, 65)}
	for want, payload := range map[string][]byte{
		"failed parsing request":                       {0xff},
		"access denied, no authentication info":        {},
		"access denied, client identity wasn't":        net.Marshal(t, &discoverypb.Request{Authentication: &discoverypb.AuthInfo{}}),
		"the request has 65 queries: ask 64 at a time": net.Marshal(t, many),
	} {
		if _, err := s.discovery.Discover(t.Context(), &discoverypb.SignedRequest{Payload: payload, Signature: signature}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %q", err, want)
		}
	}
}

// TestBinding sends requests over connections that showed a TLS certificate, or none: a
// request counts on the connection that it was made for alone.
func TestBinding(t *testing.T) {
	s := start(t, "Org1MSP")
	p := s.Peers[0]
	service, err := discovery.New(discovery.Config{
		Access: p.Guard, LocalMSP: p.Local, Identity: func() *msp.LocalIdentity { return p.Identity }, TLS: true,
		Channels: func() []string { return nil }, Channel: func(string) (*discovery.Channel, bool) { return nil, false },
	})
	if err != nil {
		t.Fatal(err)
	}
	mine, other := p.Client.Certificate, p.Admin.Certificate
	over := func(shown ...*x509.Certificate) context.Context {
		return peer.NewContext(t.Context(), &peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: shown}}})
	}
	sum := sha256.Sum256(mine.Raw)
	payload := net.Marshal(t, &discoverypb.Request{Authentication: &discoverypb.AuthInfo{ClientIdentity: p.Client.Serialized(), ClientTlsCertHash: sum[:]}})
	for _, test := range []struct {
		ctx  context.Context
		want string
	}{
		{over(mine), ""},
		{over(other), "doesn't match"},
		{over(), "didn't send a TLS certificate"},
		{t.Context(), "didn't send a TLS certificate"},
	} {
		_, err := service.Discover(test.ctx, &discoverypb.SignedRequest{Payload: payload})
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("error is %v, want %q", err, test.want)
		}
	}
	// A certificate that nobody verified binds, and is nobody's name for the guard.
	if hash := deliver.PeerCertificateHash(over(mine)); hash != nil {
		t.Errorf("the guard is told of %x", hash)
	}
}

func certificate(t *testing.T, serialized []byte) []byte {
	t.Helper()
	id := &msppb.SerializedIdentity{}
	if err := proto.Unmarshal(serialized, id); err != nil {
		t.Fatal(err)
	}
	return id.GetIdBytes()
}

// TestGatewayFindsEndorsers has a gateway that knows the other organisations from the
// channel's configuration alone endorse there, and turn to others when they fail.
func TestGatewayFindsEndorsers(t *testing.T) {
	s := start(t, "Org1MSP", "Org2MSP", "Org3MSP")
	endorse := func() (*gatewaypb.EndorseResponse, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		signed := net.Propose(t, s.Peers[0].Client, net.Call{Channel: net.ChannelID, Chaincode: "kv", Args: net.Args("put", "a", "1")})
		return s.gateway.Endorse(ctx, &gatewaypb.EndorseRequest{ChannelId: net.ChannelID, ProposedTransaction: signed})
	}
	endorsers := func(r *gatewaypb.EndorseResponse) []string {
		payload, tx, action := &commonpb.Payload{}, &peerpb.Transaction{}, &peerpb.ChaincodeActionPayload{}
		if err := proto.Unmarshal(r.GetPreparedTransaction().GetPayload(), payload); err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(payload.GetData(), tx); err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(tx.GetActions()[0].GetPayload(), action); err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, e := range action.GetAction().GetEndorsements() {
			id := &msppb.SerializedIdentity{}
			if err := proto.Unmarshal(e.GetEndorser(), id); err != nil {
				t.Fatal(err)
			}
			out = append(out, id.GetMspid())
		}
		slices.Sort(out)
		return out
	}
	r, err := endorse()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"Org1MSP", "Org2MSP"}, endorsers(r)); diff != "" {
		t.Errorf("endorsers (-want +got):\n%s", diff)
	}
	// Org2's only peer is gone: Org3 stands in, before and after the directory knows.
	s.anchors["Org2MSP"] = nil
	s.anchor(t, "Org2MSP", "127.0.0.1:1")
	s.directory.Refresh(t.Context())
	for _, p := range s.directory.Peers(net.ChannelID) {
		if (p.Failure == nil) != (p.MSPID == "Org3MSP") {
			t.Errorf("%s at %s: %v", p.MSPID, p.Address, p.Failure)
		}
	}
	if r, err = endorse(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"Org1MSP", "Org3MSP"}, endorsers(r)); diff != "" {
		t.Errorf("endorsers without Org2 (-want +got):\n%s", diff)
	}
	s.anchors["Org3MSP"] = nil
	s.directory.Refresh(t.Context())
	if r, err = endorse(); err == nil {
		t.Errorf("endorsed by %v without a peer of Org2 or Org3", endorsers(r))
	}
}

// TestDirectoryBelievesNobody has peers answer for others: one of Org2 at an address of
// Org3, and one that repeats an old answer.
func TestDirectoryBelievesNobody(t *testing.T) {
	s := start(t, "Org1MSP", "Org2MSP", "Org3MSP")
	s.anchors["Org3MSP"] = s.anchors["Org2MSP"]
	s.anchors["Org2MSP"] = nil
	replay := &repeating{inner: peerpb.NewEndorserClient(s.Peers[1].Conn)}
	s.anchor(t, "Org2MSP", net.Serve(t, func(r *grpc.Server) { peerpb.RegisterEndorserServer(r, replay) }))
	s.directory.Refresh(t.Context())
	s.directory.Refresh(t.Context())
	want := map[msp.ID]string{
		"Org2MSP": "the answer is to another question",
		"Org3MSP": "the peer is of Org2MSP: the configuration says Org3MSP",
	}
	for _, p := range s.directory.Peers(net.ChannelID) {
		if p.Failure == nil || p.Failure.Error() != want[p.MSPID] {
			t.Errorf("%s: %v, want %q", p.MSPID, p.Failure, want[p.MSPID])
		}
	}
	if got := members(t, s.ask(t, s.Peers[0].Client, peersQuery())[0]); len(got) != 1 {
		t.Errorf("peers are %v", got)
	}
}

// repeating answers every proposal as the first.
type repeating struct {
	peerpb.UnimplementedEndorserServer
	inner peerpb.EndorserClient
	first *peerpb.ProposalResponse
}

func (r *repeating) ProcessProposal(ctx context.Context, p *peerpb.SignedProposal) (*peerpb.ProposalResponse, error) {
	if r.first == nil {
		var err error
		if r.first, err = r.inner.ProcessProposal(ctx, p); err != nil {
			return nil, err
		}
	}
	return r.first, nil
}

// TestDirectoryFollowsTheConfiguration runs a directory whose channel gets its anchor
// peers later: it asks them long before the next round is due.
func TestDirectoryFollowsTheConfiguration(t *testing.T) {
	s := start(t, "Org1MSP", "Org2MSP")
	var current atomic.Pointer[configtx.Config]
	current.Store(s.Peers[0].Channel.Config())
	d, err := peers.New(peers.Config{
		Identity: func() *msp.LocalIdentity { return s.Peers[0].Identity },
		Channels: func() map[string]*configtx.Config { return map[string]*configtx.Config{net.ChannelID: current.Load()} },
		Dial: func(address string, _ [][]byte) (peers.Connection, error) {
			return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		},
		Every: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); d.Run(ctx) }()
	current.Store(s.config())
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if known := d.Peers(net.ChannelID); len(known) == 1 && known[0].MSPID == "Org2MSP" && known[0].Identity != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("peers are %v", d.Peers(net.ChannelID))
		}
	}
	cancel()
	<-done
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
