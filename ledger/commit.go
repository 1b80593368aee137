package ledger

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/syndtr/goleveldb/leveldb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"strongroom/ledger/rwset"
	"strongroom/ledger/seal"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// plan is what one block does, worked out before anything is written.
type plan struct {
	block      *wire.Block
	before     *view // the state that it is decided on
	flags      []peerpb.TxValidationCode
	seen       []occurrence // of the transactions' ids
	updates    *updates
	keys       []stateKey // of updates, in order
	private    privateUpdates
	commitHash []byte // nil for block 0
}

// Commit decides on a block's transactions and makes the block permanent. Flags
// holds what the validator found, one code for each transaction; of those it calls
// VALID the ledger finds duplicates, conflicting reads and phantoms. The final
// flags are written into flags and the block's metadata, as is the commit hash.
// The block must continue the chain; it belongs to the ledger afterwards.
//
// When it returns nil the block is on the disk, visible to readers and handed to
// those who wait for it. An error that wraps ErrBlock or ErrNoKeys, or the context's error,
// means that nothing happened. Any other error means that the commit may have
// happened in part: the ledger refuses further commits with ErrFailed until it is
// opened again, which completes or undoes it. No such error says anything about
// the transactions.
//
// Crash points: the private writes of the block's transactions are copied to its
// place first, where nobody looks before the block is in the log; the originals stay
// until the end. Then the block is appended; a part of it is cut on opening. Once it
// is synced the block counts. Index, state and history follow in any order, each in
// one batch with its savepoint; opening applies the block to those that lack it.
func (l *Ledger) Commit(ctx context.Context, b *wire.Block, flags []peerpb.TxValidationCode) error {
	l.commitMu.Lock()
	defer l.commitMu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := l.continues(b, flags); err != nil {
		return err
	}
	if err := l.config.Keyring.Prepare(ctx, l.keysFor(b)...); err != nil {
		return fmt.Errorf("commit block %d of channel %q: %w: %w", b.Number(), l.config.ChannelID, ErrNoKeys, err)
	}
	if err := l.commit(b, flags); err != nil {
		l.failed = err
		return fmt.Errorf("commit block %d of channel %q: %w", b.Number(), l.config.ChannelID, err)
	}
	return nil
}

// usable tells why the ledger takes nothing; commitMu is held.
func (l *Ledger) usable() error {
	if l.failed == nil || errors.Is(l.failed, ErrClosed) {
		return l.failed
	}
	return fmt.Errorf("%w (it was: %w)", ErrFailed, l.failed)
}

// keysFor are places for which the block's values will be sealed, one for each
// namespace: the token is asked for new keys before anything is written.
func (l *Ledger) keysFor(b *wire.Block) []seal.Place {
	places := []seal.Place{{Kind: seal.KindOutline, Channel: l.config.ChannelID}}
	seen := map[string]bool{}
	add := func(ns string) {
		if !seen[ns] {
			seen[ns] = true
			places = append(places, l.sealer.valuesPlace(ns, 0))
		}
	}
	for _, tx := range b.Txs {
		if tx.Endorsed == nil {
			continue
		}
		add(tx.Endorsed.ChaincodeID.GetName())
		if tx.Endorsed.ReadWriteSet != nil {
			for i := range tx.Endorsed.ReadWriteSet.Namespaces {
				add(tx.Endorsed.ReadWriteSet.Namespaces[i].Namespace)
			}
		}
	}
	return places
}

// continues checks that a block is the next one.
func (l *Ledger) continues(b *wire.Block, flags []peerpb.TxValidationCode) error {
	header := b.Proto.GetHeader()
	switch {
	case header == nil || b.Proto.GetData() == nil:
		return fmt.Errorf("%w: it has no header or no data", ErrBlock)
	case header.GetNumber() != l.end.height:
		return fmt.Errorf("%w: it is block %d, block %d is next", ErrBlock, header.GetNumber(), l.end.height)
	case !bytes.Equal(header.GetPreviousHash(), l.end.hash):
		return fmt.Errorf("%w: its previous_hash is %x, block %d has %x", ErrBlock, header.GetPreviousHash(), l.end.height-1, l.end.hash)
	case len(b.Txs) != len(b.Proto.Data.Data):
		return fmt.Errorf("%w: %d transactions are parsed of %d", ErrBlock, len(b.Txs), len(b.Proto.Data.Data))
	case len(flags) != len(b.Txs):
		return fmt.Errorf("%w: %d flags for %d transactions", ErrBlock, len(flags), len(b.Txs))
	case !bytes.Equal(b.Hash, wire.BlockHash(header)):
		return fmt.Errorf("%w: its hash was changed", ErrBlock)
	}
	return nil
}

