package pkcs11

import (
	"container/list"
	"context"
	"fmt"
	"sync"

	p11 "github.com/miekg/pkcs11"

	"strongroom/bccsp"
)

// keyCache holds the foreign public keys that are imported, as session objects of the
// anchor session. A key that is evicted while operations use it is destroyed when the
// last of them ends, so that the token holds at most max keys and those in use.
type keyCache struct {
	token *Token
	max   int

	mu     sync.Mutex // guards what follows, and the entries' fields that say so
	byID   map[bccsp.KeyID]*importedKey
	recent list.List // of *importedKey, latest use first
}

// importedKey is a foreign public key in the token.
type importedKey struct {
	cache *keyCache
	id    bccsp.KeyID

	ready  chan struct{} // closed when the import has ended; handle and err are then fixed
	handle handle
	err    error

	// guarded by cache.mu
	uses  int
	place *list.Element // nil when evicted
	stale bool          // the handle may name another object by now: never destroy it
}

func newKeyCache(t *Token, max int) *keyCache {
	return &keyCache{token: t, max: max, byID: make(map[bccsp.KeyID]*importedKey)}
}

// acquire returns the imported key for one use; the caller releases it. Callers that
// ask at the same time for a key that is not there share one import, which goes on
// if one of them gives up.
func (c *keyCache) acquire(ctx context.Context, key *bccsp.PublicKey) (*importedKey, error) {
	e, err := c.acquireOnce(ctx, key)
	if err == nil && !c.token.current(&e.handle) {
		e.release(errStale)
		e, err = c.acquireOnce(ctx, key)
	}
	return e, err
}

func (c *keyCache) acquireOnce(ctx context.Context, key *bccsp.PublicKey) (*importedKey, error) {
	e, err := c.lookup(ctx, key)
	if err != nil {
		return nil, err
	}
	select {
	case <-e.ready:
	default:
		select {
		case <-e.ready:
		case <-ctx.Done():
			e.release(nil)
			return nil, fmt.Errorf("import public key %s: %w", e.id, context.Cause(ctx))
		}
	}
	if e.err != nil {
		e.release(nil)
		return nil, fmt.Errorf("import public key %s: %w", e.id, e.err)
	}
	return e, nil
}

// lookup finds the key's entry or starts its import, and counts one use.
func (c *keyCache) lookup(ctx context.Context, key *bccsp.PublicKey) (*importedKey, error) {
	id := key.ID()
	c.mu.Lock()
	if e := c.byID[id]; e != nil {
		e.uses++
		c.recent.MoveToFront(e.place)
		c.mu.Unlock()
		return e, nil
	}
	e := &importedKey{cache: c, id: id, ready: make(chan struct{}), uses: 2} // the caller's and the import's
	e.place = c.recent.PushFront(e)
	c.byID[id] = e
	var idle []*importedKey
	for c.recent.Len() > c.max {
		old := c.recent.Back().Value.(*importedKey)
		c.evict(old)
		if old.uses == 0 {
			idle = append(idle, old)
		}
	}
	c.mu.Unlock()

	ctx = context.WithoutCancel(ctx)
	started := c.token.spawn(func() {
		c.importKey(ctx, e, key)
		for _, old := range idle {
			c.destroy(old)
		}
	})
	if !started {
		e.err = ErrClosed
		close(e.ready)
		e.release(nil)
	}
	return e, nil
}

// evict takes e out of the cache. The caller holds c.mu.
func (c *keyCache) evict(e *importedKey) {
	if e.place == nil {
		return
	}
	c.recent.Remove(e.place)
	e.place = nil
	delete(c.byID, e.id)
}

func (c *keyCache) importKey(ctx context.Context, e *importedKey, key *bccsp.PublicKey) {
	var h handle
	err := c.token.anchor.do(ctx, "import", func(s *session) (err error) {
		h.epoch = c.token.epoch()
		h.object, err = s.importKey(key)
		return err
	})
	if err != nil {
		e.err = err
		c.mu.Lock()
		c.evict(e) // the next caller tries anew
		c.mu.Unlock()
	} else {
		e.handle = h
	}
	close(e.ready)
	e.release(nil)
}

// release ends one use. The error is the use's: a stale handle is not used again.
func (e *importedKey) release(err error) {
	c := e.cache
	c.mu.Lock()
	e.uses--
	if classOf(err) == ClassHandle {
		e.stale = true
		c.evict(e)
	}
	last := e.uses == 0 && e.place == nil && !e.stale
	c.mu.Unlock()
	// A closed token needs no destroying: its sessions' objects die with them.
	if last && e.err == nil {
		c.token.spawn(func() { c.destroy(e) })
	}
}

// destroy removes an evicted key from the token. It is best effort: what remains dies
// with the anchor session.
func (c *keyCache) destroy(e *importedKey) {
	if e.err != nil {
		return
	}
	_ = c.token.anchor.do(context.Background(), "destroy", func(s *session) error {
		if !c.token.current(&e.handle) {
			return nil // it died with its session, and its number may be another's
		}
		return s.err("C_DestroyObject", c.token.module.ctx.DestroyObject(s.handle, e.handle.object))
	})
}

// importKey makes a session object of a foreign public key, which may verify and
// nothing else (PKCS #11 v2.40 current mechanisms, section 2.3.3).
func (s *session) importKey(key *bccsp.PublicKey) (p11.ObjectHandle, error) {
	h, err := s.token.module.ctx.CreateObject(s.handle, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY),
		p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_EC),
		p11.NewAttribute(p11.CKA_TOKEN, false),
		p11.NewAttribute(p11.CKA_PRIVATE, false),
		p11.NewAttribute(p11.CKA_VERIFY, true),
		p11.NewAttribute(p11.CKA_ENCRYPT, false),
		p11.NewAttribute(p11.CKA_WRAP, false),
		p11.NewAttribute(p11.CKA_EC_PARAMS, curveOID(key.Curve())),
		p11.NewAttribute(p11.CKA_EC_POINT, octetString(key.Point())),
	})
	return h, s.err("C_CreateObject", err)
}

// octetString is the DER OCTET STRING that CKA_EC_POINT wants (65 and 97 bytes fit
// the short form).
func octetString(b []byte) []byte {
	return append([]byte{0x04, byte(len(b))}, b...)
}
