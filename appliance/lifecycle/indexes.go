package lifecycle

import (
	"context"
	"errors"
	"fmt"

	"strongroom/chaincode/ccpackage"
	state "strongroom/channel/lifecycle"
	"strongroom/ledger"
	"strongroom/ledger/selector"
	"strongroom/wire"
)

// definitions reads a package's indexes. A package that an earlier version installed
// may hold what is no definition: chaincode runs without.
func (s *Service) definitions(p *ccpackage.Package) []*selector.Index {
	list, ignored, err := p.Indexes()
	if err != nil {
		s.cfg.Logger.Error("the package's indexes are not used: package it anew", "package", p.ID, "error", err)
		return nil
	}
	for _, what := range ignored {
		s.cfg.Logger.Warn("a file of the package is ignored", "package", p.ID, "file", what)
	}
	return list
}

// KeepIndexes gives a channel's ledger the indexes of the chaincodes that run here,
// until the context ends: of a chaincode whose definition is committed, that this
// organisation approved, and whose package is installed. As in Fabric, nothing changes
// while one of these is missing.
func (s *Service) KeepIndexes(ctx context.Context, channelID string) {
	ch, ok := s.cfg.Channel(channelID)
	if !ok {
		return
	}
	l := ch.Ledger()
	for ctx.Err() == nil {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		height := l.Height()
		err := s.setIndexes(channelID, l)
		if errors.Is(err, ledger.ErrClosed) {
			return
		}
		if err != nil {
			s.cfg.Logger.ErrorContext(ctx, "cannot set the indexes of rich queries; it is tried again when a chaincode changes", "channel", channelID, "error", err)
		}
		awaitDefinitions(ctx, l, height, changed)
	}
}

// awaitDefinitions returns when a block from a number on wrote to _lifecycle, a
// package was installed, or the context ends.
func awaitDefinitions(ctx context.Context, l *ledger.Ledger, from uint64, changed <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}()
	for b, err := range l.ParsedBlocks(ctx, from) {
		if errors.Is(err, ledger.ErrClosed) || err == nil && defines(b) {
			return
		}
	}
	<-ctx.Done() // blocks cannot be read: wait for what else may come
}

func defines(b *wire.Block) bool {
	for _, tx := range b.Txs {
		if tx.Endorsed == nil || tx.Endorsed.ReadWriteSet == nil {
			continue
		}
		for _, set := range tx.Endorsed.ReadWriteSet.Namespaces {
			if set.Namespace == state.Namespace {
				return true
			}
		}
	}
	return false
}

func (s *Service) setIndexes(channelID string, l *ledger.Ledger) error {
	snap, err := l.Snapshot()
	if err != nil {
		return err
	}
	names, err := state.Names(ranger{snap.Range})
	snap.Release()
	if err != nil {
		return fmt.Errorf("definitions of channel %q: %w", channelID, err)
	}
	for _, name := range names {
		e, err := s.entry(channelID, name)
		if err != nil {
			return err
		}
		s.mu.Lock()
		_, installed := s.installed[e.packageID]
		list := s.indexes[e.packageID]
		s.mu.Unlock()
		if !e.approved || !installed {
			continue
		}
		if err := l.SetIndexes(name, list); err != nil {
			return fmt.Errorf("indexes of chaincode %q: %w", name, err)
		}
	}
	return nil
}
