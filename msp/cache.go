package msp

import (
	"bytes"
	"context"
	"errors"
	"hash/maphash"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
)

// defaultCacheSize is how many valid identities an MSP remembers. Invalid ones
// have a cache of their own, a quarter as large, so that a flood of them does not
// push the valid ones out.
const defaultCacheSize = 4096

// cache remembers the verdicts on serialized identities: a hit allocates nothing.
// Keys are seeded hashes; an entry compares the bytes themselves.
type cache struct {
	seed    maphash.Seed
	valid   *lru.Cache[uint64, *Identity]
	invalid *lru.Cache[uint64, *refusal]

	mu      sync.Mutex
	running map[uint64]*flight // guarded by mu
}

// refusal is a remembered InvalidError.
type refusal struct {
	serialized []byte
	err        error
}

// flight is a validation under way, for which others with the same bytes wait.
type flight struct {
	serialized []byte
	done       chan struct{} // closed when id and err are set
	id         *Identity
	err        error
}

func newCache(size int) *cache {
	if size <= 0 {
		size = defaultCacheSize
	}
	valid, err := lru.New[uint64, *Identity](size)
	if err != nil {
		panic("msp: identity cache: " + err.Error())
	}
	invalid, err := lru.New[uint64, *refusal](max(size/4, 1))
	if err != nil {
		panic("msp: identity cache: " + err.Error())
	}
	return &cache{seed: maphash.MakeSeed(), valid: valid, invalid: invalid, running: map[uint64]*flight{}}
}

func (c *cache) key(serialized []byte) uint64 { return maphash.Bytes(c.seed, serialized) }

// get looks a verdict up.
func (c *cache) get(key uint64, serialized []byte) (*Identity, error, bool) {
	if id, ok := c.valid.Get(key); ok && bytes.Equal(id.Serialized, serialized) {
		return id, nil, true
	}
	if r, ok := c.invalid.Get(key); ok && bytes.Equal(r.serialized, serialized) {
		return nil, r.err, true
	}
	return nil, nil, false
}

// do returns the remembered verdict, or waits for the one under way, or makes and
// remembers it. A failure is not remembered; if the one who was at work gave up
// because its own context ended, a waiter whose context has not tries again.
func (c *cache) do(ctx context.Context, serialized []byte, validate func(context.Context, []byte) (*Identity, error)) (*Identity, error) {
	key := c.key(serialized)
	for {
		c.mu.Lock()
		if id, err, ok := c.get(key, serialized); ok {
			c.mu.Unlock()
			return id, err
		}
		f, ok := c.running[key]
		if ok && bytes.Equal(f.serialized, serialized) {
			c.mu.Unlock()
			select {
			case <-f.done:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if f.err != nil && ctx.Err() == nil && (errors.Is(f.err, context.Canceled) || errors.Is(f.err, context.DeadlineExceeded)) {
				continue
			}
			return f.id, f.err
		}
		own := bytes.Clone(serialized)
		f = &flight{serialized: own, done: make(chan struct{})}
		c.running[key] = f
		c.mu.Unlock()
		c.run(ctx, key, f, validate)
		return f.id, f.err
	}
}

func (c *cache) run(ctx context.Context, key uint64, f *flight, validate func(context.Context, []byte) (*Identity, error)) {
	defer close(f.done)
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.running[key] == f {
			delete(c.running, key)
		}
		var invalid *InvalidError
		switch {
		case f.err == nil:
			c.valid.Add(key, f.id)
		case errors.As(f.err, &invalid):
			c.invalid.Add(key, &refusal{serialized: f.serialized, err: f.err})
		}
	}()
	f.err = errors.New("validation of the identity did not end")
	f.id, f.err = validate(ctx, f.serialized)
}
