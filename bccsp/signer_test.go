package bccsp_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"testing"

	"strongroom/bccsp"
)

// recorder is a DigestSigner that keeps what it was asked to sign.
type recorder struct {
	public *bccsp.PublicKey
	digest []byte
}

func (r *recorder) SignDigest(_ context.Context, digest []byte) ([]byte, error) {
	r.digest = digest
	return []byte("signature"), nil
}

func (r *recorder) PublicKey() *bccsp.PublicKey { return r.public }

func TestSignerSignsWhatThePurposeSays(t *testing.T) {
	ctx, r := context.Background(), &recorder{}
	s := bccsp.NewSigner(r)
	a, b, c := []byte("first"), []byte("second"), []byte("third")
	for name, tt := range map[string]struct {
		sign func() ([]byte, error)
		want string
	}{
		"endorsement":   {func() ([]byte, error) { return s.SignEndorsement(ctx, a, b) }, "firstsecond"},
		"proposal":      {func() ([]byte, error) { return s.SignProposal(ctx, a) }, "first"},
		"payload":       {func() ([]byte, error) { return s.SignPayload(ctx, a) }, "first"},
		"gateway":       {func() ([]byte, error) { return s.SignGatewayRequest(ctx, a) }, "first"},
		"config update": {func() ([]byte, error) { return s.SignConfigUpdate(ctx, a, b) }, "firstsecond"},
		"block":         {func() ([]byte, error) { return s.SignBlock(ctx, a, b, c) }, "firstsecondthird"},
		"statement":     {func() ([]byte, error) { return s.SignStatement(ctx, "text/plain", a) }, "DSSEv1 10 text/plain 5 first"},
		"checkpoint": {func() ([]byte, error) { return s.SignCheckpoint(ctx, "strongroom/main/key", 7, [32]byte{}) },
			"strongroom/main/key\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"},
	} {
		sig, err := tt.sign()
		if err != nil || string(sig) != "signature" {
			t.Errorf("%s: %q, %v", name, sig, err)
		}
		if want := sha256.Sum256([]byte(tt.want)); string(r.digest) != string(want[:]) {
			t.Errorf("%s: signed %x, want the hash of %q", name, r.digest, tt.want)
		}
	}
}

func TestTLSKeyWantsADigest(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := bccsp.NewPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{public: public}
	key := bccsp.NewTLSKey(r)
	if !private.PublicKey.Equal(key.Public()) {
		t.Error("public key differs")
	}
	digest := sha256.Sum256([]byte("m"))
	if _, err := key.Sign(nil, digest[:], crypto.SHA256); err != nil || string(r.digest) != string(digest[:]) {
		t.Errorf("signed %x, %v", r.digest, err)
	}
	for _, hash := range []crypto.Hash{0, crypto.SHA384, 99} {
		if _, err := key.Sign(nil, digest[:], hash); err == nil {
			t.Errorf("signed 32 bytes as %s", hash)
		}
	}
}
