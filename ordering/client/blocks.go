package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
)

// Status is common.Status.
type Status = commonpb.Status

// ErrRejected is for emit functions: an error that wraps it says that the block is
// not a good one. The endpoint that sent it is left and the block is asked for again
// from the next one.
var ErrRejected = errors.New("block rejected")

// Blocks pulls the channel's blocks from number from on, in order and without gaps,
// and gives each to emit, until ctx ends or emit fails. It reconnects with backoff,
// moves to the next endpoint when one fails, is silent while others have more
// blocks, or sent a block that emit rejected. It returns emit's error, or ctx's.
//
// Blocks checks only that the numbers follow each other. Whether a block is the
// channel's is for emit to verify before it uses it.
func (c *Client) Blocks(ctx context.Context, channel string, from uint64, emit func(*commonpb.Block) error) error {
	if c.cfg.Identity == nil {
		return errors.New("orderer client has no identity to sign seek requests with: set Config.Identity")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.ctx, func() { cancel(errClosed) })()

	wait := backoff{min: c.cfg.MinBackoff, max: c.cfg.MaxBackoff}
	wait.reset()
	next := from
	for {
		endpoint, changed := c.endpoint()
		before := next
		err := c.pull(ctx, endpoint, changed, channel, &next, emit)
		var stop *emitError
		switch {
		case errors.As(err, &stop):
			c.setFailed(channel, stop.err)
			return stop.err
		case ctx.Err() != nil:
			c.setFailed(channel, context.Cause(ctx))
			return context.Cause(ctx)
		case errors.Is(err, errMoved):
			continue
		}
		c.setFailed(channel, err)
		c.leave(endpoint)
		c.cfg.Logger.Warn("block stream ended", "channel", channel, "endpoint", endpoint.Address, "next_block", next, "error", err)
		if next != before {
			wait.reset()
		}
		if !wait.wait(ctx) {
			return context.Cause(ctx)
		}
	}
}

var (
	// errMoved says that the endpoint list no longer holds the endpoint in use.
	errMoved = errors.New("endpoint left the list")
	errStall = errors.New("another endpoint has the next block, this one is silent")
)

// emitError carries an error of emit's out of pull.
type emitError struct{ err error }

func (e *emitError) Error() string { return e.err.Error() }

// pull runs one stream from one endpoint and moves next on with each block emitted.
func (c *Client) pull(ctx context.Context, e Endpoint, changed <-chan struct{}, channel string, next *uint64, emit func(*commonpb.Block) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, end, err := c.seek(ctx, e, channel, *next, math.MaxUint64, ordererpb.SeekInfo_BLOCK_UNTIL_READY, ordererpb.SeekInfo_BLOCK)
	if err != nil {
		return err
	}
	defer end()
	c.setConnected(channel, e.Address)

	heard := make(chan uint64, 1) // the next block after each one received
	go c.watch(ctx, cancel, e, changed, channel, *next, heard)
	for {
		resp, err := stream.Recv()
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return streamError(e, err)
		}
		block := resp.GetBlock()
		if block == nil {
			return &StatusError{Endpoint: e.Address, Status: resp.GetStatus()}
		}
		if got := block.GetHeader().GetNumber(); got != *next {
			return fmt.Errorf("orderer %s sent block %d, block %d was due", e.Address, got, *next)
		}
		if err := emit(block); err != nil {
			if errors.Is(err, ErrRejected) {
				return fmt.Errorf("block %d of orderer %s: %w", *next, e.Address, err)
			}
			return &emitError{err}
		}
		*next++
		select {
		case <-heard: // the watcher has not read the last one
		default:
		}
		heard <- *next
	}
}

// watch ends a stream whose endpoint left the list, or that is silent while another
// endpoint already has the block that is due.
func (c *Client) watch(ctx context.Context, cancel context.CancelCauseFunc, e Endpoint, changed <-chan struct{}, channel string, next uint64, heard <-chan uint64) {
	idle := time.NewTimer(c.cfg.StallAfter)
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case next = <-heard:
			idle.Reset(c.cfg.StallAfter)
		case <-changed:
			var now Endpoint
			if now, changed = c.endpoint(); !now.same(e) {
				cancel(errMoved)
				return
			}
		case <-idle.C:
			if c.stalled(ctx, e, channel, next) {
				cancel(fmt.Errorf("orderer %s, block %d: %w", e.Address, next, errStall))
				return
			}
			idle.Reset(c.cfg.StallAfter)
		}
	}
}

