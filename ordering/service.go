package ordering

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"strongroom/channel/configtx"
	"strongroom/msp"
	"strongroom/ordering/blocklog"
	"strongroom/ordering/deliver"
	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
)

// DefaultMaxMessageBytes is the largest envelope taken whatever a channel allows.
const DefaultMaxMessageBytes = 100 << 20

// Config is what a Service needs.
type Config struct {
	Dir      string             // of all channels; made if it is not there
	Identity *msp.LocalIdentity // signs blocks and configuration transactions
	Deps     configtx.Deps
	// Sealer encrypts blocks and pending envelopes on disk. It must be set;
	// NoSealing says in so many words that they lie there in clear.
	Sealer blocklog.Sealer
	// MaxMessageBytes bounds one envelope; zero means DefaultMaxMessageBytes.
	MaxMessageBytes int
	// MutualTLS makes each seek request name the TLS certificate of its connection.
	MutualTLS bool
	// Access is asked for each request after the channel's own policy allowed it: a
	// further layer that may deny (ErrDenied). Nil adds none.
	Access func(ctx context.Context, cfg *configtx.Config, a Access) error
	// Checkpoints lets New and Join find a log that is an older copy; nil leaves that out.
	Checkpoints *Checkpoints
	Logger      *slog.Logger
	// Observe gets the outcome and duration of each step: "check" (of an envelope; a
	// verdict against it wraps ErrRefused), "pending" (write and sync of a group of
	// envelopes), "sign" and "append" (of a block), "config" and "identity" (of a new
	// configuration). It is called from many goroutines.
	Observe func(channel, step string, d time.Duration, err error)
	Now     func() time.Time // nil means time.Now
}

// NoSealing is a Sealer that seals nothing. It is for tests and for networks whose
// ordering nodes may keep what they order in clear.
var NoSealing blocklog.Sealer = noSealing{}

type noSealing struct{}

func (noSealing) Seal(plain, _ []byte) ([]byte, error)  { return plain, nil }
func (noSealing) Open(sealed, _ []byte) ([]byte, error) { return sealed, nil }

// Access is a request as the access layer sees it.
type Access struct {
	Resource   string // ResourceBroadcast or ResourceDeliver
	Caller     *msp.Identity
	RemoteAddr string
}

// The resources of Access.
const (
	ResourceBroadcast = "orderer/Broadcast"
	ResourceDeliver   = "orderer/Deliver"
)

var (
	// ErrDenied is for Config.Access: an error that wraps it is a refusal; any other is
	// a failure of ours.
	ErrDenied = errors.New("access denied")
	// ErrRefused tells Config.Observe a verdict on an envelope from a failure of ours.
	ErrRefused = errors.New("envelope refused")
	// ErrChannelExists says that a channel was joined before.
	ErrChannelExists = errors.New("channel exists here already")
	// ErrClosed says that the service was closed.
	ErrClosed = errors.New("ordering service is closed")
)

// Validate names the field that is wrong and what to do.
func (c *Config) Validate() error {
	switch {
	case c.Dir == "":
		return errors.New("ordering: Dir is empty: name the folder for the channels")
	case c.Identity == nil:
		return errors.New("ordering: Identity is missing: give the orderer's identity")
	case c.Deps.Verifier == nil || c.Deps.Engine == nil:
		return errors.New("ordering: Deps needs a verifier and a policy engine")
	case c.Sealer == nil:
		return errors.New("ordering: Sealer is missing: give the keyring, or NoSealing to keep envelopes in clear on disk")
	case c.Checkpoints != nil && (c.Checkpoints.Token == nil || c.Checkpoints.Name == nil):
		return errors.New("ordering: Checkpoints needs Token and Name")
	}
	return nil
}

func (c *Config) setDefaults() {
	if c.MaxMessageBytes <= 0 {
		c.MaxMessageBytes = DefaultMaxMessageBytes
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Observe == nil {
		c.Observe = func(string, string, time.Duration, error) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

// Service is the ordering service of one node. It is safe for concurrent use.
type Service struct {
	ordererpb.UnimplementedAtomicBroadcastServer
	cfg Config

	joining sync.Mutex   // held by Join from beginning to end
	mu      sync.RWMutex // guards what follows
	chains  map[string]*chain
	closed  bool
}

// New opens all channels in the folder. A channel that does not open is an error
// that names it.
func New(ctx context.Context, cfg Config) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("ordering: %w", err)
	}
	s := &Service{cfg: cfg, chains: make(map[string]*chain)}
	entries, err := os.ReadDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("ordering: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := s.open(ctx, e.Name()); err != nil {
			return nil, errors.Join(fmt.Errorf("ordering: channel %q: %w", e.Name(), err), s.Close())
		}
	}
	return s, nil
}

