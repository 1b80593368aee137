// Package discovery offers discovery.Discovery, Fabric's service discovery: it tells
// a client which organisations, orderers and peers a channel has, and whom to ask for
// endorsements. Requests and refusals are those of a Hyperledger Fabric 3.1 peer
// (its folder discovery); what is known of other peers comes from a directory instead
// of gossip.
package discovery

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"strongroom/acl"
	"strongroom/appliance/lifecycle"
	"strongroom/appliance/peers"
	"strongroom/appliance/rpcerr"
	"strongroom/bccsp"
	"strongroom/channel/configtx"
	"strongroom/msp"
	"strongroom/ordering/deliver"
	"strongroom/wire/discoverypb"
	"strongroom/wire/peerpb"
)

// maxQueries bounds the queries of one request.
const maxQueries = 64

// Access decides who may ask. *acl.Guard is one.
type Access interface {
	Check(ctx context.Context, cfg *configtx.Config, r acl.Request) (acl.Decision, error)
}

// Layout says how many endorsements of each organisation satisfy a policy.
type Layout = map[msp.ID]int

// Channel is what the service needs of a joined channel.
type Channel struct {
	Config     *configtx.Config
	Height     uint64                                // of this peer's ledger
	Peers      func() []*peers.Peer                  // the other peers
	Chaincodes func() ([]lifecycle.Chaincode, error) // those that are defined
	// Layouts are the sets of organisations that satisfy the policies of an interest,
	// out of those that have a peer to ask.
	Layouts func(interest *peerpb.ChaincodeInterest, has func(msp.ID) bool) ([]Layout, error)
}

// Config is what a Service needs.
type Config struct {
	Access   Access
	LocalMSP *msp.Set // this organisation: who may ask for local peers
	// Identity is this peer's. It may change between calls.
	Identity func() *msp.LocalIdentity
	// Address is where clients reach this peer (host:port).
	Address string
	// Channels lists the ids of the joined channels; Channel finds one.
	Channels func() []string
	Channel  func(channelID string) (*Channel, bool)
	// TLS tells that connections are TLS: a request then must name the client's TLS
	// certificate, so that nobody passes on a request that was made for another.
	TLS    bool
	Now    func() time.Time
	Logger *slog.Logger
}

// Service implements discoverypb.DiscoveryServer. It is safe for concurrent use.
type Service struct {
	discoverypb.UnimplementedDiscoveryServer
	cfg     Config
	started time.Time
}

// New makes a Service.
func New(cfg Config) (*Service, error) {
	switch {
	case cfg.Access == nil:
		return nil, errors.New("discovery: Access is missing: without it nobody may ask")
	case cfg.LocalMSP == nil:
		return nil, errors.New("discovery: LocalMSP is missing")
	case cfg.Identity == nil:
		return nil, errors.New("discovery: Identity is missing: give this peer's")
	case cfg.Channels == nil || cfg.Channel == nil:
		return nil, errors.New("discovery: Channels or Channel is missing")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{cfg: cfg, started: cfg.Now()}, nil
}

// Discover answers the queries of a signed request, each for itself. What a query may
// not have, or does not ask rightly, is told in its result; an error of the call says
// that the request itself is malformed, or that this peer could not answer.
func (s *Service) Discover(ctx context.Context, signed *discoverypb.SignedRequest) (*discoverypb.Response, error) {
	request, err := s.open(ctx, signed)
	if err != nil {
		s.cfg.Logger.WarnContext(ctx, "discovery request refused", "remote", remoteAddr(ctx), "error", err)
		return nil, err
	}
	a := &asking{service: s, ctx: ctx, signed: signed, identity: request.GetAuthentication().GetClientIdentity(), signer: map[*msp.Set]*msp.Identity{}}
	out := &discoverypb.Response{}
	for _, q := range request.GetQueries() {
		result, err := a.answer(q)
		if err != nil {
			return nil, rpcerr.Status(fmt.Errorf("discovery: %w", err))
		}
		out.Results = append(out.Results, result)
	}
	return out, nil
}

// open checks the request's form and that it was made for this connection.
func (s *Service) open(ctx context.Context, signed *discoverypb.SignedRequest) (*discoverypb.Request, error) {
	invalid := func(text string) error { return status.Error(codes.InvalidArgument, text) }
	request := &discoverypb.Request{}
	if err := proto.Unmarshal(signed.GetPayload(), request); err != nil {
		return nil, invalid("failed parsing request: the payload is not a discovery.Request")
	}
	switch {
	case request.GetAuthentication() == nil:
		return nil, invalid("access denied, no authentication info in request")
	case len(request.GetAuthentication().GetClientIdentity()) == 0:
		return nil, invalid("access denied, client identity wasn't supplied")
	case len(request.GetQueries()) > maxQueries:
		return nil, invalid(fmt.Sprintf("the request has %d queries: ask %d at a time", len(request.GetQueries()), maxQueries))
	}
	if !s.cfg.TLS {
		return request, nil
	}
	shown := shownCertificate(ctx)
	if len(shown) == 0 {
		return nil, invalid("client didn't send a TLS certificate")
	}
	if !bytes.Equal(shown, request.GetAuthentication().GetClientTlsCertHash()) {
		return nil, invalid("client claimed TLS hash doesn't match computed TLS hash from gRPC stream")
	}
	return request, nil
}

// shownCertificate is the SHA-256 of the TLS certificate that the client showed, whoever
// issued it: that the client has its key binds a request to the connection.
func shownCertificate(ctx context.Context) []byte {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return nil
	}
	sum := sha256.Sum256(info.State.PeerCertificates[0].Raw)
	return sum[:]
}

