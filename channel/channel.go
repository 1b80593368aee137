package channel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"strongroom/channel/configtx"
	"strongroom/channel/lifecycle"
	"strongroom/ledger"
	"strongroom/policy"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// Source gives the channel's blocks from a height on, in order and without end, as
// long as emit returns nil: a client of the ordering service. It returns emit's
// error, or its own when it lost its peer, or the context's.
type Source interface {
	Blocks(ctx context.Context, from uint64, emit func(*commonpb.Block) error) error
}

// Recorder keeps the provenance of committed blocks. It is called from one
// goroutine.
type Recorder interface {
	// Next is the number of the first block without a record; false means that
	// there is no record at all.
	Next() (number uint64, any bool)
	// Record keeps blocks that follow each other. After an error it is called
	// again with the same blocks; some of them may have been kept.
	Record(ctx context.Context, blocks ...CommittedBlock) error
}

// CommittedBlock is what a Recorder is told of a block.
type CommittedBlock struct {
	Block *commonpb.Block // as the ledger keeps it: transaction filter and commit hash in its metadata
	// Policies are the endorsement policies of the namespaces that the block
	// writes to; nil for a block that was committed before a restart.
	Policies map[string]policy.Digest
}

// Stage is a part of the pipeline, for timings.
type Stage string

// The stages of the pipeline.
const (
	StageIntake  Stage = "intake"  // hashes and the orderers' signatures
	StageFacts   Stage = "facts"   // what the commit waited for the facts, not what finding them took
	StageVerdict Stage = "verdict" // duplicates and policies
	StageCommit  Stage = "commit"  // the ledger
	StagePublish Stage = "publish" // provenance and waiters
)

// Config is what a Channel needs.
type Config struct {
	Ledger   *ledger.Ledger // holds the genesis block at least (Join)
	Deps     configtx.Deps
	Source   Source
	Recorder Recorder // nil means no provenance
	Logger   *slog.Logger

	Workers int // signature checks under way at once; 0 means four for each processor
	Ahead   int // blocks whose facts are found ahead of the commit; 0 means 4

	// RetryMin and RetryMax bound the pause after a failure, which doubles each
	// time; 0 means 100 ms and 10 s.
	RetryMin, RetryMax time.Duration

	// Observe is told how long each stage of a block took. It must not block.
	Observe func(stage Stage, block uint64, transactions int, d time.Duration)
}

