// Package ledger keeps one channel: its blocks, the state that they make, the
// history of each key, and the private writes that wait for their transaction.
//
// The block log is the truth; everything else follows from it. A commit decides
// which transactions are valid, appends the sealed block, and only then applies it
// to the index, the state and the history, each of which records in the same batch
// up to which block it holds. Opening a ledger replays what a store is missing
// with the code that commits, and demands the same flags and the same commit hash
// as are on record.
//
// Nothing of a transaction reaches the disk in clear: blocks, values and private
// writes are sealed one by one (ledger/seal), and every file of the stores is sealed
// as a whole (ledger/seal/sealfs), keys, indexes and journals with it.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"strongroom/wire"
	"strongroom/wire/commonpb"
)

// What a caller may want to tell apart. They come wrapped.
var (
	// ErrNotFound means that the ledger has no such block or transaction.
	ErrNotFound = errors.New("not found in the ledger")
	// ErrClosed means that the ledger was closed.
	ErrClosed = errors.New("ledger is closed")
	// ErrFailed means that an earlier commit failed halfway. Nothing is lost: open
	// the ledger again.
	ErrFailed = errors.New("an earlier commit failed; open the ledger again")
	// ErrNoKeys means that the token made no data key: nothing was written, and the
	// same can be tried again.
	ErrNoKeys = errors.New("no data key")
	// ErrBlock means that a block was refused because it does not continue the chain.
	ErrBlock = errors.New("block does not continue the chain")
)

// Ledger is one channel's ledger. It is safe for concurrent use; commits happen
// one after the other, and reading never waits for them.
type Ledger struct {
	config  Config
	sealer  sealer
	log     *blockLog
	index   index
	state   *store
	history *store
	private private

	commitMu    sync.Mutex // held by a commit, and by Close
	indexes     indexes    // for rich queries; guarded by commitMu, as the next two
	dropped     []*stateIndex
	indexNumber uint64 // the highest that was given to an index
	builder     builder
	usedMeta    map[string]bool
	known       uint64 // blocks that were committed, as the stores that are rebuilt say
	failed      error  // why commits are refused; guarded by commitMu
	hook        func(step string) error
	records     *blockRecords

	mu     sync.RWMutex // guards what follows
	end    end
	view   *view         // state at the end; nil when closed
	grown  chan struct{} // closed and replaced when a block was committed
	recent []*wire.Block // the newest blocks, oldest first

	parsed *lru.Cache[uint64, *parsedBlock] // older blocks that history asked for

	checkpoints *checkpointer // nil without Config.Checkpoints
}

// end is the end of the chain.
type end struct {
	height     uint64
	hash       []byte // of the last block
	previous   []byte // its previous hash
	commitHash []byte // its commit hash; nil before block 1
}

// Open opens a channel's ledger or makes an empty one. It recovers from whatever a
// crash left: an end of the block log that was not written completely is cut, and
// a store that is behind, or was deleted, is brought up from the block log. Damage
// gives an error that names the file and the place in it; a ledger behind its
// checkpoint in the token gives ErrRolledBack. Ctx bounds the recovery.
func Open(ctx context.Context, c Config) (*Ledger, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	l, err := newLedger(c)
	if err != nil {
		return nil, err
	}
	if err := l.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("ledger of channel %q: %w", c.ChannelID, err), l.closeFiles())
	}
	l.checkpoints.start()
	l.builder.start(l)
	return l, nil
}

// newLedger is a ledger with nothing open.
func newLedger(c Config) (*Ledger, error) {
	c = c.withDefaults()
	parsed, err := lru.New[uint64, *parsedBlock](c.CachedBlocks)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	l := &Ledger{
		config: c, sealer: sealer{keyring: c.Keyring, channel: c.ChannelID}, parsed: parsed,
		grown: make(chan struct{}), usedMeta: map[string]bool{}, hook: func(string) error { return nil },
		builder: builder{work: make(chan struct{}, 1)},
	}
	l.private.sealer, l.private.keepFor = l.sealer, c.KeepPrivateFor
	if l.records, err = newBlockRecords(c, l.readRecord); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return l, nil
}

func (l *Ledger) open(ctx context.Context) error {
	from, err := l.checkFolder()
	if err != nil {
		return err
	}
	for _, s := range []struct {
		name     string
		compress bool
		into     **store
	}{
		{"index", true, &l.index.store}, {"state", false, &l.state},
		{"history", true, &l.history},
	} {
		if *s.into, err = openStore(l.config, s.name, s.compress); err != nil {
			return err
		}
	}
	var recovered bool
	if l.private.store, recovered, err = openDatabase(l.config, filepath.Join(l.config.Dir, privateName), privateName, false); err != nil {
		if isCorrupted(err) {
			return fmt.Errorf("%w: restore the folder from a backup; nothing else holds the private writes in it", err)
		}
		return err
	}
	if recovered {
		l.warnPrivate(l.private.store)
	}
	if err := l.loadUsedMetadata(); err != nil {
		return err
	}
	if err := l.loadIndexes(); err != nil {
		return err
	}
	if err := l.recover(ctx, max(from.height, l.known)); err != nil {
		return err
	}
	if err := l.endUpgrade(from); err != nil {
		return err
	}
	return l.checkRollback(ctx)
}

func (l *Ledger) warnPrivate(s *store) {
	l.config.Logger.Warn("the journal of the private writes was incomplete; what was being kept when the peer stopped, or lay in a damaged part, is missing",
		"store", s.dir, "cut", s.files.Cut())
}

// ChannelID is the channel's name.
func (l *Ledger) ChannelID() string { return l.config.ChannelID }

// Height is the number of blocks, and so the number of the next one.
func (l *Ledger) Height() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.end.height
}

// Info is the height and the last two block hashes. The caller owns it.
func (l *Ledger) Info() *commonpb.BlockchainInfo {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return &commonpb.BlockchainInfo{Height: l.end.height, CurrentBlockHash: l.end.hash, PreviousBlockHash: l.end.previous}
}

// CommitHash is that of the last block: equal on all peers with equal state. It is
// nil before block 1. The caller must not change it.
func (l *Ledger) CommitHash() []byte {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.end.commitHash
}

// Close waits for a running commit and releases the files. Snapshots and
// simulators that are still open give errors from then on; waiting block iterators
// end with ErrClosed. Closing twice is no error.
func (l *Ledger) Close() error {
	l.builder.stop()
	l.commitMu.Lock()
	defer l.commitMu.Unlock()
	if errors.Is(l.failed, ErrClosed) {
		return nil
	}
	l.failed = ErrClosed
	l.checkpoints.close()
	l.mu.Lock()
	v := l.view
	l.view = nil
	close(l.grown)
	l.mu.Unlock()
	if v != nil {
		v.release()
	}
	return l.closeFiles()
}

func (l *Ledger) closeFiles() error {
	var errs []error
	if l.log != nil {
		errs = append(errs, l.log.close())
	}
	for _, s := range []*store{l.index.store, l.state, l.history, l.private.store} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}
