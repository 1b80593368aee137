package bccsptest_test

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"testing"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
)

func TestOpen(t *testing.T) {
	ctx := context.Background()
	token := bccsptest.Open(t)
	pub, err := token.GenerateKey(ctx, "k", elliptic.P256())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := token.Signer(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := signer.SignProposal(ctx, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("hello"))
	if err := token.Verify(ctx, pub, digest[:], sig); err != nil {
		t.Fatal(err)
	}
	digest[3] ^= 1
	if err := token.Verify(ctx, pub, digest[:], sig); !errors.Is(err, bccsp.ErrBadSignature) {
		t.Fatalf("changed digest: %v", err)
	}
	key := bytes.Repeat([]byte{7}, 32)
	wrapped, err := token.WrapKey(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	back, err := token.UnwrapKey(ctx, wrapped)
	if err != nil || !bytes.Equal(back, key) {
		t.Fatal(back, err)
	}
	if err := token.Healthy(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestOpenInParallel(t *testing.T) {
	for range 6 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			if err := bccsptest.Open(t).Healthy(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
}
