package pkcs11

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"strongroom/bccsp"
)

// knownSignature is a signature over SHA-256("sample") of RFC 6979 appendix A.2.
type knownSignature struct {
	key *bccsp.PublicKey
	raw rawSignature
}

var katDigest = sha256.Sum256([]byte("sample"))

var knownSignatures = []knownSignature{
	known(elliptic.P256(), // A.2.5
		"0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb67903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299",
		"efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716"+
			"f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8"),
	known(elliptic.P384(), // A.2.6
		"04ec3a4e415b4e19a4568618029f427fa5da9a8bc4ae92e02e06aae5286b300c64def8f0ea9055866064a254515480bc138015d9b72d7d57244ea8ef9ac0c621896708a59367f9dfb9f54ca84b3f1c9db1288b231c3ae0d4fe7344fd2533264720",
		"21b13d1e013c7fa1392d03c5f99af8b30c570c6f98d4ea8e354b63a21d3daa33bde1e888e63355d92fa2b3c36d8fb2cd"+
			"f3aa443fb107745bf4bd77cb3891674632068a10ca67e3d45db2266fa7d1feebefdc63eccd1ac42ec0cb8668a4fa0ab0"),
}

func known(curve elliptic.Curve, point, sig string) knownSignature {
	pub, err := ecdsa.ParseUncompressedPublicKey(curve, unhex(point))
	if err != nil {
		panic("pkcs11: known answer: " + err.Error())
	}
	key, err := bccsp.NewPublicKey(pub)
	if err != nil {
		panic("pkcs11: known answer: " + err.Error())
	}
	k := knownSignature{key: key}
	k.raw.len = copy(k.raw.bytes[:], unhex(sig))
	return k
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic("pkcs11: known answer: " + err.Error())
	}
	return b
}

// RFC 3394 section 4.6: 256 bits of key data wrapped with a 256-bit key.
var (
	katWrapKey  = unhex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
	katWrapData = unhex("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f")
	katWrapped  = unhex("28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21")
)

// selfTest sees that the token works before anything relies on it: known signatures
// are accepted and refused with a bit flipped, it signs and accepts what it signed,
// and, when it is to wrap, it gives RFC 3394's answer.
//
// A token that only signs has its keys proved when they are loaded, by the token that
// verifies for it.
func (t *Token) selfTest(ctx context.Context) error {
	if t.onlySigns() {
		if err := t.answers(ctx); err != nil {
			return err
		}
		return t.testWrapping(ctx)
	}
	for _, k := range knownSignatures {
		if err := t.testKnown(ctx, k); err != nil {
			return fmt.Errorf("known signature on %s: %w", k.key.Curve().Params().Name, err)
		}
	}
	if err := t.pool.do(ctx, "selftest", (*session).testSigning); err != nil {
		return fmt.Errorf("sign and verify: %w", err)
	}
	return t.testWrapping(ctx)
}

func (t *Token) testWrapping(ctx context.Context) error {
	if t.cfg.WrappingKeyLabel == "" {
		return nil
	}
	if err := t.pool.do(ctx, "selftest", (*session).testKeyWrap); err != nil {
		return fmt.Errorf("AES key wrap (RFC 3394): %w", err)
	}
	return nil
}

// deviceErrs keeps a false answer to a test apart from a verdict: waiting callers may get
// the error, and it must not look like one about their signatures.
func deviceErrs(what string, err error) error {
	if errors.Is(err, bccsp.ErrBadSignature) {
		return fmt.Errorf("%s: %w: %v", what, ErrFalseAnswer, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// testKnown goes the way of every verification: import, cache, pool.
func (t *Token) testKnown(ctx context.Context, k knownSignature) error {
	o := orderOf(k.key.Curve())
	if err := t.verifyFresh(ctx, k.key, newVerifyInput(o, katDigest[:], k.raw)); err != nil {
		return deviceErrs("a good signature was refused", err)
	}
	flipped := k.raw
	flipped.bytes[flipped.len-1] ^= 1
	switch err := t.verifyFresh(ctx, k.key, newVerifyInput(o, katDigest[:], flipped)); {
	case err == nil:
		return errors.New("a signature with a flipped bit was accepted: do not use this token")
	case !errors.Is(err, bccsp.ErrBadSignature):
		return err
	}
	return nil
}

// verifyFresh verifies without recovery, of which it may be a part: a stale handle or a
// lost session is replaced once.
func (t *Token) verifyFresh(ctx context.Context, key *bccsp.PublicKey, in *verifyInput) error {
	err := t.verifyOnce(ctx, key, in)
	if c := classOf(err); c == ClassHandle || c == ClassSession {
		err = t.verifyOnce(ctx, key, in)
	}
	return err
}

// testSigning signs with a key pair that lives as long as the test.
func (s *session) testSigning() (err error) {
	public, private, err := s.generatePair(elliptic.P256(), false, "strongroom self-test")
	if err != nil {
		return err
	}
	defer func() { err = s.destroy(private, s.destroy(public, err)) }()
	if err := s.checkSecret(private); err != nil {
		return err
	}
	sig, err := s.sign(private, katDigest[:])
	if err != nil {
		return err
	}
	if err := s.verify(public, katDigest[:], sig); err != nil {
		return deviceErrs("the token refused its own signature", err)
	}
	digest := katDigest
	digest[0] ^= 1
	switch err := s.verify(public, digest[:], sig); {
	case err == nil:
		return errors.New("a signature over another digest was accepted: do not use this token")
	case !errors.Is(err, bccsp.ErrBadSignature):
		return err
	}
	return nil
}

// testKeyWrap wraps and unwraps with a key that the RFC gives.
func (s *session) testKeyWrap() (err error) {
	wrapping, err := s.importSecret(katWrapKey, p11.NewAttribute(p11.CKA_WRAP, true), p11.NewAttribute(p11.CKA_UNWRAP, true))
	if err != nil {
		return err
	}
	defer func() { err = s.destroy(wrapping, err) }()
	wrapped, err := s.wrap(wrapping, katWrapData)
	if err != nil {
		return err
	}
	if !bytes.Equal(wrapped, katWrapped) {
		return fmt.Errorf("the token's answer is not the RFC's: %x", wrapped)
	}
	data, err := s.unwrap(wrapping, wrapped)
	if err != nil {
		return err
	}
	if !bytes.Equal(data, katWrapData) {
		return errors.New("a key that was wrapped and unwrapped came back changed")
	}
	return nil
}

// Healthy makes the token work: it verifies a known signature, signs with a signing
// key in use, and wraps with the wrapping key in use, if there are any. Questions
// about the session would not do: a token that has lost its keys still answers them. While
// the token is being recovered it says at once what is wrong.
func (t *Token) Healthy(ctx context.Context) error {
	if err := t.Down(); err != nil {
		return err
	}
	k := t.anySigningKey()
	switch {
	case !t.onlySigns():
		if err := t.persist(ctx, func() error { return t.testKnown(ctx, knownSignatures[0]) }); err != nil {
			return err
		}
	case k == nil:
		if err := t.answers(ctx); err != nil {
			return err
		}
	}
	if k != nil {
		if err := k.proveMatch(ctx); err != nil {
			return err
		}
	}
	if t.wrappingKey() != nil {
		if _, err := t.WrapKey(ctx, katWrapData); err != nil {
			return err
		}
	}
	return nil
}

func (t *Token) anySigningKey() *privateKey {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range t.signing {
		return k
	}
	return nil
}
