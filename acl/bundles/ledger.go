package bundles

import (
	"context"
	"errors"
	"fmt"

	"strongroom/policy/bundle"
)

// LedgerKey is a bundle that stands in a key of a chaincode's namespace on a channel. The
// ledger only carries it: it counts by its signature, as every bundle does. It is safe for
// concurrent use.
type LedgerKey struct {
	name    string
	read    func() ([]byte, error)
	first   Source
	changed chan struct{}
}

// NewLedgerKey makes a source of what read finds: the key's committed value, nil if there is
// none. Until there is one, first offers instead; it may be nil.
func NewLedgerKey(name string, read func() ([]byte, error), first Source) *LedgerKey {
	return &LedgerKey{name: name, read: read, first: first, changed: make(chan struct{}, 1)}
}

// Fetch reads the key.
func (l *LedgerKey) Fetch(ctx context.Context) ([]byte, error) {
	b, err := l.read()
	switch {
	case err != nil && l.first == nil:
		return nil, fmt.Errorf("policy bundle: %s: %w", l.name, err)
	case err == nil && len(b) > bundle.MaxArchive:
		return nil, fmt.Errorf("policy bundle: %s holds %d bytes: at most %d are taken", l.name, len(b), bundle.MaxArchive)
	case err == nil && len(b) > 0:
		return b, nil
	case l.first == nil:
		return nil, fmt.Errorf("policy bundle: %w", errors.New(l.name+" holds none: give policy.bundle.file for the first one"))
	}
	return l.first.Fetch(ctx)
}

// Committed says that the key may have another value now.
func (l *LedgerKey) Committed() {
	select {
	case l.changed <- struct{}{}:
	default: // it was said already
	}
}

// Changed makes Keeper.Run look at once.
func (l *LedgerKey) Changed() <-chan struct{} { return l.changed }

func (l *LedgerKey) String() string { return l.name }
