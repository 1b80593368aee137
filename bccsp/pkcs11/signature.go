package pkcs11

import (
	"bytes"
	"crypto/elliptic"
	"encoding/asn1"
	"fmt"
	"math/big"

	"strongroom/bccsp"
)

// order is a curve's order n and the highest S that counts as low, (n-1)/2, both
// big-endian in size bytes.
type order struct {
	size    int
	n, half []byte
}

func newOrder(c elliptic.Curve) *order {
	n := c.Params().N
	size := (n.BitLen() + 7) / 8
	return &order{size: size, n: n.FillBytes(make([]byte, size)), half: new(big.Int).Rsh(n, 1).FillBytes(make([]byte, size))}
}

var orderP256, orderP384 = newOrder(elliptic.P256()), newOrder(elliptic.P384())

func orderOf(c elliptic.Curve) *order {
	if c == elliptic.P384() {
		return orderP384
	}
	return orderP256
}

// maxRaw is the length of r||s on the largest curve.
const maxRaw = 96

// rawSignature is r||s in fixed lengths, as C_Sign and C_Verify have it.
type rawSignature struct {
	bytes [maxRaw]byte
	len   int
}

// parse reads a DER ECDSA-Sig-Value (SEC 1 appendix C.5) strictly, as Go's
// ecdsa.VerifyASN1 does: nothing may follow, lengths and integers are minimal, r and
// s are in [1, n-1].
func (o *order) parse(der []byte) (raw rawSignature, ok bool) {
	body, rest, ok := element(der, 0x30)
	if !ok || len(rest) != 0 {
		return raw, false
	}
	r, body, ok := element(body, 0x02)
	if !ok || !o.put(raw.bytes[:o.size], r) {
		return raw, false
	}
	s, body, ok := element(body, 0x02)
	if !ok || len(body) != 0 || !o.put(raw.bytes[o.size:2*o.size], s) {
		return raw, false
	}
	raw.len = 2 * o.size
	return raw, true
}

// element takes one DER element with the tag off b. Signatures need lengths of at
// most 255 bytes.
func element(b []byte, tag byte) (content, rest []byte, ok bool) {
	if len(b) < 2 || b[0] != tag {
		return nil, nil, false
	}
	n, head := int(b[1]), 2
	if n == 0x81 {
		if len(b) < 3 || b[2] < 0x80 {
			return nil, nil, false
		}
		n, head = int(b[2]), 3
	} else if n >= 0x80 {
		return nil, nil, false
	}
	if len(b)-head < n {
		return nil, nil, false
	}
	return b[head : head+n], b[head+n:], true
}

// put writes a DER INTEGER's content into dst, if it is minimal and in [1, n-1].
func (o *order) put(dst, content []byte) bool {
	if len(content) == 0 || content[0]&0x80 != 0 {
		return false
	}
	if content[0] == 0 {
		if len(content) == 1 || content[1]&0x80 == 0 {
			return false
		}
		content = content[1:]
	}
	if len(content) > o.size {
		return false
	}
	copy(dst[o.size-len(content):], content)
	return bytes.Compare(dst, o.n) < 0
}

// parseFabric reads a signature as Fabric's utils.UnmarshalECDSASignature does, by
// encoding/asn1, which allows bytes after the sequence and after s. A peer that
// refused them would mark a transaction invalid that all Fabric peers hold valid.
func (o *order) parseFabric(der []byte) (raw rawSignature, ok bool) {
	if raw, ok = o.parse(der); ok {
		return raw, true
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil || sig.R == nil || sig.S == nil {
		return raw, false
	}
	for _, v := range []*big.Int{sig.R, sig.S} {
		if v.Sign() <= 0 || v.BitLen() > 8*o.size {
			return raw, false
		}
	}
	raw = rawSignature{len: 2 * o.size}
	r, s := sig.R.FillBytes(raw.bytes[:o.size]), sig.S.FillBytes(raw.bytes[o.size:2*o.size])
	if bytes.Compare(r, o.n) >= 0 || bytes.Compare(s, o.n) >= 0 {
		return raw, false
	}
	return raw, true
}

// lowS tells whether s is at most half the order.
func (o *order) lowS(raw *rawSignature) bool {
	return bytes.Compare(raw.bytes[o.size:2*o.size], o.half) <= 0
}

// normalize replaces a high s by n-s, which is as good a signature.
func (o *order) normalize(raw *rawSignature) {
	if o.lowS(raw) {
		return
	}
	s := raw.bytes[o.size : 2*o.size]
	borrow := 0
	for i := o.size - 1; i >= 0; i-- {
		d := int(o.n[i]) - int(s[i]) - borrow
		borrow = 0
		if d < 0 {
			d += 256
			borrow = 1
		}
		s[i] = byte(d)
	}
}

// fromToken takes what C_Sign returned.
func (o *order) fromToken(sig []byte) (raw rawSignature, err error) {
	if len(sig) != 2*o.size {
		return raw, fmt.Errorf("token made a signature of %d bytes, %d are right for this curve", len(sig), 2*o.size)
	}
	raw.len = copy(raw.bytes[:], sig)
	zero := make([]byte, o.size)
	for _, v := range [][]byte{raw.bytes[:o.size], raw.bytes[o.size:raw.len]} {
		if bytes.Equal(v, zero) || bytes.Compare(v, o.n) >= 0 {
			return raw, fmt.Errorf("token made a signature outside the curve's order")
		}
	}
	return raw, nil
}

// der is the ASN.1 form of r||s.
func (o *order) der(raw *rawSignature) []byte {
	out := make([]byte, 0, 9+2*(o.size+1))
	body := integerLen(raw.bytes[:o.size]) + integerLen(raw.bytes[o.size:raw.len]) + 4
	out = append(out, 0x30, byte(body)) // below 128: at most 2*(49+2) = 102
	out = appendInteger(out, raw.bytes[:o.size])
	return appendInteger(out, raw.bytes[o.size:raw.len])
}

func integerLen(v []byte) int {
	v = bytes.TrimLeft(v, "\x00")
	if len(v) == 0 || v[0]&0x80 != 0 {
		return len(v) + 1
	}
	return len(v)
}

func appendInteger(out, v []byte) []byte {
	n := integerLen(v)
	v = bytes.TrimLeft(v, "\x00")
	out = append(out, 0x02, byte(n))
	if n > len(v) {
		out = append(out, 0)
	}
	return append(out, v...)
}

// truncate cuts a digest to the order's size (FIPS 186-5 section 6.4.2; both orders
// fill whole bytes). Tokens differ in what they do with longer input.
func (o *order) truncate(digest []byte) []byte {
	if len(digest) > o.size {
		return digest[:o.size]
	}
	return digest
}

// minDigest is the shortest digest that is taken for one.
const minDigest = 28

// maxDigest is SHA-512's.
const maxDigest = 64

func checkDigest(digest []byte) error {
	if len(digest) < minDigest || len(digest) > maxDigest {
		return fmt.Errorf("digest has %d bytes: hash the message first (SHA-256 gives 32)", len(digest))
	}
	return nil
}

func badSignature(why string) error { return fmt.Errorf("%w: %s", bccsp.ErrBadSignature, why) }
