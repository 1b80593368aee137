package channel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"strongroom/channel/configtx"
	"strongroom/ledger"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// ErrLedger is wrapped by the error of Run when the ledger did not take a block:
// it must be opened again, and the channel with it.
var ErrLedger = errors.New("the ledger failed")

// Run follows the channel until the context ends, and returns its cause, or until
// the ledger fails (ErrLedger). Whatever else goes wrong is logged, shown by Health,
// and tried again after a pause.
func (c *Channel) Run(ctx context.Context) error {
	if c.cfg.Source == nil {
		return errors.New("channel: Config.Source is nil: give a client of the ordering service")
	}
	return c.whileRunning(ctx, func(ctx context.Context, finished chan<- committed) error {
		pause := backoff{min: c.cfg.RetryMin, max: c.cfg.RetryMax}
		for {
			height := c.chain.Height()
			err := c.session(ctx, c.cfg.Source, finished)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if errors.Is(err, ErrLedger) {
				return err
			}
			if c.chain.Height() > height {
				pause.reset()
			}
			if err == nil {
				err = errors.New("the source of blocks ended")
			}
			c.setHealth(func(h *Health) { h.SourceFailure = err })
			c.cfg.Logger.Error("asking the source for blocks again", "channel", c.ID(), "from", c.chain.Height(), "error", err)
			if err := pause.wait(ctx); err != nil {
				return err
			}
		}
	})
}

// whileRunning runs what commits blocks beside what publishes them.
func (c *Channel) whileRunning(ctx context.Context, run func(context.Context, chan<- committed) error) error {
	if !c.running.CompareAndSwap(false, true) {
		return errors.New("channel: it is running already")
	}
	defer c.running.Store(false)
	finished := make(chan committed, c.cfg.Ahead)
	done := make(chan error, 1)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	height := c.chain.Height()
	go func() {
		err := c.finish(ctx, height, finished)
		if err != nil {
			cancel(err)
		}
		done <- err
	}()
	err := run(ctx, finished)
	close(finished)
	if e := <-done; err == nil {
		err = e
	}
	return err
}

// pending is a block between intake and commit.
type pending struct {
	block     *wire.Block
	config    *configtx.Config
	search    *search       // started
	committed chan struct{} // closed when it is
}

// session takes blocks from one connection to a source until that ends or a block
// is refused. When it returns, every block that was accepted is committed, or
// dropped because of one before it, and nothing of the session runs any more.
func (c *Channel) session(run context.Context, source Source, finished chan<- committed) error {
	ctx, cancel := context.WithCancelCause(run)
	defer cancel(nil)
	accepted := make(chan *pending, 1)
	found := make(chan *pending, c.cfg.Ahead)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(found)
		for p := range accepted {
			if ctx.Err() != nil {
				continue
			}
			err := c.start(ctx, p)
			if err != nil {
				cancel(err)
				continue
			}
			select {
			case found <- p:
			case <-ctx.Done():
				_, _ = p.search.wait() // what it started must end before the session does
			}
		}
	})
	wg.Go(func() {
		for p := range found {
			if ctx.Err() != nil {
				_, _ = p.search.wait()
				continue
			}
			done, err := c.commit(ctx, p)
			if err != nil {
				cancel(err)
				continue
			}
			c.handOn(run, finished, done)
		}
	})

	in := &intake{channel: c, accepted: accepted, next: c.chain.Height()}
	err := in.open()
	if err == nil {
		err = source.Blocks(ctx, in.next, func(b *commonpb.Block) error { return in.accept(ctx, b) })
	}
	c.setHealth(func(h *Health) { h.Connected = false })
	close(accepted)
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// handOn gives a committed block to those who record and publish it. Nothing but
// the end of Run may keep one from them, since the recorder bears no gaps; the next
// Run finds what this one left.
func (c *Channel) handOn(run context.Context, finished chan<- committed, done committed) {
	select {
	case finished <- done:
	case <-run.Done():
	}
}

// start parses a block and begins to find its facts.
func (c *Channel) start(ctx context.Context, p *pending) error {
	block, err := c.validator.parse(ctx, p.block.Proto)
	if err != nil {
		return err
	}
	p.block, p.search = block, newSearch(p.config, block)
	p.search.start(ctx, c.validator.pool)
	return nil
}

// intake checks that blocks are the channel's next. It is used by one goroutine.
type intake struct {
	channel  *Channel
	accepted chan<- *pending
	next     uint64
	hash     []byte   // of the block before next
	barrier  *pending // a configuration block that next must wait for
}

