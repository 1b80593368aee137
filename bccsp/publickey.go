package bccsp

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
)

// KeyID is the SHA-256 of a public key's SubjectPublicKeyInfo.
type KeyID [sha256.Size]byte

// String is the id in lower-case hex.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// PublicKey is a foreign ECDSA public key, checked and ready to be imported into a
// token. It is immutable and safe for concurrent use.
type PublicKey struct {
	curve elliptic.Curve
	point []byte
	spki  []byte
	id    KeyID
}

// NewPublicKey takes an *ecdsa.PublicKey on P-256 or P-384 and checks that its
// point lies on the curve: a token may accept one that does not and then call
// every signature bad. Other keys give an error that names their kind.
func NewPublicKey(pub crypto.PublicKey) (*PublicKey, error) {
	ec, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("public key is a %T: ECDSA on P-256 or P-384 is needed", pub)
	}
	//lint:ignore SA1019 the coordinates are looked at for nil, on which Bytes panics
	if ec == nil || ec.Curve == nil || ec.X == nil || ec.Y == nil {
		return nil, errors.New("public key is empty: ECDSA on P-256 or P-384 is needed")
	}
	if ec.Curve != elliptic.P256() && ec.Curve != elliptic.P384() {
		return nil, fmt.Errorf("public key is on curve %s: P-256 or P-384 is needed", ec.Curve.Params().Name)
	}
	point, err := ec.Bytes()
	if err != nil {
		return nil, fmt.Errorf("public key is not a point on %s: %w", ec.Curve.Params().Name, err)
	}
	spki, err := x509.MarshalPKIXPublicKey(ec)
	if err != nil {
		return nil, err
	}
	return &PublicKey{curve: ec.Curve, point: point, spki: spki, id: sha256.Sum256(spki)}, nil
}

// ID names the key.
func (k *PublicKey) ID() KeyID { return k.id }

// Curve is elliptic.P256() or elliptic.P384().
func (k *PublicKey) Curve() elliptic.Curve { return k.curve }

// Point is the uncompressed point (SEC 1 section 2.3.3): 65 or 97 bytes. The
// caller must not change it.
func (k *PublicKey) Point() []byte { return k.point }

// SPKI is the DER SubjectPublicKeyInfo. The caller must not change it.
func (k *PublicKey) SPKI() []byte { return k.spki }

// Equal tells whether both are the same key.
func (k *PublicKey) Equal(other *PublicKey) bool { return k.id == other.id }

// ECDSA is the key as crypto/x509 wants it.
func (k *PublicKey) ECDSA() *ecdsa.PublicKey {
	pub, err := ecdsa.ParseUncompressedPublicKey(k.curve, k.point)
	if err != nil {
		panic("bccsp: a checked point does not parse: " + err.Error())
	}
	return pub
}