func (c *Config) validate() error {
	switch {
	case c.Ledger == nil:
		return errors.New("channel: Config.Ledger is nil: open the channel's ledger")
	case c.Deps.Verifier == nil:
		return errors.New("channel: Config.Deps.Verifier is nil: give the token")
	case c.Deps.Engine == nil:
		return errors.New("channel: Config.Deps.Engine is nil: give the policy engine")
	case c.Ahead < 0 || c.Workers < 0:
		return errors.New("channel: Config.Ahead and Config.Workers cannot be negative")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Ahead == 0 {
		c.Ahead = 4
	}
	if c.RetryMin <= 0 {
		c.RetryMin = 100 * time.Millisecond
	}
	c.RetryMax = max(c.RetryMax, c.RetryMin)
	if c.RetryMax == c.RetryMin && c.RetryMin == 100*time.Millisecond {
		c.RetryMax = 10 * time.Second
	}
	if c.Observe == nil {
		c.Observe = func(Stage, uint64, int, time.Duration) {}
	}
	return nil
}

// Channel follows one channel. It is safe for concurrent use; Run and Replay run
// once at a time.
type Channel struct {
	cfg       Config
	chain     chain
	validator *Validator
	config    atomic.Pointer[configtx.Config]
	running   atomic.Bool
	differ    func(*commonpb.Block) // set by Replay while it runs

	mu        sync.Mutex // guards the rest
	published uint64     // height up to which waiters were told
	waiters   map[string][]chan outcome
	health    Health
}

// Health says how a channel fares.
type Health struct {
	Connected     bool      // the source gave a block and has not ended since
	SourceFailure error     // why the source ended or was left, until it gives a block again
	Failure       error     // what of ours holds the channel up now; nil when nothing does
	Since         time.Time // since when these are as they are
	Height        uint64    // of the ledger, as published
}

// Open opens a channel at the height of its ledger. Its configuration is read from
// the ledger and checked in the token.
func Open(ctx context.Context, cfg Config) (*Channel, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return open(ctx, cfg, ledgerChain{cfg.Ledger})
}

func open(ctx context.Context, cfg Config, chain chain) (*Channel, error) {
	height := chain.Height()
	if height == 0 {
		return nil, errors.New("channel: the ledger is empty: join the channel with its genesis block first")
	}
	config, err := lastConfig(ctx, cfg.Deps, chain)
	if err != nil {
		return nil, fmt.Errorf("channel configuration from the ledger: %w", err)
	}
	if err := supported(config); err != nil {
		return nil, err
	}
	c := &Channel{
		cfg: cfg, chain: chain,
		validator: NewValidator(cfg.Deps.Engine, cfg.Workers),
		published: height,
		waiters:   map[string][]chan outcome{},
		health:    Health{Since: time.Now()},
	}
	c.config.Store(config)
	return c, nil
}

// Join puts a channel's genesis block into an empty ledger. Fabric's peers take it
// as it is: whoever joins a channel trusts the block that they were given.
func Join(ctx context.Context, l *ledger.Ledger, deps configtx.Deps, genesis *commonpb.Block) error {
	config, err := configtx.FromBlock(ctx, deps, genesis)
	if err != nil {
		return fmt.Errorf("genesis block: %w", err)
	}
	if err := supported(config); err != nil {
		return fmt.Errorf("genesis block: %w", err)
	}
	block, err := wire.ParseBlock(genesis)
	if err != nil {
		return fmt.Errorf("genesis block: %w", err)
	}
	if block.Number() != 0 || len(block.Txs) != 1 {
		return fmt.Errorf("genesis block: this is block %d with %d transactions: give block 0 with one", block.Number(), len(block.Txs))
	}
	if l.Height() != 0 {
		return fmt.Errorf("genesis block: the ledger of channel %q has %d blocks already", config.ID, l.Height())
	}
	return l.Commit(ctx, block, []peerpb.TxValidationCode{peerpb.TxValidationCode_VALID})
}

// supported refuses channels whose blocks would be judged otherwise here than by
// Fabric's peers.
func supported(c *configtx.Config) error {
	if c.Capabilities.Application < configtx.LevelV2_0 {
		return fmt.Errorf("channel %q: %w: its application capability is %s; raise it to V2_0 or above", c.ID, ErrUnsupported, c.Capabilities.Application)
	}
	return nil
}

// stateConfigKey is where the state has the last common.ConfigEnvelope, in the
// empty namespace: as in Fabric's peers it is part of what the commit hash covers
// (core/peer/configtx_processor.go).
const stateConfigKey = "CHANNEL_CONFIG_ENV_BYTES"

// lastConfig reads the configuration in force after the last block. What the last
// block's orderer says of the last configuration block is not relied on.
func lastConfig(ctx context.Context, deps configtx.Deps, chain chain) (*configtx.Config, error) {
	genesis, err := chain.Block(0)
	if err != nil {
		return nil, err
	}
	channelID, _, err := configtx.EnvelopeFromBlock(genesis)
	if err != nil {
		return nil, fmt.Errorf("block 0: %w", err)
	}
	state, err := chain.state()
	if err != nil {
		return nil, err
	}
	kept, err := state.Get("", stateConfigKey)
	state.Release()
	if err != nil {
		return nil, err
	}
	envelope := &commonpb.ConfigEnvelope{}
	if err := proto.Unmarshal(kept, envelope); err != nil {
		return nil, fmt.Errorf("key %q of the state: %w", stateConfigKey, err)
	}
	return configtx.New(ctx, deps, channelID, envelope.Config)
}

// Close frees the channel's workers. Run must have returned.
func (c *Channel) Close() { c.validator.Close() }

// Config is the configuration in force: after the last block that was committed.
func (c *Channel) Config() *configtx.Config { return c.config.Load() }

// Ledger is the channel's ledger.
func (c *Channel) Ledger() *ledger.Ledger { return c.cfg.Ledger }

// ID is the channel's id.
func (c *Channel) ID() string { return c.Config().ID }

// Height is the number of blocks that were committed and published.
func (c *Channel) Height() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.published
}

// Health says how the channel fares.
func (c *Channel) Health() Health {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.health
	h.Height = c.published
	return h
}

// Definition is the committed definition of a chaincode, remembered between blocks
// that change definitions. Errors are those of lifecycle.ReadDefinition.
func (c *Channel) Definition(name string) (*lifecycle.Definition, error) {
	found, generation := c.validator.definitions.find(name)
	if found != nil {
		return found, nil
	}
	state, err := c.chain.state()
	if err != nil {
		return nil, err
	}
	defer state.Release()
	return c.validator.definitions.keep(state, name, generation)
}

func (c *Channel) setHealth(change func(h *Health)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.health
	change(&c.health)
	if before.Connected != c.health.Connected || (before.Failure == nil) != (c.health.Failure == nil) ||
		(before.SourceFailure == nil) != (c.health.SourceFailure == nil) {
		c.health.Since = time.Now()
	}
}
