package ledger

import (
	"sync/atomic"
)

// view is the state at one height, shared by all who read at that height. The last
// one to release it gives the store's snapshot back.
type view struct {
	stateReader
	height  uint64
	indexes indexes
	users   atomic.Int64
}

func (l *Ledger) newView(height uint64) (*view, error) {
	snapshot, err := l.state.GetSnapshot()
	if err != nil {
		return nil, err
	}
	v := &view{stateReader: stateReader{snapshot: snapshot, dir: l.state.dir, sealer: l.sealer}, height: height, indexes: l.indexes}
	v.users.Store(1)
	return v, nil
}

func (v *view) release() {
	if v.users.Add(-1) == 0 {
		v.snapshot.Release()
	}
}

// acquire returns the view of the present height for the caller to release.
func (l *Ledger) acquire() (*view, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.view == nil {
		return nil, ErrClosed
	}
	l.view.users.Add(1) // cannot have reached 0: the ledger itself is a user
	return l.view, nil
}
