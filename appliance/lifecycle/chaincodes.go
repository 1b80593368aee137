package lifecycle

import (
	"errors"
	"fmt"

	state "strongroom/channel/lifecycle"
	"strongroom/ledger/rwset"
	"strongroom/msp"
)

// Chaincode is a chaincode of a channel and who can run it, as far as the channel
// tells.
type Chaincode struct {
	Name, Version string
	Runnable      bool            // by this peer: approved, and its package is installed
	Approved      map[msp.ID]bool // by organisation: exactly the committed definition
}

// Chaincodes lists the chaincodes that are defined on a channel, by name. That an
// organisation's peers have installed what it approved is not on the channel.
func (s *Service) Chaincodes(channelID string) ([]Chaincode, error) {
	ch, ok := s.cfg.Channel(channelID)
	if !ok {
		return nil, fmt.Errorf("channel %q is not joined", channelID)
	}
	snap, err := ch.Ledger().Snapshot()
	if err != nil {
		return nil, fmt.Errorf("state of channel %q: %w", channelID, err)
	}
	defer snap.Release()
	names, err := state.Names(ranger{func(namespace, start, end string) (rwset.KVIterator, error) {
		return snap.Range(namespace, start, end)
	}})
	if err != nil {
		return nil, fmt.Errorf("definitions of channel %q: %w", channelID, err)
	}
	out := make([]Chaincode, 0, len(names))
	for _, name := range names {
		d, err := state.ReadDefinition(snap, name)
		if errors.Is(err, state.ErrNotDefined) || errors.Is(err, state.ErrMalformed) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("definition of %s: %w", name, err)
		}
		c := Chaincode{Name: name, Version: d.Version, Approved: map[msp.ID]bool{}}
		for _, org := range applicationOrgs(ch.Config()) {
			compared, err := state.Compare(snap, string(org), d)
			if err != nil {
				return nil, fmt.Errorf("approval of %s by %s: %w", name, org, err)
			}
			c.Approved[org] = compared.Agrees()
		}
		e, err := s.entry(channelID, name)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		_, installed := s.installed[e.packageID]
		s.mu.Unlock()
		c.Runnable = e.approved && installed
		out = append(out, c)
	}
	return out, nil
}
