package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// recover opens the block log and brings every store up to its end. Blocks below
// known were committed once, whatever the stores say.
func (l *Ledger) recover(ctx context.Context, known uint64) error {
	indexed, err := l.index.tip()
	if err != nil {
		return err
	}
	state, err := l.state.next()
	if err != nil {
		return err
	}
	history, err := l.history.next()
	if err != nil {
		return err
	}
	last := indexed.hash
	l.log, err = openBlockLog(l.config.FS, l.blocksDir(), l.config.BlockFileSize, l.config.Logger,
		indexed.end, indexed.next, max(indexed.next, state, history, known),
		func(r record, at location) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			l.progress("reading the block log", r.number, 0)
			last, err = l.reindex(r, at, last)
			return err
		})
	if err != nil {
		return err
	}
	if err := l.replay(ctx, state, history); err != nil {
		return err
	}
	return l.loadEnd()
}

// progress tells the operator now and then how far a recovery is; of is 0 when the
// end is not known yet.
func (l *Ledger) progress(what string, block, of uint64) {
	const every = 1000
	if l.config.Progress != nil && block%100 == 0 {
		l.config.Progress(what, block, of)
	}
	if block > 0 && block%every == 0 {
		l.config.Logger.Info(what, "channel", l.config.ChannelID, "block", block, "of", of)
	}
}

// reindex adds a block of the log to the index and returns its hash.
func (l *Ledger) reindex(r record, at location, previous []byte) ([]byte, error) {
	b, flags, err := l.recorded(r)
	if err != nil {
		return nil, err
	}
	if got := b.Proto.Header.GetPreviousHash(); !bytes.Equal(got, previous) {
		return nil, fmt.Errorf("block %d has previous_hash %x, the block before has %x", r.number, got, previous)
	}
	seen, err := l.index.seen(b.Block)
	if err != nil {
		return nil, err
	}
	return b.Hash, l.index.write(l.index.batch(b.Block, flags, seen, at))
}

// recorded reads a block and the flags that were recorded in it.
func (l *Ledger) recorded(r record) (*parsedBlock, []peerpb.TxValidationCode, error) {
	stored, err := l.records.decode(r)
	if err != nil {
		return nil, nil, err
	}
	b, err := stored.parse()
	if err != nil {
		return nil, nil, err
	}
	flags, err := recordedFlags(b.Block)
	return b, flags, err
}

func recordedFlags(b *wire.Block) ([]peerpb.TxValidationCode, error) {
	filter := metadata(b.Proto, commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER)
	if len(filter) != len(b.Txs) {
		return nil, fmt.Errorf("block %d has %d flags for %d transactions", b.Number(), len(filter), len(b.Txs))
	}
	flags := make([]peerpb.TxValidationCode, len(filter))
	for i, f := range filter {
		flags[i] = peerpb.TxValidationCode(f)
	}
	return flags, nil
}

func metadata(b *commonpb.Block, i commonpb.BlockMetadataIndex) []byte {
	if m := b.GetMetadata().GetMetadata(); int(i) < len(m) {
		return m[i]
	}
	return nil
}

