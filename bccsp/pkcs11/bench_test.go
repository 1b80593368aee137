package pkcs11_test

import (
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
)

// turn is how many operations each side does before the other has its turn: the
// machine's drift then meets both alike.
const turn = 256

// compare does b.N operations through the pool, and in turns with them as many by the bare
// module, once as the binding asks it (raw) and once as the pool does (module), with n
// goroutines each. It reports the rates, and what part of each bare rate the pool's is, by
// time and by processor time, which other programs of the machine disturb less.
func compare(b *testing.B, n int, raw, module func(worker int) error, pool func() error) {
	b.Helper()
	b.ReportAllocs()
	b.StopTimer()
	var spent, used [3]time.Duration // by raw, module, pool
	for done := 0; done < b.N; done += turn {
		count := min(turn, b.N-done)
		for i, f := range []func(int) error{raw, module, func(int) error { return pool() }} {
			before := cpu(b)
			if i == 2 {
				b.StartTimer()
			}
			spent[i] += share(b, n, count, f)
			b.StopTimer()
			used[i] += cpu(b) - before
		}
	}
	for i, name := range []string{"raw", "module", "pool"} {
		b.ReportMetric(float64(b.N)/spent[i].Seconds(), name+"/s")
		if i < 2 {
			b.ReportMetric(spent[i].Seconds()/spent[2].Seconds(), "pool:"+name)
			b.ReportMetric(used[i].Seconds()/used[2].Seconds(), "pool:"+name+"(CPU)")
		}
	}
}

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// share spreads count calls of f over n goroutines, which know their numbers.
func share(b *testing.B, n, count int, f func(worker int) error) time.Duration {
	b.Helper()
	began := time.Now()
	var wg sync.WaitGroup
	for w := range n {
		mine := count / n
		if w < count%n {
			mine++
		}
		wg.Go(func() {
			for range mine {
				if err := f(w); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(began)
}

// benchToken has a signing key and bare sessions beside the pool.
func benchToken(b *testing.B) (*pkcs11.Token, *bccsp.Signer, []*pkcs11.Raw) {
	b.Helper()
	ctx, label := context.Background(), "bench"
	token := bccsptest.Open(b)
	if _, err := token.GenerateKey(ctx, label, elliptic.P256()); err != nil {
		b.Fatal(err)
	}
	signer, err := token.Signer(ctx, label)
	if err != nil {
		b.Fatal(err)
	}
	var raws []*pkcs11.Raw
	for range 8 {
		raw, err := token.OpenRaw(label)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(raw.Close)
		raws = append(raws, raw)
	}
	return token, signer, raws
}

// BenchmarkSign holds signing through the pool, with hashing, low S and DER, against
// C_Sign of the bare module in the same run.
func BenchmarkSign(b *testing.B) {
	_, signer, raws := benchToken(b)
	ctx, message := context.Background(), []byte("bench")
	digest := sha256.Sum256(message)
	for _, n := range []int{1, 4, 8} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			compare(b, n, func(w int) error {
				_, err := raws[w].Sign(digest)
				return err
			}, func(w int) error {
				_, err := raws[w].SignDirect(digest)
				return err
			}, func() error {
				_, err := signer.SignProposal(ctx, message)
				return err
			})
		})
	}
}

// BenchmarkVerify holds verification through the pool, with parsing and the key cache,
// against C_Verify of the bare module in the same run.
func BenchmarkVerify(b *testing.B) {
	token, signer, raws := benchToken(b)
	ctx, message := context.Background(), []byte("bench")
	digest := sha256.Sum256(message)
	sig, err := signer.SignProposal(ctx, message)
	if err != nil {
		b.Fatal(err)
	}
	raw, ok := pkcs11.ParseStrict(elliptic.P256(), sig)
	if !ok {
		b.Fatal("signature does not parse")
	}
	for _, n := range []int{1, 4, 8} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			compare(b, n, func(w int) error { return raws[w].Verify(digest, raw) },
				func(w int) error { return raws[w].VerifyDirect(digest, raw) },
				func() error { return token.Verify(ctx, signer.PublicKey(), digest[:], sig) })
		})
	}
}

// BenchmarkImport verifies under a new foreign key each time: import, C_Verify, and in
// the end eviction and destruction.
func BenchmarkImport(b *testing.B) {
	ctx, token := context.Background(), bccsptest.Open(b)
	digest := sha256.Sum256([]byte("bench"))
	keys, sigs := make([]*bccsp.PublicKey, b.N), make([][]byte, b.N)
	for i := range b.N {
		keys[i], sigs[i] = software(b, elliptic.P256(), digest[:])
	}
	b.ResetTimer()
	for i := range b.N {
		if err := token.VerifyX509(ctx, keys[i], digest[:], sigs[i]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWrapKey(b *testing.B) {
	ctx, token := context.Background(), bccsptest.Open(b)
	key := make([]byte, 32)
	for b.Loop() {
		if _, err := token.WrapKey(ctx, key); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnwrapKey(b *testing.B) {
	ctx, token := context.Background(), bccsptest.Open(b)
	wrapped, err := token.WrapKey(ctx, make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := token.UnwrapKey(ctx, wrapped); err != nil {
			b.Fatal(err)
		}
	}
}
