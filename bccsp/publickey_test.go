package bccsp_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"strings"
	"testing"

	"strongroom/bccsp"
)

func TestNewPublicKey(t *testing.T) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		private, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		key, err := bccsp.NewPublicKey(&private.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		spki, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(key.SPKI(), spki) || key.ID() != sha256.Sum256(spki) || key.Curve() != curve {
			t.Error("SPKI, id or curve is wrong")
		}
		if n := 1 + 2*(curve.Params().BitSize/8); len(key.Point()) != n || key.Point()[0] != 4 {
			t.Errorf("point has %d bytes, want %d", len(key.Point()), n)
		}
		if !key.ECDSA().Equal(&private.PublicKey) || !key.Equal(key) {
			t.Error("the key is not equal to itself")
		}
	}
}

func TestNewPublicKeyRefuses(t *testing.T) {
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for want, key := range map[string]crypto.PublicKey{
		"P-521":              &p521.PublicKey,
		"ed25519.PublicKey":  ed,
		"<nil>":              nil,
		"not a point":        point(elliptic.P256(), 1, 1),
		"is not a point on ": point(elliptic.P384(), 0, 0),
	} {
		if _, err := bccsp.NewPublicKey(key); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	for _, key := range []*ecdsa.PublicKey{{}, {Curve: elliptic.P256()}, nil} {
		if _, err := bccsp.NewPublicKey(key); err == nil {
			t.Errorf("took %+v", key)
		}
	}
}

// point is a key off its curve, which crypto/x509 would not make.
func point(curve elliptic.Curve, x, y int64) *ecdsa.PublicKey {
	//lint:ignore SA1019 there is no other way to make a bad point
	return &ecdsa.PublicKey{Curve: curve, X: big.NewInt(x), Y: big.NewInt(y)}
}
