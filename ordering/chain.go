package ordering

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/proto"

	"strongroom/channel/configtx"
	"strongroom/ordering/blocklog"
	"strongroom/wire"
	"strongroom/wire/commonpb"
)

const (
	blocksDir  = "blocks"
	pendingDir = "pending"
	// pendingSegmentBytes is small, since segments are dropped whole.
	pendingSegmentBytes = 64 << 20
	// backlogBytes and backlogEntries bound the acknowledged envelopes that are in no
	// block yet; above it, Broadcast waits.
	backlogBytes   = 128 << 20
	backlogEntries = 8192
	// groupEntries bounds how many envelopes share one fsync.
	groupEntries = 1024
)

// chain is one channel as this node orders it.
type chain struct {
	*tip
	id      string
	cfg     *Config
	config  atomic.Pointer[configtx.Config] // set by the write stage alone, once started
	blocks  *blocklog.Log
	pending *blocklog.Log
	health  health

	submissions chan *submission
	entries     chan entry          // durable, in order, from accept to cut
	cuts        chan cutBatch       // from cut to write
	backlog     *semaphore.Weighted // bytes of entries in no block yet
	used        atomic.Uint64       // pending entries up to this one are in durable blocks, or were refused

	replay []entry // read at open, for the accept stage to begin with
	tail   tail    // the write stage's

	keeper         *keeper // of checkpoints; nil without Config.Checkpoints
	acceptRollback bool

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	done   chan struct{} // closed when all stages have ended
}

// submission is an envelope that was checked and waits to become durable.
type submission struct {
	kind     entryKind
	sequence uint64
	raw      []byte
	size     uint32
	answer   chan error // capacity 1; nil when durable
}

// cutBatch is the content of one block.
type cutBatch struct {
	entries []entry
	next    *configtx.Config // for a CONFIG entry: the configuration that it brings
	applied chan struct{}    // closed when next is in force; nil for others
}

func chainDirs(cfg *Config, id string) (blocks, pending blocklog.Config) {
	dir := filepath.Join(cfg.Dir, id)
	return blocklog.Config{Dir: filepath.Join(dir, blocksDir), Name: "orderer/" + id + "/" + blocksDir, Sealer: cfg.Sealer},
		blocklog.Config{Dir: filepath.Join(dir, pendingDir), Name: "orderer/" + id + "/" + pendingDir, Sealer: cfg.Sealer, First: 1, SegmentBytes: pendingSegmentBytes}
}

// writeGenesis makes a channel's block log with its first block, durable.
func writeGenesis(cfg *Config, id string, genesis *commonpb.Block) error {
	raw, err := proto.Marshal(genesis)
	if err != nil {
		return fmt.Errorf("encode genesis block: %w", err)
	}
	blocks, _ := chainDirs(cfg, id)
	log, err := blocklog.Open(blocks)
	if err != nil {
		return err
	}
	if log.Next() != 0 {
		return errors.Join(ErrChannelExists, log.Close())
	}
	if _, err := log.Append(raw); err != nil {
		return errors.Join(err, log.Close())
	}
	return errors.Join(log.Sync(), log.Close(), syncDir(cfg.Dir))
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// openChain opens a channel and finds where it stands: the configuration in force,
// and the acknowledged envelopes that are in no block yet.
//
// A channel behind its checkpoint in the token gives ErrRolledBack, unless that is to be accepted.
func openChain(ctx context.Context, cfg *Config, id string, acceptRollback bool) (_ *chain, err error) {
	c := &chain{
		id:             id,
		cfg:            cfg,
		acceptRollback: acceptRollback,
		submissions:    make(chan *submission, groupEntries),
		entries:        make(chan entry, backlogEntries),
		cuts:           make(chan cutBatch, 2),
		backlog:        semaphore.NewWeighted(backlogBytes),
		done:           make(chan struct{}),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.closeLogs())
		}
	}()
	blocks, pending := chainDirs(cfg, id)
	if c.blocks, err = blocklog.Open(blocks); err != nil {
		return nil, err
	}
	height := c.blocks.Next()
	if height == 0 {
		return nil, errNoGenesis
	}
	last, err := c.readBlock(height - 1)
	if err != nil {
		return nil, err
	}
	lastConfig, used, err := ordererMetadata(last)
	if err != nil {
		return nil, err
	}
	configBlock, err := c.readBlock(lastConfig)
	if err != nil {
		return nil, err
	}
	config, err := configtx.FromBlock(ctx, cfg.Deps, configBlock)
	if err != nil {
		return nil, err
	}
	if config.ID != id {
		return nil, fmt.Errorf("its blocks are of channel %q", config.ID)
	}
	c.config.Store(config)
	c.tail = tail{next: height, hash: wire.BlockHash(last.Header), lastConfig: lastConfig}
	c.used.Store(uint64(used))
	c.tip = newTip(c.blocks)
	if err := c.checkRollback(ctx); err != nil {
		return nil, err
	}
	pending.First = uint64(used) + 1
	if c.pending, err = blocklog.Open(pending); err != nil {
		return nil, err
	}
	if err := c.readReplay(); err != nil {
		return nil, err
	}
	err = maySign(ctx, config, cfg.Identity)
	var not *notOrderer
	if errors.As(err, &not) {
		c.health.halt(not)
		err = nil
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, err
}

