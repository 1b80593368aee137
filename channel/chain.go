package channel

import (
	"context"

	"strongroom/ledger"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// chain is what the pipeline needs of a ledger. Tests put a failing one between.
type chain interface {
	Height() uint64
	Block(number uint64) (*commonpb.Block, error)
	Commit(ctx context.Context, b *wire.Block, flags []peerpb.TxValidationCode) error
	ValidationCode(txID string) (peerpb.TxValidationCode, uint64, error)
	state() (snapshot, error)
}

// snapshot is the state at one height. Release frees it.
type snapshot interface {
	State
	Release()
}

type ledgerChain struct{ *ledger.Ledger }

type ledgerState struct {
	*ledger.Snapshot
	ledger *ledger.Ledger
}

// HasTx asks the ledger itself: while a block is judged it is at the snapshot's
// height.
func (s ledgerState) HasTx(txID string) (bool, error) { return s.ledger.HasTx(txID) }

// Block is the ledger's outline: of blocks that were committed the pipeline needs
// headers, metadata and configurations, which stay when a namespace is shredded.
func (l ledgerChain) Block(number uint64) (*commonpb.Block, error) { return l.Outline(number) }

func (l ledgerChain) state() (snapshot, error) {
	s, err := l.Snapshot()
	if err != nil {
		return nil, err
	}
	return ledgerState{s, l.Ledger}, nil
}
