// Package gateway offers gateway.Gateway: it evaluates, endorses and submits
// transactions for a client and tells it what became of them, so that the client
// speaks to this peer alone. Its statuses, their details and its texts are those of
// a Hyperledger Fabric 3.1 peer (internal/pkg/gateway), which Fabric's client
// libraries show.
//
// The gateway is trusted with nothing: proposals, transactions and requests are
// signed by the client, and endorsements by their peers.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"strongroom/acl"
	"strongroom/appliance/rpcerr"
	"strongroom/channel/configtx"
	"strongroom/channel/lifecycle"
	"strongroom/ledger"
	"strongroom/msp"
	"strongroom/wire/commonpb"
	"strongroom/wire/gatewaypb"
	"strongroom/wire/peerpb"
)

// Defaults of Config.
const (
	DefaultConcurrency = 500 // Fabric's peer.limits.concurrency.gatewayService
	DefaultTimeout     = 30 * time.Second
)

// Channel is a joined channel as the gateway uses it. *channel.Channel is one.
type Channel interface {
	Config() *configtx.Config
	Ledger() *ledger.Ledger
	// Definition is a chaincode's committed definition, not to be changed; an error
	// wraps lifecycle.ErrNotDefined if there is none.
	Definition(name string) (*lifecycle.Definition, error)
	// AwaitTx waits until a transaction is committed, valid or not.
	AwaitTx(ctx context.Context, txID string) (peerpb.TxValidationCode, uint64, error)
}

// Access decides who may ask. *acl.Guard is one.
type Access interface {
	Check(ctx context.Context, cfg *configtx.Config, r acl.Request) (acl.Decision, error)
}

// Endorsers knows the other endorsing peers.
type Endorsers interface {
	// Endorsers lists a channel's endorsing peers except this one, of all
	// organisations, those to prefer first. The caller may change the slice.
	Endorsers(channelID string) []Endorser
}

// Orderers knows the ordering service. *ordering/client.Client is one for its channels.
type Orderers interface {
	// Broadcast returns when an orderer took the envelope. A *client.StatusError is
	// the orderer's answer; other errors mean that none could be asked.
	Broadcast(ctx context.Context, env *commonpb.Envelope) error
}

// Config is what a Gateway needs.
type Config struct {
	Local     Endorser  // this peer
	Endorsers Endorsers // nil: this peer is the only one
	// Channels finds a joined channel.
	Channels func(channelID string) (Channel, bool)
	// Orderers finds the ordering service of a channel.
	Orderers func(channelID string) (Orderers, bool)
	Access   Access

	EndorseTimeout   time.Duration // of one peer's answer; 0: DefaultTimeout
	BroadcastTimeout time.Duration // 0: DefaultTimeout
	Concurrency      int           // calls at once, streams apart; 0: DefaultConcurrency
	Now              func() time.Time
	Observe          func(method, channelID string, code codes.Code, d time.Duration) // may be nil
	Logger           *slog.Logger
}

// Gateway implements gatewaypb.GatewayServer. It is safe for concurrent use.
type Gateway struct {
	gatewaypb.UnimplementedGatewayServer
	cfg   Config
	slots chan struct{}
}

// New makes a Gateway.
func New(cfg Config) (*Gateway, error) {
	switch {
	case cfg.Local.Process == nil || cfg.Local.MSPID == "":
		return nil, errors.New("gateway: Local is missing: give this peer's endorser with its MSP id and address")
	case cfg.Channels == nil:
		return nil, errors.New("gateway: Channels is missing")
	case cfg.Orderers == nil:
		return nil, errors.New("gateway: Orderers is missing")
	case cfg.Access == nil:
		return nil, errors.New("gateway: Access is missing")
	}
	if cfg.EndorseTimeout <= 0 {
		cfg.EndorseTimeout = DefaultTimeout
	}
	if cfg.BroadcastTimeout <= 0 {
		cfg.BroadcastTimeout = DefaultTimeout
	}
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = DefaultConcurrency
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Gateway{cfg: cfg, slots: make(chan struct{}, cfg.Concurrency)}, nil
}

// serve runs one call within the limit of concurrent ones and observes it.
func serve[Response any](g *Gateway, method, channelID string, run func() (Response, error)) (Response, error) {
	var none Response
	start := g.cfg.Now()
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	default:
		return none, rpcerr.Status(fmt.Errorf("gateway: %w", rpcerr.ErrBusy))
	}
	resp, err := run()
	err = rpcerr.Status(err)
	if g.cfg.Observe != nil {
		g.cfg.Observe(method, channelID, status.Code(err), g.cfg.Now().Sub(start))
	}
	if err != nil {
		return none, err
	}
	return resp, nil
}

// endorsers are all peers of a channel, this one first, then its organisation's.
func (g *Gateway) endorsers(channelID string) []Endorser {
	list := []Endorser{g.cfg.Local}
	if g.cfg.Endorsers != nil {
		list = append(list, g.cfg.Endorsers.Endorsers(channelID)...)
	}
	slices.SortStableFunc(list, func(a, b Endorser) int {
		return g.distance(a) - g.distance(b)
	})
	return list
}

func (g *Gateway) distance(e Endorser) int {
	if e.MSPID == g.cfg.Local.MSPID {
		return 0
	}
	return 1
}

// ask has one peer process a proposal, within the time for one answer.
func (g *Gateway) ask(ctx context.Context, e Endorser, p *peerpb.SignedProposal) (*peerpb.ProposalResponse, verdict) {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.EndorseTimeout)
	defer cancel()
	resp, err := e.Process(ctx, p)
	return resp, judge(resp, err)
}

// signer validates the identity of a signed request, verifies its signature in the
// token and asks the guard. It returns the configuration under which it did.
func (g *Gateway) signer(ctx context.Context, ch Channel, resource acl.Resource, channelID string, identity, request, signature []byte) (*configtx.Config, *msp.Identity, error) {
	cfg := ch.Config()
	id, err := g.identify(ctx, cfg, channelID, identity, request, signature)
	if err != nil {
		return nil, nil, err
	}
	return cfg, id, g.allowed(ctx, cfg, resource, channelID, id)
}
