package pkcs11_test

import (
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
)

func TestBareVerifyRate(t *testing.T) {
	token := bccsptest.OpenShared(t)
	if _, err := token.GenerateKey(t.Context(), t.Name(), elliptic.P256()); err != nil {
		t.Fatal(err)
	}
	signer, err := token.Signer(t.Context(), t.Name())
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("rate")
	sig, err := signer.SignProposal(t.Context(), message)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(message)
	n, took, err := token.BareVerifyRate(t.Context(), signer.PublicKey(), digest[:], sig, 3, 20*time.Millisecond)
	if err != nil || n < 3 || took < 20*time.Millisecond {
		t.Errorf("%d in %s: %v", n, took, err)
	}
	// It really verifies: a signature over something else ends it.
	digest[0] ^= 1
	if _, _, err := token.BareVerifyRate(t.Context(), signer.PublicKey(), digest[:], sig, 3, time.Minute); !errors.Is(err, bccsp.ErrBadSignature) {
		t.Errorf("false signature: %v", err)
	}
	if _, _, err := token.BareVerifyRate(t.Context(), signer.PublicKey(), digest[:8], sig, 3, time.Minute); err == nil {
		t.Error("a digest of 8 bytes was taken")
	}
}
