package ordering

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"strongroom/bccsp"
	"strongroom/channel/configtx"
	"strongroom/wire"
)

// Checkpoints is how an ordering node remembers, out of the disk's reach, how far each
// channel came. A node on an older copy of its log would sign other blocks under numbers
// that it has signed before.
type Checkpoints struct {
	// Token keeps the records.
	Token bccsp.Checkpoints
	// Name is under which name a channel's record is kept.
	Name func(channel string) string
	// Term is the term of the keyring that seals now; it never falls. Nil means always 0.
	Term func() uint32
	// Every is the least time between two records of a channel; 0 stands for
	// DefaultCheckpointEvery. The last one is written when the channel closes.
	Every time.Duration
}

// DefaultCheckpointEvery is as a peer's ledger has it: an HSM's memory wears out.
const DefaultCheckpointEvery = 5 * time.Second

// ErrRolledBack says that a channel's log is behind, or beside, what the token
// remembers of it: its folder, or the keyring's, is an older copy or another's.
var ErrRolledBack = errors.New("the data folder is an older copy")

const (
	checkpointHead    = "strongroom ordering checkpoint 1\n"
	checkpointTimeout = 30 * time.Second
	// minCheckpoint is the least height that is remembered: what has only its genesis
	// block has nothing to lose.
	minCheckpoint = 2
	keptAccepted  = 32
)

// checkpoint is one record, as text:
//
//	strongroom ordering checkpoint 1
//	channel "NAME"
//	height 120
//	block "0f1e2d…"          hash of block 119
//	term 7
//	accepted 150 100 2026-01-02T03:04:05Z   as in a peer's checkpoint
type checkpoint struct {
	channel  string
	height   uint64
	block    []byte
	term     uint32
	accepted []string
}

func (c *checkpoint) marshal() []byte {
	b := fmt.Appendf([]byte(checkpointHead), "channel %q\nheight %d\nblock \"%x\"\nterm %d\n", c.channel, c.height, c.block, c.term)
	for _, line := range c.accepted {
		b = fmt.Appendf(b, "accepted %s\n", line)
	}
	return b
}

// parseCheckpoint reads a record. Only the very bytes that marshal writes pass.
func parseCheckpoint(b []byte) (*checkpoint, error) {
	c := &checkpoint{}
	rest, ok := strings.CutPrefix(string(b), checkpointHead)
	lines := strings.SplitAfter(rest, "\n")
	if !ok || len(lines) < 5 {
		return nil, fmt.Errorf("it does not start with %q and four lines", strings.TrimSpace(checkpointHead))
	}
	var block string
	if _, err := fmt.Sscanf(strings.Join(lines[:4], ""), "channel %q\nheight %d\nblock %q\nterm %d\n", &c.channel, &c.height, &block, &c.term); err != nil {
		return nil, fmt.Errorf("its lines are not readable: %w", err)
	}
	var err error
	if c.block, err = hex.DecodeString(block); err != nil {
		return nil, errors.New("block is not hexadecimal")
	}
	for _, line := range lines[4:] {
		if line, ok := strings.CutPrefix(line, "accepted "); ok {
			c.accepted = append(c.accepted, strings.TrimSuffix(line, "\n"))
		}
	}
	if !bytes.Equal(c.marshal(), b) {
		return nil, errors.New("its spelling is not the one that is written")
	}
	return c, nil
}

// remembered is the highest record of a channel, nil when there is none.
func (p *Checkpoints) remembered(ctx context.Context, channel string) (*checkpoint, error) {
	name := p.Name(channel)
	records, err := p.Token.LoadCheckpoints(ctx, name)
	if err != nil {
		return nil, err
	}
	var highest *checkpoint
	for _, r := range records {
		c, err := parseCheckpoint(r)
		if err == nil && c.channel != channel {
			err = fmt.Errorf("it is of channel %q", c.channel)
		}
		if err != nil {
			return nil, fmt.Errorf("checkpoint %q in the token: %w: remove the object with the token's own tool, and find out who changed it", name, err)
		}
		if highest == nil || c.height > highest.height {
			highest = c
		}
	}
	return highest, nil
}

func (p *Checkpoints) term() uint32 {
	if p.Term == nil {
		return 0
	}
	return p.Term()
}

// checkRollback compares the opened log with what the token remembers.
func (c *chain) checkRollback(ctx context.Context) error {
	if c.cfg.Checkpoints == nil {
		return nil
	}
	was, err := c.cfg.Checkpoints.remembered(ctx, c.id)
	if err != nil {
		return err
	}
	c.keeper = newKeeper(c)
	if was == nil {
		if c.tail.next >= minCheckpoint {
			c.cfg.Logger.Info("the token has no checkpoint of this channel's log yet: it gets one now", "channel", c.id, "height", c.tail.next)
		}
		return nil
	}
	c.keeper.accepted = was.accepted
	fault, err := c.behind(was)
	if err != nil || fault == nil {
		return err
	}
	if !c.acceptRollback {
		return fmt.Errorf("%w; restore the newer copy, or, if this one is meant, run `strongroom ledger accept-rollback %s --ordering` with the node stopped: "+
			"peers that have the missing blocks then refuse other blocks under their numbers", fault, c.id)
	}
	c.cfg.Logger.Warn("accepting a rollback of a channel's log", "channel", c.id, "remembered height", was.height, "height", c.tail.next, "reason", fault)
	c.keeper.accept(was.height, time.Now())
	return c.keeper.store(ctx)
}

