package channel

import (
	"bytes"
	"context"
	"fmt"
	"iter"

	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// Difference is where a block that was judged again came out otherwise than the
// peer that the block is from recorded it.
type Difference struct {
	Block       uint64
	Transaction int // -1 for the commit hash
	Recorded    string
	Ours        string
}

// String tells the difference in a line.
func (d Difference) String() string {
	if d.Transaction < 0 {
		return fmt.Sprintf("block %d: commit hash is recorded as %s, ours is %s", d.Block, d.Recorded, d.Ours)
	}
	return fmt.Sprintf("block %d transaction %d: recorded as %s, ours is %s", d.Block, d.Transaction, d.Recorded, d.Ours)
}

// Replay judges and commits blocks from the ledger's height on, as Run does, and
// returns at their end. Blocks that a peer recorded codes or a commit hash in are
// compared with what came out here; differ is told what differs, from one goroutine.
// Blocks below the ledger's height are passed over. The error is the first of the
// sequence's, the refusal of a block, or the context's.
func (c *Channel) Replay(ctx context.Context, blocks iter.Seq2[*commonpb.Block, error], differ func(Difference)) error {
	r := &replay{blocks: blocks, recorded: make(chan *commonpb.BlockMetadata, c.cfg.Ahead+4)}
	return c.whileRunning(ctx, func(ctx context.Context, finished chan<- committed) error {
		c.differ = func(b *commonpb.Block) { compare(b, <-r.recorded, differ) }
		defer func() { c.differ = nil }()
		return c.session(ctx, r, finished)
	})
}

// replay is a sequence of blocks as a Source. The metadata that the blocks came
// with wait in recorded until their block is committed: there are never more than
// the pipeline holds.
type replay struct {
	blocks   iter.Seq2[*commonpb.Block, error]
	recorded chan *commonpb.BlockMetadata
}

func (r *replay) Blocks(ctx context.Context, from uint64, emit func(*commonpb.Block) error) error {
	for block, err := range r.blocks {
		if err != nil {
			return err
		}
		if block.GetHeader().GetNumber() < from {
			continue
		}
		select {
		case r.recorded <- block.Metadata:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		// The ledger writes what it finds into the metadata.
		own := &commonpb.Block{Header: block.Header, Data: block.Data, Metadata: &commonpb.BlockMetadata{}}
		own.Metadata.Metadata = append(own.Metadata.Metadata, block.GetMetadata().GetMetadata()...)
		if err := emit(own); err != nil {
			return err
		}
	}
	return nil
}

func compare(ours *commonpb.Block, metadataThen *commonpb.BlockMetadata, differ func(Difference)) {
	then := &commonpb.Block{Metadata: metadataThen}
	number, found := ours.Header.Number, filter(ours)
	if recorded := filter(then); len(recorded) > 0 {
		for i := range max(len(recorded), len(found)) {
			if was, is := codeAt(recorded, i), codeAt(found, i); was != is {
				differ(Difference{number, i, was, is})
			}
		}
	}
	hash := metadata(ours, commonpb.BlockMetadataIndex_COMMIT_HASH)
	if recorded := metadata(then, commonpb.BlockMetadataIndex_COMMIT_HASH); len(recorded) > 0 && !bytes.Equal(recorded, hash) {
		differ(Difference{number, -1, fmt.Sprintf("%x", recorded), fmt.Sprintf("%x", hash)})
	}
}

func codeAt(filter []byte, i int) string {
	if i >= len(filter) {
		return "nothing"
	}
	return peerpb.TxValidationCode(filter[i]).String()
}
