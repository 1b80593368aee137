package pkcs11

import (
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"strongroom/bccsp"
)

// maxLabel bounds a key's label in bytes.
const maxLabel = 255

func checkLabel(label string) error {
	if label == "" || len(label) > maxLabel {
		return fmt.Errorf("key label has %d bytes: give 1 to %d", len(label), maxLabel)
	}
	if namedByID(label) {
		return fmt.Errorf("key label %q begins with %s, by which keys are named by their CKA_ID: choose another", label, idPrefix)
	}
	return nil
}

// GenerateKey makes a key pair on P-256 or P-384 in the token. Its private half is
// sensitive, cannot be extracted, and signs only; its CKA_ID is the SHA-256 of the
// uncompressed point, by which Fabric's tools find it. A label that is in use gives
// an error that wraps ErrKeyExists.
func (t *Token) GenerateKey(ctx context.Context, label string, curve elliptic.Curve) (*bccsp.PublicKey, error) {
	if err := checkLabel(label); err != nil {
		return nil, err
	}
	if curve != elliptic.P256() && curve != elliptic.P384() {
		return nil, errors.New("curve is neither P-256 nor P-384")
	}
	t.generating.Lock()
	defer t.generating.Unlock()
	var public *bccsp.PublicKey
	err := t.pool.do(ctx, "generate", func(s *session) (err error) {
		if err := s.labelIsFree(label); err != nil {
			return err
		}
		public, err = s.generateKeyPair(label, curve)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("generate key %q: %w", label, err)
	}
	return public, nil
}

// labelIsFree checks that no key has the label.
func (s *session) labelIsFree(label string) error {
	for _, class := range []uint{p11.CKO_PRIVATE_KEY, p11.CKO_PUBLIC_KEY, p11.CKO_SECRET_KEY} {
		found, err := s.find(1, p11.NewAttribute(p11.CKA_CLASS, class), p11.NewAttribute(p11.CKA_LABEL, label))
		if err != nil {
			return err
		}
		if len(found) > 0 {
			return fmt.Errorf("%w: choose another label, or delete the old key with the token's own tool", ErrKeyExists)
		}
	}
	return nil
}

func (s *session) generateKeyPair(label string, curve elliptic.Curve) (*bccsp.PublicKey, error) {
	public, private, err := s.generatePair(curve, true, label)
	if err != nil {
		return nil, err
	}
	key, err := s.namePair(public, private)
	if err != nil {
		c := s.token.module.ctx
		return nil, errors.Join(err,
			s.err("C_DestroyObject", c.DestroyObject(s.handle, private)),
			s.err("C_DestroyObject", c.DestroyObject(s.handle, public)))
	}
	return key, nil
}

// generatePair is C_GenerateKeyPair with a private half that signs and does nothing
// else. Modules differ in their defaults, so that each use is said. A module may not take
// what is said of encryption (tpm2-pkcs11 has one flag for signing and encrypting): then
// that is left out, which EC keys have no mechanism for.
func (s *session) generatePair(curve elliptic.Curve, token bool, label string) (public, private p11.ObjectHandle, err error) {
	public, private, err = s.generatePairAs(curve, token, label, true)
	if hasCode(err, p11.CKR_GENERAL_ERROR, p11.CKR_TEMPLATE_INCONSISTENT, p11.CKR_ATTRIBUTE_VALUE_INVALID, p11.CKR_ATTRIBUTE_TYPE_INVALID) {
		return s.generatePairAs(curve, token, label, false)
	}
	return public, private, err
}

func (s *session) generatePairAs(curve elliptic.Curve, token bool, label string, encryption bool) (public, private p11.ObjectHandle, err error) {
	pub := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, token),
		p11.NewAttribute(p11.CKA_PRIVATE, false),
		p11.NewAttribute(p11.CKA_EC_PARAMS, curveOID(curve)),
		p11.NewAttribute(p11.CKA_VERIFY, true),
		p11.NewAttribute(p11.CKA_WRAP, false),
		p11.NewAttribute(p11.CKA_VERIFY_RECOVER, false),
		p11.NewAttribute(p11.CKA_LABEL, label),
	}
	priv := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, token),
		p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, true),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, false),
		p11.NewAttribute(p11.CKA_SIGN, true),
		p11.NewAttribute(p11.CKA_DERIVE, false),
		p11.NewAttribute(p11.CKA_UNWRAP, false),
		p11.NewAttribute(p11.CKA_SIGN_RECOVER, false),
		p11.NewAttribute(p11.CKA_LABEL, label),
	}
	if encryption {
		pub = append(pub, p11.NewAttribute(p11.CKA_ENCRYPT, false))
		priv = append(priv, p11.NewAttribute(p11.CKA_DECRYPT, false))
	}
	mechanism := []*p11.Mechanism{p11.NewMechanism(p11.CKM_EC_KEY_PAIR_GEN, nil)}
	public, private, err = s.token.module.ctx.GenerateKeyPair(s.handle, mechanism, pub, priv)
	return public, private, s.err("C_GenerateKeyPair", err)
}

// namePair reads the new public key, gives both halves its hash as CKA_ID, and reads
// back what protects the private half.
func (s *session) namePair(public, private p11.ObjectHandle) (*bccsp.PublicKey, error) {
	key, err := s.publicKey(public)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(key.Point())
	for _, object := range []p11.ObjectHandle{public, private} {
		err := s.token.module.ctx.SetAttributeValue(s.handle, object, []*p11.Attribute{p11.NewAttribute(p11.CKA_ID, id[:])})
		if err != nil {
			return nil, s.err("C_SetAttributeValue", err)
		}
	}
	return key, s.checkSecret(private)
}

// GenerateWrappingKey makes an AES-256 key in the token that wraps and unwraps and
// does nothing else. A token that was opened without a wrapping key uses it from now
// on. A label that is in use gives an error that wraps ErrKeyExists.
func (t *Token) GenerateWrappingKey(ctx context.Context, label string) error {
	if err := checkLabel(label); err != nil {
		return err
	}
	t.generating.Lock()
	defer t.generating.Unlock()
	id, err := t.Random(ctx, 16)
	if err != nil {
		return err
	}
	err = t.pool.do(ctx, "generate", func(s *session) error {
		if err := s.labelIsFree(label); err != nil {
			return err
		}
		return s.generateWrappingKey(label, id)
	})
	if err != nil {
		return fmt.Errorf("generate wrapping key %q: %w", label, err)
	}
	key, err := t.findWrappingKey(ctx, label)
	if err != nil {
		return err
	}
	if t.wrappingKey() == nil {
		return t.useWrappingKey(ctx, key)
	}
	return nil
}

func (s *session) generateWrappingKey(label string, id []byte) error {
	mechanism := []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_KEY_GEN, nil)}
	_, err := s.token.module.ctx.GenerateKey(s.handle, mechanism, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY),
		p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_AES),
		p11.NewAttribute(p11.CKA_VALUE_LEN, wrappedKeySize),
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, true),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, false),
		p11.NewAttribute(p11.CKA_WRAP, true),
		p11.NewAttribute(p11.CKA_UNWRAP, true),
		p11.NewAttribute(p11.CKA_ENCRYPT, false),
		p11.NewAttribute(p11.CKA_DECRYPT, false),
		p11.NewAttribute(p11.CKA_SIGN, false),
		p11.NewAttribute(p11.CKA_VERIFY, false),
		p11.NewAttribute(p11.CKA_DERIVE, false),
		p11.NewAttribute(p11.CKA_LABEL, label),
		p11.NewAttribute(p11.CKA_ID, id),
	})
	return s.err("C_GenerateKey", err)
}
