package probe

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"

	p11 "github.com/miekg/pkcs11"
)

var ecdsaMechanism = []*p11.Mechanism{p11.NewMechanism(p11.CKM_ECDSA, nil)}

// curveOIDs are the DER forms of RFC 5480 section 2.1.1.1.
var curveOIDs = map[elliptic.Curve][]byte{
	elliptic.P256(): {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07},
	elliptic.P384(): {0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22},
}

// vector is a signature of RFC 6979 appendix A.2 over SHA-256("sample").
type vector struct {
	curve     elliptic.Curve
	point     []byte // uncompressed
	signature []byte // r, s
}

var sample = sha256.Sum256([]byte("sample"))

var (
	p256Vector = vector{elliptic.P256(), // A.2.5
		unhex("0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb67903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"),
		unhex("efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8")}
	p384Vector = vector{elliptic.P384(), // A.2.6
		unhex("04ec3a4e415b4e19a4568618029f427fa5da9a8bc4ae92e02e06aae5286b300c64def8f0ea9055866064a254515480bc138015d9b72d7d57244ea8ef9ac0c621896708a59367f9dfb9f54ca84b3f1c9db1288b231c3ae0d4fe7344fd2533264720"),
		unhex("21b13d1e013c7fa1392d03c5f99af8b30c570c6f98d4ea8e354b63a21d3daa33bde1e888e63355d92fa2b3c36d8fb2cdf3aa443fb107745bf4bd77cb3891674632068a10ca67e3d45db2266fa7d1feebefdc63eccd1ac42ec0cb8668a4fa0ab0")}
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic("probe: vector: " + err.Error())
	}
	return b
}

// label marks the objects of the suite, and of this process alone, so that all of them
// can be found and destroyed.
var label = "strongroom probe " + rand.Text()

// pair makes a key pair that only signs: a session's, or where the device has none, a
// token's that sweep destroys.
func (b *Bench) pair(s p11.SessionHandle, curve elliptic.Curve) (public, private p11.ObjectHandle, err error) {
	if err := b.needs(p11.CKM_EC_KEY_PAIR_GEN, "CKM_EC_KEY_PAIR_GEN"); err != nil {
		return 0, 0, err
	}
	public, private, err = b.generate(s, curve, false)
	if is(err, p11.CKR_ATTRIBUTE_VALUE_INVALID, p11.CKR_TEMPLATE_INCONSISTENT) {
		public, private, err = b.generate(s, curve, true)
	}
	if err != nil {
		return 0, 0, missing(call("C_GenerateKeyPair", err))
	}
	b.made = append(b.made, object{s, public}, object{s, private})
	return public, private, nil
}

func (b *Bench) generate(s p11.SessionHandle, curve elliptic.Curve, token bool) (public, private p11.ObjectHandle, err error) {
	a := p11.NewAttribute
	return b.module.GenerateKeyPair(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_EC_KEY_PAIR_GEN, nil)},
		[]*p11.Attribute{a(p11.CKA_TOKEN, token), a(p11.CKA_PRIVATE, false), a(p11.CKA_EC_PARAMS, curveOIDs[curve]), a(p11.CKA_VERIFY, true), a(p11.CKA_LABEL, label)},
		[]*p11.Attribute{a(p11.CKA_TOKEN, token), a(p11.CKA_PRIVATE, true), a(p11.CKA_SENSITIVE, true), a(p11.CKA_EXTRACTABLE, false),
			a(p11.CKA_SIGN, true), a(p11.CKA_LABEL, label)})
}

// importPoint makes a session object of a foreign public key, its EC_POINT as given.
func (b *Bench) importPoint(curve elliptic.Curve, ecPoint []byte) (p11.ObjectHandle, error) {
	a := p11.NewAttribute
	h, err := b.module.CreateObject(b.session, []*p11.Attribute{
		a(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY), a(p11.CKA_KEY_TYPE, p11.CKK_EC), a(p11.CKA_TOKEN, false), a(p11.CKA_PRIVATE, false),
		a(p11.CKA_EC_PARAMS, curveOIDs[curve]), a(p11.CKA_EC_POINT, ecPoint), a(p11.CKA_VERIFY, true), a(p11.CKA_LABEL, label)})
	if err != nil {
		return 0, missing(call("C_CreateObject", err))
	}
	b.made = append(b.made, object{b.session, h})
	return h, nil
}

func octetString(b []byte) []byte {
	out, err := asn1.Marshal(b)
	if err != nil {
		panic("probe: " + err.Error()) // bytes always marshal
	}
	return out
}