// open opens one channel's folder. A folder without a block is what a crash during
// Join left: it is removed, as the join was not acknowledged.
func (s *Service) open(ctx context.Context, id string) error {
	if err := configtx.ValidateChannelID(id); err != nil {
		return fmt.Errorf("a folder here is no channel's: %w", err)
	}
	c, err := openChain(ctx, &s.cfg, id, false)
	if errors.Is(err, errNoGenesis) {
		s.cfg.Logger.Warn("removing what an unfinished join left", "channel", id)
		return os.RemoveAll(filepath.Join(s.cfg.Dir, id))
	}
	if err != nil {
		return err
	}
	c.start()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.Join(ErrClosed, c.close())
	}
	s.chains[id] = c
	return nil
}

// Join makes this node order a new channel, from its genesis block, and returns when
// the block is durable. The error wraps ErrChannelExists for a channel that is here.
//
// Crash points: before the genesis block is durable the folder has no block, and New
// removes it; after that the channel is joined.
func (s *Service) Join(ctx context.Context, genesis *commonpb.Block) error {
	cfg, err := configtx.FromBlock(ctx, s.cfg.Deps, genesis)
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if n := genesis.GetHeader().GetNumber(); n != 0 {
		return fmt.Errorf("join channel %q: block %d is not a genesis block: a single-node ordering service starts a channel at block 0", cfg.ID, n)
	}
	if err := maySign(ctx, cfg, s.cfg.Identity); err != nil {
		return fmt.Errorf("join channel %q: %w", cfg.ID, err)
	}
	s.joining.Lock()
	defer s.joining.Unlock()
	if _, ok := s.chain(cfg.ID); ok {
		return fmt.Errorf("join channel %q: %w", cfg.ID, ErrChannelExists)
	}
	if err := writeGenesis(&s.cfg, cfg.ID, genesis); err != nil {
		err = fmt.Errorf("join channel %q: %w", cfg.ID, err)
		if errors.Is(err, ErrChannelExists) { // of a service that was closed
			return err
		}
		return errors.Join(err, os.RemoveAll(filepath.Join(s.cfg.Dir, cfg.ID)))
	}
	if err := s.open(ctx, cfg.ID); err != nil {
		return fmt.Errorf("join channel %q: %w", cfg.ID, err)
	}
	s.cfg.Logger.Info("joined channel", "channel", cfg.ID)
	return nil
}

// ChannelInfo is one channel as this node orders it.
type ChannelInfo struct {
	ID     string
	Height uint64
	Err    error // why the channel does not go on now; nil when it does
}

// Channels lists the channels, sorted.
func (s *Service) Channels() []ChannelInfo {
	s.mu.RLock()
	defer s.mu.RUnlock()
	infos := make([]ChannelInfo, 0, len(s.chains))
	for id, c := range s.chains {
		infos = append(infos, ChannelInfo{ID: id, Height: c.Height(), Err: c.health.err()})
	}
	slices.SortFunc(infos, func(a, b ChannelInfo) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return infos
}

// Healthy is nil while every channel can take envelopes and make blocks of them.
// Otherwise it says for each that cannot what it waits for.
func (s *Service) Healthy() error {
	var errs []error
	for _, c := range s.Channels() {
		if c.Err != nil {
			errs = append(errs, fmt.Errorf("channel %q: %w", c.ID, c.Err))
		}
	}
	return errors.Join(errs...)
}

// Admit checks that every channel takes the identity's signature under its blocks: what is
// to hold before the identity becomes this node's.
func (s *Service) Admit(ctx context.Context, id *msp.LocalIdentity) error {
	s.mu.RLock()
	chains := slices.Collect(maps.Values(s.chains))
	s.mu.RUnlock()
	var errs []error
	for _, c := range chains {
		errs = append(errs, maySign(ctx, c.config.Load(), id))
	}
	return errors.Join(errs...)
}

// Close refuses further envelopes, ends all streams and closes the channels.
// Envelopes that were acknowledged and are in no block yet are in the pending log:
// the next New goes on with them.
func (s *Service) Close() error {
	s.mu.Lock()
	s.closed = true
	chains := s.chains
	s.chains = make(map[string]*chain)
	s.mu.Unlock()
	var errs []error
	for _, c := range chains {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}

func (s *Service) chain(id string) (*chain, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c, ok := s.chains[id]
	return c, ok
}

// Deliver implements orderer.AtomicBroadcast.Deliver.
func (s *Service) Deliver(stream ordererpb.AtomicBroadcast_DeliverServer) error {
	return deliver.Serve(stream.Context(), stream, deliver.OrdererSender(stream), deliver.Options{
		Chain: func(id string) (deliver.Chain, bool) {
			c, ok := s.chain(id)
			return c, ok
		},
		MutualTLS: s.cfg.MutualTLS,
		Now:       s.cfg.Now,
		Logger:    s.cfg.Logger,
	})
}
