package pkcs11

import (
	"context"
	"crypto/elliptic"

	p11 "github.com/miekg/pkcs11"

	"strongroom/bccsp"
)

// DER object identifiers for CKA_EC_PARAMS.
var (
	oidP256 = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}
	oidP384 = []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22}
)

func curveOID(c elliptic.Curve) []byte {
	if c == elliptic.P384() {
		return oidP384
	}
	return oidP256
}

// Verify checks a signature as Fabric's messages carry it; see bccsp.Verifier. The
// encoding is read as Fabric reads it: bytes after the signature do no harm.
func (t *Token) Verify(ctx context.Context, key *bccsp.PublicKey, digest, sig []byte) error {
	if t.onlySigns() {
		return t.cfg.Verifier.Verify(ctx, key, digest, sig)
	}
	if err := checkDigest(digest); err != nil {
		return err
	}
	o := orderOf(key.Curve())
	raw, ok := o.parseFabric(sig)
	if !ok {
		return badSignature("it is not the DER of r and s in the curve's order")
	}
	if !o.lowS(&raw) {
		return badSignature("its s is above half the curve's order")
	}
	return t.verify(ctx, key, o, digest, raw)
}

// VerifyX509 checks a certificate's or a revocation list's signature; see
// bccsp.Verifier. The encoding is read as strictly as crypto/x509 does.
func (t *Token) VerifyX509(ctx context.Context, key *bccsp.PublicKey, digest, sig []byte) error {
	if t.onlySigns() {
		return t.cfg.Verifier.VerifyX509(ctx, key, digest, sig)
	}
	if err := checkDigest(digest); err != nil {
		return err
	}
	o := orderOf(key.Curve())
	raw, ok := o.parse(sig)
	if !ok {
		return badSignature("it is not the DER of r and s in the curve's order")
	}
	return t.verify(ctx, key, o, digest, raw)
}

// verify asks the token, and again after recovery.
func (t *Token) verify(ctx context.Context, key *bccsp.PublicKey, o *order, digest []byte, raw rawSignature) error {
	in := newVerifyInput(o, digest, raw)
	return t.persist(ctx, func() error { return t.verifyOnce(ctx, key, in) })
}

// verifyInput is the input's own copy: the caller may give up and reuse its slices
// while the token still reads.
type verifyInput struct {
	raw       rawSignature
	digest    [maxDigest]byte
	digestLen int
}

func newVerifyInput(o *order, digest []byte, raw rawSignature) *verifyInput {
	in := &verifyInput{raw: raw}
	in.digestLen = copy(in.digest[:], o.truncate(digest))
	return in
}

func (t *Token) verifyOnce(ctx context.Context, key *bccsp.PublicKey, in *verifyInput) error {
	e, err := t.foreign.acquire(ctx, key)
	if err != nil {
		return err
	}
	return t.pool.doThen(ctx, "verify", func(s *session) error {
		if !t.current(&e.handle) {
			return errStale
		}
		err := s.verify(e.handle.object, in.digest[:in.digestLen], in.raw.bytes[:in.raw.len])
		if !t.current(&e.handle) {
			return errStale // whatever the answer: it may be about another key
		}
		return err
	}, e.release)
}

// verify is C_VerifyInit and C_Verify: the only place where a signature is judged.
func (s *session) verify(key p11.ObjectHandle, digest, raw []byte) error {
	function, err := s.token.module.calls.verify(s.handle, p11.CKM_ECDSA, key, digest, raw)
	return s.err(function, err)
}
