// Package cscc is the system chaincode `cscc`: joining channels and reading their
// configuration, with the arguments and the answers of a Hyperledger Fabric peer
// (core/scc/cscc). What joining does is the composition root's.
package cscc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"google.golang.org/protobuf/proto"

	"strongroom/acl"
	"strongroom/appliance/endorser"
	"strongroom/channel/configtx"
	"strongroom/ledger/auditlog"
	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// Name is the chaincode's name.
const Name = "cscc"

// MaxGenesisBytes bounds the genesis block of JoinChain.
const MaxGenesisBytes = 16 << 20

// Access decides who may call a function. *acl.Guard is one.
type Access interface {
	Check(ctx context.Context, cfg *configtx.Config, r acl.Request) (acl.Decision, error)
}

// Joiner joins channels.
type Joiner interface {
	// JoinChannel opens a channel from its genesis block and starts to follow it. The
	// error text is for the administrator who asked.
	JoinChannel(ctx context.Context, channelID string, genesis *commonpb.Block) error
}

// Config is what a Configurer needs.
type Config struct {
	Access   Access
	Joiner   Joiner
	LocalMSP *msp.Set // this organisation: who may join channels and list them
	// Channels lists the joined channels.
	Channels func() []string
	// Channel finds a joined channel's configuration in force and the block that set it.
	Channel func(channelID string) (cfg *configtx.Config, block func() (*commonpb.Block, error), ok bool)
	Logger  *slog.Logger
	Trail   auditlog.Trail // records joins; nil for none
}

// Configurer is `cscc`. It is safe for concurrent use.
type Configurer struct{ cfg Config }

var _ endorser.SystemChaincode = (*Configurer)(nil)

