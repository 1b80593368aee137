package pkcs11

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"strongroom/bccsp"
)

// BareVerifyRate measures the module itself: it repeats C_VerifyInit and C_Verify of
// one signature on callers sessions of its own, without the pool, for about d, and
// returns how many were done in how long. It is the ceiling that a peer's rate is
// held against. A call that hangs hangs it, and the pool should be idle meanwhile.
// Errors are Verify's and those of opening sessions.
func (t *Token) BareVerifyRate(ctx context.Context, key *bccsp.PublicKey, digest, sig []byte, callers int, d time.Duration) (uint64, time.Duration, error) {
	if err := checkDigest(digest); err != nil {
		return 0, 0, err
	}
	if t.onlySigns() {
		return 0, 0, errors.New("this token only signs: measure the one that verifies for it")
	}
	o := orderOf(key.Curve())
	raw, ok := o.parseFabric(sig)
	if !ok {
		return 0, 0, badSignature("it is not the DER of r and s in the curve's order")
	}
	e, err := t.foreign.acquire(ctx, key)
	if err != nil {
		return 0, 0, err
	}
	defer e.release(nil)
	sessions := make([]*session, callers)
	for i := range sessions {
		sessions[i] = &session{token: t}
		if err := sessions[i].open(); err != nil {
			return 0, 0, err
		}
		defer sessions[i].close()
	}
	var done atomic.Uint64
	var wg sync.WaitGroup
	errs := make([]error, callers)
	began := time.Now()
	for i, s := range sessions {
		wg.Go(func() {
			for errs[i] == nil && ctx.Err() == nil && time.Since(began) < d {
				if errs[i] = s.verify(e.handle.object, o.truncate(digest), raw.bytes[:raw.len]); errs[i] == nil {
					done.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return done.Load(), time.Since(began), errors.Join(append(errs, ctx.Err())...)
}
