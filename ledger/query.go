package ledger

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"strongroom/ledger/seal"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

func unmarshal(b []byte, m proto.Message) error { return proto.Unmarshal(b, m) }

// Block returns a block by its number, as it was committed: with flags and commit
// hash in its metadata. A block with values of a namespace that was shredded gives
// an error that wraps seal.ErrShredded. Blocks are shared; the caller must not change them. There
// being none gives ErrNotFound, as it does in the methods below.
func (l *Ledger) Block(number uint64) (*commonpb.Block, error) {
	b, grown, err := l.cached(number)
	switch {
	case err != nil:
		return nil, err
	case b != nil:
		return b.Proto, nil
	case grown != nil:
		return nil, fmt.Errorf("block %d: %w", number, ErrNotFound)
	}
	return l.readWhole(number)
}

// ParsedBlock is Block for a caller that looks into the transactions: recent blocks
// need not be parsed again.
func (l *Ledger) ParsedBlock(number uint64) (*wire.Block, error) {
	b, grown, err := l.cached(number)
	switch {
	case err != nil || b != nil:
		return b, err
	case grown != nil:
		return nil, fmt.Errorf("block %d: %w", number, ErrNotFound)
	}
	p, err := l.parsedBlock(number)
	if err == nil {
		err = p.stored.whole()
	}
	if err != nil {
		return nil, err
	}
	return p.Block, nil
}

// Outline is Block for a caller that needs the header, the metadata or a
// configuration alone: in the place of values of namespaces that were shredded the
// block has zeros.
func (l *Ledger) Outline(number uint64) (*commonpb.Block, error) {
	b, err := l.Block(number)
	if !errors.Is(err, seal.ErrShredded) {
		return b, err
	}
	stored, err := l.readBlock(number)
	if err != nil {
		return nil, err
	}
	return stored.Block, nil
}

// cached returns a block that is in memory, or, for one that is not there yet, what
// is closed when the ledger grows. Neither means that the block is on the disk.
func (l *Ledger) cached(number uint64) (*wire.Block, <-chan struct{}, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.view == nil {
		return nil, nil, ErrClosed
	}
	if number >= l.end.height {
		return nil, l.grown, nil
	}
	if age := l.end.height - number; age <= uint64(len(l.recent)) {
		return l.recent[uint64(len(l.recent))-age], nil, nil
	}
	return nil, nil, nil
}

// readWhole reads a block from the log of which every value can be read.
func (l *Ledger) readWhole(number uint64) (*commonpb.Block, error) {
	b, err := l.readBlock(number)
	if err == nil {
		err = b.whole()
	}
	if err != nil {
		return nil, err
	}
	return b.Block, nil
}

// readBlock reads a block from the log.
func (l *Ledger) readBlock(number uint64) (*storedBlock, error) {
	r, err := l.readRecord(number)
	if err != nil {
		return nil, err
	}
	return l.records.decode(r)
}

// readRecord reads the record of a block that is in the index.
func (l *Ledger) readRecord(number uint64) (record, error) {
	at, err := l.index.location(number)
	if err != nil {
		return record{}, err
	}
	return readRecord(l.config.FS, l.blocksDir(), number, at)
}

func (l *Ledger) blocksDir() string { return filepath.Join(l.config.Dir, "blocks") }

// parsedBlock returns a block that is in the log, parsed.
func (l *Ledger) parsedBlock(number uint64) (*parsedBlock, error) {
	if b, _, err := l.cached(number); err != nil {
		return nil, err
	} else if b != nil {
		return &parsedBlock{b, &storedBlock{Block: b.Proto}}, nil
	}
	if b, ok := l.parsed.Get(number); ok {
		return b, nil
	}
	raw, err := l.readBlock(number)
	if err != nil {
		return nil, err
	}
	b, err := raw.parse()
	if err != nil {
		return nil, err
	}
	l.parsed.Add(number, b)
	return b, nil
}

// BlockByHash returns the block whose header has a hash.
func (l *Ledger) BlockByHash(hash []byte) (*commonpb.Block, error) {
	number, err := l.index.byHash(hash)
	if err != nil {
		return nil, err
	}
	return l.Block(number)
}

// BlockByTxID returns the first block that holds a transaction of an id.
func (l *Ledger) BlockByTxID(txID string) (*commonpb.Block, error) {
	e, err := l.index.tx(txID)
	if err != nil {
		return nil, err
	}
	return l.Block(e.height.Block)
}

// Transaction returns the first transaction of an id and its validation code.
func (l *Ledger) Transaction(txID string) (*peerpb.ProcessedTransaction, error) {
	e, err := l.index.tx(txID)
	if err != nil {
		return nil, err
	}
	b, err := l.Block(e.height.Block)
	if err != nil {
		return nil, err
	}
	if e.height.Tx >= uint64(len(b.GetData().GetData())) {
		return nil, fmt.Errorf("transaction %q: block %d has no transaction %d: delete the folder %s, it is rebuilt from the block log",
			txID, e.height.Block, e.height.Tx, l.index.dir)
	}
	envelope := &commonpb.Envelope{}
	if err := proto.Unmarshal(b.Data.Data[e.height.Tx], envelope); err != nil {
		return nil, fmt.Errorf("transaction %q: %w", txID, err)
	}
	return &peerpb.ProcessedTransaction{TransactionEnvelope: envelope, ValidationCode: int32(e.code)}, nil
}

// ValidationCode returns what became of the first transaction of an id, and its block.
func (l *Ledger) ValidationCode(txID string) (peerpb.TxValidationCode, uint64, error) {
	e, err := l.index.tx(txID)
	return e.code, e.height.Block, err
}

// HasTx tells whether a transaction of an id was committed, valid or not. During a
// commit it may already know that block's transactions.
func (l *Ledger) HasTx(txID string) (bool, error) {
	if txID == "" {
		return false, nil
	}
	return l.index.has(txKey(txID))
}

// Blocks gives the blocks from a number on, in order and without end: at the end
// of the chain it waits for the next block. It ends after it gave an error: the
// context's, ErrClosed, or a failure to read. Blocks are shared; the caller must
// not change them.
func (l *Ledger) Blocks(ctx context.Context, from uint64) iter.Seq2[*commonpb.Block, error] {
	return follow(ctx, l, from, func(b *wire.Block) *commonpb.Block { return b.Proto }, l.readWhole)
}

// ParsedBlocks is Blocks for a caller that looks into the transactions.
func (l *Ledger) ParsedBlocks(ctx context.Context, from uint64) iter.Seq2[*wire.Block, error] {
	return follow(ctx, l, from, func(b *wire.Block) *wire.Block { return b }, func(number uint64) (*wire.Block, error) {
		raw, err := l.readWhole(number)
		if err != nil {
			return nil, err
		}
		return wire.ParseBlock(raw)
	})
}

func follow[B any](ctx context.Context, l *Ledger, from uint64, cached func(*wire.Block) *B, read func(number uint64) (*B, error)) iter.Seq2[*B, error] {
	return func(yield func(*B, error) bool) {
		for number := from; ; {
			if err := ctx.Err(); err != nil {
				yield(nil, err)
				return
			}
			b, grown, err := l.cached(number)
			var out *B
			switch {
			case err != nil:
			case grown != nil:
				select {
				case <-grown:
				case <-ctx.Done():
				}
				continue
			case b != nil:
				out = cached(b)
			default:
				out, err = read(number)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(out, nil) {
				return
			}
			number++
		}
	}
}
