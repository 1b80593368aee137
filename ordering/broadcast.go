package ordering

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"strongroom/channel/configtx"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
)

// streamInFlight bounds the envelopes of one stream that are between being received
// and being answered.
const streamInFlight = 128

// item is one envelope of a stream on its way to its answer.
type item struct {
	env *commonpb.Envelope

	checked chan struct{} // closed when the fields below are set
	chain   *chain
	sub     *submission
	err     error
}

// Broadcast implements orderer.AtomicBroadcast.Broadcast. The envelopes of a stream
// are checked in parallel; they are ordered and answered as they came. As in
// Fabric, an answer other than SUCCESS is the stream's last, and nothing that
// follows a refused envelope on the stream is ordered. Behind one that could not be
// made durable (SERVICE_UNAVAILABLE), others that were on their way may be.
func (s *Service) Broadcast(stream ordererpb.AtomicBroadcast_BroadcastServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	remote := ""
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		remote = p.Addr.String()
	}
	received := make(chan *item, streamInFlight)
	submitted := make(chan *item, streamInFlight)
	broken := make(chan error, 1)
	go func() { broken <- s.receive(ctx, stream, remote, received) }()
	go submitInOrder(ctx, received, submitted)
	for it := range submitted {
		if it.err == nil {
			it.err = it.chain.await(ctx, it.sub)
		}
		resp := s.answer(it, remote)
		if err := stream.Send(resp); err != nil {
			return err
		}
		if resp.Status != commonpb.Status_SUCCESS {
			return nil
		}
	}
	return <-broken
}

// receive reads the stream and starts the check of each envelope.
func (s *Service) receive(ctx context.Context, stream ordererpb.AtomicBroadcast_BroadcastServer, remote string, received chan<- *item) error {
	defer close(received)
	for {
		env, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		it := &item{env: env, checked: make(chan struct{})}
		select {
		case received <- it: // waits while too many are in flight
		case <-ctx.Done():
			return ctx.Err()
		}
		go func() {
			defer close(it.checked)
			it.chain, it.sub, it.err = s.check(ctx, env, remote)
		}()
	}
}

// submitInOrder submits the envelopes in the order in which they were received, up
// to the first that is refused.
func submitInOrder(ctx context.Context, received <-chan *item, submitted chan<- *item) {
	defer close(submitted)
	for it := range received {
		select {
		case <-it.checked:
		case <-ctx.Done():
			return
		}
		if it.err == nil {
			it.err = it.chain.submit(ctx, it.sub)
		}
		refused := it.err != nil // once handed over, the item is not ours to look at
		select {
		case submitted <- it:
		case <-ctx.Done():
			return
		}
		if refused {
			return
		}
	}
}

// check decides on one envelope and makes what is ordered of it.
func (s *Service) check(ctx context.Context, env *commonpb.Envelope, remote string) (*chain, *submission, error) {
	if size := proto.Size(env); size > s.cfg.MaxMessageBytes {
		return nil, nil, refuse(commonpb.Status_REQUEST_ENTITY_TOO_LARGE, "envelope is %d bytes and exceeds the %d bytes that this node takes", size, s.cfg.MaxMessageBytes)
	}
	e, fault := wire.ParseEnvelope(env)
	if fault != nil {
		return nil, nil, refuse(commonpb.Status_BAD_REQUEST, "could not determine channel ID: %s", fault.Reason)
	}
	c, ok := s.chain(e.ChannelHeader.ChannelId)
	if !ok {
		return nil, nil, refuse(commonpb.Status_NOT_FOUND, "channel %q does not exist", e.ChannelHeader.ChannelId)
	}
	start := time.Now()
	sub, err := c.checkNew(ctx, env, e, remote)
	s.cfg.Observe(c.id, "check", time.Since(start), err)
	return c, sub, err
}

// checkNew decides on an envelope from a client.
func (c *chain) checkNew(ctx context.Context, env *commonpb.Envelope, e *wire.Envelope, remote string) (*submission, error) {
	cfg := c.config.Load()
	sub := &submission{kind: normalEntry, sequence: cfg.Sequence, answer: make(chan error, 1)}
	var err error
	switch kind := commonpb.HeaderType(e.ChannelHeader.Type); kind {
	case commonpb.HeaderType_CONFIG, commonpb.HeaderType_ORDERER_TRANSACTION:
		return nil, refuse(commonpb.Status_BAD_REQUEST, "message is of type %s that cannot be processed directly: send a CONFIG_UPDATE", kind)
	case commonpb.HeaderType_CONFIG_UPDATE:
		sub.kind = configEntry
		if env, err = c.checkUpdate(ctx, cfg, env, e, remote); err != nil {
			return nil, err
		}
	default:
		if maintenance(cfg) {
			return nil, refuse(commonpb.Status_SERVICE_UNAVAILABLE, "normal transactions are rejected: maintenance mode")
		}
		if err := c.admit(ctx, cfg, env, e, remote); err != nil {
			return nil, err
		}
	}
	if sub.raw, err = marshalEnvelope(env); err != nil {
		return nil, err
	}
	sub.size = envelopeSize(env)
	return sub, nil
}

// checkUpdate decides on a CONFIG_UPDATE and makes the CONFIG envelope of it.
func (c *chain) checkUpdate(ctx context.Context, cfg *configtx.Config, env *commonpb.Envelope, e *wire.Envelope, remote string) (*commonpb.Envelope, error) {
	if err := c.admit(ctx, cfg, env, e, remote); err != nil {
		var r *refusal
		if errors.As(err, &r) {
			return nil, &refusal{status: r.status, info: "config update for existing channel did not pass initial checks: " + r.info, detail: r.detail}
		}
		return nil, err
	}
	return c.propose(ctx, cfg, env)
}

// answer turns an outcome into the response, and logs what the client is not told.
func (s *Service) answer(it *item, remote string) *ordererpb.BroadcastResponse {
	if it.err == nil {
		return &ordererpb.BroadcastResponse{Status: commonpb.Status_SUCCESS}
	}
	channel := ""
	if it.chain != nil {
		channel = it.chain.id
	}
	var r *refusal
	if errors.As(it.err, &r) {
		s.cfg.Logger.Warn("envelope refused", "channel", channel, "remote", remote, "status", r.status.String(), "reason", r.info, "detail", r.detail)
		return &ordererpb.BroadcastResponse{Status: r.status, Info: r.info}
	}
	s.cfg.Logger.Error("envelope not taken", "channel", channel, "remote", remote, "error", it.err)
	info := "the ordering service cannot take envelopes now: its storage or its security module does not answer"
	var not *notOrderer
	switch {
	case errors.Is(it.err, ErrClosed):
		info = ErrClosed.Error()
	case errors.As(it.err, &not):
		info = "this node may not sign the channel's blocks any more: use another orderer"
	}
	return &ordererpb.BroadcastResponse{Status: commonpb.Status_SERVICE_UNAVAILABLE, Info: info}
}