// asking is one request whose form is right.
type asking struct {
	service  *Service
	ctx      context.Context
	signed   *discoverypb.SignedRequest
	identity []byte
	signer   map[*msp.Set]*msp.Identity // whom the request was found to be of, by the set that knows them
}

func refuse(format string, args ...any) *discoverypb.QueryResult {
	return &discoverypb.QueryResult{Result: &discoverypb.QueryResult_Error{Error: &discoverypb.Error{Content: fmt.Sprintf(format, args...)}}}
}

// answer checks who asks and answers one query.
func (a *asking) answer(q *discoverypb.Query) (*discoverypb.QueryResult, error) {
	var ch *Channel
	if q.GetChannel() != "" {
		var ok bool
		if ch, ok = a.service.cfg.Channel(q.GetChannel()); !ok {
			a.denied(q, errors.New("the channel is not joined"))
			return refuse("access denied"), nil
		}
	}
	allowed, err := a.allowed(q, ch)
	if err != nil {
		return nil, err
	}
	if !allowed {
		return refuse("access denied"), nil
	}
	_, local := q.GetQuery().(*discoverypb.Query_LocalPeers)
	if local == (ch != nil) {
		return refuse("unknown or missing request type"), nil
	}
	switch t := q.GetQuery().(type) {
	case *discoverypb.Query_LocalPeers:
		return a.service.localPeers()
	case *discoverypb.Query_ConfigQuery:
		return ch.describe()
	case *discoverypb.Query_PeerQuery:
		return a.service.channelPeers(ch, t.PeerQuery.GetFilter())
	case *discoverypb.Query_CcQuery:
		return a.service.endorsers(ch, t.CcQuery)
	}
	return refuse("unknown or missing request type"), nil
}

// allowed tells whether the request's signer may ask the query: a writer of the
// channel, or for local peers an administrator of this organisation.
func (a *asking) allowed(q *discoverypb.Query, ch *Channel) (bool, error) {
	set, resource := a.service.cfg.LocalMSP, acl.ResourceDiscoveryLocal
	var cfg *configtx.Config
	if ch != nil {
		cfg, set, resource = ch.Config, ch.Config.MSPs, acl.ResourceDiscoveryChannel
	}
	id, err := a.identify(set)
	if errors.Is(err, errDenied) {
		a.denied(q, err)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = a.service.cfg.Access.Check(a.ctx, cfg, acl.Request{
		Resource: resource, Channel: q.GetChannel(), Caller: id, RemoteAddr: remoteAddr(a.ctx), TLSCertHash: deliver.PeerCertificateHash(a.ctx),
	})
	if errors.Is(err, acl.ErrDenied) {
		return false, nil // the guard has logged it
	}
	return err == nil, err
}

// errDenied is wrapped by errors that say that a request is not its signer's.
var errDenied = errors.New("access denied")

// identify validates the request's identity and verifies its signature in the token,
// once for each set.
func (a *asking) identify(set *msp.Set) (*msp.Identity, error) {
	if id := a.signer[set]; id != nil {
		return id, nil
	}
	id, err := set.Identity(a.ctx, a.identity)
	if msp.IsInvalid(err) {
		return nil, fmt.Errorf("%w: %w", errDenied, err)
	}
	if err != nil {
		return nil, fmt.Errorf("identity of the request: %w", err)
	}
	if a.service.cfg.Now().After(id.ExpiresAt()) {
		return nil, fmt.Errorf("%w: certificate of %s ended at %s", errDenied, id, id.ExpiresAt())
	}
	if err := id.Verify(a.ctx, a.signed.GetPayload(), a.signed.GetSignature()); err != nil {
		if errors.Is(err, bccsp.ErrBadSignature) {
			return nil, fmt.Errorf("%w: %w", errDenied, err)
		}
		return nil, fmt.Errorf("verify the request's signature: %w", err)
	}
	a.signer[set] = id
	return id, nil
}

func (a *asking) denied(q *discoverypb.Query, cause error) {
	a.service.cfg.Logger.WarnContext(a.ctx, "discovery query refused", "channel", q.GetChannel(), "remote", remoteAddr(a.ctx), "error", cause)
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