func (b *Bench) sign(s p11.SessionHandle, key p11.ObjectHandle, digest []byte) ([]byte, error) {
	if err := b.module.SignInit(s, ecdsaMechanism, key); err != nil {
		return nil, missing(call("C_SignInit", err))
	}
	sig, err := b.module.Sign(s, digest)
	return sig, call("C_Sign", err)
}

func (b *Bench) verify(s p11.SessionHandle, key p11.ObjectHandle, digest, sig []byte) error {
	if err := b.module.VerifyInit(s, ecdsaMechanism, key); err != nil {
		return missing(call("C_VerifyInit", err))
	}
	return call("C_Verify", b.module.Verify(s, digest, sig))
}

// refused turns the verdict "bad signature" into nil and anything else into an error.
func refused(what string, err error) error {
	switch {
	case err == nil:
		return fmt.Errorf("%s was accepted", what)
	case is(err, p11.CKR_SIGNATURE_INVALID, p11.CKR_SIGNATURE_LEN_RANGE):
		return nil
	}
	return fmt.Errorf("%s: no verdict, but %w", what, err)
}

func (b *Bench) checkSignP256(bool) (string, error) { return b.signs(elliptic.P256()) }
func (b *Bench) checkSignP384(bool) (string, error) { return b.signs(elliptic.P384()) }

func (b *Bench) signs(curve elliptic.Curve) (string, error) {
	if err := b.needs(p11.CKM_ECDSA, "CKM_ECDSA"); err != nil {
		return "", err
	}
	_, private, err := b.pair(b.session, curve)
	if err != nil {
		return "", err
	}
	high, seen := 0, make(map[string]bool)
	for range 8 {
		sig, err := b.sign(b.session, private, sample[:])
		if err != nil {
			return "", err
		}
		r, s, err := split(curve, sig)
		if err != nil {
			return "", err
		}
		if seen[r.String()] {
			return "", errors.New("two signatures have one r: the private key can be computed from them")
		}
		seen[r.String()] = true
		if s.Cmp(new(big.Int).Rsh(curve.Params().N, 1)) > 0 {
			high++
		}
	}
	return fmt.Sprintf("%d of 8 with high s", high), nil
}

// split reads r and s of a token's signature and checks their range.
func split(curve elliptic.Curve, sig []byte) (r, s *big.Int, err error) {
	n := curve.Params().N
	size := (n.BitLen() + 7) / 8
	if len(sig) != 2*size {
		return nil, nil, fmt.Errorf("a signature has %d bytes, not %d", len(sig), 2*size)
	}
	r, s = new(big.Int).SetBytes(sig[:size]), new(big.Int).SetBytes(sig[size:])
	if r.Sign() == 0 || s.Sign() == 0 || r.Cmp(n) >= 0 || s.Cmp(n) >= 0 {
		return nil, nil, errors.New("r or s of a signature is out of range")
	}
	return r, s, nil
}

func (b *Bench) checkOwn(bool) (string, error) {
	public, private, err := b.pair(b.session, elliptic.P256())
	if err != nil {
		return "", err
	}
	sig, err := b.sign(b.session, private, sample[:])
	if err != nil {
		return "", err
	}
	return "", b.judges(public, sig)
}

// judges sees that a public key accepts a signature over sample and no other.
func (b *Bench) judges(public p11.ObjectHandle, sig []byte) error {
	if err := b.verify(b.session, public, sample[:], sig); err != nil {
		return fmt.Errorf("a good signature was refused: %w", err)
	}
	other := sample
	other[31] ^= 1
	return refused("a signature over another digest", b.verify(b.session, public, other[:], sig))
}

func (b *Bench) checkImport(bool) (string, error) {
	public, private, err := b.pair(b.session, elliptic.P256())
	if err != nil {
		return "", err
	}
	sig, err := b.sign(b.session, private, sample[:])
	if err != nil {
		return "", err
	}
	point, err := b.point(public, elliptic.P256())
	if err != nil {
		return "", err
	}
	foreign, err := b.importPoint(elliptic.P256(), octetString(point))
	if err != nil {
		return "", err
	}
	return "", b.judges(foreign, sig)
}

