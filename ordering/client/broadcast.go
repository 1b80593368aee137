package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
)

// maxInFlight bounds how many envelopes wait for their answer on one stream.
const maxInFlight = 256

// Broadcast hands an envelope to the ordering service and returns when an orderer
// acknowledged it. When an endpoint cannot be reached, breaks off, or answers
// SERVICE_UNAVAILABLE, the next one is tried. Those that gave no answer at all are
// tried once more, then waiting for a connection (Config.ConnectTimeout). Any other
// status is the verdict: a *StatusError.
//
// When a connection breaks after the envelope was sent, the envelope may be
// ordered although the call goes on to the next endpoint, or fails: it can then
// stand in the channel twice, and peers mark the second one DUPLICATE_TXID.
func (c *Client) Broadcast(ctx context.Context, env *commonpb.Envelope) error {
	first, _ := c.endpoint()
	ask := slices.Concat([]Endpoint{first}, c.others(first))
	var failures []error
	for wait := range 2 {
		var silent []Endpoint
		for _, e := range ask {
			err := c.broadcastTo(ctx, e, env, wait > 0)
			var status *StatusError
			answered := errors.As(err, &status)
			switch {
			case err == nil:
				return nil
			case answered && status.Status != commonpb.Status_SERVICE_UNAVAILABLE:
				return err
			case ctx.Err() != nil:
				return fmt.Errorf("broadcast to orderer %s: %w", e.Address, context.Cause(ctx))
			}
			c.leave(e)
			if answered || wait > 0 {
				failures = append(failures, err)
			} else {
				silent = append(silent, e)
			}
		}
		ask = silent
	}
	return fmt.Errorf("no orderer took the envelope: %w", errors.Join(failures...))
}

// errAgain says that the stream ended before the orderer looked at the envelope.
var errAgain = errors.New("stream ended before the envelope was looked at")

func (c *Client) broadcastTo(ctx context.Context, e Endpoint, env *commonpb.Envelope, wait bool) error {
	conn, err := c.connection(e)
	if err != nil {
		return err
	}
	for {
		stream := conn.leastBusy()
		if err := stream.broadcast(ctx, env, wait); !errors.Is(err, errAgain) {
			return err
		}
	}
}

// leastBusy picks the stream with the fewest envelopes in flight.
func (c *connection) leastBusy() *broadcastStream {
	best := c.streams[0]
	load := best.load()
	for _, s := range c.streams[1:] {
		if n := s.load(); n < load {
			best, load = s, n
		}
	}
	return best
}

// broadcastStream is one Broadcast stream that is opened when it is needed and
// opened again after it ended. Answers come in the order of the envelopes.
type broadcastStream struct {
	ctx     context.Context // the client's
	conn    *connection
	timeout time.Duration // for opening it

	// sending is held, by a value in it, by who opens the stream or sends on it: the
	// order of envelopes is then the order of waiters.
	sending chan struct{}
	cur     atomic.Pointer[openStream] // set by who holds sending
}

func newBroadcastStream(ctx context.Context, conn *connection, timeout time.Duration) *broadcastStream {
	return &broadcastStream{ctx: ctx, conn: conn, timeout: timeout, sending: make(chan struct{}, 1)}
}

// openStream is one life of a broadcastStream.
type openStream struct {
	grpc    ordererpb.AtomicBroadcast_BroadcastClient
	cancel  context.CancelFunc
	waiters chan chan error // in the order of the envelopes; capacity maxInFlight
	done    chan struct{}   // closed by receive when the stream is over
	err     error           // why; set before done closes
}

// load is how many envelopes wait for their answer, or to be sent first.
func (s *broadcastStream) load() int {
	n := len(s.sending)
	if cur := s.cur.Load(); cur != nil {
		n += len(cur.waiters)
	}
	return n
}

func (s *broadcastStream) close() {
	if cur := s.cur.Load(); cur != nil {
		cur.cancel()
	}
}

func (s *broadcastStream) broadcast(ctx context.Context, env *commonpb.Envelope, wait bool) error {
	answer, cur, err := s.send(ctx, env, wait)
	if err != nil {
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-cur.done:
		// The answer may have come just before the end.
		select {
		case err := <-answer:
			return err
		default:
			return cur.err
		}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send puts the envelope on the stream and queues for its answer.
func (s *broadcastStream) send(ctx context.Context, env *commonpb.Envelope, wait bool) (chan error, *openStream, error) {
	select {
	case s.sending <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	defer func() { <-s.sending }()
	cur := s.cur.Load()
	if cur != nil {
		select {
		case <-cur.done:
			cur = nil
		default:
		}
	}
	if cur == nil {
		stream, cancel, err := opened(s.ctx, ctx, s.conn, s.timeout, wait, s.conn.client.Broadcast)
		if err != nil {
			return nil, nil, err
		}
		cur = &openStream{grpc: stream, cancel: cancel, waiters: make(chan chan error, maxInFlight), done: make(chan struct{})}
		s.cur.Store(cur)
		go cur.receive(s.conn.endpoint.Address)
	}
	answer := make(chan error, 1)
	select {
	case cur.waiters <- answer:
	case <-cur.done:
		return nil, nil, errAgain
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	if err := cur.grpc.Send(env); err != nil && !errors.Is(err, io.EOF) { // EOF: receive has the reason
		cur.cancel()
		return nil, nil, streamError(s.conn.endpoint, err)
	}
	return answer, cur, nil
}

// receive hands each answer to the caller whose turn it is. An orderer ends the
// stream after an answer other than SUCCESS and looks at nothing that follows.
func (o *openStream) receive(endpoint string) {
	defer o.cancel()
	defer close(o.done)
	refused := false
	for {
		resp, err := o.grpc.Recv()
		if err != nil {
			o.err = streamError(Endpoint{Address: endpoint}, err)
			if refused && errors.Is(err, io.EOF) {
				o.err = errAgain
			}
			return
		}
		var waiter chan error
		select {
		case waiter = <-o.waiters:
		default:
			o.err = fmt.Errorf("orderer %s answered an envelope that was not sent", endpoint)
			return
		}
		if resp.Status == commonpb.Status_SUCCESS {
			waiter <- nil
			continue
		}
		refused = true
		waiter <- &StatusError{Endpoint: endpoint, Status: resp.Status, Info: resp.Info}
	}
}
