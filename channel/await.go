package channel

import (
	"context"
	"errors"

	"strongroom/ledger"
	"strongroom/wire"
	"strongroom/wire/peerpb"
)

// outcome is what became of a transaction.
type outcome struct {
	code  peerpb.TxValidationCode
	block uint64
}

// AwaitTx waits until a transaction is in a published block and returns its code
// and the block's number. A transaction that is there already is found at once. If
// several transactions have the id, the first counts. The error is the context's
// or the ledger's.
func (c *Channel) AwaitTx(ctx context.Context, txID string) (peerpb.TxValidationCode, uint64, error) {
	// The waiter is there before the ledger is asked: a block that is published in
	// between tells it.
	waiter := make(chan outcome, 1)
	c.mu.Lock()
	c.waiters[txID] = append(c.waiters[txID], waiter)
	c.mu.Unlock()
	defer c.forget(txID, waiter)

	code, block, err := c.chain.ValidationCode(txID)
	switch {
	case err == nil && block < c.Height():
		return code, block, nil
	case err != nil && !errors.Is(err, ledger.ErrNotFound):
		return 0, 0, err
	}
	select {
	case o := <-waiter:
		return o.code, o.block, nil
	case <-ctx.Done():
		return 0, 0, context.Cause(ctx)
	}
}

func (c *Channel) forget(txID string, waiter chan outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rest := c.waiters[txID]
	for i, w := range rest {
		if w == waiter {
			rest = append(rest[:i:i], rest[i+1:]...)
			break
		}
	}
	if len(rest) == 0 {
		delete(c.waiters, txID)
		return
	}
	c.waiters[txID] = rest
}

// publish tells the waiters of a block's transactions.
func (c *Channel) publish(block *wire.Block, flags []peerpb.TxValidationCode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.published = block.Number() + 1
	for i, tx := range block.Txs {
		id := tx.TxID()
		for _, waiter := range c.waiters[id] {
			waiter <- outcome{flags[i], block.Number()} // holds one, and is in the map once
		}
		delete(c.waiters, id)
	}
}
