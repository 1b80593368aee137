package ordering

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"strongroom/channel/configtx"
	"strongroom/wire"
	"strongroom/wire/commonpb"
)

// accept is the first stage: it makes submissions durable, a group with each fsync,
// answers them, and hands them on. It begins with what a former run left.
//
// Crash points: before the sync ends, none of the group is acknowledged, and any of
// it may come back at the next start, as if the answer had been lost; after it, all
// of it comes back.
func (c *chain) accept() {
	defer close(c.entries)
	for _, e := range c.replay {
		if c.backlog.Acquire(c.ctx, weight(e.size)) != nil || !c.hand(e) {
			return
		}
	}
	c.replay = nil
	var first *submission
	for {
		if first == nil {
			select {
			case first = <-c.submissions:
			case <-c.ctx.Done():
				return
			}
		}
		if c.backlog.Acquire(c.ctx, weight(first.size)) != nil {
			return
		}
		var group []*submission
		group, first = c.gather(first)
		position, err := c.store(group)
		for _, s := range group {
			s.answer <- err
		}
		if err != nil {
			for _, s := range group {
				c.backlog.Release(weight(s.size))
			}
			continue
		}
		for i, s := range group {
			if !c.hand(entry{position: position + uint64(i), kind: s.kind, sequence: s.sequence, raw: s.raw, size: s.size}) {
				return
			}
		}
		if err := c.pending.DropBefore(c.used.Load() + 1); err != nil {
			c.cfg.Logger.Warn("old pending entries stay on disk", "channel", c.id, "error", err)
		}
	}
}

// weight is what an envelope counts in the backlog.
func weight(size uint32) int64 { return min(int64(size), backlogBytes) }

// gather takes the submissions that are there, without waiting for more. One that
// the backlog has no room for has to wait until blocks were written, and the group
// must not wait with it: it comes back as the first of the next group.
func (c *chain) gather(first *submission) (group []*submission, next *submission) {
	group = []*submission{first}
	for len(group) < groupEntries {
		select {
		case s := <-c.submissions:
			if !c.backlog.TryAcquire(weight(s.size)) {
				return group, s
			}
			group = append(group, s)
		default:
			return group, nil
		}
	}
	return group, nil
}

// store writes a group to the pending log and syncs it.
func (c *chain) store(group []*submission) (uint64, error) {
	start := time.Now()
	records := make([][]byte, len(group))
	for i, s := range group {
		records[i] = encodeEntry(s.kind, s.sequence, s.raw)
	}
	position, err := c.pending.Append(records...)
	if err == nil {
		err = c.pending.Sync()
	}
	c.cfg.Observe(c.id, "pending", time.Since(start), err)
	c.health.set("pending log", err)
	if err != nil {
		c.cfg.Logger.Error("envelopes cannot be made durable and are refused", "channel", c.id, "envelopes", len(group), "error", err)
	}
	return position, err
}

// hand passes an entry to the cut stage; false when the channel closes.
func (c *chain) hand(e entry) bool {
	select {
	case c.entries <- e:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// cut is the second stage: it gathers entries into batches. Its timer starts with
// the first entry of a batch and, as Fabric's, is not set again while any entry
// waits.
func (c *chain) cut() {
	defer close(c.cuts)
	var (
		gathering cutter
		ticking   bool
		timer     = time.NewTimer(time.Hour)
	)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case e, ok := <-c.entries:
			if !ok || !c.order(&gathering, e) {
				return
			}
			if waiting := len(gathering.pending) > 0; waiting != ticking {
				if ticking = waiting; waiting {
					timer.Reset(c.config.Load().BatchTimeout)
				} else {
					timer.Stop()
				}
			}
		case <-timer.C:
			ticking = false
			if batch := gathering.cut(); len(batch) > 0 && !c.send(cutBatch{entries: batch}) {
				return
			}
		case <-c.ctx.Done():
			return
		}
	}
}

// order puts one entry into its place; false when the channel closes.
func (c *chain) order(gathering *cutter, e entry) bool {
	cfg := c.config.Load()
	if e.kind == configEntry {
		next, ok := c.nextConfig(cfg, &e)
		if next == nil {
			return ok
		}
		if batch := gathering.cut(); len(batch) > 0 && !c.send(cutBatch{entries: batch}) {
			return false
		}
		applied := make(chan struct{})
		if !c.send(cutBatch{entries: []entry{e}, next: next, applied: applied}) {
			return false
		}
		select {
		case <-applied:
			return true
		case <-c.ctx.Done():
			return false
		}
	}
	if e.sequence < cfg.Sequence {
		if admitted, ok := c.again(cfg, &e); !admitted {
			return ok
		}
	}
	for _, batch := range gathering.add(e, limits{maxMessages: cfg.BatchSize.MaxMessageCount, preferredBytes: cfg.BatchSize.PreferredMaxBytes}) {
		if !c.send(cutBatch{entries: batch}) {
			return false
		}
	}
	return true
}

// again checks an envelope that was admitted under an older configuration. ok is
// false when the channel closes before there is a verdict.
func (c *chain) again(cfg *configtx.Config, e *entry) (admitted, ok bool) {
	var refused *refusal
	ok = c.persist("check", func(ctx context.Context) error {
		env := new(commonpb.Envelope)
		if err := proto.Unmarshal(e.raw, env); err != nil {
			return fmt.Errorf("pending entry %d: %w", e.position, err)
		}
		parsed, fault := wire.ParseEnvelope(env)
		if fault != nil {
			refused = refuse(commonpb.Status_BAD_REQUEST, "%s", fault.Reason)
			return nil
		}
		err := c.admit(ctx, cfg, env, parsed, "")
		if errors.As(err, &refused) {
			return nil
		}
		return err
	})
	if refused != nil {
		c.drop(e, refused)
	}
	return ok && refused == nil, ok
}

