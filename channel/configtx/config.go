package configtx

import (
	"context"
	"errors"
	"fmt"
	"time"

	"strongroom/bccsp"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
)

// Deps is what a configuration needs to be of use: the token that checks
// signatures, and the engine that decides policies.
type Deps struct {
	Verifier bccsp.Verifier
	Engine   *policy.Engine
	// Identities bounds the identities that each MSP of a channel remembers; 0
	// means msp's default.
	Identities int
}

func (d Deps) validate() error {
	switch {
	case d.Verifier == nil:
		return errors.New("channel configuration: Deps.Verifier is nil: give the token")
	case d.Engine == nil:
		return errors.New("channel configuration: Deps.Engine is nil: give the policy engine")
	}
	return nil
}

// Config is one configuration of one channel. It is immutable and safe for
// concurrent use; nothing may change what its fields point to.
type Config struct {
	ID       string // the channel's
	Sequence uint64 // 0 in the genesis block, one more with each update
	Proto    *commonpb.Config

	MSPs         *msp.Set
	Policies     *policy.Tree
	Capabilities Capabilities

	ACLs          map[string]string // resource name to absolute policy path
	Organizations []Organization    // of the application group, sorted by name

	ConsensusType        string // "etcdraft", "BFT" or another orderer's
	ConsensusMetadata    []byte // of that orderer; opaque here
	ConsensusState       ordererpb.ConsensusType_State
	BatchSize            BatchSize
	BatchTimeout         time.Duration
	MaxChannels          uint64 // 0 means no bound
	OrdererOrganizations []OrdererOrganization
	OrdererEndpoints     []OrdererEndpoint
	Consenters           []*commonpb.Consenter // of a BFT orderer
	Consortium           string                // of channels that a system channel made, else ""

	deps     Deps
	elements map[string]element
}

// BatchSize bounds the blocks that the orderer cuts.
type BatchSize struct {
	MaxMessageCount   uint32 // transactions in a block
	AbsoluteMaxBytes  uint32 // a larger transaction is refused
	PreferredMaxBytes uint32 // a block is cut before it grows beyond; one larger transaction makes a block of its own
}

// Organization is a member of the application group.
type Organization struct {
	Name        string // of its group in the configuration
	MSPID       msp.ID
	AnchorPeers []AnchorPeer
	// TLSRoots and TLSIntermediates certify its nodes' TLS certificates, in PEM.
	TLSRoots, TLSIntermediates [][]byte
}

// AnchorPeer is a peer that other organisations may reach.
type AnchorPeer struct {
	Host string
	Port int32
}

// OrdererOrganization is a member of the orderer group.
type OrdererOrganization struct {
	Name                       string
	MSPID                      msp.ID
	Endpoints                  []string // host:port
	TLSRoots, TLSIntermediates [][]byte
}

// OrdererEndpoint is an address at which blocks are had and transactions taken.
type OrdererEndpoint struct {
	Address string // host:port
	MSPID   msp.ID // of its organisation, "" for an address of the channel group
	// TLSRoots certify its TLS certificate: the organisation's, with its
	// intermediates, or those of all orderer organisations.
	TLSRoots [][]byte
}

// New reads a channel's configuration. Errors name the path of what is wrong in
// it, as "/Channel/Orderer/BatchSize". MSP certificate chains are checked in the
// token, so an error may also be the token's.
func New(ctx context.Context, deps Deps, channelID string, c *commonpb.Config) (*Config, error) {
	return build(ctx, deps, channelID, c, nil)
}

// build is New with the set of the former configuration, whose unchanged MSPs
// keep what they remember.
func build(ctx context.Context, deps Deps, channelID string, c *commonpb.Config, previous *msp.Set) (*Config, error) {
	if err := deps.validate(); err != nil {
		return nil, err
	}
	if err := ValidateChannelID(channelID); err != nil {
		return nil, err
	}
	cfg := &Config{ID: channelID, Sequence: c.GetSequence(), Proto: c, deps: deps}
	var err error
	if cfg.elements, err = mapGroup(c.GetChannelGroup()); err != nil {
		return nil, fmt.Errorf("configuration of channel %q: %w", channelID, err)
	}
	r := reader{cfg: cfg}
	if err := r.read(c.GetChannelGroup()); err != nil {
		return nil, fmt.Errorf("configuration of channel %q: %w", channelID, err)
	}
	if err := r.resolve(ctx, deps, previous); err != nil {
		return nil, fmt.Errorf("configuration of channel %q: %w", channelID, err)
	}
	return cfg, nil
}

// FromBlock reads the configuration of a configuration block: a genesis block or
// any later one. The block itself is not verified (VerifyBlock).
func FromBlock(ctx context.Context, deps Deps, b *commonpb.Block) (*Config, error) {
	channelID, ce, err := EnvelopeFromBlock(b)
	if err != nil {
		return nil, err
	}
	return New(ctx, deps, channelID, ce.GetConfig())
}

// PolicyRef is the path of the policy that the channel's ACLs set for a resource,
// such as "peer/Propose". False means that the channel leaves the default.
func (c *Config) PolicyRef(resource string) (string, bool) {
	ref, ok := c.ACLs[resource]
	return ref, ok
}

// Identity is MSPs.Identity.
func (c *Config) Identity(ctx context.Context, serialized []byte) (*msp.Identity, error) {
	return c.MSPs.Identity(ctx, serialized)
}

// Organization finds an application organisation by its MSP id.
func (c *Config) Organization(id msp.ID) (Organization, bool) {
	for _, o := range c.Organizations {
		if o.MSPID == id {
			return o, true
		}
	}
	return Organization{}, false
}
