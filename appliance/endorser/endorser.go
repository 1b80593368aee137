// Package endorser offers protos.Endorser: it checks a client's proposal, has the
// chaincode simulate it on a snapshot of the channel's state, and endorses the
// result in the token. For the same proposal at the same state its payload is that
// of a Hyperledger Fabric 3.1 peer, byte for byte.
//
// The order of the checks: form, channel, identity, expiry of the certificate,
// signature, access, duplicate transaction id. Nothing is simulated before all of
// them passed, and nothing is signed before the endorsement guard agreed.
package endorser

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc/peer"

	"strongroom/acl"
	"strongroom/appliance/rpcerr"
	"strongroom/chaincode"
	"strongroom/channel/configtx"
	"strongroom/ledger"
	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/peerpb"
	"strongroom/wire/rwsetpb"
)

// Defaults of Config.
const (
	DefaultConcurrency      = 2500 // Fabric's peer.limits.concurrency.endorserService
	DefaultTimeout          = 30 * time.Second
	DefaultMaxProposalBytes = 50 << 20
)

// Channel is a joined channel as the endorser uses it.
type Channel interface {
	Config() *configtx.Config
	Ledger() *ledger.Ledger
}

// Access decides who may do what. *acl.Guard is one.
type Access interface {
	Check(ctx context.Context, cfg *configtx.Config, r acl.Request) (acl.Decision, error)
}

// Chaincodes runs chaincode. *chaincode.Host is one.
type Chaincodes interface {
	Execute(ctx context.Context, inv chaincode.Invocation) (*chaincode.Outcome, error)
}

// Runnable is a chaincode that this peer may run: committed on the channel, and
// bound to a package by the approval of this peer's organisation.
type Runnable struct {
	Version      string
	InitRequired bool
	PackageID    string
	Plugin       string // the endorsement plugin: only "escc" is known
}

// Definitions knows what a chaincode's name stands for on a channel.
type Definitions interface {
	// Runnable reads the definition in force through the simulator, so that the read
	// stands in the read set as in Fabric. Its error text is for the client.
	Runnable(ctx context.Context, channelID, name string, sim *ledger.Simulator) (Runnable, error)
}

// Result is what a proposal led to: what may this peer sign?
type Result struct {
	ChannelID    string
	TxID         string
	Chaincode    *peerpb.ChaincodeID
	Args         [][]byte
	Transient    []string // names of the transient fields, sorted
	Creator      *msp.Identity
	RemoteAddr   string // of who asked
	Response     *peerpb.Response
	Event        *peerpb.ChaincodeEvent // nil without one
	ReadWriteSet *wire.ReadWriteSet
	Private      *rwsetpb.TxPvtReadWriteSet // private writes, nil without any
}

// Guard may veto an endorsement. It is asked after the simulation and before the
// token signs.
type Guard interface {
	// MayEndorse returns nil or why not. The reason goes to the log; the client reads
	// a *rpcerr.Refusal's public text, or a general one.
	MayEndorse(ctx context.Context, r *Result) error
}

// Config is what an Endorser needs.
type Config struct {
	Identity *msp.LocalIdentity // whose key in the token endorses
	LocalMSP *msp.Set           // this peer's organisation: creators of proposals without channel
	// Channels finds a joined channel.
	Channels    func(channelID string) (Channel, bool)
	Access      Access
	Chaincodes  Chaincodes
	Definitions Definitions
	System      []SystemChaincode
	Guard       Guard // nil: no veto

	Concurrency      int           // proposals at once; 0: DefaultConcurrency
	Timeout          time.Duration // of one proposal; 0: DefaultTimeout
	MaxProposalBytes int           // 0: DefaultMaxProposalBytes
	Now              func() time.Time
	Observe          func(Observation) // may be nil
	Logger           *slog.Logger
}

// Validate names the field that is missing.
func (c *Config) Validate() error {
	switch {
	case c.Identity == nil:
		return errors.New("endorser: Identity is missing: load this peer's certificate and key")
	case c.LocalMSP == nil:
		return errors.New("endorser: LocalMSP is missing: load this organisation's MSP")
	case c.Channels == nil:
		return errors.New("endorser: Channels is missing")
	case c.Access == nil:
		return errors.New("endorser: Access is missing: without it nobody may propose")
	case c.Chaincodes == nil:
		return errors.New("endorser: Chaincodes is missing")
	case c.Definitions == nil:
		return errors.New("endorser: Definitions is missing")
	}
	return nil
}

// Stage is how far a proposal came.
type Stage string

// Stages, in order.
const (
	StageMalformed  Stage = "malformed"  // the proposal does not parse, or names an unknown channel
	StageRefused    Stage = "refused"    // identity, signature, access or duplicate
	StageFailed     Stage = "failed"     // no definition, no chaincode, or an error while simulating
	StageRejected   Stage = "rejected"   // the chaincode answered with a status of 400 or more
	StageVetoed     Stage = "vetoed"     // by the endorsement guard
	StageUnsigned   Stage = "unsigned"   // the token could not sign
	StageEndorsed   Stage = "endorsed"   // endorsed
	StageUnendorsed Stage = "unendorsed" // answered without channel: there is nothing to endorse
)

// Observation is one proposal for metrics.
type Observation struct {
	Channel, Chaincode string // as the proposal names them; "" if it does not parse
	Stage              Stage
	Total              time.Duration
	Simulation         time.Duration
}

// Endorser implements peerpb.EndorserServer. It is safe for concurrent use.
type Endorser struct {
	peerpb.UnimplementedEndorserServer
	cfg    Config
	system map[string]SystemChaincode
	slots  chan struct{}
}

// New makes an Endorser.
func New(cfg Config) (*Endorser, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = DefaultConcurrency
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.MaxProposalBytes <= 0 {
		cfg.MaxProposalBytes = DefaultMaxProposalBytes
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Endorser{cfg: cfg, system: make(map[string]SystemChaincode), slots: make(chan struct{}, cfg.Concurrency)}
	for _, s := range cfg.System {
		if e.system[s.Name()] != nil {
			return nil, fmt.Errorf("endorser: system chaincode %q is registered twice", s.Name())
		}
		e.system[s.Name()] = s
	}
	return e, nil
}

// IsSystem tells whether a name is that of a system chaincode.
func (e *Endorser) IsSystem(name string) bool { return e.system[name] != nil || name == "lscc" }

// ProcessProposal checks, simulates and endorses one proposal. Errors before the
// simulation are gRPC errors; later ones are in the response's status, as in Fabric.
func (e *Endorser) ProcessProposal(ctx context.Context, signed *peerpb.SignedProposal) (*peerpb.ProposalResponse, error) {
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	default:
		return nil, rpcerr.Status(fmt.Errorf("endorser: %w", rpcerr.ErrBusy))
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()

	o := Observation{}
	start := e.cfg.Now()
	resp, err := e.process(ctx, signed, remoteAddr(ctx), &o)
	if e.cfg.Observe != nil {
		o.Total = e.cfg.Now().Sub(start)
		e.cfg.Observe(o)
	}
	if err != nil {
		if !errors.Is(err, acl.ErrDenied) { // else the guard has logged it
			e.cfg.Logger.WarnContext(ctx, "proposal refused", "channel", o.Channel, "chaincode", o.Chaincode, "error", rpcerr.Detail(err))
		}
		return nil, rpcerr.Status(err)
	}
	return resp, nil
}

func remoteAddr(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return ""
	}
	if host, _, err := net.SplitHostPort(p.Addr.String()); err == nil {
		return host
	}
	return p.Addr.String()
}
