package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"google.golang.org/grpc"

	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
)

// maxInFlight bounds how many envelopes wait for their answer on one stream.
const maxInFlight = 256

// Broadcast hands an envelope to the ordering service and returns when an orderer
// acknowledged it. When an endpoint cannot be reached, breaks off, or answers
// SERVICE_UNAVAILABLE, the next one is tried, each once. Any other status is the
// verdict: a *StatusError.
//
// When a connection breaks after the envelope was sent, the envelope may be
// ordered although the call goes on to the next endpoint, or fails: it can then
// stand in the channel twice, and peers mark the second one DUPLICATE_TXID.
func (c *Client) Broadcast(ctx context.Context, env *commonpb.Envelope) error {
	first, _ := c.endpoint()
	var failures []error
	for _, e := range slices.Concat([]Endpoint{first}, c.others(first)) {
		err := c.broadcastTo(ctx, e, env)
		var status *StatusError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &status) && status.Status != commonpb.Status_SERVICE_UNAVAILABLE:
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("broadcast to orderer %s: %w", e.Address, context.Cause(ctx))
		}
		c.leave(e)
		failures = append(failures, err)
	}
	return fmt.Errorf("no orderer took the envelope: %w", errors.Join(failures...))
}

// errAgain says that the stream ended before the orderer looked at the envelope.
var errAgain = errors.New("stream ended before the envelope was looked at")

func (c *Client) broadcastTo(ctx context.Context, e Endpoint, env *commonpb.Envelope) error {
	conn, err := c.connection(e)
	if err != nil {
		return err
	}
	for {
		stream := conn.leastBusy()
		if err := stream.broadcast(ctx, env); !errors.Is(err, errAgain) {
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
	ctx      context.Context // the client's
	endpoint string
	open     func(context.Context, ...grpc.CallOption) (ordererpb.AtomicBroadcast_BroadcastClient, error)

	mu  sync.Mutex // guards cur, and holds the order of sends equal to the order of waiters
	cur *openStream
}

// openStream is one life of a broadcastStream.
type openStream struct {
	grpc    ordererpb.AtomicBroadcast_BroadcastClient
	cancel  context.CancelFunc
	waiters chan chan error // in the order of the envelopes; capacity maxInFlight
	done    chan struct{}   // closed by receive when the stream is over
	err     error           // why; set before done closes
}

func (s *broadcastStream) load() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur == nil {
		return 0
	}
	return len(s.cur.waiters)
}

func (s *broadcastStream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur != nil {
		s.cur.cancel()
	}
}

func (s *broadcastStream) broadcast(ctx context.Context, env *commonpb.Envelope) error {
	answer, cur, err := s.send(ctx, env)
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
func (s *broadcastStream) send(ctx context.Context, env *commonpb.Envelope) (chan error, *openStream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cur := s.cur
	if cur != nil {
		select {
		case <-cur.done:
			cur = nil
		default:
		}
	}
	if cur == nil {
		streamCtx, cancel := context.WithCancel(s.ctx)
		stream, err := s.open(streamCtx)
		if err != nil {
			cancel()
			return nil, nil, fmt.Errorf("orderer %s: %w", s.endpoint, err)
		}
		cur = &openStream{grpc: stream, cancel: cancel, waiters: make(chan chan error, maxInFlight), done: make(chan struct{})}
		s.cur = cur
		go cur.receive(s.endpoint)
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
		return nil, nil, fmt.Errorf("orderer %s: %w", s.endpoint, err)
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
