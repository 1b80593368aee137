package peers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"strongroom/channel/configtx"
	"strongroom/msp"
	"strongroom/wire/peerpb"
)

// Defaults of Config.
const (
	DefaultEvery   = 15 * time.Second
	DefaultTimeout = 5 * time.Second
)

// maxAsked bounds the peers that are asked at once.
const maxAsked = 16

// soon is how long to wait before peers that did not answer are asked again; it
// doubles up to Config.Every. It is also how often a changed configuration is looked for.
const soon = 500 * time.Millisecond

// Remote is a peer that this peer's own configuration names. It serves every channel.
type Remote struct {
	MSPID   msp.ID
	Address string // host:port
	Conn    grpc.ClientConnInterface
}

// Connection is what Dial returns. The directory closes it.
type Connection interface {
	grpc.ClientConnInterface
	Close() error
}

// Config is what a Directory needs.
type Config struct {
	// Identity signs the questions: this peer's. It may change between calls.
	Identity func() *msp.LocalIdentity
	// Address is where others reach this peer, "" if that is not known. An anchor peer
	// with it is this peer.
	Address    string
	Configured []Remote
	// Channels are the configurations in force of the joined channels, by id.
	Channels func() map[string]*configtx.Config
	// Dial prepares a connection to an anchor peer, whose TLS certificate must come
	// from one of roots (PEM). It must not wait for the peer.
	Dial func(address string, roots [][]byte) (Connection, error)

	Every   time.Duration // between two questions to a peer that answers; 0: DefaultEvery
	Timeout time.Duration // of an answer; 0: DefaultTimeout
	Now     func() time.Time
	Logger  *slog.Logger
}

// Peer is another peer as one channel sees it.
type Peer struct {
	MSPID    msp.ID
	Address  string // host:port
	Client   peerpb.EndorserClient
	Identity []byte    // msp.SerializedIdentity, proven by its signature; nil until it answered
	Height   uint64    // of its ledger when it answered last
	Answered time.Time // when it answered last; zero: never
	Failure  error     // of the last question; nil when it was answered
}

// Directory knows the other peers. It is safe for concurrent use.
type Directory struct {
	cfg   Config
	asked chan struct{} // a slot for each question under way

	mu    sync.Mutex // guards the rest
	links map[string]*link
	peers map[string][]*Peer // by channel, in the order of candidates; each replaced, never changed
}

// link is a connection to an anchor peer, shared by the channels that name it with
// the same roots.
type link struct {
	conn Connection
	used bool // in the last round
}

// New makes a Directory that has asked nobody yet: it lists the candidates as they
// are. Close ends it.
func New(cfg Config) (*Directory, error) {
	switch {
	case cfg.Identity == nil:
		return nil, errors.New("peers: Identity is missing: give this peer's")
	case cfg.Channels == nil:
		return nil, errors.New("peers: Channels is missing")
	case cfg.Dial == nil:
		return nil, errors.New("peers: Dial is missing")
	}
	if cfg.Every <= 0 {
		cfg.Every = DefaultEvery
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Directory{cfg: cfg, asked: make(chan struct{}, maxAsked), links: map[string]*link{}, peers: map[string][]*Peer{}}, nil
}

// Run asks all peers, again and again, until ctx ends: sooner while one of them does
// not answer, and at once when a channel is joined or gets another configuration.
func (d *Directory) Run(ctx context.Context) {
	ticker := time.NewTicker(soon)
	defer ticker.Stop()
	for pause := soon; ; {
		channels := d.cfg.Channels()
		if d.Refresh(ctx) {
			pause = d.cfg.Every
		}
		if ctx.Err() != nil {
			return
		}
		for next := time.Now().Add(pause); time.Now().Before(next) && maps.Equal(channels, d.cfg.Channels()); {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		}
		if !maps.Equal(channels, d.cfg.Channels()) {
			pause = soon
		} else {
			pause = min(2*pause, d.cfg.Every)
		}
	}
}

// Refresh asks every peer of every channel once. It tells whether all answered.
func (d *Directory) Refresh(ctx context.Context) bool {
	channels := d.cfg.Channels()
	d.reconcile(channels)
	var wg sync.WaitGroup
	var silent atomic.Bool
	for id, cfg := range channels {
		for _, p := range d.list(id) {
			wg.Go(func() {
				select {
				case d.asked <- struct{}{}:
				case <-ctx.Done():
					return
				}
				defer func() { <-d.asked }()
				now := d.ask(ctx, cfg, p)
				if now.Failure != nil {
					silent.Store(true)
				}
				d.replace(id, p, now)
			})
		}
	}
	wg.Wait()
	return !silent.Load() && ctx.Err() == nil
}

// Peers lists the other peers of a channel, whether they answered or not: those that
// answered the last question first, those with more blocks before others, then by the
// order in which the configurations name them. The caller owns the slice; what it points to must not be changed.
func (d *Directory) Peers(channelID string) []*Peer {
	list := d.list(channelID)
	if list == nil { // joined after the last round
		d.reconcile(d.cfg.Channels())
		list = d.list(channelID)
	}
	own := d.cfg.Identity().Serialized
	list = slices.DeleteFunc(list, func(p *Peer) bool { return string(p.Identity) == string(own) })
	slices.SortStableFunc(list, func(a, b *Peer) int { return cmp.Or(cmp.Compare(a.rank(), b.rank()), cmp.Compare(b.Height, a.Height)) })
	return list
}

// rank says in which order to prefer peers.
func (p *Peer) rank() int {
	switch {
	case p.Failure == nil && !p.Answered.IsZero():
		return 0
	case p.Failure == nil:
		return 1 // not asked yet
	}
	return 2
}

// Close closes the connections to anchor peers. Run must have ended.
func (d *Directory) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for key, l := range d.links {
		errs = append(errs, l.conn.Close())
		delete(d.links, key)
	}
	return errors.Join(errs...)
}