func (in *intake) open() error {
	last, err := in.channel.chain.Block(in.next - 1)
	if err != nil {
		return fmt.Errorf("last block of the ledger: %w", err)
	}
	in.hash = wire.BlockHash(last.Header)
	return nil
}

// accept checks a block and hands it on. A failure of the token is waited out.
func (in *intake) accept(ctx context.Context, b *commonpb.Block) error {
	c := in.channel
	c.setHealth(func(h *Health) { h.Connected, h.SourceFailure = true, nil })
	if in.barrier != nil {
		select {
		case <-in.barrier.committed:
			in.barrier = nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	started := time.Now()
	switch {
	case b.GetHeader() == nil || b.Data == nil:
		return fmt.Errorf("%w: block %d has no header or no data", ErrBadBlock, in.next)
	case b.Header.Number != in.next:
		return fmt.Errorf("%w: the source gave block %d, the next is %d", ErrBadBlock, b.Header.Number, in.next)
	case !bytes.Equal(b.Header.PreviousHash, in.hash):
		return fmt.Errorf("%w: block %d does not follow ours: its previous_hash is %x, the hash of block %d is %x",
			ErrBadBlock, in.next, b.Header.PreviousHash, in.next-1, in.hash)
	}
	config := c.Config()
	err := c.insist(ctx, "checking the orderers' signatures of block", in.next, func() error {
		err := configtx.VerifyBlock(ctx, config, b)
		if bad := (*configtx.InvalidBlockError)(nil); errors.As(err, &bad) {
			return fmt.Errorf("%w: %w", ErrBadBlock, err)
		}
		return err
	})
	if err != nil {
		return err
	}
	block, err := wire.NewBlock(b)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadBlock, err)
	}
	c.cfg.Observe(StageIntake, in.next, len(block.Txs), time.Since(started))
	p := &pending{block: block, config: config, committed: make(chan struct{})}
	select {
	case in.accepted <- p:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	in.next++
	in.hash = block.Hash
	if isConfig(b) {
		in.barrier = p
	}
	return nil
}

// isConfig tells whether a block may change the configuration. An orderer puts a
// CONFIG transaction into a block of its own; nextConfig refuses one among others.
func isConfig(b *commonpb.Block) bool {
	return len(b.Data.Data) == 1 && wire.ParseTx(0, b.Data.Data[0]).Config != nil
}

// commit decides a block and commits it.
func (c *Channel) commit(ctx context.Context, p *pending) (committed, error) {
	number, size := p.block.Number(), len(p.block.Txs)
	started := time.Now()
	lap := func(stage Stage) {
		now := time.Now()
		c.cfg.Observe(stage, number, size, now.Sub(started))
		started = now
	}
	facts, err := c.awaitFacts(ctx, p)
	if err != nil {
		return committed{}, err
	}
	lap(StageFacts)
	var judgement *Judgement
	var config *configtx.Config
	err = c.insist(ctx, "judging block", number, func() (err error) {
		if judgement, err = c.judge(ctx, facts); err != nil {
			return err
		}
		config, err = c.nextConfig(ctx, facts, judgement)
		return err
	})
	if err != nil {
		return committed{}, err
	}
	lap(StageVerdict)
	flags := judgement.Flags()
	// A context that ends does not interrupt a commit: whether the block is in the
	// ledger must be known.
	var lost error
	err = c.insist(ctx, "new data keys for block", number, func() error {
		err := c.chain.Commit(context.WithoutCancel(ctx), facts.Block, flags)
		if errors.Is(err, ledger.ErrNoKeys) {
			return err
		}
		lost = err
		return nil
	})
	if err != nil {
		return committed{}, err
	}
	if lost != nil {
		err = fmt.Errorf("%w: %w", ErrLedger, lost)
		c.fail(number, err)
		return committed{}, err
	}
	lap(StageCommit)
	c.log(facts.Block, judgement, flags)
	c.validator.definitions.committed(facts.Block, flags)
	if config != nil {
		c.config.Store(config)
		c.cfg.Logger.Info("channel configuration changed", "channel", config.ID, "block", number, "sequence", config.Sequence)
	}
	close(p.committed)
	if c.differ != nil {
		c.differ(facts.Block.Proto)
	}
	return committed{facts.Block, flags, judgement.Policies}, nil
}

// awaitFacts waits for a block's facts. What the token could not answer it is
// asked again, and if the configuration is not the one that the facts were found
// under they are found again.
func (c *Channel) awaitFacts(ctx context.Context, p *pending) (*Facts, error) {
	facts, err := p.search.wait()
	if config := c.Config(); config != p.config {
		p.search, err = newSearch(config, p.block), nil
		facts = nil
	}
	if facts != nil {
		return facts, nil
	}
	first := err
	err = c.insist(ctx, "checking the signatures of block", p.block.Number(), func() error {
		if first != nil {
			err, first = first, nil
			return err
		}
		p.search.start(ctx, c.validator.pool)
		facts, err = p.search.wait()
		return err
	})
	return facts, err
}

func (c *Channel) judge(ctx context.Context, facts *Facts) (*Judgement, error) {
	state, err := c.chain.state()
	if err != nil {
		return nil, err
	}
	defer state.Release()
	return c.validator.Judge(ctx, facts, state)
}

// nextConfig applies the block's valid CONFIG transaction; nil when it has none. One
// that is no configuration, does not apply or shares its block makes the block one
// that no honest orderer signs.
func (c *Channel) nextConfig(ctx context.Context, facts *Facts, j *Judgement) (*configtx.Config, error) {
	for i, tx := range facts.Block.Txs {
		if j.Verdicts[i].Code == peerpb.TxValidationCode_INVALID_CONFIG_TRANSACTION && holdsData(tx) {
			return nil, fmt.Errorf("%w: block %d: %s", ErrBadBlock, facts.Block.Number(), j.Verdicts[i].Reason)
		}
		if tx.Config == nil || j.Verdicts[i].Code != peerpb.TxValidationCode_VALID {
			continue
		}
		if len(facts.Block.Txs) != 1 {
			return nil, fmt.Errorf("%w: block %d has a CONFIG transaction among others", ErrBadBlock, facts.Block.Number())
		}
		config, err := facts.Config.Apply(ctx, c.cfg.Deps, tx.Config)
		if bad := (*configtx.InvalidUpdateError)(nil); errors.As(err, &bad) {
			return nil, fmt.Errorf("%w: block %d: %w", ErrBadBlock, facts.Block.Number(), err)
		}
		if err != nil {
			return nil, err
		}
		return config, supported(config)
	}
	return nil, nil
}

// holdsData tells a CONFIG transaction whose data is not a configuration from one
// without data. Fabric's peers stop at the former; the latter is merely not valid.
func holdsData(tx *wire.Tx) bool {
	e, fault := wire.ParseEnvelope(&commonpb.Envelope{Payload: tx.Payload})
	return fault == nil && e.Data != nil
}

// log tells of the transactions that are not valid: ours at first, then those that
// the ledger refused.
func (c *Channel) log(block *wire.Block, j *Judgement, flags []peerpb.TxValidationCode) {
	for i, flag := range flags {
		if flag == peerpb.TxValidationCode_VALID {
			continue
		}
		c.cfg.Logger.Warn("transaction is not valid", "channel", c.ID(), "block", block.Number(), "transaction", i,
			"txid", block.Txs[i].TxID(), "code", flag.String(), "reason", j.Verdicts[i].Reason)
	}
	c.cfg.Logger.Debug("block committed", "channel", c.ID(), "block", block.Number(), "transactions", len(flags))
}

// insist repeats what failed on our side until it succeeds or the context ends. A
// verdict on the block ends it at once.
func (c *Channel) insist(ctx context.Context, doing string, block uint64, try func() error) error {
	pause := backoff{min: c.cfg.RetryMin, max: c.cfg.RetryMax}
	for failed := false; ; failed = true {
		err := try()
		if err == nil {
			if failed {
				c.cfg.Logger.Info("the channel goes on", "channel", c.ID(), "block", block)
				c.setHealth(func(h *Health) { h.Failure = nil })
			}
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, ErrBadBlock) {
			return err
		}
		c.fail(block, fmt.Errorf("%s %d: %w", doing, block, err))
		if err := pause.wait(ctx); err != nil {
			return err
		}
	}
}

// fail says what holds the channel up.
func (c *Channel) fail(block uint64, err error) {
	c.setHealth(func(h *Health) { h.Failure = err })
	c.cfg.Logger.Error("the channel is held up", "channel", c.ID(), "block", block, "error", err)
}

// backoff is a pause that doubles from min to max, less a random part.
type backoff struct{ min, max, last time.Duration }

func (b *backoff) reset() { b.last = 0 }

func (b *backoff) wait(ctx context.Context) error {
	b.last = min(max(2*b.last, b.min), b.max)
	timer := time.NewTimer(b.last - rand.N(b.last/4+1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
