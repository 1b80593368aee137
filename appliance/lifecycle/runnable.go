package lifecycle

import (
	"context"
	"errors"
	"fmt"

	"strongroom/appliance/endorser"
	state "strongroom/channel/lifecycle"
	"strongroom/ledger"
)

type runnableKey struct{ channel, name string }

// runnableEntry is what a chaincode's name stood for at one height of a channel.
type runnableEntry struct {
	ledger     *ledger.Ledger
	height     uint64
	definition *state.Definition // nil: not defined
	approved   bool              // this organisation approved exactly the definition
	packageID  string
}

// snapshot is a ledger's state as the definitions and approvals are read from it:
// reads that stand in no read set.
type snapshot struct{ *ledger.Snapshot }

func (s snapshot) GetPrivate(namespace, collection, key string) ([]byte, error) {
	return s.Private(namespace, collection, key)
}

func (snapshot) PutPrivate(_, _, _ string, _ []byte) error { return errReadOnly }
func (snapshot) DeletePrivate(_, _, _ string) error        { return errReadOnly }

var errReadOnly = errors.New("a snapshot cannot be written to")

// Runnable implements endorser.Definitions, with Fabric's texts
// (core/chaincode/lifecycle/endorsement_info.go). Of the definition only the
// sequence is read through the simulator: that is the read that a transaction's
// validity depends on. The rest is remembered for the ledger's height.
func (s *Service) Runnable(ctx context.Context, channelID, name string, sim *ledger.Simulator) (endorser.Runnable, error) {
	sequence, err := state.ReadSequence(sim, name)
	if err != nil {
		return endorser.Runnable{}, fmt.Errorf("could not get current sequence for chaincode '%s' on channel '%s': %w", name, channelID, err)
	}
	if sequence == 0 {
		return endorser.Runnable{}, fmt.Errorf("chaincode %s not found", name)
	}
	e, err := s.entry(channelID, name)
	if err != nil {
		return endorser.Runnable{}, err
	}
	switch {
	case e.definition == nil || e.definition.Sequence != sequence:
		return endorser.Runnable{}, fmt.Errorf("chaincode definition for '%s' changed during invoke: try again", name)
	case !e.approved:
		return endorser.Runnable{}, fmt.Errorf("chaincode definition for '%s' at sequence %d on channel '%s' has not yet been approved by this org", name, sequence, channelID)
	}
	s.mu.Lock()
	_, installed := s.installed[e.packageID]
	s.mu.Unlock()
	if !installed {
		return endorser.Runnable{}, fmt.Errorf("chaincode definition for '%s' exists, but chaincode is not installed", name)
	}
	return endorser.Runnable{
		Version: e.definition.Version, InitRequired: e.definition.InitRequired,
		PackageID: e.packageID, Plugin: e.definition.EndorsementPlugin,
	}, nil
}

// entry returns what is remembered, if it was read at the ledger's present height.
func (s *Service) entry(channelID, name string) (*runnableEntry, error) {
	key := runnableKey{channelID, name}
	ch, ok := s.cfg.Channel(channelID)
	if !ok {
		return nil, fmt.Errorf("channel %q is not joined", channelID)
	}
	l := ch.Ledger()
	s.mu.Lock()
	e := s.runnable[key]
	s.mu.Unlock()
	if e != nil && e.ledger == l && e.height == l.Height() {
		return e, nil
	}
	snap, err := l.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("state of channel %q: %w", channelID, err)
	}
	defer snap.Release()
	e = &runnableEntry{ledger: l, height: snap.Height()}
	if err := s.fill(e, snapshot{snap}, name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.runnable[key] = e
	s.mu.Unlock()
	return e, nil
}

func (s *Service) fill(e *runnableEntry, snap snapshot, name string) error {
	d, err := state.ReadDefinition(snap, name)
	if errors.Is(err, state.ErrNotDefined) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("could not read the definition of %s: %w", name, err)
	}
	e.definition = d
	c, err := state.Compare(snap, string(s.cfg.MSPID), d)
	if err != nil {
		return fmt.Errorf("could not compare the approval of %s: %w", name, err)
	}
	if !c.Agrees() {
		return nil
	}
	a, err := state.ReadApproval(state.OrgState(snap, string(s.cfg.MSPID)), name, d.Sequence)
	if errors.Is(err, state.ErrNotApproved) {
		return nil // its hashes are there, but the private data is not, yet
	}
	if err != nil {
		return fmt.Errorf("could not read the approval of %s: %w", name, err)
	}
	e.approved, e.packageID = true, a.PackageID
	return nil
}
