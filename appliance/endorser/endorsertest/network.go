// Package endorsertest runs a small network of real parts in the test process: an
// ordering service and, for each organisation, a peer that follows the channel and
// endorses over gRPC, all keys in one SoftHSM token. It is for the tests of the
// services that a peer offers.
package endorsertest

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"strongroom/acl"
	"strongroom/appliance/endorser"
	"strongroom/appliance/lifecycle"
	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
	"strongroom/chaincode"
	"strongroom/channel"
	"strongroom/channel/configtx"
	"strongroom/ledger"
	"strongroom/ledger/seal/sealtest"
	"strongroom/msp"
	"strongroom/ordering"
	"strongroom/ordering/client"
	"strongroom/policy"
	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
	"strongroom/wire/ordererpb"
	"strongroom/wire/peerpb"
)

// ChannelID is the network's channel.
const ChannelID = "testchannel"

// Network is a channel, its orderer and its peers. It ends with the test.
type Network struct {
	T           testing.TB
	Token       *pkcs11.Token
	Deps        configtx.Deps
	Genesis     *commonpb.Block
	OrdererAddr string
	Orderer     *client.Client
	Peers       []*Peer // in the order of the organisations given
}

// Peer is one organisation's peer with what it is made of.
type Peer struct {
	MSPID     msp.ID
	CA        *bccsptest.CA
	Client    *bccsptest.Identity
	Admin     *bccsptest.Identity
	Identity  *msp.LocalIdentity
	Local     *msp.Set
	Guard     *acl.Guard
	Channel   *channel.Channel
	Host      *chaincode.Host
	Packages  *lifecycle.Folder
	Lifecycle *lifecycle.Service
	Endorser  *endorser.Endorser
	Conn      *grpc.ClientConn // to the endorser

	Observed func() []endorser.Observation
}

// Start runs a network of these organisations. change may alter each endorser's
// configuration before it is made.
func Start(t testing.TB, change func(*Peer, *endorser.Config), mspIDs ...string) *Network {
	t.Helper()
	return StartDescribed(t, func(*configtx.Description) {}, change, mspIDs...)
}

