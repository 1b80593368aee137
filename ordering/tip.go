package ordering

import (
	"context"
	"fmt"
	"sync"

	"strongroom/ordering/blocklog"
	"strongroom/ordering/deliver"
)

const (
	// windowBlocks and windowBytes bound the recent blocks that are kept in memory for
	// followers near the tip.
	windowBlocks = 128
	windowBytes  = 64 << 20
)

// tip is the readable side of one channel's block log: the height, the recent
// blocks, and those who wait for the next one.
type tip struct {
	log *blocklog.Log

	mu     sync.Mutex // guards what follows
	height uint64
	recent []*deliver.Block // the latest ones, in order
	sizes  []int
	bytes  int
	grown  chan struct{} // closed and replaced by publish
	closed error         // why there will be no further block; nil while there may be
}

func newTip(log *blocklog.Log) *tip {
	return &tip{log: log, height: log.Next(), grown: make(chan struct{})}
}

// publish makes a durable block readable. raw is its encoding.
func (t *tip) publish(raw []byte, number uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.height = number + 1
	t.recent = append(t.recent, deliver.EncodedBlock(number, raw))
	t.sizes = append(t.sizes, len(raw))
	t.bytes += len(raw)
	for len(t.recent) > 1 && (len(t.recent) > windowBlocks || t.bytes > windowBytes) {
		t.bytes -= t.sizes[0]
		t.recent[0] = nil
		t.recent, t.sizes = t.recent[1:], t.sizes[1:]
	}
	close(t.grown)
	t.grown = make(chan struct{})
}

// end makes all who wait return reason.
func (t *tip) end(reason error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed == nil {
		t.closed = reason
		close(t.grown)
		t.grown = make(chan struct{})
	}
}

// Height is the number of the next block.
func (t *tip) Height() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.height
}

// Block implements deliver.Chain.
func (t *tip) Block(ctx context.Context, number uint64) (*deliver.Block, error) {
	for {
		t.mu.Lock()
		height, grown, closed := t.height, t.grown, t.closed
		if first := height - uint64(len(t.recent)); number >= first && number < height {
			b := t.recent[number-first]
			t.mu.Unlock()
			return b, nil
		}
		t.mu.Unlock()
		if number < height {
			raw, err := t.log.Read(number)
			if err != nil {
				return nil, err
			}
			return deliver.EncodedBlock(number, raw), nil
		}
		if closed != nil {
			return nil, fmt.Errorf("%w: %w", deliver.ErrUnavailable, closed)
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