// replay applies to state and history the blocks of the log that they lack.
func (l *Ledger) replay(ctx context.Context, state, history uint64) error {
	t, err := l.index.tip()
	if err != nil {
		return err
	}
	if from := min(state, history); from < t.next {
		l.config.Logger.Info("applying blocks again", "channel", l.config.ChannelID, "from", from, "to", t.next-1,
			"state", state, "history", history)
	}
	before, err := l.commitHashAt(state)
	if err != nil {
		return err
	}
	for n := min(state, history); n < t.next; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		l.progress("applying blocks again", n, t.next)
		r, err := l.readRecord(n)
		if err != nil {
			return err
		}
		b, flags, err := l.recorded(r)
		if err != nil {
			return err
		}
		var g errgroup.Group
		if n >= history {
			g.Go(func() error { return l.history.write(historyBatch(b.Block, flags)) })
		}
		if n >= state {
			g.Go(func() error {
				var err error
				before, err = l.reapply(b, flags, before)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// commitHashAt is the commit hash before a block: that of the block before it.
func (l *Ledger) commitHashAt(next uint64) ([]byte, error) {
	if next == 0 {
		return nil, nil
	}
	b, err := l.readBlock(next - 1)
	if err != nil {
		return nil, err
	}
	return recordedCommitHash(b.Block)
}

func recordedCommitHash(b *commonpb.Block) ([]byte, error) {
	raw := metadata(b, commonpb.BlockMetadataIndex_COMMIT_HASH)
	if len(raw) == 0 {
		return nil, nil
	}
	m := &commonpb.Metadata{}
	if err := unmarshal(raw, m); err != nil {
		return nil, fmt.Errorf("commit hash of block %d: %w", b.GetHeader().GetNumber(), err)
	}
	return m.GetValue(), nil
}

// reapply applies a block of the log to the state, as its commit did, and returns
// its commit hash. Flags or a commit hash other than the recorded ones mean that
// the state was changed behind the ledger's back. Over values of namespaces that were
// shredded since no hash can be made: the recorded one is taken.
func (l *Ledger) reapply(b *parsedBlock, recorded []peerpb.TxValidationCode, before []byte) ([]byte, error) {
	v, err := l.newView(b.Number())
	if err != nil {
		return nil, fmt.Errorf("store %s: snapshot: %w", l.state.dir, err)
	}
	defer v.release()
	seen := make([]occurrence, len(b.Txs)) // duplicates are recorded as such
	flags := slices.Clone(recorded)
	for i, f := range flags {
		// What only the state can tell is found anew.
		if f == peerpb.TxValidationCode_MVCC_READ_CONFLICT || f == peerpb.TxValidationCode_PHANTOM_READ_CONFLICT {
			flags[i] = peerpb.TxValidationCode_VALID
		}
	}
	p, err := l.planSeen(b.Block, flags, seen, v, before)
	if err != nil {
		return nil, fmt.Errorf("block %d: %w", b.Number(), err)
	}
	commitHash, err := recordedCommitHash(b.Proto)
	if err != nil {
		return nil, err
	}
	p.updates.shred(b.stored.shredded)
	if p.updates.anyGone() || len(b.stored.shredded) > 0 {
		p.commitHash = commitHash
	}
	if !slices.Equal(flags, recorded) || !bytes.Equal(p.commitHash, commitHash) {
		return nil, fmt.Errorf("block %d gives other flags or another commit hash than are recorded in it (%x, recorded is %x): "+
			"the state was changed; delete the folder %s, it is rebuilt from the block log", b.Number(), p.commitHash, commitHash, l.state.dir)
	}
	batch, err := l.stateBatch(p)
	if err != nil {
		return nil, err
	}
	return p.commitHash, l.state.write(batch)
}

// loadEnd makes the end of the chain visible.
func (l *Ledger) loadEnd() error {
	t, err := l.index.tip()
	if err != nil {
		return err
	}
	e := end{height: t.next}
	if t.next > 0 {
		r, err := l.readRecord(t.next - 1)
		if err != nil {
			return err
		}
		b, err := l.records.decode(r)
		if err != nil {
			return err
		}
		if err := l.records.resume(r); err != nil {
			return err
		}
		e.hash, e.previous = wire.BlockHash(b.Header), b.Header.PreviousHash
		if e.commitHash, err = recordedCommitHash(b.Block); err != nil {
			return err
		}
		if !bytes.Equal(e.hash, t.hash) {
			return errors.New("the index and the block log disagree on the last block's hash: delete the folder " + l.index.dir + ", it is rebuilt from the block log")
		}
	}
	v, err := l.newView(t.next)
	if err != nil {
		return fmt.Errorf("store %s: snapshot: %w", l.state.dir, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end, l.view = e, v
	return nil
}
