package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"strongroom/bccsp"
	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// transactions checks every transaction that the peer called valid, in parallel.
func (a *auditor) transactions(ctx context.Context, raw *commonpb.Block) error {
	block, err := wire.ParseBlock(raw)
	if err != nil {
		a.find(raw.GetHeader().GetNumber(), "%v", err)
		return nil
	}
	var flags []byte
	if m := raw.GetMetadata().GetMetadata(); len(m) > int(commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER) {
		flags = m[commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER]
	}
	if len(flags) != len(block.Txs) {
		a.find(block.Number(), "%d verdicts for %d transactions", len(flags), len(block.Txs))
		return nil
	}
	parties := make([]parties, len(block.Txs))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, tx := range block.Txs {
		code := peerpb.TxValidationCode(flags[i])
		a.report.Codes[code.String()]++
		a.report.Transactions++
		if code != peerpb.TxValidationCode_VALID || block.Number() == 0 {
			continue
		}
		group.Go(func() error {
			parties[i].problem = a.transaction(groupCtx, tx, &parties[i])
			return groupCtx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i := range parties {
		if err := parties[i].problem; err != nil {
			a.find(block.Number(), "transaction %d (%s) is called valid: %v", i, block.Txs[i].TxID(), err)
		}
	}
	if a.watch != nil {
		if err := a.watch(&seenBlock{block, a.found, flags, parties}, &a.parts); err != nil {
			return err
		}
	}
	if err := a.replayBlock(ctx, block, raw, flags); err != nil {
		return err
	}
	return a.configure(ctx, block, flags)
}

// configure makes a valid configuration transaction of the block the configuration
// of the blocks after it.
func (a *auditor) configure(ctx context.Context, block *wire.Block, flags []byte) error {
	for i, tx := range block.Txs {
		if tx.Config == nil || block.Number() == 0 || flags[i] != byte(peerpb.TxValidationCode_VALID) {
			continue
		}
		next, err := a.config.Apply(ctx, a.deps, tx.Config)
		if err != nil {
			a.find(block.Number(), "configuration update: %v", err)
			continue
		}
		a.config = next
	}
	return nil
}

// transaction returns what is wrong with one transaction, or nil, and notes whose
// signatures are good.
func (a *auditor) transaction(ctx context.Context, tx *wire.Tx, good *parties) error {
	for _, fault := range []*wire.Fault{tx.HeaderFault, tx.BodyFault} {
		if fault != nil {
			return fault
		}
	}
	creator, err := a.config.MSPs.Identity(ctx, tx.SignatureHeader.GetCreator())
	if err != nil {
		return fmt.Errorf("creator: %w", err)
	}
	if err := creator.Verify(ctx, tx.Payload, tx.Signature); err != nil {
		return fmt.Errorf("creator: %w", err)
	}
	good.creator = creator
	atomic.AddInt64(&a.report.Signatures, 1)
	a.members.count(creator, func(m *Member) { m.Submitted++ })
	if tx.Endorsed == nil {
		return nil
	}
	var last error
	for _, e := range tx.Endorsed.Endorsements {
		var endorser *msp.Identity
		if endorser, last = a.endorsement(ctx, tx.Endorsed.ResponsePayload, e); last == nil {
			good.endorsers = append(good.endorsers, endorser)
			continue
		}
		if !msp.IsInvalid(last) && !errors.Is(last, bccsp.ErrBadSignature) {
			return fmt.Errorf("endorsement: %w", last)
		}
		atomic.AddInt64(&a.report.Ignored, 1)
	}
	if len(good.endorsers) == 0 {
		return fmt.Errorf("none of its %d endorsements is good: %w", len(tx.Endorsed.Endorsements), last)
	}
	atomic.AddInt64(&a.report.Signatures, int64(len(good.endorsers)))
	return nil
}

func (a *auditor) endorsement(ctx context.Context, payload []byte, e *peerpb.Endorsement) (*msp.Identity, error) {
	endorser, err := a.config.MSPs.Identity(ctx, e.GetEndorser())
	if err != nil {
		return nil, err
	}
	if err := endorser.Verify(ctx, append(payload[:len(payload):len(payload)], e.GetEndorser()...), e.GetSignature()); err != nil {
		return nil, err
	}
	a.members.count(endorser, func(m *Member) { m.Endorsed++ })
	return endorser, nil
}
