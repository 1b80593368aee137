package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"testing"

	"strongroom/bccsp"
)

// A signature that was good once is not looked at again within its block, and nothing
// else profits from it.
func TestMemo(t *testing.T) {
	public, digest, sig := signed(t)
	m := &memo{}
	m.forget()
	for range 2 {
		if err := m.Verify(t.Context(), public, digest, sig); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.good) != 1 {
		t.Errorf("%d signatures are remembered", len(m.good))
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	another, err := bccsp.NewPublicKey(&other.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	changed := sha256.Sum256([]byte("another message"))
	for name, err := range map[string]error{
		"another key":     m.Verify(t.Context(), another, digest, sig),
		"another message": m.Verify(t.Context(), public, changed[:], sig),
	} {
		if !errors.Is(err, bccsp.ErrBadSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(m.good) != 1 {
		t.Errorf("%d signatures are remembered", len(m.good))
	}
	if m.forget(); len(m.good) != 0 {
		t.Error("a new block begins with signatures of the last")
	}
}

// signed makes a key, and a signature that the ledger's rules accept.
func signed(t testing.TB) (public *bccsp.PublicKey, digest, sig []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if public, err = bccsp.NewPublicKey(&key.PublicKey); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("message"))
	for {
		if sig, err = ecdsa.SignASN1(rand.Reader, key, sum[:]); err != nil {
			t.Fatal(err)
		}
		if (software{}).Verify(t.Context(), public, sum[:], sig) == nil { // its S is low
			return public, sum[:], sig
		}
	}
}

// BenchmarkSoftwareVerify is the rate that a pack's verification is held against: on all
// cores.
func BenchmarkSoftwareVerify(b *testing.B) {
	public, digest, sig := signed(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := (software{}).Verify(b.Context(), public, digest, sig); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "signatures/s")
}
