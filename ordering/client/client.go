// Package client is the peer's side of any Fabric-compatible ordering service: it
// pulls a channel's blocks and hands in envelopes, over TLS or mutual TLS, with
// several endpoints of which one at a time is used until it fails.
//
// Concurrency: a Client is safe for concurrent use. Blocks runs one stream for as
// long as its context lives; Broadcast shares a few streams among all callers.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"strongroom/msp"
)

// Endpoint is one node of an ordering service.
type Endpoint struct {
	Address    string // host:port
	ServerName string // name in the node's TLS certificate; "" means the host of Address
	// RootCAs are the TLS roots of the node's organization. Nil is refused unless
	// Plaintext is set: the system's roots have no say in a channel.
	RootCAs *x509.CertPool
	// Plaintext turns TLS off: for a node in the same process or behind a local proxy.
	Plaintext bool
}

// Config is what a Client needs. Zero durations and counts take the defaults named.
type Config struct {
	Endpoints []Endpoint
	// Identity signs seek requests. A client that only calls Broadcast needs none.
	Identity *msp.LocalIdentity
	// Certificate answers the client certificate for mutual TLS, its key a *bccsp.TLSKey,
	// at each handshake; nil for plain TLS. The hash of the one that a connection showed
	// goes into each seek request, which binds the request to the connection.
	Certificate func() *tls.Certificate
	// VerifyConnection runs after crypto/tls accepted the server's chain: there the
	// caller checks the chain's signatures once more in its token. Nil adds nothing.
	VerifyConnection func(tls.ConnectionState) error

	MinBackoff time.Duration // first wait after a failure; 100 ms
	MaxBackoff time.Duration // longest wait; 10 s
	// StallAfter is how long a block stream may be silent before another endpoint is
	// asked whether it has the next block; 30 s.
	StallAfter time.Duration
	// ConnectTimeout bounds the wait for a connection when there is no other endpoint
	// to turn to; 3 s.
	ConnectTimeout   time.Duration
	BroadcastStreams int // streams for each endpoint; 4
	MaxMessageBytes  int // largest block or response; 100 MiB
	Logger           *slog.Logger
	// DialOptions are added to the client's own, for tests and tracing.
	DialOptions []grpc.DialOption
}

// Validate names the field that is wrong and what to do.
func (c *Config) Validate() error {
	return validEndpoints(c.Endpoints)
}

func validEndpoints(endpoints []Endpoint) error {
	if len(endpoints) == 0 {
		return errors.New("orderer endpoints: the list is empty: name at least one host:port")
	}
	for i, e := range endpoints {
		if e.Address == "" {
			return fmt.Errorf("orderer endpoints[%d]: the address is empty: set host:port", i)
		}
		if e.RootCAs == nil && !e.Plaintext {
			return fmt.Errorf("orderer endpoint %q: no TLS roots: set RootCAs, or Plaintext to do without TLS", e.Address)
		}
	}
	return nil
}

// State is a Client's health at one moment.
type State struct {
	Connected   string // address whose block stream delivers now; "" while none does
	Since       time.Time
	LastError   error // of the latest failed attempt; kept after recovery
	LastErrorAt time.Time
}

// Client talks to one ordering service.
type Client struct {
	cfg Config

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu        sync.Mutex // guards what follows
	endpoints []Endpoint
	current   int // index into endpoints of the one in use
	changed   chan struct{}
	conns     map[Endpoint]*connection
	streams   map[string]State // by channel
}

// New makes a Client; it connects when it is used.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	setDefault(&cfg.MinBackoff, 100*time.Millisecond)
	setDefault(&cfg.MaxBackoff, 10*time.Second)
	setDefault(&cfg.StallAfter, 30*time.Second)
	setDefault(&cfg.ConnectTimeout, 3*time.Second)
	setDefault(&cfg.BroadcastStreams, 4)
	setDefault(&cfg.MaxMessageBytes, 100<<20)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Certificate != nil && len(cfg.Certificate().Certificate) == 0 {
		return nil, errors.New("TLS client certificate: the chain is empty")
	}
	c := &Client{
		cfg:       cfg,
		endpoints: slices.Clone(cfg.Endpoints),
		changed:   make(chan struct{}),
		conns:     make(map[Endpoint]*connection),
		streams:   make(map[string]State),
	}
	// Peers of one organization that start together spread over the nodes.
	c.current = rand.IntN(len(c.endpoints))
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// SetEndpoints replaces the list, as a new channel configuration asks. A stream to
// an endpoint that is still listed goes on; others move at once.
func (c *Client) SetEndpoints(endpoints []Endpoint) error {
	if err := validEndpoints(endpoints); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	using := c.endpoints[c.current]
	endpoints = slices.Clone(endpoints)
	for i, e := range endpoints {
		// An endpoint that stays keeps its value, which is the key of its connection.
		if j := slices.IndexFunc(c.endpoints, e.same); j >= 0 {
			endpoints[i] = c.endpoints[j]
		}
	}
	c.endpoints = endpoints
	if i := slices.IndexFunc(c.endpoints, using.same); i >= 0 {
		c.current = i
	} else {
		c.current = rand.IntN(len(c.endpoints))
	}
	for e, conn := range c.conns {
		if !slices.ContainsFunc(c.endpoints, e.same) {
			delete(c.conns, e)
			conn.close()
		}
	}
	close(c.changed)
	c.changed = make(chan struct{})
	return nil
}

// same tells whether both name the same node with the same trust.
func (e Endpoint) same(other Endpoint) bool {
	return e.Address == other.Address && e.ServerName == other.ServerName && e.Plaintext == other.Plaintext &&
		(e.RootCAs == other.RootCAs || e.RootCAs.Equal(other.RootCAs))
}

// State is the health of the channel's block stream.
func (c *Client) State(channel string) State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[channel]
}

// Close ends all streams and connections.
func (c *Client) Close() {
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	for e, conn := range c.conns {
		delete(c.conns, e)
		conn.close()
	}
}

// endpoint is the one in use, and a channel that closes when the list changes.
func (c *Client) endpoint() (Endpoint, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.endpoints[c.current], c.changed
}

// others are the endpoints after the given one, in order, without it.
func (c *Client) others(e Endpoint) []Endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.endpoints, e.same)
	if i < 0 {
		return slices.Clone(c.endpoints)
	}
	return slices.Concat(c.endpoints[i+1:], c.endpoints[:i])
}

// leave moves on from an endpoint that failed, unless another caller already did.
func (c *Client) leave(e Endpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.endpoints[c.current].same(e) {
		c.current = (c.current + 1) % len(c.endpoints)
	}
}

func (c *Client) setConnected(channel, address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[channel]
	s.Connected, s.Since = address, time.Now()
	c.streams[channel] = s
}

func (c *Client) setFailed(channel string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[channel]
	s.Connected, s.LastError, s.LastErrorAt = "", err, time.Now()
	c.streams[channel] = s
}

// backoff waits between attempts: exponential, with full jitter over its upper half.
type backoff struct{ min, max, next time.Duration }

func (b *backoff) reset() { b.next = b.min }

// wait returns false when the context ends first.
func (b *backoff) wait(ctx context.Context) bool {
	d := b.next/2 + rand.N(b.next/2+1)
	b.next = min(2*b.next, b.max)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
