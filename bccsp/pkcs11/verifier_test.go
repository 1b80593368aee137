package pkcs11_test

import (
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
)

// liar refuses every signature.
type liar struct{}

func (liar) Verify(context.Context, *bccsp.PublicKey, []byte, []byte) error {
	return bccsp.ErrBadSignature
}
func (liar) VerifyX509(context.Context, *bccsp.PublicKey, []byte, []byte) error {
	return bccsp.ErrBadSignature
}

// TestTokenThatOnlySigns puts another token in the place of one's verification.
func TestTokenThatOnlySigns(t *testing.T) {
	ctx := context.Background()
	judge := bccsptest.Open(t)
	cfg := bccsptest.Config(t)
	cfg.Verifier, cfg.CheckSignatures = judge, true
	imports := 0
	cfg.Observe = func(op string, _ time.Duration, _ error) {
		if op == "import" || op == "verify" {
			imports++
		}
	}
	token := bccsptest.OpenWith(t, cfg)
	if err := token.Healthy(ctx); err != nil {
		t.Errorf("without keys: %v", err)
	}
	pub, err := token.GenerateKey(ctx, "k", elliptic.P384())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := token.Signer(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	works := func() {
		t.Helper()
		message := []byte("m")
		sig, err := signer.SignProposal(ctx, message)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256(message)
		if err := token.Verify(ctx, pub, digest[:], sig); err != nil {
			t.Error(err)
		}
		digest[0] ^= 1
		if err := token.VerifyX509(ctx, pub, digest[:], sig); !errors.Is(err, bccsp.ErrBadSignature) {
			t.Errorf("got %v, want ErrBadSignature", err)
		}
		if err := token.Healthy(ctx); err != nil {
			t.Error(err)
		}
	}
	works()
	token.Mislead()
	works()
	if err := token.CloseAnchor(ctx); err != nil {
		t.Fatal(err)
	}
	if err := token.CloseSessions(ctx, 4); err != nil {
		t.Fatal(err)
	}
	works()
	if imports != 0 {
		t.Errorf("%d imports and verifications in a token that only signs", imports)
	}
	if _, _, err := token.BareVerifyRate(ctx, pub, make([]byte, 32), nil, 1, time.Millisecond); err == nil {
		t.Error("the rate of verification of a token that only signs was measured")
	}

	group, err := pkcs11.NewGroup(token, judge)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("g"))
	foreign, sig := software(t, elliptic.P256(), digest[:])
	for range 8 {
		if err := group.VerifyX509(ctx, foreign, digest[:], sig); err != nil {
			t.Error(err)
		}
	}
	if imports != 0 {
		t.Error("the group verifies on a token that only signs")
	}
	if _, err := group.TLSKey(ctx, "k"); err == nil || !strings.Contains(err.Error(), "key of its own") {
		t.Errorf("an identity's key serves TLS: %v", err)
	}
	if _, err := pkcs11.NewGroup(token); err == nil {
		t.Error("a group that does not verify")
	}
}

// TestKeysAreProvedElsewhere: a key that the other token does not prove is not used.
func TestKeysAreProvedElsewhere(t *testing.T) {
	ctx, cfg := context.Background(), bccsptest.Config(t)
	maker := bccsptest.OpenWith(t, cfg)
	if _, err := maker.GenerateKey(ctx, "k", elliptic.P256()); err != nil {
		t.Fatal(err)
	}
	cfg.Verifier = liar{}
	token := bccsptest.OpenWith(t, cfg)
	if _, err := token.Signer(ctx, "k"); !errors.Is(err, pkcs11.ErrFalseAnswer) {
		t.Errorf("got %v, want ErrFalseAnswer", err)
	}
}

// TestKeysByID finds keys by CKA_ID, where a label is ambiguous too.
func TestKeysByID(t *testing.T) {
	ctx, token := context.Background(), bccsptest.OpenWith(t, bccsptest.Config(t))
	pub, err := token.GenerateKey(ctx, "twin", elliptic.P256())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.MakeTwin(ctx, "twin", elliptic.P256(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := token.Signer(ctx, "twin"); err == nil || !strings.Contains(err.Error(), "several keys") {
		t.Errorf("got %v, want the label to be refused as ambiguous", err)
	}
	ski := sha256.Sum256(pub.Point())
	name := "id:" + hex.EncodeToString(ski[:])
	signer, err := token.Signer(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if !signer.PublicKey().Equal(pub) {
		t.Error("another key was found")
	}
	token.Mislead()
	if _, err := signer.SignProposal(ctx, []byte("m")); err != nil {
		t.Errorf("found again: %v", err)
	}
	if _, err := token.TLSKey(ctx, name); err == nil {
		t.Error("an identity's key serves TLS")
	}
	for _, bad := range []string{"id:", "id:xyz", "id:" + strings.Repeat("00", 256)} {
		if _, err := token.Signer(ctx, bad); err == nil || !strings.Contains(err.Error(), "CKA_ID") {
			t.Errorf("%.10s: got %v, want a refusal", bad, err)
		}
		if _, err := token.GenerateKey(ctx, bad, elliptic.P256()); err == nil {
			t.Errorf("made a key with label %.10s", bad)
		}
	}
	if _, err := token.Signer(ctx, "id:00"); !errors.Is(err, pkcs11.ErrKeyNotFound) {
		t.Errorf("got %v, want ErrKeyNotFound", err)
	}
	// Under its label, the same key does not serve another purpose.
	other, err := token.GenerateKey(ctx, "other", elliptic.P256())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.Signer(ctx, "other"); err != nil {
		t.Fatal(err)
	}
	ski = sha256.Sum256(other.Point())
	if _, err := token.TLSKey(ctx, "id:"+hex.EncodeToString(ski[:])); err == nil || !strings.Contains(err.Error(), "key of its own") {
		t.Errorf("one key, by two names, for two purposes: %v", err)
	}
}
