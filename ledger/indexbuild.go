package ledger

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/syndtr/goleveldb/leveldb"

	"strongroom/ledger/selector"
)

// buildChunk is how many keys are added to an index at a time: a commit waits for no
// more than one such chunk.
const buildChunk = 256

// buildProgress is after how many keys the log says how far an index is.
const buildProgress = 100_000

// builder fills new indexes and removes old ones, beside the commits.
type builder struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	work   chan struct{} // there may be something to do
}

func (b *builder) start(l *Ledger) {
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	b.done.Go(func() { l.keepBuilding(ctx) })
	b.wake()
}

func (b *builder) wake() {
	select {
	case b.work <- struct{}{}:
	default:
	}
}

// stop ends the work where it is; it goes on when the ledger is opened again.
func (b *builder) stop() {
	if b.cancel != nil {
		b.cancel()
		b.done.Wait()
	}
}

func (l *Ledger) keepBuilding(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.builder.work:
		}
		for ctx.Err() == nil {
			more, err := l.buildStep(ctx)
			if err != nil {
				// The ledger goes on without the index: queries scan.
				l.config.Logger.Error("building indexes stopped until the next change of the indexes or start", "channel", l.config.ChannelID, "error", err)
				break
			}
			if !more {
				break
			}
		}
	}
}

// buildStep removes or builds one index, or a part of it; more is false when there is
// nothing left to do.
func (l *Ledger) buildStep(ctx context.Context) (more bool, err error) {
	l.commitMu.Lock()
	if l.failed != nil {
		l.commitMu.Unlock()
		return false, nil
	}
	var drop, build *stateIndex
	if len(l.dropped) > 0 {
		drop = l.dropped[0]
	}
	for _, ns := range slices.Sorted(maps.Keys(l.indexes)) {
		for _, x := range l.indexes[ns] {
			if build == nil && x.status == indexBuilding {
				build = x
			}
		}
	}
	l.commitMu.Unlock()
	switch {
	case drop != nil:
		return true, l.removeIndex(ctx, drop)
	case build != nil:
		return true, l.buildIndex(ctx, build)
	}
	return false, nil
}

// removeIndex deletes the rows of an index that nobody keeps any more. Views that are
// still open have their own snapshot of them.
func (l *Ledger) removeIndex(ctx context.Context, x *stateIndex) error {
	rows := l.state.NewIterator(prefixRange(x.prefix(), "", ""), nil)
	defer rows.Release()
	batch := &leveldb.Batch{}
	for rows.Next() {
		batch.Delete(rows.Key())
		if batch.Len() < buildChunk {
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		if err := l.state.Write(batch, nil); err != nil {
			return fmt.Errorf("store %s: write: %w", l.state.dir, err)
		}
		batch.Reset()
	}
	if err := rows.Error(); err != nil {
		return fmt.Errorf("store %s: read: %w", l.state.dir, err)
	}
	batch.Delete(x.row())
	if err := l.state.write(batch); err != nil {
		return err
	}
	l.commitMu.Lock()
	defer l.commitMu.Unlock()
	l.dropped = slices.DeleteFunc(l.dropped, func(d *stateIndex) bool { return d.number == x.number })
	return nil
}

// buildIndex fills an index from where its building is.
func (l *Ledger) buildIndex(ctx context.Context, x *stateIndex) error {
	for n := 0; x != nil && x.status == indexBuilding; n += buildChunk {
		if ctx.Err() != nil {
			return nil
		}
		if n > 0 && n/buildProgress != (n-buildChunk)/buildProgress {
			l.config.Logger.Info("building an index", "channel", l.config.ChannelID, "namespace", x.ns, "index", x.definition.String(), "keys", n)
		}
		var err error
		if x, err = l.extendIndex(x); err != nil {
			return err
		}
	}
	return nil
}

// extendIndex adds the next keys to an index and returns how it is then; nil when it
// was taken away meanwhile.
//
// The entries are worked out beside the commits and written between two of them, if
// none changed the state since: an entry never replaces what a later commit wrote.
// Writes are not synced: what a crash takes away is everything from some batch on,
// and each batch says how far the index is; the commits' synced batches are in the
// same journal.
func (l *Ledger) extendIndex(x *stateIndex) (*stateIndex, error) {
	v, err := l.acquire()
	if err != nil {
		return nil, nil // closed
	}
	defer v.release()
	batch, next, err := x.extension(v)
	if err != nil {
		return nil, err
	}
	l.commitMu.Lock()
	defer l.commitMu.Unlock()
	at := slices.IndexFunc(l.indexes[x.ns], func(other *stateIndex) bool { return other.number == x.number })
	if l.failed != nil || at < 0 {
		return nil, nil
	}
	if l.view.height != v.height {
		if batch, next, err = x.extension(l.view); err != nil {
			return nil, err
		}
	}
	options := synced
	if next.status == indexBuilding {
		options = nil
	}
	if err := l.state.Write(batch, options); err != nil {
		return nil, fmt.Errorf("store %s: write: %w", l.state.dir, err)
	}
	l.indexes = maps.Clone(l.indexes)
	l.indexes[x.ns] = slices.Clone(l.indexes[x.ns])
	l.indexes[x.ns][at] = next
	if next.status != indexReady {
		return next, nil
	}
	l.config.Logger.Info("an index is ready", "channel", l.config.ChannelID, "namespace", x.ns, "index", x.definition.String())
	return next, l.showIndexes()
}

// extension is what adds the next keys to an index, and how the index is with them.
func (x *stateIndex) extension(v *view) (*leveldb.Batch, *stateIndex, error) {
	batch := &leveldb.Batch{}
	next := *x
	next.status = indexReady
	e := encoders.Get().(*selector.Encoder)
	defer encoders.Put(e)
	rows := v.scan(x.ns, x.next, "")
	rows.gone = true
	defer rows.close()
	for n := 0; ; n++ {
		key, value, err := rows.next()
		if err != nil {
			return nil, nil, err
		}
		if value == nil {
			break
		}
		if row := entries([]*stateIndex{x}, e, key, value)[0]; row != nil {
			batch.Put(row, binary.AppendUvarint(nil, uint64(len(key))))
		}
		if n == buildChunk-1 {
			next.status, next.next = indexBuilding, key+"\x00"
			break
		}
	}
	if next.status == indexReady {
		next.next = ""
	}
	return batch, &next, next.put(batch)
}
