package ledger

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"strongroom/wire"
)

// A checkpoint is what the token remembers of a ledger, as text:
//
//	strongroom checkpoint 1
//	channel "NAME"
//	height 120
//	block "0f1e2d…"          hash of block 119
//	term 7                   of the keyring that sealed then
//	shredded 2 "0f1e2d…"     how many lines the keyring's record of shredded namespaces
//	                         had, and the last one's digest; not there without any
//	accepted 150 100 2026-01-02T03:04:05Z   one line for each rollback that was accepted:
//	                         the height that was remembered, the height that was found
const (
	checkpointHead = "strongroom checkpoint 1\n"
	// minCheckpoint is the least height that is remembered: a ledger of one block was
	// only just joined and has nothing that could be rolled back.
	minCheckpoint = 2
	// keptAccepted is how many accepted rollbacks are remembered, the newest.
	keptAccepted = 32
	// checkpointTimeout bounds a call to the token.
	checkpointTimeout = 30 * time.Second
)

// ErrRolledBack means that the ledger is behind, or beside, what the token
// remembers of it: its folder, or the keyring's, is an older copy or another's.
var ErrRolledBack = errors.New("the data folder is an older copy")

// checkpoint is one record.
type checkpoint struct {
	channel  string
	height   uint64
	block    []byte
	term     uint32
	shredded int      // entries of the keyring's record
	digest   string   // of the last of them; "" without
	accepted []string // lines without their first word
}

func (c checkpoint) marshal() []byte {
	b := fmt.Appendf([]byte(checkpointHead), "channel %q\nheight %d\nblock \"%x\"\nterm %d\n", c.channel, c.height, c.block, c.term)
	if c.shredded > 0 {
		b = fmt.Appendf(b, "shredded %d %q\n", c.shredded, c.digest)
	}
	for _, line := range c.accepted {
		b = fmt.Appendf(b, "accepted %s\n", line)
	}
	return b
}

// parseCheckpoint reads a record. Only the very bytes that marshal writes pass.
func parseCheckpoint(b []byte) (checkpoint, error) {
	var c checkpoint
	var block string
	rest, ok := strings.CutPrefix(string(b), checkpointHead)
	lines := strings.SplitAfter(rest, "\n")
	if !ok || len(lines) < 5 {
		return c, fmt.Errorf("it does not start with %q and four lines", strings.TrimSpace(checkpointHead))
	}
	if _, err := fmt.Sscanf(strings.Join(lines[:4], ""), "channel %q\nheight %d\nblock %q\nterm %d\n", &c.channel, &c.height, &block, &c.term); err != nil {
		return c, fmt.Errorf("its lines are not readable: %w", err)
	}
	var err error
	if c.block, err = hex.DecodeString(block); err != nil {
		return c, fmt.Errorf("block is not hexadecimal")
	}
	if _, err := fmt.Sscanf(lines[4], "shredded %d %q\n", &c.shredded, &c.digest); err != nil {
		c.shredded, c.digest = 0, ""
	}
	for _, line := range lines[4:] {
		if line, ok := strings.CutPrefix(line, "accepted "); ok {
			c.accepted = append(c.accepted, strings.TrimSuffix(line, "\n"))
		}
	}
	if !bytes.Equal(c.marshal(), b) {
		return c, errors.New("its spelling is not the one that is written")
	}
	return c, nil
}

// remembered is the highest checkpoint of this ledger in the token, nil when there
// is none. More than one is what an interrupted write left.
func (l *Ledger) remembered(ctx context.Context) (*checkpoint, error) {
	records, err := l.config.Checkpoints.LoadCheckpoints(ctx, l.config.CheckpointName)
	if err != nil {
		return nil, err
	}
	var highest *checkpoint
	for _, r := range records {
		c, err := parseCheckpoint(r)
		if err == nil && c.channel != l.config.ChannelID {
			err = fmt.Errorf("it is of channel %q", c.channel)
		}
		if err != nil {
			return nil, fmt.Errorf("checkpoint %q in the token: %w: remove the object with the token's own tool, and find out who changed it", l.config.CheckpointName, err)
		}
		if highest == nil || c.height > highest.height {
			highest = &c
		}
	}
	return highest, nil
}

// checkRollback compares the recovered ledger with what the token remembers.
func (l *Ledger) checkRollback(ctx context.Context) error {
	if l.config.Checkpoints == nil {
		return nil
	}
	was, err := l.remembered(ctx)
	if err != nil {
		return err
	}
	if was == nil {
		if l.end.height >= minCheckpoint {
			l.config.Logger.Info("the token has no checkpoint of this ledger yet: it gets one now", "height", l.end.height)
		}
		l.checkpoints = newCheckpointer(l, nil)
		return nil
	}
	if err := l.sameShredded(was); err != nil {
		return err
	}
	l.checkpoints = newCheckpointer(l, was.accepted)
	fault, err := l.behind(was)
	switch {
	case err != nil:
		return err
	case fault == nil:
		return nil
	case !l.config.AcceptRollback:
		return fmt.Errorf("%w; restore the newer copy, or, if this one is meant, run `strongroom ledger accept-rollback %s` with the peer stopped",
			fault, l.config.ChannelID)
	}
	l.config.Logger.Warn("accepting a rollback of the ledger", "channel", l.config.ChannelID,
		"remembered height", was.height, "height", l.end.height, "reason", fault)
	l.checkpoints.accept(was.height, l.end.height, time.Now())
	return l.checkpoints.store(ctx)
}