// stalled asks the other endpoints, or the same one when there is no other, for the
// header of the block that is due.
func (c *Client) stalled(ctx context.Context, e Endpoint, channel string, next uint64) bool {
	ask := c.others(e)
	if len(ask) == 0 {
		ask = []Endpoint{e}
	}
	for _, other := range ask {
		ctx, cancel := context.WithTimeout(ctx, c.cfg.StallAfter)
		stream, end, err := c.seek(ctx, other, channel, next, next, ordererpb.SeekInfo_FAIL_IF_NOT_READY, ordererpb.SeekInfo_HEADER_WITH_SIG)
		var resp *ordererpb.DeliverResponse
		if err == nil {
			resp, err = stream.Recv()
			end()
		}
		cancel()
		if err != nil {
			c.cfg.Logger.Debug("endpoint did not answer a probe", "channel", channel, "endpoint", other.Address, "error", err)
			continue
		}
		if resp.GetBlock().GetHeader().GetNumber() == next && resp.GetBlock() != nil {
			return true
		}
	}
	return false
}

// seek opens a deliver stream and sends one signed request. The caller ends it.
func (c *Client) seek(ctx context.Context, e Endpoint, channel string, from, to uint64, behavior ordererpb.SeekInfo_SeekBehavior, content ordererpb.SeekInfo_SeekContentType) (ordererpb.AtomicBroadcast_DeliverClient, context.CancelFunc, error) {
	conn, err := c.connection(e)
	if err != nil {
		return nil, nil, err
	}
	stream, end, err := opened(ctx, ctx, conn, c.cfg.ConnectTimeout, len(c.others(e)) == 0, conn.client.Deliver)
	if err != nil {
		return nil, nil, err
	}
	env, err := c.seekEnvelope(ctx, conn, channel, from, to, behavior, content)
	if err != nil {
		end()
		return nil, nil, fmt.Errorf("sign seek request: %w", err)
	}
	if err := stream.Send(env); err != nil && !errors.Is(err, io.EOF) { // EOF: Recv has the reason
		end()
		return nil, nil, streamError(e, err)
	}
	return stream, end, nil
}

func (c *Client) seekEnvelope(ctx context.Context, conn *connection, channel string, from, to uint64, behavior ordererpb.SeekInfo_SeekBehavior, content ordererpb.SeekInfo_SeekContentType) (*commonpb.Envelope, error) {
	seek, err := proto.Marshal(&ordererpb.SeekInfo{
		Start:       specified(from),
		Stop:        specified(to),
		Behavior:    behavior,
		ContentType: content,
	})
	if err != nil {
		return nil, err
	}
	channelHeader, err := proto.Marshal(&commonpb.ChannelHeader{
		Type:        int32(commonpb.HeaderType_DELIVER_SEEK_INFO),
		ChannelId:   channel,
		Timestamp:   timestamppb.Now(),
		TlsCertHash: c.certificateHash(conn),
	})
	if err != nil {
		return nil, err
	}
	by := c.cfg.Identity.Current()
	nonce := make([]byte, 24)
	rand.Read(nonce) // never fails (crypto/rand)
	signatureHeader, err := proto.Marshal(&commonpb.SignatureHeader{Creator: by.Serialized, Nonce: nonce})
	if err != nil {
		return nil, err
	}
	payload, err := proto.Marshal(&commonpb.Payload{
		Header: &commonpb.Header{ChannelHeader: channelHeader, SignatureHeader: signatureHeader},
		Data:   seek,
	})
	if err != nil {
		return nil, err
	}
	sig, err := by.SignPayload(ctx, payload)
	if err != nil {
		return nil, err
	}
	return &commonpb.Envelope{Payload: payload, Signature: sig}, nil
}

func specified(number uint64) *ordererpb.SeekPosition {
	return &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_Specified{Specified: &ordererpb.SeekSpecified{Number: number}}}
}

// streamError names the endpoint of a broken stream.
func streamError(e Endpoint, err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("orderer %s ended the stream", e.Address)
	}
	return fmt.Errorf("orderer %s: %w", e.Address, err)
}