func (l *Ledger) commit(b *wire.Block, flags []peerpb.TxValidationCode) error {
	timer := l.timer()
	if err := l.hook("begin"); err != nil {
		return err
	}
	l.records.begin(b)
	p, err := l.plan(b, flags, l.view, l.end.commitHash)
	if err != nil {
		return errors.Join(err, l.records.wait())
	}
	setMetadata(b.Proto, flags, p.commitHash)
	timer("decide")
	if err := l.step("private", func() error { return l.private.settle(p) }); err != nil {
		return errors.Join(err, l.records.wait())
	}
	if err := l.records.finish(b); err != nil {
		return err
	}
	at, err := l.log.place(len(l.records.frame))
	if err != nil {
		return err
	}
	timer("seal")
	batches, err := l.append(p, at)
	if err != nil {
		return err
	}
	timer("append")
	if err := l.apply(batches); err != nil {
		return err
	}
	timer("apply")
	if err := l.publish(p); err != nil {
		return err
	}
	l.private.clear(b, l.config.Logger)
	return l.hook("end")
}

// step does one durable step; tests stop before or after it.
func (l *Ledger) step(name string, do func() error) error {
	if err := l.hook(name); err != nil {
		return err
	}
	return do()
}

func (l *Ledger) timer() func(stage string) {
	last := time.Now()
	return func(stage string) {
		now := time.Now()
		l.config.Observe(stage, now.Sub(last))
		last = now
	}
}

// plan decides on the transactions in their order and works out what they write.
// It changes flags.
func (l *Ledger) plan(b *wire.Block, flags []peerpb.TxValidationCode, before *view, commitHashBefore []byte) (*plan, error) {
	seen, err := l.index.seen(b)
	if err != nil {
		return nil, err
	}
	return l.planSeen(b, flags, seen, before, commitHashBefore)
}

// planSeen is plan for which it is known what ids occurred before.
func (l *Ledger) planSeen(b *wire.Block, flags []peerpb.TxValidationCode, seen []occurrence, before *view, commitHashBefore []byte) (*plan, error) {
	var err error
	state := &hinted{view: before, used: l.usedMeta}
	if err := state.lookAhead(b, flags); err != nil {
		return nil, err
	}
	p := &plan{block: b, before: before, flags: flags, seen: seen, updates: newUpdates(state)}
	var stands map[string]bool // ids of which the validator let one transaction of the block stand
	if slices.Contains(seen, seenInBlock) {
		stands = map[string]bool{}
	}
	for i, tx := range b.Txs {
		if flags[i] != peerpb.TxValidationCode_VALID {
			continue
		}
		if isEndorsed(tx) {
			id := tx.TxID()
			if seen[i] == seenInIndex || seen[i] == seenInBlock && stands[id] {
				flags[i] = peerpb.TxValidationCode_DUPLICATE_TXID
				continue
			}
			if stands != nil {
				stands[id] = true
			}
		}
		if flags[i], err = p.decide(tx, rwset.Height{Block: b.Number(), Tx: uint64(i)}); err != nil {
			return nil, fmt.Errorf("transaction %d: %w", i, err)
		}
	}
	p.keys = p.updates.inOrder()
	if p.private, err = l.private.gather(p, before); err != nil {
		return nil, err
	}
	// Fabric computes no commit hash for block 0, nor for a chain that began without.
	// Nor can it be computed over a value that is gone.
	if (b.Number() == 1 || commitHashBefore != nil) && !p.updates.anyGone() {
		p.commitHash = commitHash(flagBytes(flags), p.updates, p.keys, commitHashBefore)
	}
	return p, nil
}

// decide gives one transaction its final code and adds what it writes if it is valid.
func (p *plan) decide(tx *wire.Tx, at rwset.Height) (peerpb.TxValidationCode, error) {
	if !isEndorsed(tx) {
		return peerpb.TxValidationCode_VALID, p.configure(tx, at)
	}
	switch {
	case tx.Endorsed == nil:
		return peerpb.TxValidationCode_NIL_TXACTION, nil
	case tx.Endorsed.ReadWriteSet == nil:
		return peerpb.TxValidationCode_INVALID_OTHER_REASON, nil
	}
	code, err := p.updates.validate(tx.Endorsed.ReadWriteSet)
	if err != nil || code != peerpb.TxValidationCode_VALID {
		return code, err
	}
	return code, p.updates.apply(tx.Endorsed.ReadWriteSet, at)
}

