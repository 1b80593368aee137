package ordering

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
	"strongroom/channel/configtx"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
)

// engine is one policy engine for all tests: it is stateless but for its caches.
var engine = sync.OnceValues(func() (*policy.Engine, error) { return policy.NewEngine(policy.Config{}) })

func deps(t testing.TB, token *pkcs11.Token) configtx.Deps {
	t.Helper()
	e, err := engine()
	if err != nil {
		t.Fatal(err)
	}
	return configtx.Deps{Verifier: token, Engine: e}
}

// network is the organizations of a test, their keys in one SoftHSM token.
type network struct {
	token      *pkcs11.Token
	deps       configtx.Deps
	org, ord   *bccsptest.CA
	client     *bccsptest.Identity
	peer       *bccsptest.Identity
	admin      *bccsptest.Identity
	orderer    *bccsptest.Identity
	orderAdmin *bccsptest.Identity
}

func newNetwork(t testing.TB, token *pkcs11.Token) *network {
	t.Helper()
	n := &network{token: token, deps: deps(t, token)}
	n.org = bccsptest.NewCA(t, token, "Org1MSP")
	n.ord = bccsptest.NewCA(t, token, "OrdererMSP")
	n.client = n.org.Issue(t, "user1", "client")
	n.peer = n.org.Issue(t, "peer0", "peer")
	n.admin = n.org.Issue(t, "admin", "admin")
	n.orderer = n.ord.Issue(t, "orderer0", "orderer")
	n.orderAdmin = n.ord.Issue(t, "ordadmin", "admin")
	return n
}

var shared struct {
	sync.Mutex
	network *network
}

// sharedNetwork is one network for all tests that do not change it: making keys is
// the slow part of a test.
func sharedNetwork(t testing.TB) *network {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.network == nil {
		shared.network = newNetwork(t, bccsptest.OpenShared(t))
	}
	return shared.network
}

