package pkcs11

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/binary"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"strongroom/bccsp"
)

// find returns at most max objects that match.
func (s *session) find(max int, template ...*p11.Attribute) ([]p11.ObjectHandle, error) {
	c := s.token.module.ctx
	if err := c.FindObjectsInit(s.handle, template); err != nil {
		return nil, s.err("C_FindObjectsInit", err)
	}
	found, _, err := c.FindObjects(s.handle, max)
	finalErr := c.FindObjectsFinal(s.handle)
	if err != nil {
		return nil, s.err("C_FindObjects", err)
	}
	return found, s.err("C_FindObjectsFinal", finalErr)
}

// attribute reads one attribute's bytes.
func (s *session) attribute(object p11.ObjectHandle, kind uint) ([]byte, error) {
	a, err := s.token.module.ctx.GetAttributeValue(s.handle, object, []*p11.Attribute{p11.NewAttribute(kind, nil)})
	if err != nil {
		return nil, s.err("C_GetAttributeValue", err)
	}
	if len(a) != 1 {
		return nil, errors.New("token answered no attribute")
	}
	return a[0].Value, nil
}

func (s *session) flag(object p11.ObjectHandle, kind uint) (bool, error) {
	v, err := s.attribute(object, kind)
	if err != nil {
		return false, err
	}
	if len(v) != 1 {
		return false, fmt.Errorf("token answered a flag of %d bytes", len(v))
	}
	return v[0] != 0, nil
}

// number reads a CK_ULONG, which is 8 bytes of this machine's order on the systems
// that Go's PKCS #11 binding serves, 4 on others.
func (s *session) number(object p11.ObjectHandle, kind uint) (uint, error) {
	v, err := s.attribute(object, kind)
	switch {
	case err != nil:
		return 0, err
	case len(v) == 8:
		return uint(binary.NativeEndian.Uint64(v)), nil
	case len(v) == 4:
		return uint(binary.NativeEndian.Uint32(v)), nil
	}
	return 0, fmt.Errorf("token answered a number of %d bytes", len(v))
}

// publicKey reads a public key object.
func (s *session) publicKey(object p11.ObjectHandle) (*bccsp.PublicKey, error) {
	params, err := s.attribute(object, p11.CKA_EC_PARAMS)
	if err != nil {
		return nil, err
	}
	var curve elliptic.Curve
	switch string(params) {
	case string(oidP256):
		curve = elliptic.P256()
	case string(oidP384):
		curve = elliptic.P384()
	default:
		return nil, fmt.Errorf("its curve parameters are %x: P-256 or P-384 is needed", params)
	}
	point, err := s.attribute(object, p11.CKA_EC_POINT)
	if err != nil {
		return nil, err
	}
	// Some modules answer the bare point, not the OCTET STRING around it. Both begin
	// with 04: the length decides.
	bare := 2*((curve.Params().BitSize+7)/8) + 1
	if len(point) == bare+2 && point[0] == 0x04 && int(point[1]) == bare {
		point = point[2:]
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, fmt.Errorf("its point is not on the curve: %w", err)
	}
	return bccsp.NewPublicKey(pub)
}

// checkSecret refuses a key that could leave the token, by what the token says of it
// and by asking for its value.
func (s *session) checkSecret(object p11.ObjectHandle) error {
	sensitive, err := s.flag(object, p11.CKA_SENSITIVE)
	if err != nil {
		return err
	}
	extractable, err := s.flag(object, p11.CKA_EXTRACTABLE)
	if err != nil {
		return err
	}
	if !sensitive || extractable {
		return fmt.Errorf("it can leave the token (sensitive %t, extractable %t): make a new key in the token with `strongroom token init` or `strongroom identity new`", sensitive, extractable)
	}
	if value, err := s.attribute(object, p11.CKA_VALUE); err == nil && len(value) > 0 {
		clear(value)
		return errors.New("the token gives its value away, though it calls it sensitive: do not use this token")
	}
	return nil
}

// keyWraps are the mechanisms by which a key could be asked out of the token.
var keyWraps = [][]*p11.Mechanism{keyWrap, {p11.NewMechanism(p11.CKM_AES_KEY_WRAP_PAD, nil)}}

// checkUnwrappable refuses a key that the token lets out under a wrapping key. What a
// token says of its keys is not always what it does.
func (s *session) checkUnwrappable(wrapping, object p11.ObjectHandle) error {
	for _, mechanism := range keyWraps {
		if out, err := s.token.module.ctx.WrapKey(s.handle, mechanism, wrapping, object); err == nil {
			clear(out)
			return errors.New("the token wraps it, though it calls it not extractable: do not use this token")
		}
	}
	return nil
}
