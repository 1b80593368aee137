package probe

import (
	"context"
	"crypto/elliptic"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	p11 "github.com/miekg/pkcs11"
)

// Rate is what a number of sessions gets done, P-256, in operations a second.
type Rate struct {
	Sessions int     `json:"sessions"`
	Sign     float64 `json:"signPerSecond"`
	Verify   float64 `json:"verifyPerSecond"` // 0 where the device does not verify
}

// Rates measures with 1, 2, 4 to 64 sessions, each for a time, as far as the device
// opens so many. It gives the smallest number of sessions that comes within a twentieth
// of the best.
func (b *Bench) Rates(ctx context.Context, each time.Duration) (rates []Rate, sessions int, err error) {
	defer b.sweep()
	_, err = bounded(ctx, func() (string, error) {
		rates, err = b.rates(each)
		return "", err
	})
	if err != nil {
		return nil, 0, err
	}
	return rates, recommend(rates), nil
}

func (b *Bench) rates(each time.Duration) ([]Rate, error) {
	public, private, err := b.pair(b.session, elliptic.P256())
	if err != nil {
		return nil, err
	}
	sig, err := b.sign(b.session, private, sample[:])
	if err != nil {
		return nil, err
	}
	verifies := b.verify(b.session, public, sample[:], sig) == nil
	var open []p11.SessionHandle
	defer func() {
		for _, s := range open {
			_ = b.module.CloseSession(s)
		}
	}()
	var rates []Rate
	for n := 1; n <= 64; n *= 2 {
		for len(open) < n {
			s, err := b.openSession()
			if err != nil {
				if len(rates) > 0 && !lost(err) {
					return rates, nil
				}
				return nil, err
			}
			open = append(open, s)
		}
		r := Rate{Sessions: n}
		r.Sign, err = measure(open, each, func(s p11.SessionHandle) error {
			_, err := b.sign(s, private, sample[:])
			return err
		})
		if err == nil && verifies {
			r.Verify, err = measure(open, each, func(s p11.SessionHandle) error { return b.verify(s, public, sample[:], sig) })
		}
		if err != nil {
			return nil, err
		}
		rates = append(rates, r)
	}
	return rates, nil
}

// measure runs f in all sessions for a time and counts.
func measure(sessions []p11.SessionHandle, each time.Duration, f func(p11.SessionHandle) error) (float64, error) {
	errs := make([]error, len(sessions))
	var count atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for i, s := range sessions {
		wg.Go(func() {
			for time.Since(began) < each {
				if errs[i] = f(s); errs[i] != nil {
					return
				}
				count.Add(1)
			}
		})
	}
	wg.Wait()
	rate := float64(count.Load()) / time.Since(began).Seconds()
	return math.Round(rate*10) / 10, errors.Join(errs...)
}

// recommend weighs signing and verifying alike.
func recommend(rates []Rate) int {
	var sign, verify float64
	for _, r := range rates {
		sign, verify = max(sign, r.Sign), max(verify, r.Verify)
	}
	score := func(r Rate) float64 {
		s := r.Sign / sign
		if verify > 0 {
			s = (s + r.Verify/verify) / 2
		}
		return s
	}
	best := 0.0
	for _, r := range rates {
		best = max(best, score(r))
	}
	for _, r := range rates {
		if score(r) >= 0.95*best {
			return r.Sessions
		}
	}
	return 0
}
