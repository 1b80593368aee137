package deliver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
)

// DefaultTimeWindow is how far the timestamp of a seek request may be from this
// node's clock, both ways: Fabric's authentication.timewindow.
const DefaultTimeWindow = 15 * time.Minute

var (
	// ErrForbidden is the verdict that a request's signer may not read the channel:
	// its identity, its signature or its standing under the Readers policy.
	ErrForbidden = errors.New("not allowed to read the channel")
	// ErrUnavailable says that no further block can be had from here for now.
	ErrUnavailable = errors.New("channel is not available")
)

// Chain is one channel as a stream reads it. It is used by many streams at once.
type Chain interface {
	// Sequence is the number of the channel's configuration in force. When it grows,
	// each stream asks Authorize again.
	Sequence() uint64
	// Authorize checks the request's signature and that its signer may read the
	// channel. A refusal wraps ErrForbidden; any other error is a failure of ours.
	Authorize(ctx context.Context, r *Request) error
	// Height is the number of the next block.
	Height() uint64
	// Block returns block number, and waits for it if it is the next one or later. An
	// error that is not the context's ends the stream with SERVICE_UNAVAILABLE.
	Block(ctx context.Context, number uint64) (*Block, error)
}

// Receiver is the request half of a deliver stream.
type Receiver interface {
	Recv() (*commonpb.Envelope, error)
}

// Sender is the response half of a deliver stream.
type Sender interface {
	SendStatus(commonpb.Status) error
	// SendBlock sends one block. headerOnly asks for the block without its data.
	SendBlock(ctx context.Context, c Chain, r *Request, b *Block, headerOnly bool) error
}

// Options says how a node serves its streams.
type Options struct {
	// Chain finds a channel by its id.
	Chain func(channelID string) (Chain, bool)
	// TimeWindow bounds the age of requests; zero means DefaultTimeWindow.
	TimeWindow time.Duration
	// MutualTLS makes each request name the TLS certificate of its connection.
	MutualTLS bool
	// CertificateHash finds the client's TLS certificate; nil means PeerCertificateHash.
	CertificateHash func(context.Context) []byte
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Logger gets refusals with their reasons, which the client is not told; nil discards.
	Logger *slog.Logger
}

// Serve answers the seek requests of one stream, one after the other, until the
// client hangs up, a request ends with another status than SUCCESS, or the stream
// breaks. The error is for gRPC: nil after a status was sent.
func Serve(ctx context.Context, in Receiver, out Sender, opt Options) error {
	if opt.TimeWindow == 0 {
		opt.TimeWindow = DefaultTimeWindow
	}
	if opt.CertificateHash == nil {
		opt.CertificateHash = PeerCertificateHash
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	addr := ""
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		addr = p.Addr.String()
	}
	for {
		env, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		s := &session{opt: &opt, out: out, addr: addr}
		status, err := s.serve(ctx, env)
		if err != nil {
			return err
		}
		if err := out.SendStatus(status); err != nil {
			return err
		}
		if status != commonpb.Status_SUCCESS {
			return nil
		}
	}
}

// session is one seek request under way.
type session struct {
	opt      *Options
	out      Sender
	addr     string
	chain    Chain
	request  *Request
	checked  bool
	sequence uint64 // of the configuration under which the signer was last checked
}

// serve answers one request. An error means that the stream itself is gone.
func (s *session) serve(ctx context.Context, env *commonpb.Envelope) (commonpb.Status, error) {
	r, err := parseRequest(env)
	if err == nil {
		r.RemoteAddr = s.addr
		err = r.checkFresh(s.opt.Now(), s.opt.TimeWindow)
	}
	if err == nil && s.opt.MutualTLS {
		err = r.checkBinding(s.opt.CertificateHash(ctx))
	}
	if err != nil {
		return s.refuse(commonpb.Status_BAD_REQUEST, err)
	}
	s.request = r
	chain, ok := s.opt.Chain(r.ChannelHeader.ChannelId)
	if !ok {
		return s.refuse(commonpb.Status_NOT_FOUND, errors.New("channel does not exist here"))
	}
	s.chain = chain
	if status, err := s.authorize(ctx); status != commonpb.Status_SUCCESS || err != nil {
		return status, err
	}
	from, to, err := seekRange(r.Seek, chain.Height())
	if errors.Is(err, errNotThere) {
		return s.refuse(commonpb.Status_NOT_FOUND, err)
	}
	if err != nil {
		return s.refuse(commonpb.Status_BAD_REQUEST, err)
	}
	return s.send(ctx, from, to)
}