// point reads a public key as an uncompressed point, DER or raw.
func (b *Bench) point(public p11.ObjectHandle, curve elliptic.Curve) ([]byte, error) {
	got, err := b.module.GetAttributeValue(b.session, public, []*p11.Attribute{p11.NewAttribute(p11.CKA_EC_POINT, nil)})
	if err != nil {
		return nil, call("C_GetAttributeValue", err)
	}
	if len(got) != 1 {
		return nil, errors.New("CKA_EC_POINT is not there")
	}
	size := 1 + 2*((curve.Params().BitSize+7)/8)
	point := got[0].Value
	if len(point) != size {
		var inner []byte
		if rest, err := asn1.Unmarshal(point, &inner); err != nil || len(rest) != 0 {
			return nil, fmt.Errorf("CKA_EC_POINT of %d bytes is neither a point nor an OCTET STRING", len(point))
		}
		point = inner
	}
	if _, err := ecdsa.ParseUncompressedPublicKey(curve, point); err != nil {
		return nil, fmt.Errorf("CKA_EC_POINT: %w", err)
	}
	return bytes.Clone(point), nil
}

func (b *Bench) checkKnownP256(bool) (string, error) { return b.known(p256Vector) }
func (b *Bench) checkKnownP384(bool) (string, error) { return b.known(p384Vector) }

func (b *Bench) known(v vector) (string, error) {
	public, err := b.importPoint(v.curve, octetString(v.point))
	if err != nil {
		return "", err
	}
	return "", b.judges(public, v.signature)
}

func (b *Bench) checkFlipped(quick bool) (string, error) {
	public, err := b.importPoint(elliptic.P256(), octetString(p256Vector.point))
	if err != nil {
		return "", err
	}
	step := 1
	if quick {
		step = 17
	}
	flips := 0
	for bit := 0; bit < 8*len(p256Vector.signature); bit += step {
		sig := bytes.Clone(p256Vector.signature)
		sig[bit/8] ^= 1 << (bit % 8)
		if err := refused(fmt.Sprintf("a signature with bit %d flipped", bit), b.verify(b.session, public, sample[:], sig)); err != nil {
			return "", err
		}
		flips++
	}
	for bit := 0; bit < 8*len(sample); bit += step {
		digest := sample
		digest[bit/8] ^= 1 << (bit % 8)
		if err := refused(fmt.Sprintf("a digest with bit %d flipped", bit), b.verify(b.session, public, digest[:], p256Vector.signature)); err != nil {
			return "", err
		}
		flips++
	}
	return fmt.Sprintf("%d flips", flips), nil
}

func (b *Bench) checkTwin(bool) (string, error) {
	public, err := b.importPoint(elliptic.P256(), octetString(p256Vector.point))
	if err != nil {
		return "", err
	}
	twin := bytes.Clone(p256Vector.signature)
	s := new(big.Int).SetBytes(twin[32:])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(twin[32:])
	switch err := b.verify(b.session, public, sample[:], twin); {
	case err == nil:
		return "accepted, as the mathematics say; Strongroom checks low s itself", nil
	case is(err, p11.CKR_SIGNATURE_INVALID):
		return "refused", nil
	default:
		return "", fmt.Errorf("no verdict, but %w", err)
	}
}

func (b *Bench) checkOverlong(bool) (string, error) {
	public, err := b.importPoint(elliptic.P256(), octetString(p256Vector.point))
	if err != nil {
		return "", err
	}
	long := append(sample[:], bytes.Repeat([]byte{0x5a}, 32)...)
	if err := b.verify(b.session, public, long, p256Vector.signature); err == nil {
		return "", errors.New("a digest with 32 more bytes was accepted")
	} else if lost(err) || errors.Is(err, errMissing) {
		return "", err
	}
	return "", nil
}

func (b *Bench) checkOffCurve(bool) (string, error) {
	if err := b.needs(p11.CKM_ECDSA, "CKM_ECDSA"); err != nil {
		return "", err
	}
	point := bytes.Clone(p256Vector.point)
	point[len(point)-1] ^= 1
	if _, err := b.importPoint(elliptic.P256(), octetString(point)); err == nil {
		return "", errors.New("a point that is not on the curve was imported")
	} else if lost(err) {
		return "", err
	}
	return "", nil
}

func (b *Bench) checkRawPoint(bool) (string, error) {
	if err := b.needs(p11.CKM_ECDSA, "CKM_ECDSA"); err != nil {
		return "", err
	}
	public, err := b.importPoint(elliptic.P256(), p256Vector.point)
	if lost(err) {
		return "", err
	}
	if err != nil {
		return "refused", nil
	}
	if err := b.judges(public, p256Vector.signature); err != nil {
		return "", fmt.Errorf("a raw point was imported, and then %w", err)
	}
	return "taken, and judged by rightly", nil
}