func (d *Directory) list(channelID string) []*Peer {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.peers[channelID])
}

func (d *Directory) replace(channelID string, old, now *Peer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, p := range d.peers[channelID] {
		if p == old {
			d.peers[channelID][i] = now
		}
	}
}

// reconcile brings the candidates up to the channels' configurations. What is known
// of a peer that stays is kept.
func (d *Directory) reconcile(channels map[string]*configtx.Config) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.links {
		l.used = false
	}
	before := d.peers
	d.peers = map[string][]*Peer{}
	for id, cfg := range channels {
		known := map[peerKey]*Peer{}
		for _, p := range before[id] {
			known[peerKey{p.MSPID, p.Address, p.Client}] = p
		}
		list := []*Peer{}
		for _, p := range d.candidates(cfg) {
			if same := known[peerKey{p.MSPID, p.Address, p.Client}]; same != nil {
				p = same
			}
			list = append(list, p)
		}
		d.peers[id] = list
	}
	for key, l := range d.links {
		if !l.used {
			if err := l.conn.Close(); err != nil {
				d.cfg.Logger.Warn("closing the connection to a peer that no channel names any more", "error", err)
			}
			delete(d.links, key)
		}
	}
}

type peerKey struct {
	mspID   msp.ID
	address string
	client  peerpb.EndorserClient
}

// endorserClient is comparable by its connection, as the generated client is not.
type endorserClient struct{ conn grpc.ClientConnInterface }

func (c endorserClient) ProcessProposal(ctx context.Context, p *peerpb.SignedProposal, opts ...grpc.CallOption) (*peerpb.ProposalResponse, error) {
	return peerpb.NewEndorserClient(c.conn).ProcessProposal(ctx, p, opts...)
}

// candidates are the peers that the configurations name: this peer's own first, then
// the channel's anchor peers. Of one address the first counts. d.mu is held.
func (d *Directory) candidates(cfg *configtx.Config) []*Peer {
	var out []*Peer
	seen := map[string]bool{d.cfg.Address: true}
	for _, r := range d.cfg.Configured {
		if _, member := cfg.Organization(r.MSPID); member && !seen[r.Address] {
			seen[r.Address] = true
			out = append(out, &Peer{MSPID: r.MSPID, Address: r.Address, Client: endorserClient{r.Conn}})
		}
	}
	for _, org := range cfg.Organizations {
		for _, a := range org.AnchorPeers {
			address := net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port)))
			if seen[address] {
				continue
			}
			seen[address] = true
			l, err := d.link(address, slices.Concat(org.TLSRoots, org.TLSIntermediates))
			if err != nil {
				d.cfg.Logger.Warn("anchor peer cannot be used", "channel", cfg.ID, "msp", string(org.MSPID), "address", address, "error", err)
				continue
			}
			out = append(out, &Peer{MSPID: org.MSPID, Address: address, Client: endorserClient{l.conn}})
		}
	}
	return out
}

func (d *Directory) link(address string, roots [][]byte) (*link, error) {
	var key strings.Builder
	key.WriteString(address)
	for _, root := range roots {
		fmt.Fprintf(&key, "\x00%s", root)
	}
	l := d.links[key.String()]
	if l == nil {
		conn, err := d.cfg.Dial(address, roots)
		if err != nil {
			return nil, err
		}
		l = &link{conn: conn}
		d.links[key.String()] = l
	}
	l.used = true
	return l, nil
}