// nextConfig is the configuration that a CONFIG entry brings, or nil after a
// refusal. An entry that was made under an older configuration is made again from
// its update, as Fabric does. ok is false when the channel closes first.
func (c *chain) nextConfig(cfg *configtx.Config, e *entry) (next *configtx.Config, ok bool) {
	var refused error
	ok = c.persist("config", func(ctx context.Context) error {
		ce, err := configEnvelope(e.raw)
		if err == nil && e.sequence < cfg.Sequence {
			var env *commonpb.Envelope
			if env, err = c.propose(ctx, cfg, ce.GetLastUpdate()); err == nil {
				if e.raw, err = marshalEnvelope(env); err == nil {
					e.sequence = cfg.Sequence
					ce, err = configEnvelope(e.raw)
				}
			}
		}
		if err == nil {
			next, err = cfg.Apply(ctx, c.cfg.Deps, ce)
		}
		var r *refusal
		var invalid *configtx.InvalidUpdateError
		if errors.As(err, &r) || errors.As(err, &invalid) {
			refused = err
			return nil
		}
		return err
	})
	if refused != nil {
		c.drop(e, refused)
		return nil, ok
	}
	if !ok {
		return nil, false
	}
	return next, true
}

// configEnvelope reads the content of a CONFIG envelope made here.
func configEnvelope(raw []byte) (*commonpb.ConfigEnvelope, error) {
	var env commonpb.Envelope
	if err := proto.Unmarshal(raw, &env); err != nil {
		return nil, fmt.Errorf("CONFIG envelope: %w", err)
	}
	parsed, fault := wire.ParseEnvelope(&env)
	if fault != nil {
		return nil, fmt.Errorf("CONFIG envelope: %w", fault)
	}
	ce := new(commonpb.ConfigEnvelope)
	if err := proto.Unmarshal(parsed.Data, ce); err != nil {
		return nil, fmt.Errorf("CONFIG envelope: %w", err)
	}
	return ce, nil
}

// drop ends an entry that a configuration ordered before it refuses.
func (c *chain) drop(e *entry, reason error) {
	c.backlog.Release(weight(e.size))
	c.cfg.Logger.Warn("envelope refused by a configuration that was ordered before it", "channel", c.id, "entry", e.position, "reason", reason)
}

func (c *chain) send(b cutBatch) bool {
	select {
	case c.cuts <- b:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// write is the third stage: one block after the other. A block is published after
// its fsync; its configuration comes in force between the two, so that a reader
// whom it removes does not get it.
//
// Crash points: before the block's sync ends, the block may or may not be there at
// the next start. If it is, its consenter metadata says that its entries are used
// up; if not, they are cut again, into a block of the same number that nobody has seen
// before.
func (c *chain) write() {
	for {
		var batch cutBatch
		var ok bool
		select {
		case batch, ok = <-c.cuts:
		case <-c.ctx.Done():
		}
		if !ok || c.health.halted() != nil || !c.writeBlock(batch) {
			return
		}
	}
}

func (c *chain) writeBlock(batch cutBatch) bool {
	envelopes := make([][]byte, len(batch.entries))
	for i, e := range batch.entries {
		envelopes[i] = e.raw
	}
	used := usedUp(batch.entries[len(batch.entries)-1].position)
	b := c.tail.nextBlock(envelopes)
	lastConfig := c.tail.lastConfig
	if batch.next != nil {
		lastConfig = b.Header.Number
	}
	if !c.persist("sign", func(ctx context.Context) error { return c.sign(ctx, b, lastConfig, used) }) {
		return false
	}
	var raw []byte
	appended := false
	if !c.persist("append", func(context.Context) (err error) {
		if raw == nil {
			if raw, err = proto.Marshal(b); err != nil {
				return fmt.Errorf("encode block %d: %w", b.Header.Number, err)
			}
		}
		if !appended {
			if _, err = c.blocks.Append(raw); err != nil {
				return err
			}
			appended = true
		}
		return c.blocks.Sync()
	}) {
		return false
	}
	c.tail = tail{next: b.Header.Number + 1, hash: wire.BlockHash(b.Header), lastConfig: lastConfig}
	c.used.Store(uint64(used))
	if batch.next != nil && !c.adopt(batch.next) {
		return false
	}
	c.publish(raw, b.Header.Number)
	for _, e := range batch.entries {
		c.backlog.Release(weight(e.size))
	}
	c.cfg.Logger.Debug("block written", "channel", c.id, "block", b.Header.Number, "envelopes", len(envelopes), "bytes", len(raw))
	if err := c.health.halted(); err != nil {
		c.end(err)
		return false
	}
	if batch.applied != nil {
		close(batch.applied)
	}
	return true
}

// adopt puts a configuration in force. If this node may not sign blocks under it,
// the configuration's own block is its last. It returns false when the channel
// closes before that is known.
func (c *chain) adopt(next *configtx.Config) bool {
	c.config.Store(next)
	c.cfg.Logger.Info("configuration changed", "channel", c.id, "sequence", next.Sequence, "block", c.tail.lastConfig)
	return c.persist("identity", func(ctx context.Context) error {
		err := maySign(ctx, next, c.cfg.Identity)
		var not *notOrderer
		if errors.As(err, &not) {
			c.health.halt(not)
			c.cfg.Logger.Error("channel makes no further blocks", "channel", c.id, "reason", not)
			return nil
		}
		return err
	})
}
