package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"google.golang.org/grpc"

	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
	"strongroom/wire/peerpb"
)

// maxPending bounds the transactions that were ordered and not seen committed.
const maxPending = 200_000

// follower learns of commits from the peer's stream of filtered blocks. It is safe
// for concurrent use.
type follower struct {
	mu      sync.Mutex // guards pending
	pending map[string]func(outcome)
}

// follow starts to follow the channel from its newest block on. Failed is called once
// if the stream ends before ctx.
func follow(ctx context.Context, t *target, u *user, conn grpc.ClientConnInterface, failed func(error)) (*follower, error) {
	f := &follower{pending: map[string]func(outcome){}}
	var m marshaler
	seek := m.bytes(&ordererpb.SeekInfo{
		Start:    &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_Newest{Newest: &ordererpb.SeekNewest{}}},
		Stop:     &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_Specified{Specified: &ordererpb.SeekSpecified{Number: math.MaxUint64}}},
		Behavior: ordererpb.SeekInfo_BLOCK_UNTIL_READY,
	})
	header, err := u.header(commonpb.HeaderType_DELIVER_SEEK_INFO, t.Channel)
	payload := m.bytes(&commonpb.Payload{Header: header, Data: seek})
	if err := errors.Join(err, m.err); err != nil {
		return nil, err
	}
	signature, err := u.sign(payload)
	if err != nil {
		return nil, err
	}
	stream, err := peerpb.NewDeliverClient(conn).DeliverFiltered(ctx)
	if err == nil {
		err = stream.Send(&commonpb.Envelope{Payload: payload, Signature: signature})
	}
	if err != nil {
		return nil, fmt.Errorf("following commits: %w", err)
	}
	// The newest block comes at once: from then on none is missed.
	if err := f.take(stream.Recv()); err != nil {
		return nil, fmt.Errorf("following commits: %w", err)
	}
	go func() {
		for {
			if err := f.take(stream.Recv()); err != nil {
				if ctx.Err() == nil {
					failed(fmt.Errorf("following commits: %w", err))
				}
				return
			}
		}
	}()
	return f, nil
}

func (f *follower) take(r *peerpb.DeliverResponse, err error) error {
	if err != nil {
		return err
	}
	b := r.GetFilteredBlock()
	if b == nil {
		return fmt.Errorf("the peer ended the stream: %s", r.GetStatus())
	}
	for _, tx := range b.GetFilteredTransactions() {
		f.mu.Lock()
		done := f.pending[tx.GetTxid()]
		delete(f.pending, tx.GetTxid())
		f.mu.Unlock()
		switch code := tx.GetTxValidationCode(); {
		case done == nil:
		case code == peerpb.TxValidationCode_VALID:
			done(ok)
		default:
			done(outcome{"committed as " + code.String(), ""})
		}
	}
	return nil
}

// expect has done called when a transaction is committed.
func (f *follower) expect(txID string, done func(outcome)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.pending) >= maxPending {
		return fmt.Errorf("%d transactions were ordered and not committed: the peer does not keep up, give a --rate", maxPending)
	}
	f.pending[txID] = done
	return nil
}

// forget takes back an expectation.
func (f *follower) forget(txID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.pending, txID)
}

// wait waits until all is committed that was ordered, at most as long as limit, and
// returns how many were not.
func (f *follower) wait(ctx context.Context, limit time.Duration) int {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		f.mu.Lock()
		left := len(f.pending)
		f.mu.Unlock()
		if left == 0 || !pause(ctx, 20*time.Millisecond) {
			return left
		}
	}
}
