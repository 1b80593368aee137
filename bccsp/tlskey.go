package bccsp

import (
	"context"
	"crypto"
	"fmt"
	"io"
	"time"
)

// tlsSignTimeout bounds one handshake signature, which has no context of its own.
const tlsSignTimeout = 10 * time.Second

// TLSKey is a TLS server's or client's private key in a token. It signs
// handshakes and nothing else: it is a key of its own, never an identity's.
type TLSKey struct{ key DigestSigner }

// NewTLSKey binds a token's key to TLS handshakes.
func NewTLSKey(key DigestSigner) *TLSKey { return &TLSKey{key: key} }

// Public is the key's public half, an *ecdsa.PublicKey.
func (k *TLSKey) Public() crypto.PublicKey { return k.key.PublicKey().ECDSA() }

// Sign signs a handshake's digest, for crypto/tls. The random source is the token's own.
func (k *TLSKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	hash := opts.HashFunc()
	if !hash.Available() {
		return nil, fmt.Errorf("TLS handshake hash %s: SHA-256, SHA-384 or SHA-512 is needed", hash)
	}
	if len(digest) != hash.Size() {
		return nil, fmt.Errorf("TLS handshake digest has %d bytes, %s has %d", len(digest), hash, hash.Size())
	}
	ctx, cancel := context.WithTimeout(context.Background(), tlsSignTimeout)
	defer cancel()
	return k.key.SignDigest(ctx, digest)
}