// genesis is a channel of the network; change may be nil.
func (n *network) genesis(t testing.TB, channel string, change func(*configtx.Description)) *commonpb.Block {
	t.Helper()
	d := &configtx.Description{
		Channel: channel,
		Organizations: []configtx.OrganizationDescription{
			{Name: "Org1", MSPID: "Org1MSP", MSPConfig: n.org.MSPConfig()},
			{Name: "OrdererOrg", MSPID: "OrdererMSP", MSPConfig: n.ord.MSPConfig(), OrdererEndpoints: []string{"127.0.0.1:7050"}},
		},
		Orderer: configtx.OrdererDescription{
			Organizations: []string{"OrdererOrg"},
			BatchTimeout:  configtx.Duration(time.Hour),
			BatchSize:     configtx.BatchSizeDescription{MaxMessageCount: 3, AbsoluteMaxBytes: 1 << 20, PreferredMaxBytes: 64 << 10},
		},
		Application: configtx.ApplicationDescription{Organizations: []string{"Org1"}},
	}
	if change != nil {
		change(d)
	}
	b, err := configtx.BuildGenesis(d)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func local(t testing.TB, id *bccsptest.Identity) *msp.LocalIdentity {
	t.Helper()
	l, err := msp.LoadLocalIdentity(msp.ID(id.MSPID), id.CertPEM, id.Signer)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// config is a Config for a service in dir.
func (n *network) config(t testing.TB, dir string) Config {
	t.Helper()
	return Config{
		Dir: dir, Identity: local(t, n.orderer), Deps: n.deps, Sealer: NoSealing,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

func start(t testing.TB, cfg Config) *Service {
	t.Helper()
	s, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func join(t testing.TB, s *Service, genesis *commonpb.Block) {
	t.Helper()
	if err := s.Join(t.Context(), genesis); err != nil {
		t.Fatal(err)
	}
}

// serve serves s on a loopback port and returns the address. creds may be nil.
func serve(t testing.TB, s *Service, creds credentials.TransportCredentials) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, s, lis, creds)
	return lis.Addr().String()
}

func serveOn(t testing.TB, s *Service, lis net.Listener, creds credentials.TransportCredentials) *grpc.Server {
	t.Helper()
	options := []grpc.ServerOption{grpc.MaxRecvMsgSize(100 << 20), grpc.MaxSendMsgSize(100 << 20)}
	if creds != nil {
		options = append(options, grpc.Creds(creds))
	}
	g := grpc.NewServer(options...)
	ordererpb.RegisterAtomicBroadcastServer(g, s)
	go func() { _ = g.Serve(lis) }() // ends with Stop
	t.Cleanup(g.Stop)
	return g
}

func dial(t testing.TB, addr string) ordererpb.AtomicBroadcastClient {
	t.Helper()
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(100<<20), grpc.MaxCallSendMsgSize(100<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return ordererpb.NewAtomicBroadcastClient(cc)
}

// envelope makes a signed envelope. Its transaction id belongs to nonce and creator.
func envelope(t testing.TB, id *bccsptest.Identity, kind commonpb.HeaderType, channel string, data []byte, change func(*commonpb.ChannelHeader)) *commonpb.Envelope {
	t.Helper()
	nonce := nonce()
	ch := &commonpb.ChannelHeader{Type: int32(kind), ChannelId: channel, Timestamp: timestamppb.Now(), TxId: wire.TxID(nonce, id.Serialized())}
	if change != nil {
		change(ch)
	}
	payload := marshal(t, &commonpb.Payload{
		Header: &commonpb.Header{
			ChannelHeader:   marshal(t, ch),
			SignatureHeader: marshal(t, &commonpb.SignatureHeader{Creator: id.Serialized(), Nonce: nonce}),
		},
		Data: data,
	})
	sig, err := id.Signer.SignPayload(context.Background(), payload)
	if err != nil {
		t.Fatal(err)
	}
	return &commonpb.Envelope{Payload: payload, Signature: sig}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tx is an envelope that is ordered as a transaction; its data is what a test wants.
func (n *network) tx(t testing.TB, channel, data string) *commonpb.Envelope {
	t.Helper()
	return envelope(t, n.client, commonpb.HeaderType_ENDORSER_TRANSACTION, channel, []byte(data), nil)
}

// broadcast sends envelopes on one stream and returns the answers up to its end.
func broadcast(t testing.TB, c ordererpb.AtomicBroadcastClient, envs ...*commonpb.Envelope) []*ordererpb.BroadcastResponse {
	t.Helper()
	stream, err := c.Broadcast(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for _, env := range envs {
			if stream.Send(env) != nil {
				return // the server ended the stream: the answers tell
			}
		}
		_ = stream.CloseSend()
	}()
	var answers []*ordererpb.BroadcastResponse
	for {
		resp, err := stream.Recv()
		if err != nil {
			return answers
		}
		answers = append(answers, resp)
	}
}

// order sends envelopes that must all be taken.
func order(t testing.TB, c ordererpb.AtomicBroadcastClient, envs ...*commonpb.Envelope) {
	t.Helper()
	answers := broadcast(t, c, envs...)
	if len(answers) != len(envs) {
		t.Fatalf("%d answers to %d envelopes: %v", len(answers), len(envs), answers)
	}
	for i, a := range answers {
		if a.Status != commonpb.Status_SUCCESS {
			t.Fatalf("envelope %d: %s %q", i, a.Status, a.Info)
		}
	}
}

func seekEnvelope(t testing.TB, id *bccsptest.Identity, channel string, seek *ordererpb.SeekInfo, change func(*commonpb.ChannelHeader)) *commonpb.Envelope {
	t.Helper()
	return envelope(t, id, commonpb.HeaderType_DELIVER_SEEK_INFO, channel, marshal(t, seek), change)
}

func specified(n uint64) *ordererpb.SeekPosition {
	return &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_Specified{Specified: &ordererpb.SeekSpecified{Number: n}}}
}

var (
	oldest     = &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_Oldest{Oldest: &ordererpb.SeekOldest{}}}
	newest     = &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_Newest{Newest: &ordererpb.SeekNewest{}}}
	nextCommit = &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_NextCommit{NextCommit: &ordererpb.SeekNextCommit{}}}
)

// blocks waits for the channel's blocks from..to, by Deliver.
func (n *network) blocks(t testing.TB, c ordererpb.AtomicBroadcastClient, channel string, from, to uint64) []*commonpb.Block {
	t.Helper()
	got, status := deliverAll(t, c, seekEnvelope(t, n.peer, channel, &ordererpb.SeekInfo{Start: specified(from), Stop: specified(to)}, nil))
	if status != commonpb.Status_SUCCESS {
		t.Fatalf("deliver ends with %s", status)
	}
	return got
}

// deliverAll sends one request and returns the blocks and the status.
func deliverAll(t testing.TB, c ordererpb.AtomicBroadcastClient, env *commonpb.Envelope) ([]*commonpb.Block, commonpb.Status) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := c.Deliver(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(env); err != nil {
		t.Fatal(err)
	}
	var blocks []*commonpb.Block
	for {
		resp, err := stream.Recv()
		if err != nil {
			t.Fatalf("deliver after %d blocks: %v", len(blocks), err)
		}
		if b := resp.GetBlock(); b != nil {
			blocks = append(blocks, b)
			continue
		}
		return blocks, resp.GetStatus()
	}
}

// contents are the data of a block's envelopes.
func contents(t testing.TB, b *commonpb.Block) []string {
	t.Helper()
	var all []string
	for _, raw := range b.Data.Data {
		var env commonpb.Envelope
		if err := proto.Unmarshal(raw, &env); err != nil {
			t.Fatal(err)
		}
		e, fault := wire.ParseEnvelope(&env)
		if fault != nil {
			t.Fatal(fault)
		}
		all = append(all, string(e.Data))
	}
	return all
}

// verifyChain checks a channel as a peer does: hash chain, signatures, configurations.
func (n *network) verifyChain(t testing.TB, blocks []*commonpb.Block) *configtx.Config {
	t.Helper()
	cfg, err := configtx.FromBlock(t.Context(), n.deps, blocks[0])
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range blocks[1:] {
		if want := wire.BlockHash(blocks[i].Header); string(b.Header.PreviousHash) != string(want) || b.Header.Number != uint64(i+1) {
			t.Fatalf("block %d (number %d) does not follow its predecessor", i+1, b.Header.Number)
		}
		if err := configtx.VerifyBlock(t.Context(), cfg, b); err != nil {
			t.Fatal(err)
		}
		if !isConfigBlock(b) {
			continue
		}
		_, ce, err := configtx.EnvelopeFromBlock(b)
		if err != nil {
			t.Fatal(err)
		}
		if cfg, err = cfg.Apply(t.Context(), n.deps, ce); err != nil {
			t.Fatal(err)
		}
	}
	return cfg
}

func isConfigBlock(b *commonpb.Block) bool {
	_, _, err := configtx.EnvelopeFromBlock(b)
	return err == nil
}

// update makes a CONFIG_UPDATE envelope, signed by the administrators.
func (n *network) update(t testing.TB, cfg *configtx.Config, change func(*commonpb.ConfigGroup), signers ...*bccsptest.Identity) *commonpb.Envelope {
	t.Helper()
	next := proto.CloneOf(cfg.Proto)
	change(next.ChannelGroup)
	u, err := configtx.ComputeUpdate(cfg.Proto, next)
	if err != nil {
		t.Fatal(err)
	}
	u.ChannelId = cfg.ID
	raw := marshal(t, u)
	cue := &commonpb.ConfigUpdateEnvelope{ConfigUpdate: raw}
	for _, id := range signers {
		header := marshal(t, &commonpb.SignatureHeader{Creator: id.Serialized(), Nonce: nonce()})
		sig, err := id.Signer.SignConfigUpdate(t.Context(), header, raw)
		if err != nil {
			t.Fatal(err)
		}
		cue.Signatures = append(cue.Signatures, &commonpb.ConfigSignature{SignatureHeader: header, Signature: sig})
	}
	return envelope(t, n.admin, commonpb.HeaderType_CONFIG_UPDATE, cfg.ID, marshal(t, cue), nil)
}

// setBatch changes the channel's batch size.
func setBatch(t testing.TB, count uint32) func(*commonpb.ConfigGroup) {
	return func(g *commonpb.ConfigGroup) {
		v := g.Groups["Orderer"].Values["BatchSize"]
		var size ordererpb.BatchSize
		if err := proto.Unmarshal(v.Value, &size); err != nil {
			t.Fatal(err)
		}
		size.MaxMessageCount = count
		v.Value = marshal(t, &size)
	}
}

func names(prefix string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return all
}

// clock is a clock that tests set.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Now()} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) set(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = at
}