// New makes a Configurer.
func New(cfg Config) (*Configurer, error) {
	switch {
	case cfg.Access == nil:
		return nil, errors.New("cscc: Access is missing")
	case cfg.Joiner == nil:
		return nil, errors.New("cscc: Joiner is missing")
	case cfg.LocalMSP == nil:
		return nil, errors.New("cscc: LocalMSP is missing")
	case cfg.Channels == nil || cfg.Channel == nil:
		return nil, errors.New("cscc: Channels or Channel is missing")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Configurer{cfg: cfg}, nil
}

// Name is "cscc".
func (c *Configurer) Name() string { return Name }

// Invoke answers a call.
func (c *Configurer) Invoke(ctx context.Context, call *endorser.Call) (*peerpb.Response, error) {
	if len(call.Args) < 1 {
		return endorser.Failure("Incorrect number of arguments, %d", len(call.Args)), nil
	}
	name := call.Function()
	if name != "GetChannels" && len(call.Args) < 2 {
		return endorser.Failure("Incorrect number of arguments, %d", len(call.Args)), nil
	}
	switch name {
	case "JoinChain":
		return c.join(ctx, call)
	case "JoinChainBySnapshot", "JoinBySnapshotStatus":
		return endorser.Failure("%s is not offered by this peer: it verifies every block itself; join with the genesis block (peer channel join -b)", name), nil
	case "GetChannels":
		return c.channels(ctx, call)
	case "GetConfigBlock", "GetChannelConfig":
		return c.config(ctx, call)
	}
	return endorser.Failure("Requested function %s not found.", name), nil
}

// allowed asks the guard. It returns a response if it denied.
func (c *Configurer) allowed(ctx context.Context, call *endorser.Call, cfg *configtx.Config, channelID string) (*peerpb.Response, error) {
	name, creator := call.Function(), call.Creator
	set, from := c.cfg.LocalMSP, ""
	if cfg != nil {
		set, from = cfg.MSPs, channelID
	}
	if call.ChannelID != from { // the creator was checked against another set
		id, err := set.Identity(ctx, creator.Serialized)
		if msp.IsInvalid(err) {
			c.cfg.Logger.WarnContext(ctx, "call refused", "function", name, "channel", channelID, "error", err)
			return endorser.Failure("access denied for [%s][%s]", name, channelID), nil
		}
		if err != nil {
			return nil, fmt.Errorf("creator's identity: %w", err)
		}
		creator = id
	}
	decision, err := c.cfg.Access.Check(ctx, cfg, acl.Request{
		Resource: acl.Resource(Name + "/" + name), Channel: from, Chaincode: Name, Function: name, Args: call.Parameters(),
		Caller: creator, RemoteAddr: call.RemoteAddr, TLSCertHash: call.TLSCertHash,
	})
	if errors.Is(err, acl.ErrDenied) {
		return endorser.Failure("access denied for [%s][%s]: decision %s", name, channelID, decision.ID), nil
	}
	if err != nil {
		return nil, fmt.Errorf("access to %s: %w", name, err)
	}
	return nil, nil
}

// answer is an error in Fabric's words, for the caller.
type answer string

func (a answer) Error() string { return string(a) }

// genesis reads the block of JoinChain: a block 0 with a channel's configuration.
func genesis(raw []byte) (string, *commonpb.Block, error) {
	if len(raw) == 0 {
		return "", nil, answer("Cannot join the channel <nil> configuration block provided")
	}
	if len(raw) > MaxGenesisBytes {
		return "", nil, fmt.Errorf("genesis block has %d bytes: at most %d are taken", len(raw), MaxGenesisBytes)
	}
	b := &commonpb.Block{}
	if err := proto.Unmarshal(raw, b); err != nil {
		return "", nil, answer("Failed to reconstruct the genesis block, " + err.Error())
	}
	if b.GetHeader() == nil || b.GetHeader().GetNumber() != 0 {
		return "", nil, fmt.Errorf("\"JoinChain\" needs the genesis block, this is block %d", b.GetHeader().GetNumber())
	}
	channelID, env, err := configtx.EnvelopeFromBlock(b)
	if err != nil {
		return "", nil, fmt.Errorf("\"JoinChain\" request failed to extract channel id from the block due to [%w]", err)
	}
	if _, ok := env.GetConfig().GetChannelGroup().GetGroups()["Application"]; !ok {
		return "", nil, fmt.Errorf("\"JoinChain\" for channelID = %s failed because of validation of configuration block, because of Invalid configuration block, missing Application configuration group", channelID)
	}
	return channelID, b, nil
}

func (c *Configurer) join(ctx context.Context, call *endorser.Call) (*peerpb.Response, error) {
	channelID, block, err := genesis(call.Args[1])
	if err != nil {
		return endorser.Failure("%s", err), nil
	}
	if refused, err := c.allowed(ctx, call, nil, channelID); refused != nil || err != nil {
		return refused, err
	}
	if slices.Contains(c.cfg.Channels(), channelID) {
		return endorser.Failure("cannot create ledger from genesis block: ledger [%s] already exists with state [ACTIVE]", channelID), nil
	}
	act := auditlog.Act{Name: "channel.join", Actor: call.Creator.String(), Subject: channelID, Details: map[string]string{
		"genesis": fmt.Sprintf("%x", wire.BlockHash(block.GetHeader()))}}
	if err := auditlog.Do(ctx, c.cfg.Trail, act, func() error { return c.cfg.Joiner.JoinChannel(ctx, channelID, block) }); err != nil {
		c.cfg.Logger.ErrorContext(ctx, "cannot join a channel", "channel", channelID, "error", err)
		return endorser.Failure("cannot join channel %s: %s", channelID, err), nil
	}
	c.cfg.Logger.InfoContext(ctx, "joined a channel", "channel", channelID)
	return endorser.Success(nil), nil
}

func (c *Configurer) channels(ctx context.Context, call *endorser.Call) (*peerpb.Response, error) {
	if refused, err := c.allowed(ctx, call, nil, ""); refused != nil || err != nil {
		return refused, err
	}
	ids := slices.Clone(c.cfg.Channels())
	slices.Sort(ids)
	out := &peerpb.ChannelQueryResponse{}
	for _, id := range ids {
		out.Channels = append(out.Channels, &peerpb.ChannelInfo{ChannelId: id})
	}
	return marshal(out)
}

func (c *Configurer) config(ctx context.Context, call *endorser.Call) (*peerpb.Response, error) {
	channelID := string(call.Args[1])
	cfg, block, ok := c.cfg.Channel(channelID)
	if !ok {
		return endorser.Failure("Unknown channel ID, %s", channelID), nil
	}
	if refused, err := c.allowed(ctx, call, cfg, channelID); refused != nil || err != nil {
		return refused, err
	}
	if call.Function() == "GetChannelConfig" {
		return marshal(cfg.Proto)
	}
	b, err := block()
	if err != nil {
		return nil, fmt.Errorf("configuration block of channel %q: %w", channelID, err)
	}
	return marshal(b)
}

func marshal(m proto.Message) (*peerpb.Response, error) {
	payload, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	return endorser.Success(payload), nil
}
