package pkcs11

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync/atomic"

	p11 "github.com/miekg/pkcs11"

	"strongroom/bccsp"
)

// purpose keeps an identity's keys and TLS keys apart.
type purpose string

const (
	forIdentity purpose = "an identity"
	forTLS      purpose = "TLS"
)

// privateKey is a signing key in the token: a bccsp.DigestSigner.
type privateKey struct {
	token  *Token
	label  string
	id     []byte // CKA_ID
	public *bccsp.PublicKey
	order  *order
	use    purpose
	handle atomic.Pointer[handle]
}

var _ bccsp.DigestSigner = (*privateKey)(nil)

// Signer finds an identity's signing key by its label. The key must not be able to
// leave the token, must match its public half, and must not be in use for TLS. An
// error wraps ErrKeyNotFound when there is none.
func (t *Token) Signer(ctx context.Context, label string) (*bccsp.Signer, error) {
	key, err := t.signingKey(ctx, label, forIdentity)
	if err != nil {
		return nil, err
	}
	return bccsp.NewSigner(key), nil
}

// TLSKey finds a key for TLS handshakes by its label; as Signer otherwise. A key that
// serves an identity is refused.
func (t *Token) TLSKey(ctx context.Context, label string) (*bccsp.TLSKey, error) {
	key, err := t.signingKey(ctx, label, forTLS)
	if err != nil {
		return nil, err
	}
	return bccsp.NewTLSKey(key), nil
}

func (t *Token) signingKey(ctx context.Context, label string, use purpose) (*privateKey, error) {
	if label == "" {
		return nil, errors.New("key label is empty: name the key")
	}
	t.mu.Lock()
	key := t.signing[label]
	t.mu.Unlock()
	if key == nil {
		found, err := t.findSigningKey(ctx, label, use)
		if err != nil {
			return nil, fmt.Errorf("signing key %q: %w", label, err)
		}
		t.mu.Lock()
		if key = t.signing[label]; key == nil {
			key = found
			t.signing[label] = key
		}
		t.mu.Unlock()
	}
	if key.use != use {
		return nil, fmt.Errorf("signing key %q serves %s already: %s needs a key of its own", label, key.use, use)
	}
	return key, nil
}

func (t *Token) findSigningKey(ctx context.Context, label string, use purpose) (*privateKey, error) {
	k := &privateKey{token: t, label: label, use: use}
	err := t.pool.do(ctx, "find", func(s *session) error {
		object, err := s.findOne(
			p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY),
			p11.NewAttribute(p11.CKA_LABEL, label),
		)
		if err != nil {
			return err
		}
		return s.loadSigningKey(k, object)
	})
	if err != nil {
		return nil, err
	}
	k.order = orderOf(k.public.Curve())
	return k, k.proveMatch(ctx)
}

// findOne finds the one object that matches.
func (s *session) findOne(template ...*p11.Attribute) (p11.ObjectHandle, error) {
	found, err := s.find(2, template...)
	switch {
	case err != nil:
		return 0, err
	case len(found) == 0:
		return 0, ErrKeyNotFound
	case len(found) > 1:
		return 0, errors.New("the token has several keys that match: give each key a label of its own (pkcs11-tool --list-objects shows them)")
	}
	return found[0], nil
}

// loadSigningKey reads what is needed of a private key and its public half.
func (s *session) loadSigningKey(k *privateKey, object p11.ObjectHandle) error {
	kind, err := s.number(object, p11.CKA_KEY_TYPE)
	if err != nil {
		return err
	}
	if kind != p11.CKK_EC {
		return fmt.Errorf("it is no EC key (CKA_KEY_TYPE 0x%X): P-256 or P-384 is needed", kind)
	}
	if err := s.checkSecret(object); err != nil {
		return err
	}
	if w := s.token.wrappingKey(); w != nil {
		if err := s.checkUnwrappable(w.handle.Load().object, object); err != nil {
			return err
		}
	}
	may, err := s.flag(object, p11.CKA_SIGN)
	if err != nil {
		return err
	}
	if !may {
		return errors.New("it may not sign (CKA_SIGN is false): make a new key with `strongroom identity new`")
	}
	if k.id, err = s.attribute(object, p11.CKA_ID); err != nil {
		return err
	}
	if k.public, err = s.publicHalf(k.id, object); err != nil {
		return err
	}
	k.handle.Store(&handle{object, s.token.generation})
	return nil
}

