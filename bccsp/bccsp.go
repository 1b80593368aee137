// Package bccsp is the crypto boundary: what the rest of the peer may ask of a
// token, each question bound to its purpose. It performs no I/O; the driver for
// real tokens is bccsp/pkcs11.
package bccsp

import (
	"context"
	"errors"
)

// ErrBadSignature is the verdict that a signature is not one by the given key
// over the given digest. It is the only error that speaks about the signature:
// every other error of a Verifier means that the device could not answer, and
// must never be turned into an invalid transaction.
var ErrBadSignature = errors.New("signature does not verify")

// Verifier checks signatures in a token. It is safe for concurrent use.
type Verifier interface {
	// Verify checks an ASN.1 DER ECDSA signature with low S over a digest, as
	// Fabric's messages carry it. A digest that is longer than the curve's order
	// is truncated as FIPS 186-5 section 6.4.2 says. A high S, a malformed DER
	// and a false signature all give an error that wraps ErrBadSignature.
	Verify(ctx context.Context, key *PublicKey, digest, sig []byte) error
	// VerifyX509 is Verify for the signatures of certificates and revocation
	// lists, where either S is allowed.
	VerifyX509(ctx context.Context, key *PublicKey, digest, sig []byte) error
}

// KeyWrapper wraps data keys under an AES-256 key that never leaves the token.
// It is safe for concurrent use.
type KeyWrapper interface {
	// Random returns n bytes of the token's random generator.
	Random(ctx context.Context, n int) ([]byte, error)
	// WrapKey wraps a 32-byte key (AES key wrap, RFC 3394). The caller wipes key.
	WrapKey(ctx context.Context, key []byte) ([]byte, error)
	// UnwrapKey is the reverse. The result is the caller's to lock and to wipe.
	UnwrapKey(ctx context.Context, wrapped []byte) ([]byte, error)
	// WrappingKeyID names the wrapping key: stored beside what it wrapped, so
	// that another token's or a former key is refused by name.
	WrappingKeyID() string
}
