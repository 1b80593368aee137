package faulty_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"strongroom/bccsp"
	"strongroom/bccsp/pkcs11"
	"strongroom/softhsm-tests/faulty"
)

// openSecond opens the bench's token by a second module that shares nothing with the
// first: two devices with replicated keys.
func openSecond(t testing.TB, b *bench) *pkcs11.Token {
	t.Helper()
	set(t, second)
	cfg := b.cfg
	cfg.Module = second.Path
	other, err := pkcs11.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		set(t, second)
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	})
	return other
}

// TestGroupFailsOver loses one of two tokens, then the other, then both, in the middle of
// signing and verifying: while one is up no operation fails or waits for the other.
func TestGroupFailsOver(t *testing.T) {
	b := newBench(t, nil)
	ctx := context.Background()
	group, err := pkcs11.NewGroup(b.token, openSecond(t, b))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := group.Signer(ctx, "key")
	if err != nil {
		t.Fatal(err)
	}
	work := func(limit time.Duration) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for i := range 10 {
					sig, err := signer.SignProposal(ctx, []byte("m"))
					if digest := sha256.Sum256([]byte("m")); err != nil || !ecdsa.VerifyASN1(signer.PublicKey().ECDSA(), digest[:], sig) {
						t.Errorf("sign: %v", err)
					}
					s := b.good[i%len(b.good)]
					if err := group.VerifyX509(ctx, s.key, s.digest[:], s.sig); err != nil {
						t.Errorf("good signature: %v", err)
					}
					s.digest[1] ^= 4
					if err := group.VerifyX509(ctx, s.key, s.digest[:], s.sig); !errors.Is(err, bccsp.ErrBadSignature) {
						t.Errorf("bad signature: %v", err)
					}
				}
			})
		}
		wg.Wait()
	}
	gone := faulty.Rule{Function: "*", From: 5, Count: 0, Action: faulty.Return, Arg: 0x30}
	for _, m := range []*faulty.Module{module, second} {
		set(t, m, gone)
		work(3 * time.Second)
		short, cancel := context.WithTimeout(ctx, time.Second)
		if group.Healthy(short) == nil {
			t.Error("the group is healthy without one of its tokens")
		}
		cancel()
		set(t, m)
		waitHealthy(t, group)
	}
	set(t, module, gone)
	set(t, second, gone)
	time.AfterFunc(300*time.Millisecond, func() {
		if err := second.Set(); err != nil {
			t.Error(err)
		}
	})
	work(8 * time.Second) // callers wait for the first that comes back
	set(t, module)
	waitHealthy(t, group)
}

func waitHealthy(t *testing.T, g *pkcs11.Group) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), back)
	defer cancel()
	for {
		err := g.Healthy(ctx)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestGroupRefusesKeysThatDiffer(t *testing.T) {
	one, two := newBench(t, nil), newBench(t, nil)
	group, err := pkcs11.NewGroup(one.token, two.token)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := group.Signer(context.Background(), "key"); err == nil {
		t.Error("two keys under one label serve as one")
	}
	if _, err := group.Signer(context.Background(), "nobody"); !errors.Is(err, pkcs11.ErrKeyNotFound) {
		t.Errorf("got %v, want ErrKeyNotFound", err)
	}
	if _, err := pkcs11.NewGroup(one.token, one.token); err == nil {
		t.Error("one token is in a group twice")
	}
	if _, err := pkcs11.NewGroup(); err == nil {
		t.Error("a group has no token")
	}
}

// BenchmarkSlowDevice verifies, and signs, through modules that take 5 ms for each call, with
// 32 sessions each: one token, then two. Each operation is two calls. It reports the calls
// a second, their part of what the sleeping allows (6,400 for one token), and for two tokens
// how many times as many as for one in the same run.
func BenchmarkSlowDevice(b *testing.B) {
	const slowSessions, slowMillis = 32, 5
	var one float64
	x := newBench(b, func(c *pkcs11.Config) { c.Sessions = slowSessions })
	group, err := pkcs11.NewGroup(x.token, openSecond(b, x))
	if err != nil {
		b.Fatal(err)
	}
	ctx, s := context.Background(), x.good[0]
	verify := func(to bccsp.Verifier) func() error {
		return func() error { return to.VerifyX509(ctx, s.key, s.digest[:], s.sig) }
	}
	sign := func() error {
		_, err := x.signer.SignProposal(ctx, s.digest[:])
		return err
	}
	for _, v := range []struct {
		name    string
		do      func() error
		tokens  int
		callers int
	}{{"sign", sign, 1, 64}, {"one", verify(x.token), 1, 64}, {"two", verify(group), 2, 128}} {
		b.Run(v.name, func(b *testing.B) {
			for range 8 { // the key is imported everywhere
				if err := v.do(); err != nil {
					b.Fatal(err)
				}
			}
			slow := faulty.Rule{Function: "*", From: 1, Action: faulty.Sleep, Arg: slowMillis}
			set(b, module, slow)
			set(b, second, slow)
			defer set(b, module)
			defer set(b, second)
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			b.ResetTimer()
			for range v.callers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if err := v.do(); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			rate := 2 * float64(b.N) / b.Elapsed().Seconds()
			b.ReportMetric(rate, "calls/s")
			b.ReportMetric(rate/(float64(v.tokens*slowSessions)*1000/slowMillis), "of-bound")
			if v.name == "one" {
				one = rate
			} else if v.tokens > 1 && one > 0 {
				b.ReportMetric(rate/one, "times-one")
			}
		})
	}
}