// readReplay reads the acknowledged envelopes behind the last block.
func (c *chain) readReplay() error {
	from := c.used.Load() + 1
	if first, next := c.pending.First(), c.pending.Next(); first > from || next < from {
		return fmt.Errorf("its last block used up the pending log to entry %d, but the log holds entries %d to %d: one of both is from another time, restore both from one backup", from-1, first, next)
	}
	for n := from; n < c.pending.Next(); n++ {
		raw, err := c.pending.Read(n)
		if err != nil {
			return err
		}
		e, err := decodeEntry(n, raw)
		if err != nil {
			return err
		}
		c.replay = append(c.replay, e)
	}
	return nil
}

func (c *chain) readBlock(number uint64) (*commonpb.Block, error) {
	raw, err := c.blocks.Read(number)
	if err != nil {
		return nil, err
	}
	return parseBlock(number, raw)
}

// start runs the three stages.
func (c *chain) start() {
	if n := len(c.replay); n > 0 {
		c.cfg.Logger.Info("going on with acknowledged envelopes", "channel", c.id, "envelopes", n, "height", c.tail.next)
	}
	for _, stage := range []func(){c.accept, c.cut, c.write} {
		c.wg.Go(stage)
	}
	c.keeper.start(c.ctx.Done())
	go func() {
		c.wg.Wait()
		close(c.done)
	}()
}

func (c *chain) close() error {
	c.cancel()
	<-c.done
	c.end(ErrClosed)
	c.keeper.wait()
	return c.closeLogs()
}

func (c *chain) closeLogs() error {
	var errs []error
	for _, log := range []*blocklog.Log{c.blocks, c.pending} {
		if log != nil {
			errs = append(errs, log.Close())
		}
	}
	return errors.Join(errs...)
}

// Sequence implements deliver.Chain.
func (c *chain) Sequence() uint64 { return c.config.Load().Sequence }

// submit hands an envelope to the accept stage; its answer comes later.
func (c *chain) submit(ctx context.Context, s *submission) error {
	if err := c.health.halted(); err != nil {
		return err
	}
	select {
	case c.submissions <- s:
		return nil
	case <-c.ctx.Done():
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// await returns when a submission is durable, or will not be.
func (c *chain) await(ctx context.Context, s *submission) error {
	select {
	case err := <-s.answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
	}
	// The answer may have come just before the end.
	select {
	case err := <-s.answer:
		return err
	default:
		return ErrClosed
	}
}

// persist tries a step until it works or the channel closes (false), and keeps the
// reason of a failure where Healthy finds it.
func (c *chain) persist(step string, f func(ctx context.Context) error) bool {
	wait := 50 * time.Millisecond
	for {
		start := time.Now()
		err := f(c.ctx)
		if c.ctx.Err() != nil && err != nil {
			return false
		}
		c.cfg.Observe(c.id, step, time.Since(start), err)
		c.health.set(step, err)
		if err == nil {
			return true
		}
		c.cfg.Logger.Error("channel waits", "channel", c.id, "step", step, "retry_in", wait, "error", err)
		t := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-t.C:
		case <-c.ctx.Done():
			t.Stop()
			return false
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// health is why a channel does not go on.
type health struct {
	mu    sync.Mutex // guards what follows
	steps map[string]error
	end   error
}

// set notes the outcome of a step: nil when it works again.
func (h *health) set(step string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		delete(h.steps, step)
		return
	}
	if h.steps == nil {
		h.steps = make(map[string]error)
	}
	h.steps[step] = err
}

// halt says that the channel makes no further block until a restart.
func (h *health) halt(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.end = err
}

func (h *health) halted() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.end
}

func (h *health) err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	errs := []error{h.end}
	for step, err := range h.steps {
		errs = append(errs, fmt.Errorf("%s: %w", step, err))
	}
	return errors.Join(errs...)
}