// publicHalf finds the public key that goes with a private key: by CKA_ID, or on the
// private key itself where a token keeps the point there.
func (s *session) publicHalf(id []byte, private p11.ObjectHandle) (*bccsp.PublicKey, error) {
	if len(id) > 0 {
		object, err := s.findOne(
			p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY),
			p11.NewAttribute(p11.CKA_ID, id),
		)
		if err == nil {
			return s.publicKey(object)
		}
		if !errors.Is(err, ErrKeyNotFound) {
			return nil, fmt.Errorf("its public half: %w", err)
		}
	}
	public, err := s.publicKey(private)
	if err != nil {
		return nil, fmt.Errorf("its public half is not in the token: import it with CKA_ID %x: %w", id, err)
	}
	return public, nil
}

// proveMatch signs a digest that no message has and checks it against the public half.
func (k *privateKey) proveMatch(ctx context.Context) error {
	digest := sha256.Sum256([]byte("strongroom: proof that a private key matches its public half"))
	sig, err := k.SignDigest(ctx, digest[:])
	if err != nil {
		return err
	}
	if err := k.token.Verify(ctx, k.public, digest[:], sig); err != nil {
		return fmt.Errorf("it does not match its public half in the token: %w", err)
	}
	return nil
}

// PublicKey is the key's public half.
func (k *privateKey) PublicKey() *bccsp.PublicKey { return k.public }

// SignDigest signs in the token. A digest longer than the curve's order is cut to its
// size (FIPS 186-5 section 6.4.2).
func (k *privateKey) SignDigest(ctx context.Context, digest []byte) ([]byte, error) {
	if err := checkDigest(digest); err != nil {
		return nil, err
	}
	var in [maxDigest]byte
	n := copy(in[:], k.order.truncate(digest))
	sig, err := k.signOnce(ctx, in, n)
	if classOf(err) == ClassHandle {
		if err = k.findAgain(ctx); err == nil {
			sig, err = k.signOnce(ctx, in, n)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("sign with key %q: %w", k.label, err)
	}
	raw, err := k.order.fromToken(sig)
	if err != nil {
		return nil, fmt.Errorf("sign with key %q: %w", k.label, err)
	}
	k.order.normalize(&raw)
	return k.order.der(&raw), nil
}

func (k *privateKey) signOnce(ctx context.Context, digest [maxDigest]byte, n int) ([]byte, error) {
	h := k.handle.Load()
	var sig []byte
	err := k.token.pool.do(ctx, "sign", func(s *session) (err error) {
		sig, err = s.sign(h.object, digest[:n])
		return err
	})
	if err != nil {
		return nil, err
	}
	return sig, nil
}

// sign is C_SignInit and C_Sign: the only place where a signature is made.
func (s *session) sign(key p11.ObjectHandle, digest []byte) ([]byte, error) {
	c := s.token.module.ctx
	if err := c.SignInit(s.handle, ecdsaMechanism, key); err != nil {
		return nil, s.err("C_SignInit", err)
	}
	sig, err := c.Sign(s.handle, digest)
	return sig, s.err("C_Sign", err)
}

// findAgain replaces a stale handle: by label and CKA_ID, so that no other key can
// take this one's place.
func (k *privateKey) findAgain(ctx context.Context) error {
	return k.token.pool.do(ctx, "find", func(s *session) error {
		object, err := s.findOne(
			p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY),
			p11.NewAttribute(p11.CKA_LABEL, k.label),
			p11.NewAttribute(p11.CKA_ID, k.id),
		)
		if err != nil {
			return err
		}
		k.handle.Store(&handle{object, k.token.generation})
		return nil
	})
}
