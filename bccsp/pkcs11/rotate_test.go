package pkcs11_test

import (
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
)

// TestFindByPublicHalf finds keys whose labels say nothing.
func TestFindByPublicHalf(t *testing.T) {
	ctx := t.Context()
	token := bccsptest.Open(t)
	first, err := token.GenerateKey(ctx, "peer0", elliptic.P256())
	if err != nil {
		t.Fatal(err)
	}
	// The same label and another CKA_ID, as a vendor's tool makes it.
	second, err := token.MakeTwin(ctx, "peer0", elliptic.P384(), []byte{7})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.Signer(ctx, "peer0"); !errors.Is(err, pkcs11.ErrKeyAmbiguous) {
		t.Errorf("by a label that two keys have: %v", err)
	}
	for _, want := range []*pkcs11.PublicKey{first, second} {
		for _, label := range []string{"", "peer0", "other"} {
			s, err := token.SignerOf(ctx, want, label)
			if err != nil {
				t.Fatalf("key %s, label %q: %v", want.ID(), label, err)
			}
			digest := sha256.Sum256([]byte("message"))
			sig, err := s.SignProposal(ctx, []byte("message"))
			if err == nil {
				err = token.Verify(ctx, want, digest[:], sig)
			}
			if err != nil {
				t.Errorf("key %s, label %q: %v", want.ID(), label, err)
			}
		}
		if _, err := token.TLSKeyOf(ctx, want, ""); err == nil || !strings.Contains(err.Error(), "serves an identity already") {
			t.Errorf("an identity's key serves TLS: %v", err)
		}
	}
	foreign, _ := software(t, elliptic.P256(), make([]byte, 32))
	if _, err := token.SignerOf(ctx, foreign, "peer0"); !errors.Is(err, pkcs11.ErrKeyNotFound) || !strings.Contains(err.Error(), `"peer0" is key`) {
		t.Errorf("a key that is not in the token: %v", err)
	}
}

// TestAmbiguousPublicHalf refuses a key that two private keys could be, unless the label
// tells them apart.
func TestAmbiguousPublicHalf(t *testing.T) {
	ctx := t.Context()
	token := bccsptest.Open(t)
	public, err := token.GenerateKey(ctx, "peer0", elliptic.P256())
	if err != nil {
		t.Fatal(err)
	}
	id := sha256.Sum256(public.Point())
	if _, err := token.MakeTwin(ctx, "decoy", elliptic.P256(), id[:]); err != nil {
		t.Fatal(err)
	}
	if _, err := token.SignerOf(ctx, public, ""); !errors.Is(err, pkcs11.ErrKeyAmbiguous) {
		t.Errorf("two private keys of one CKA_ID: %v", err)
	}
	// Their public halves have one CKA_ID too: which of them is peer0's is not known.
	if _, err := token.SignerOf(ctx, public, "peer0"); !errors.Is(err, pkcs11.ErrKeyAmbiguous) {
		t.Errorf("two public keys of one CKA_ID: %v", err)
	}
}

// TestRetiredKeyMayGo deletes a retired key from the token: recovery does without it, and
// it takes on no other purpose.
func TestRetiredKeyMayGo(t *testing.T) {
	ctx := t.Context()
	token := bccsptest.Open(t)
	for _, label := range []string{"old", "new"} {
		if _, err := token.GenerateKey(ctx, label, elliptic.P256()); err != nil {
			t.Fatal(err)
		}
	}
	before, err := token.Signer(ctx, "old")
	if err != nil {
		t.Fatal(err)
	}
	now, err := token.Signer(ctx, "new")
	if err != nil {
		t.Fatal(err)
	}
	token.Retire(before.PublicKey())
	if _, err := before.SignProposal(ctx, []byte("under way")); err != nil {
		t.Errorf("what was under way does not end with the retired key: %v", err)
	}
	if _, err := token.TLSKeyOf(ctx, before.PublicKey(), ""); err == nil || !strings.Contains(err.Error(), "serves an identity already") {
		t.Errorf("a retired identity's key serves TLS: %v", err)
	}
	if err := token.DestroyKeys(ctx, "old"); err != nil {
		t.Fatal(err)
	}
	if err := token.CloseAnchor(ctx); err != nil { // the login and all handles are gone
		t.Fatal(err)
	}
	if _, err := now.SignProposal(ctx, []byte("after recovery")); err != nil {
		t.Errorf("recovery does not do without the retired key: %v", err)
	}
	if err := token.Healthy(ctx); err != nil {
		t.Error(err)
	}
}