func isEndorsed(tx *wire.Tx) bool {
	return commonpb.HeaderType(tx.ChannelHeader.GetType()) == commonpb.HeaderType_ENDORSER_TRANSACTION
}

// configKey is where Fabric's peers keep the channel's configuration: what a CONFIG
// transaction's payload holds, in the namespace without a name.
var configKey = stateKey{key: "CHANNEL_CONFIG_ENV_BYTES"}

func (p *plan) configure(tx *wire.Tx, at rwset.Height) error {
	if commonpb.HeaderType(tx.ChannelHeader.GetType()) != commonpb.HeaderType_CONFIG {
		return nil
	}
	payload := &commonpb.Payload{}
	if err := proto.Unmarshal(tx.Payload, payload); err != nil {
		return fmt.Errorf("common.Payload of a configuration transaction: %w", err)
	}
	if len(payload.GetData()) == 0 {
		return errors.New("common.Payload.data of a valid configuration transaction is empty")
	}
	p.updates.set(configKey, &update{value: value{bytes: payload.GetData(), version: at}})
	return nil
}

// hinted is the state before a block. It answers at once that a key has no metadata
// when no key of its namespace ever had any, so that blind writes cost no read.
type hinted struct {
	*view
	used map[string]bool
	// versions are those of keys that the block's transactions read, looked up side by side.
	versions map[stateKey]*rwset.Height
}

// versionChunk is how many versions one goroutine looks up at a time.
const versionChunk = 32

// lookAhead looks up what deciding on the block will ask for: a read from a table
// costs many times what the rest of a decision does, and decisions come one by one.
func (h *hinted) lookAhead(b *wire.Block, flags []peerpb.TxValidationCode) error {
	var keys []stateKey
	h.versions = map[stateKey]*rwset.Height{}
	add := func(k stateKey) {
		if _, there := h.versions[k]; !there {
			h.versions[k] = nil
			keys = append(keys, k)
		}
	}
	for i, tx := range b.Txs {
		if flags[i] != peerpb.TxValidationCode_VALID || tx.Endorsed == nil || tx.Endorsed.ReadWriteSet == nil {
			continue
		}
		for n := range tx.Endorsed.ReadWriteSet.Namespaces {
			ns := &tx.Endorsed.ReadWriteSet.Namespaces[n]
			for _, read := range ns.KV.GetReads() {
				add(stateKey{ns: ns.Namespace, key: read.GetKey()})
			}
			for _, c := range ns.Collections {
				for _, read := range c.Hashed.GetHashedReads() {
					add(stateKey{ns.Namespace, c.Collection, string(read.GetKeyHash())})
				}
			}
		}
	}
	found := make([]*rwset.Height, len(keys))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for from := 0; from < len(keys); from += versionChunk {
		g.Go(func() (err error) {
			for i := from; i < min(from+versionChunk, len(keys)) && err == nil; i++ {
				found[i], err = h.view.version(keys[i])
			}
			return err
		})
	}
	err := g.Wait()
	for i, k := range keys {
		h.versions[k] = found[i]
	}
	return err
}

func (h *hinted) version(k stateKey) (*rwset.Height, error) {
	if v, ok := h.versions[k]; ok {
		return v, nil
	}
	return h.view.version(k)
}

var _ committed = (*hinted)(nil)

func (h *hinted) lookup(k stateKey) (*value, error) { return h.lookupGone(k) }

func (h *hinted) rows(ns, start, end string) rows {
	scan := h.scan(ns, start, end)
	scan.gone = true
	return scan
}

func (h *hinted) metadata(k stateKey) ([]byte, error) {
	if !h.used[k.ns] {
		return nil, nil
	}
	return h.view.metadata(k)
}

func flagBytes(flags []peerpb.TxValidationCode) []byte {
	b := make([]byte, len(flags))
	for i, f := range flags {
		b[i] = byte(f)
	}
	return b
}

// setMetadata puts flags and commit hash where Fabric's peers put them.
func setMetadata(b *commonpb.Block, flags []peerpb.TxValidationCode, commitHash []byte) {
	if b.Metadata == nil {
		b.Metadata = &commonpb.BlockMetadata{}
	}
	for len(b.Metadata.Metadata) <= int(commonpb.BlockMetadataIndex_COMMIT_HASH) {
		b.Metadata.Metadata = append(b.Metadata.Metadata, []byte{})
	}
	b.Metadata.Metadata[commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER] = flagBytes(flags)
	if commitHash != nil {
		m := protowire.AppendTag(nil, 1, protowire.BytesType) // common.Metadata.value
		b.Metadata.Metadata[commonpb.BlockMetadataIndex_COMMIT_HASH] = protowire.AppendBytes(m, commitHash)
	}
}