// behind tells how the log falls short of a checkpoint; nil when it does not.
func (c *chain) behind(was *checkpoint) (fault, err error) {
	height := c.tail.next
	if height < was.height {
		return fmt.Errorf("%w: the log has %d blocks, the token remembers %d", ErrRolledBack, height, was.height), nil
	}
	if was.height > 0 {
		b, err := c.readBlock(was.height - 1)
		if err != nil {
			return nil, err
		}
		if hash := wire.BlockHash(b.Header); !bytes.Equal(hash, was.block) {
			return fmt.Errorf("%w, or another chain's: block %d has hash %x, the token remembers %x (heights %d and %d)",
				ErrRolledBack, was.height-1, hash, was.block, height, was.height), nil
		}
	}
	if term := c.cfg.Checkpoints.term(); term < was.term {
		return fmt.Errorf("%w: the keyring seals with term %d, the token remembers term %d (heights %d and %d)",
			ErrRolledBack, term, was.term, height, was.height), nil
	}
	return nil, nil
}

// keeper writes a channel's checkpoints beside its work, never ahead of the disk: what
// followers see was synced.
type keeper struct {
	chain      *chain
	accepted   []string // fixed once it runs, as is rolledBack
	rolledBack bool
	stored     uint64 // height; the goroutine's once it runs
	done       chan struct{}
}

func newKeeper(c *chain) *keeper { return &keeper{chain: c} }

func (k *keeper) accept(from uint64, at time.Time) {
	k.accepted = append(k.accepted, fmt.Sprintf("%d %d %s", from, k.chain.tail.next, at.UTC().Format(time.RFC3339)))
	k.accepted = k.accepted[max(0, len(k.accepted)-keptAccepted):]
	k.rolledBack = true
}

// start begins to write, until stop is closed and once more then. It may be called on
// nil, as may wait.
func (k *keeper) start(stop <-chan struct{}) {
	if k == nil {
		return
	}
	k.done = make(chan struct{})
	every := k.chain.cfg.Checkpoints.Every
	if every <= 0 {
		every = DefaultCheckpointEvery
	}
	go func() {
		defer close(k.done)
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			k.try()
			select {
			case <-ticker.C:
			case <-stop:
				k.try()
				return
			}
		}
	}()
}

func (k *keeper) wait() {
	if k != nil && k.done != nil {
		<-k.done
	}
}

// try writes a checkpoint if there is something new. A token that fails stops nothing:
// the older checkpoint stays good, and the next try is soon.
func (k *keeper) try() {
	height := k.chain.Height()
	if height < minCheckpoint || height == k.stored {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkpointTimeout)
	defer cancel()
	if err := k.store(ctx); err != nil {
		k.chain.cfg.Logger.Warn("the token took no checkpoint: a rollback to before the last one is still found", "channel", k.chain.id, "height", height, "error", err)
	}
}

// store writes a checkpoint of the last block that followers see.
func (k *keeper) store(ctx context.Context) error {
	c, p := k.chain, k.chain.cfg.Checkpoints
	height := c.Height()
	b, err := c.readBlock(height - 1)
	if err != nil {
		return err
	}
	record := checkpoint{channel: c.id, height: height, block: wire.BlockHash(b.Header), term: p.term(), accepted: k.accepted}
	if err := p.Token.StoreCheckpoint(ctx, p.Name(c.id), record.marshal()); err != nil {
		return err
	}
	k.stored = height
	return nil
}

// Accepted is what AcceptRollback did.
type Accepted struct {
	Height   uint64   // of the log as it is
	Accepted []string // all rollbacks that the token remembers, oldest first: height remembered, height found, time
	New      bool     // whether the last of them was accepted now
}

// AcceptRollback opens a channel of a node that is stopped and, if it is behind what the
// token remembers, has the token remember it as it is. A channel that is not there gives
// an error that wraps os.ErrNotExist.
func AcceptRollback(ctx context.Context, cfg Config, channel string) (_ *Accepted, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Checkpoints == nil {
		return nil, errors.New("ordering: Checkpoints is missing: there is nothing to accept")
	}
	cfg.setDefaults()
	if err := configtx.ValidateChannelID(channel); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, channel)); err != nil {
		return nil, fmt.Errorf("channel %q: %w", channel, err)
	}
	c, err := openChain(ctx, &cfg, channel, true)
	if err != nil {
		return nil, fmt.Errorf("channel %q: %w", channel, err)
	}
	defer func() { err = errors.Join(err, c.closeLogs()) }()
	return &Accepted{Height: c.tail.next, Accepted: c.keeper.accepted, New: c.keeper.rolledBack}, nil
}
