package main

import (
	"context"
	"crypto/sha256"
	"sync"

	"strongroom/bccsp"
)

// memo remembers the good signatures of one block: those of valid transactions are
// looked at twice, by themselves and when the verdicts are computed again.
type memo struct {
	software
	mu   sync.Mutex // guards good
	good map[[sha256.Size]byte]struct{}
}

// Verify is software's, once for each signature of a block.
func (m *memo) Verify(ctx context.Context, key *bccsp.PublicKey, digest, sig []byte) error {
	id := key.ID()
	h := sha256.New()
	h.Write(id[:])
	h.Write([]byte{byte(len(digest))}) // a hash: 64 bytes at most
	h.Write(digest)
	h.Write(sig)
	var name [sha256.Size]byte
	h.Sum(name[:0])
	m.mu.Lock()
	_, known := m.good[name]
	m.mu.Unlock()
	if known {
		return nil
	}
	if err := m.software.Verify(ctx, key, digest, sig); err != nil {
		return err
	}
	m.mu.Lock()
	m.good[name] = struct{}{}
	m.mu.Unlock()
	return nil
}

// forget begins a new block.
func (m *memo) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.good = map[[sha256.Size]byte]struct{}{}
}