// StartDescribed is Start with a channel whose description describe may alter.
func StartDescribed(t testing.TB, describe func(*configtx.Description), change func(*Peer, *endorser.Config), mspIDs ...string) *Network {
	t.Helper()
	token := bccsptest.OpenShared(t)
	engine, err := policy.NewEngine(policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	n := &Network{T: t, Token: token, Deps: configtx.Deps{Verifier: token, Engine: engine}}
	ordererCA := bccsptest.NewCA(t, token, "OrdererMSP")
	d := &configtx.Description{
		Channel:       ChannelID,
		Organizations: []configtx.OrganizationDescription{{Name: "OrdererOrg", MSPID: "OrdererMSP", MSPConfig: ordererCA.MSPConfig(), OrdererEndpoints: []string{"orderer.invalid:7050"}}},
		Orderer:       configtx.OrdererDescription{Organizations: []string{"OrdererOrg"}, BatchTimeout: configtx.Duration(20 * time.Millisecond)},
	}
	for _, id := range mspIDs {
		p := &Peer{MSPID: msp.ID(id), CA: bccsptest.NewCA(t, token, id)}
		p.Client, p.Admin = p.CA.Issue(t, "client", "client"), p.CA.Issue(t, "admin", "admin")
		d.Organizations = append(d.Organizations, configtx.OrganizationDescription{Name: id, MSPID: p.MSPID, MSPConfig: p.CA.MSPConfig()})
		d.Application.Organizations = append(d.Application.Organizations, id)
		n.Peers = append(n.Peers, p)
	}
	describe(d)
	if n.Genesis, err = configtx.BuildGenesis(d); err != nil {
		t.Fatal(err)
	}
	n.startOrderer(identity(t, ordererCA, "orderer", "orderer"))
	for _, p := range n.Peers {
		n.startPeer(p, change)
	}
	return n
}

func identity(t testing.TB, ca *bccsptest.CA, name, unit string) *msp.LocalIdentity {
	t.Helper()
	id := ca.Issue(t, name, unit)
	local, err := msp.LoadLocalIdentity(msp.ID(ca.MSPID), id.CertPEM, id.Signer)
	if err != nil {
		t.Fatal(err)
	}
	return local
}

// Serve runs a gRPC server on a loopback port until the test ends.
func Serve(t testing.TB, register func(*grpc.Server)) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	done := make(chan error, 1)
	go func() { done <- s.Serve(lis) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return lis.Addr().String()
}

// Dial connects to a server of Serve.
func Dial(t testing.TB, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

func (n *Network) startOrderer(id *msp.LocalIdentity) {
	t := n.T
	t.Helper()
	s, err := ordering.New(context.Background(), ordering.Config{Dir: t.TempDir(), Identity: id, Deps: n.Deps, Sealer: ordering.NoSealing})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Join(context.Background(), n.Genesis); err != nil {
		t.Fatal(err)
	}
	n.OrdererAddr = Serve(t, func(g *grpc.Server) { ordererpb.RegisterAtomicBroadcastServer(g, s) })
	n.Orderer = n.newClient(nil)
}

func (n *Network) newClient(id *msp.LocalIdentity) *client.Client {
	n.T.Helper()
	c, err := client.New(client.Config{Endpoints: []client.Endpoint{{Address: n.OrdererAddr, Plaintext: true}}, Identity: id})
	if err != nil {
		n.T.Fatal(err)
	}
	n.T.Cleanup(c.Close)
	return c
}

// source is the orderer's client for the one channel.
type source struct{ *client.Client }

func (s source) Blocks(ctx context.Context, from uint64, emit func(*commonpb.Block) error) error {
	return s.Client.Blocks(ctx, ChannelID, from, emit)
}

func (n *Network) startPeer(p *Peer, change func(*Peer, *endorser.Config)) {
	t, ctx := n.T, context.Background()
	t.Helper()
	var err error
	must := func() {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	keyring := sealtest.Keyring(t)
	l, err := ledger.Open(ctx, ledger.Config{Dir: t.TempDir(), ChannelID: ChannelID, Keyring: keyring})
	must()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	err = channel.Join(ctx, l, n.Deps, n.Genesis)
	must()
	p.Identity = identity(t, p.CA, "peer", "peer")
	p.Channel, err = channel.Open(ctx, channel.Config{Ledger: l, Deps: n.Deps, Source: source{n.newClient(p.Identity)}})
	must()
	n.run(p.Channel)

	p.Local, err = msp.NewSet(ctx, n.Token, []*msppb.MSPConfig{p.CA.MSPConfig()})
	must()
	p.Guard, err = acl.New(acl.Config{Engine: n.Deps.Engine, Local: p.Local, LocalMSPID: p.MSPID})
	must()
	p.Host = chaincode.New(chaincode.Config{Resolve: func(ctx context.Context, caller *chaincode.Invocation, name string, input *peerpb.ChaincodeInput) (chaincode.Target, error) {
		return p.Endorser.Resolve(ctx, caller, name, input)
	}})
	t.Cleanup(func() {
		if err := p.Host.Close(); err != nil {
			t.Error(err)
		}
	})
	p.Packages, err = lifecycle.OpenFolder(t.TempDir(), keyring)
	must()
	p.Lifecycle, err = lifecycle.Open(ctx, lifecycle.Config{
		MSPID: p.MSPID, LocalMSP: p.Local, Access: p.Guard, Packages: p.Packages, Services: p.Host,
		Channels: func() []string { return []string{ChannelID} },
		Channel:  func(id string) (lifecycle.Channel, bool) { return p.Channel, id == ChannelID },
	})
	must()
	var mu sync.Mutex
	var observed []endorser.Observation
	p.Observed = func() []endorser.Observation {
		mu.Lock()
		defer mu.Unlock()
		return append([]endorser.Observation(nil), observed...)
	}
	cfg := endorser.Config{
		Identity: p.Identity, LocalMSP: p.Local, Access: p.Guard, Chaincodes: p.Host, Definitions: p.Lifecycle,
		System:   []endorser.SystemChaincode{p.Lifecycle},
		Channels: func(id string) (endorser.Channel, bool) { return p.Channel, id == ChannelID },
		Observe: func(o endorser.Observation) {
			mu.Lock()
			defer mu.Unlock()
			observed = append(observed, o)
		},
	}
	if change != nil {
		change(p, &cfg)
	}
	p.Endorser, err = endorser.New(cfg)
	must()
	p.Conn = Dial(t, Serve(t, func(g *grpc.Server) { peerpb.RegisterEndorserServer(g, p.Endorser) }))
}

// run follows the channel until the test ends.
func (n *Network) run(c *channel.Channel) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	n.T.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			n.T.Error(err)
		}
		c.Close()
	})
}