// send serves the blocks from and on, up to and including block to. A block to
// below from is never met: such a stream has no end (Fabric's rule for a stop at
// the next commit).
func (s *session) send(ctx context.Context, from, to uint64) (commonpb.Status, error) {
	headerOnly := s.request.Seek.ContentType == ordererpb.SeekInfo_HEADER_WITH_SIG
	for n := from; ; n++ {
		if s.request.Seek.Behavior == ordererpb.SeekInfo_FAIL_IF_NOT_READY && n >= s.chain.Height() {
			return s.refuse(commonpb.Status_NOT_FOUND, fmt.Errorf("block %d is not there yet", n))
		}
		b, err := s.chain.Block(ctx, n)
		if err != nil {
			if ctx.Err() != nil {
				return 0, ctx.Err()
			}
			return s.refuse(commonpb.Status_SERVICE_UNAVAILABLE, err)
		}
		if status, err := s.authorize(ctx); status != commonpb.Status_SUCCESS || err != nil {
			return status, err
		}
		if err := s.out.SendBlock(ctx, s.chain, s.request, b, headerOnly); err != nil {
			return 0, err
		}
		if n == to {
			return commonpb.Status_SUCCESS, nil
		}
	}
}

// authorize checks the signer at the start and again whenever the channel's
// configuration changed, and ends the session when the signer's certificate ends.
func (s *session) authorize(ctx context.Context) (commonpb.Status, error) {
	if end := s.request.Expires; !end.IsZero() && s.opt.Now().After(end) {
		return s.refuse(commonpb.Status_FORBIDDEN, fmt.Errorf("the signer's certificate expired at %s", end.UTC().Format(time.RFC3339)))
	}
	sequence := s.chain.Sequence()
	if s.checked && sequence <= s.sequence {
		return commonpb.Status_SUCCESS, nil
	}
	if err := s.chain.Authorize(ctx, s.request); err != nil {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if errors.Is(err, ErrForbidden) {
			return s.refuse(commonpb.Status_FORBIDDEN, err)
		}
		return s.refuse(commonpb.Status_SERVICE_UNAVAILABLE, err)
	}
	s.checked, s.sequence = true, sequence
	return commonpb.Status_SUCCESS, nil
}

// refuse logs why a request ends with this status: deliver responses carry no text.
func (s *session) refuse(status commonpb.Status, reason error) (commonpb.Status, error) {
	attrs := []any{"status", status.String(), "reason", reason, "remote", s.addr}
	if s.request != nil {
		attrs = append(attrs, "channel", s.request.ChannelHeader.ChannelId)
	}
	// A client that waits for a channel or a block asks again and again.
	level := slog.LevelWarn
	if status == commonpb.Status_NOT_FOUND {
		level = slog.LevelDebug
	}
	s.opt.Logger.Log(context.Background(), level, "deliver request ended", attrs...)
	return status, nil
}

// errNotThere says that a seek starts beyond the chain.
var errNotThere = errors.New("start is beyond the chain")

// seekRange turns a request's positions into block numbers.
func seekRange(seek *ordererpb.SeekInfo, height uint64) (from, to uint64, err error) {
	if seek.Start == nil || seek.Stop == nil {
		return 0, 0, errors.New("seek info has no start or no stop")
	}
	if height == 0 {
		return 0, 0, fmt.Errorf("%w: the channel has no block yet", errNotThere)
	}
	switch start := seek.Start.Type.(type) {
	case *ordererpb.SeekPosition_Oldest:
		from = 0
	case *ordererpb.SeekPosition_Newest:
		from = height - 1
	case *ordererpb.SeekPosition_NextCommit:
		from = height
	case *ordererpb.SeekPosition_Specified:
		from = start.Specified.GetNumber()
		if from > height {
			return 0, 0, fmt.Errorf("%w: start is block %d, the next one is %d", errNotThere, from, height)
		}
	default:
		return 0, 0, fmt.Errorf("%w: start has no position", errNotThere)
	}
	switch stop := seek.Stop.Type.(type) {
	case *ordererpb.SeekPosition_Oldest:
		to = from
	case *ordererpb.SeekPosition_Newest:
		to = height - 1
		if proto.Equal(seek.Start, seek.Stop) {
			to = from
		}
	case *ordererpb.SeekPosition_Specified:
		if to = stop.Specified.GetNumber(); to < from {
			return 0, 0, fmt.Errorf("start is block %d, after the stop, block %d", from, to)
		}
	}
	return from, to, nil
}