// sameShredded sees that the keyring knows of every namespace that was shredded: a copy
// from before has their keys. No command accepts it.
func (l *Ledger) sameShredded(was *checkpoint) error {
	record := l.config.Keyring.Shredded()
	if was.shredded == 0 || was.shredded <= len(record) && record[was.shredded-1].Digest == was.digest {
		return nil
	}
	return fmt.Errorf("%w: the keyring's record of shredded namespaces has %d lines, the token remembers %d with the digest %s: "+
		"the keyring is from before a namespace was shredded; put the newer keyring's file SHREDDED into it, and the keys in question are destroyed here, too",
		ErrRolledBack, len(record), was.shredded, was.digest)
}

// behind tells how the ledger falls short of a checkpoint; nil when it does not.
func (l *Ledger) behind(was *checkpoint) (fault, err error) {
	if l.end.height < was.height {
		return fmt.Errorf("%w: the ledger has %d blocks, the token remembers %d", ErrRolledBack, l.end.height, was.height), nil
	}
	if was.height > 0 {
		b, err := l.readBlock(was.height - 1)
		if err != nil {
			return nil, err
		}
		if hash := wire.BlockHash(b.Header); !bytes.Equal(hash, was.block) {
			return fmt.Errorf("%w, or another chain's: block %d has hash %x, the token remembers %x (heights %d and %d)",
				ErrRolledBack, was.height-1, hash, was.block, l.end.height, was.height), nil
		}
	}
	if term := l.config.Keyring.Term(); term < was.term {
		return fmt.Errorf("%w: the keyring seals with term %d, the token remembers term %d (heights %d and %d)",
			ErrRolledBack, term, was.term, l.end.height, was.height), nil
	}
	return nil, nil
}

// AcceptedRollbacks are the rollbacks of this ledger that were accepted, as the
// token remembers them, oldest first: the height that was remembered, the height
// that was found, and when, in RFC 3339. It is empty without Config.Checkpoints.
func (l *Ledger) AcceptedRollbacks() []string {
	if l.checkpoints == nil {
		return nil
	}
	return append([]string(nil), l.checkpoints.accepted...)
}

// RolledBack tells whether Open accepted a rollback of this ledger.
func (l *Ledger) RolledBack() bool { return l.checkpoints != nil && l.checkpoints.rolledBack }

// checkpointer writes checkpoints beside the commits, never ahead of them: what
// readers see is on the disk already. One goroutine writes, at most once in
// Config.CheckpointEvery, and once more when the ledger closes.
type checkpointer struct {
	ledger   *Ledger
	accepted []string // fixed when the goroutine starts, as is rolledBack

	rolledBack bool
	mu         sync.Mutex // held while the token is asked; guards stored
	stored     uint64     // height
	wake       chan struct{}
	stop       chan struct{}
	done       chan struct{} // nil until start
}

func newCheckpointer(l *Ledger, accepted []string) *checkpointer {
	return &checkpointer{ledger: l, accepted: accepted, wake: make(chan struct{}, 1), stop: make(chan struct{})}
}

func (c *checkpointer) accept(from, to uint64, at time.Time) {
	c.accepted = append(c.accepted, fmt.Sprintf("%d %d %s", from, to, at.UTC().Format(time.RFC3339)))
	c.accepted = c.accepted[max(0, len(c.accepted)-keptAccepted):]
	c.rolledBack = true
}

// start begins to write. It may be called on nil, as may committed and close.
func (c *checkpointer) start() {
	if c == nil {
		return
	}
	c.done = make(chan struct{})
	c.committed()
	go c.run()
}

// committed tells that the ledger grew. It never waits.
func (c *checkpointer) committed() {
	if c == nil {
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *checkpointer) run() {
	defer close(c.done)
	for {
		select {
		case <-c.wake:
		case <-c.stop:
			c.try()
			return
		}
		c.try()
		pause := time.NewTimer(c.ledger.config.CheckpointEvery)
		select {
		case <-pause.C:
		case <-c.stop:
			pause.Stop()
			c.try()
			return
		}
	}
}

// try writes a checkpoint if there is something new. A token that fails does not
// stop the ledger: the older checkpoint stays good, and the next try is soon.
func (c *checkpointer) try() {
	l := c.ledger
	l.mu.RLock()
	height := l.end.height
	l.mu.RUnlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if height < minCheckpoint || height == c.stored {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkpointTimeout)
	defer cancel()
	if err := c.store(ctx); err != nil {
		l.config.Logger.Warn("the token took no checkpoint: a rollback to before the last one is still found", "channel", l.config.ChannelID, "height", height, "error", err)
		c.committed()
	}
}

// Remember has the token remember the ledger as it is, and which namespaces were
// shredded, whatever the ledger's height. It does nothing without Config.Checkpoints.
func (l *Ledger) Remember(ctx context.Context) error {
	if l.checkpoints == nil {
		return nil
	}
	l.checkpoints.mu.Lock()
	defer l.checkpoints.mu.Unlock()
	return l.checkpoints.store(ctx)
}

// store writes a checkpoint of the ledger's end. It is called with the mutex held, or
// before the goroutine runs.
func (c *checkpointer) store(ctx context.Context) error {
	l := c.ledger
	l.mu.RLock()
	e := l.end
	l.mu.RUnlock()
	record := checkpoint{channel: l.config.ChannelID, height: e.height, block: e.hash, term: l.config.Keyring.Term(), accepted: c.accepted}
	if gone := l.config.Keyring.Shredded(); len(gone) > 0 {
		record.shredded, record.digest = len(gone), gone[len(gone)-1].Digest
	}
	if err := l.config.Checkpoints.StoreCheckpoint(ctx, l.config.CheckpointName, record.marshal()); err != nil {
		return err
	}
	c.stored = e.height
	return nil
}

// close writes the last checkpoint.
func (c *checkpointer) close() {
	if c == nil || c.done == nil {
		return
	}
	close(c.stop)
	<-c.done
}