// batches are what brings the stores up to a block.
type batches struct{ index, state, history *leveldb.Batch }

// append has the block on the disk. While the disk is busy the values are sealed
// and the batches made.
func (l *Ledger) append(p *plan, at location) (out batches, err error) {
	var g errgroup.Group
	g.Go(func() error {
		if err := l.step("append", func() error { return l.log.write(at, l.records.frame) }); err != nil {
			return err
		}
		return l.step("sync", l.log.sync)
	})
	g.Go(func() error {
		var err error
		out.state, err = l.stateBatch(p)
		return err
	})
	out.index = l.index.batch(p.block, p.flags, p.seen, at)
	out.history = historyBatch(p.block, p.flags)
	return out, g.Wait()
}

// sealChunk is how many values one goroutine seals at a time.
const sealChunk = 64

// stateBatch seals the new values.
func (l *Ledger) stateBatch(p *plan) (*leveldb.Batch, error) {
	rows := make([][]byte, len(p.keys)) // nil for a key that is deleted
	changes := make([]*indexChange, len(p.keys))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for from := 0; from < len(p.keys); from += sealChunk {
		g.Go(func() error {
			for i := from; i < min(from+sealChunk, len(p.keys)); i++ {
				up := p.updates.m[p.keys[i]]
				var err error
				if up.deleted {
					if changes[i], err = l.indexes.change(p.before, p.keys[i], nil); err != nil {
						return err
					}
					continue
				}
				if changes[i], err = l.indexes.change(p.before, p.keys[i], &up.value); err != nil {
					return err
				}
				dst := make([]byte, 0, len(up.bytes)+len(up.metadata)+seal.Overhead+32)
				if rows[i], err = l.sealer.seal(dst, p.keys[i], &up.value); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	batch := &leveldb.Batch{}
	var key []byte
	for i, k := range p.keys {
		key = k.row(key[:0])
		changes[i].put(batch)
		if rows[i] == nil {
			batch.Delete(key)
			continue
		}
		batch.Put(key, rows[i])
		if len(p.updates.m[k].metadata) > 0 && !l.usedMeta[k.ns] {
			l.usedMeta[k.ns] = true
			batch.Put(append([]byte{rowMetadata}, k.ns...), nil)
		}
	}
	if err := p.private.batch(batch, l.sealer); err != nil {
		return nil, err
	}
	markApplied(batch, p.block.Number())
	batch.Put(savepointKey, binary.AppendUvarint(nil, p.block.Number()+1))
	if len(l.indexes) > 0 {
		batch.Put(indexedKey, indexed(p.block.Number()+1))
	}
	return batch, nil
}

// apply brings the stores up to the block, all at once.
func (l *Ledger) apply(b batches) error {
	var g errgroup.Group
	g.Go(func() error { return l.step("index", func() error { return l.index.write(b.index) }) })
	g.Go(func() error { return l.step("state", func() error { return l.state.write(b.state) }) })
	g.Go(func() error { return l.step("history", func() error { return l.history.write(b.history) }) })
	return g.Wait()
}

// publish lets readers see the block and wakes those who wait for it.
func (l *Ledger) publish(p *plan) error {
	if err := l.hook("publish"); err != nil {
		return err
	}
	next, err := l.newView(p.block.Number() + 1)
	if err != nil {
		return fmt.Errorf("store %s: snapshot: %w", l.state.dir, err)
	}
	l.mu.Lock()
	last := l.view
	l.view = next
	l.end = end{
		height: next.height, hash: p.block.Hash, previous: p.block.Proto.Header.PreviousHash, commitHash: p.commitHash,
	}
	l.recent = append(l.recent, p.block)
	if len(l.recent) > l.config.CachedBlocks {
		l.recent = append([]*wire.Block(nil), l.recent[len(l.recent)-l.config.CachedBlocks:]...)
	}
	grown := l.grown
	l.grown = make(chan struct{})
	l.mu.Unlock()
	close(grown)
	last.release()
	l.checkpoints.committed()
	return nil
}

// loadUsedMetadata reads which namespaces ever had metadata.
func (l *Ledger) loadUsedMetadata() error {
	rows := l.state.NewIterator(prefixRange([]byte{rowMetadata}, "", ""), nil)
	defer rows.Release()
	for rows.Next() {
		l.usedMeta[string(rows.Key()[1:])] = true
	}
	if err := rows.Error(); err != nil {
		return fmt.Errorf("store %s: read: %w", l.state.dir, err)
	}
	return nil
}
