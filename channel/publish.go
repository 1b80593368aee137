package channel

import (
	"context"
	"fmt"
	"time"

	"strongroom/policy"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// committed is a block on its way from the ledger to those who wait for it.
type committed struct {
	block    *wire.Block
	flags    []peerpb.TxValidationCode
	policies map[string]policy.Digest
}

// finish records and publishes blocks in the order in which they were committed. As
// many as are there are recorded at once. It first records what a crash left.
func (c *Channel) finish(ctx context.Context, height uint64, finished <-chan committed) error {
	if err := c.catchUp(ctx, height); err != nil {
		return err
	}
	for first := range finished {
		group := append(make([]committed, 0, 1+len(finished)), first)
		for len(finished) > 0 && len(group) < cap(group) {
			group = append(group, <-finished)
		}
		started := time.Now()
		if err := c.record(ctx, group); err != nil {
			return err
		}
		for _, done := range group {
			c.publish(done.block, done.flags)
			c.cfg.Observe(StagePublish, done.block.Number(), len(done.flags), time.Since(started))
		}
	}
	return nil
}

func (c *Channel) record(ctx context.Context, group []committed) error {
	if c.cfg.Recorder == nil {
		return nil
	}
	blocks := make([]CommittedBlock, len(group))
	for i, done := range group {
		blocks[i] = CommittedBlock{Block: done.block.Proto, Policies: done.policies}
	}
	return c.insist(ctx, "recording the provenance of block", group[0].block.Number(), func() error {
		return c.cfg.Recorder.Record(ctx, blocks...)
	})
}

// catchUp records and publishes the blocks of the ledger for which that was not
// done: those that were committed before a crash, or just before Run ended. Blocks
// from before there was a recorder are recorded, too. No block is committed yet
// when it learns how many there are, or it comes through finished.
func (c *Channel) catchUp(ctx context.Context, height uint64) error {
	for number := c.firstUnfinished(); number < height; number++ {
		var raw *commonpb.Block
		err := c.insist(ctx, "recording the provenance of block", number, func() (err error) {
			if raw, err = c.chain.Block(number); err != nil || c.cfg.Recorder == nil {
				return err
			}
			return c.cfg.Recorder.Record(ctx, CommittedBlock{Block: raw})
		})
		if err != nil {
			return err
		}
		if number < c.Height() {
			continue
		}
		block, err := wire.ParseBlock(raw)
		if err != nil {
			return fmt.Errorf("block %d of the ledger: %w", number, err)
		}
		flags := make([]peerpb.TxValidationCode, len(block.Txs))
		for i, flag := range filter(raw) {
			if i < len(flags) {
				flags[i] = peerpb.TxValidationCode(flag)
			}
		}
		c.publish(block, flags)
	}
	return nil
}

func (c *Channel) firstUnfinished() uint64 {
	first := c.Height()
	if c.cfg.Recorder != nil {
		next, _ := c.cfg.Recorder.Next()
		first = min(first, next)
	}
	return first
}

// filter is the transaction filter of a block from the ledger: one code for each
// transaction.
func filter(b *commonpb.Block) []byte {
	return metadata(b, commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER)
}

func metadata(b *commonpb.Block, index commonpb.BlockMetadataIndex) []byte {
	if entries := b.GetMetadata().GetMetadata(); int(index) < len(entries) {
		return entries[index]
	}
	return nil
}
