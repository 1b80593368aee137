package pkcs11_test

import (
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
)

// share runs f b.N times, spread over n goroutines that each know their number.
func share(b *testing.B, n int, f func(worker int) error) {
	b.Helper()
	var wg sync.WaitGroup
	for w := range n {
		count := b.N / n
		if w < b.N%n {
			count++
		}
		wg.Go(func() {
			for range count {
				if err := f(w); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

// benchToken has a signing key and bare sessions beside the pool.
func benchToken(b *testing.B) (*pkcs11.Token, *bccsp.Signer, *bccsp.PublicKey, []*pkcs11.Raw) {
	b.Helper()
	ctx, label := context.Background(), "bench"
	token := bccsptest.Open(b)
	pub, err := token.GenerateKey(ctx, label, elliptic.P256())
	if err != nil {
		b.Fatal(err)
	}
	key, err := token.Signer(ctx, label)
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
	return token, key, pub, raws
}

func BenchmarkSign(b *testing.B) {
	_, key, _, raws := benchToken(b)
	message := []byte("bench")
	digest := sha256.Sum256(message)
	for _, n := range []int{1, 4, 8} {
		b.Run(fmt.Sprintf("raw/%d", n), func(b *testing.B) {
			share(b, n, func(w int) error {
				_, err := raws[w].Sign(digest)
				return err
			})
		})
		b.Run(fmt.Sprintf("pool/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			share(b, n, func(int) error {
				_, err := key.SignProposal(context.Background(), message)
				return err
			})
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	token, key, pub, raws := benchToken(b)
	message := []byte("bench")
	digest := sha256.Sum256(message)
	sig, err := key.SignProposal(context.Background(), message)
	if err != nil {
		b.Fatal(err)
	}
	raw, ok := pkcs11.ParseStrict(elliptic.P256(), sig)
	if !ok {
		b.Fatal("signature does not parse")
	}
	ctx := context.Background()
	for _, n := range []int{1, 4, 8} {
		b.Run(fmt.Sprintf("raw/%d", n), func(b *testing.B) {
			share(b, n, func(w int) error { return raws[w].Verify(digest, raw) })
		})
		b.Run(fmt.Sprintf("pool/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			share(b, n, func(int) error { return token.Verify(ctx, pub, digest[:], sig) })
		})
	}
}

func BenchmarkWrapKey(b *testing.B) {
	token := bccsptest.Open(b)
	key := make([]byte, 32)
	share(b, 1, func(int) error {
		_, err := token.WrapKey(context.Background(), key)
		return err
	})
}

func BenchmarkUnwrapKey(b *testing.B) {
	token := bccsptest.Open(b)
	wrapped, err := token.WrapKey(context.Background(), make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	share(b, 1, func(int) error {
		_, err := token.UnwrapKey(context.Background(), wrapped)
		return err
	})
}
