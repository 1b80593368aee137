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
	label  string // its name, see named
	id     []byte // CKA_ID
	public *bccsp.PublicKey
	order  *order
	use    purpose
	handle atomic.Pointer[handle]
}

var _ bccsp.DigestSigner = (*privateKey)(nil)

// Signer finds an identity's signing key by its label, or by its CKA_ID where the label is
// "id:" and that in hex. Two keys that match are an error. The key must not be able to
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
	if key := t.labelled(label); key != nil {
		return key, key.serves(use)
	}
	template, err := named(p11.CKO_PRIVATE_KEY, label)
	if err != nil {
		return nil, fmt.Errorf("signing key %q: %w", label, err)
	}
	found, err := t.findSigningKey(ctx, &privateKey{token: t, label: label, use: use}, func(s *session) (p11.ObjectHandle, error) { return s.findOne(template...) })
	if err != nil {
		return nil, fmt.Errorf("signing key %q: %w", label, err)
	}
	return t.useSigningKey(found)
}

// findSigningKey loads k from the private key that find finds.
func (t *Token) findSigningKey(ctx context.Context, k *privateKey, find func(*session) (p11.ObjectHandle, error)) (*privateKey, error) {
	err := t.ask(ctx, "find", func(s *session) error {
		object, err := find(s)
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
		return 0, fmt.Errorf("%w: give each key a label of its own (pkcs11-tool --list-objects shows them)", ErrKeyAmbiguous)
	}
	return found[0], nil
}

// loadSigningKey reads what is needed of a private key and its public half.
func (s *session) loadSigningKey(k *privateKey, object p11.ObjectHandle) error {
	at := s.token.epoch()
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
	if k.label == "" {
		if k.label, err = s.nameOf(object, k.id); err != nil {
			return err
		}
	}
	k.handle.Store(&handle{object, at})
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

// proofDigest is a digest that no message has.
var proofDigest = sha256.Sum256([]byte("strongroom: proof that a private key matches its public half"))

// proveMatch signs a digest that no message has and checks it against the public half.
func (k *privateKey) proveMatch(ctx context.Context) error {
	sig, err := k.SignDigest(ctx, proofDigest[:])
	if err != nil {
		return err
	}
	if err := k.token.Verify(ctx, k.public, proofDigest[:], sig); err != nil {
		return deviceErrs("it does not match its public half in the token", err)
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
	var sig []byte
	err := k.token.persist(ctx, func() (err error) {
		sig, err = k.signOnce(ctx, in, n)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("sign with key %q: %w", k.label, err)
	}
	raw, err := k.order.fromToken(sig)
	if err != nil {
		return nil, fmt.Errorf("sign with key %q: %w", k.label, err)
	}
	k.order.normalize(&raw)
	if k.token.cfg.CheckSignatures {
		if err := k.token.check(ctx, k, digest, raw); err != nil {
			return nil, k.refuse(err)
		}
	}
	return k.order.der(&raw), nil
}

// refuse keeps a signature back that the token does not verify.
func (k *privateKey) refuse(err error) error {
	if errors.Is(err, bccsp.ErrBadSignature) { // no verdict on a message, but a device that errs
		err = fmt.Errorf("%w, which was kept back: %v", ErrFalseAnswer, err)
		k.token.cfg.Alarm(EventFailed, err)
	}
	return fmt.Errorf("sign with key %q: check: %w", k.label, err)
}

func (k *privateKey) signOnce(ctx context.Context, digest [maxDigest]byte, n int) ([]byte, error) {
	t, h := k.token, k.handle.Load()
	if !t.current(h) {
		if err := k.findAgain(ctx); err != nil {
			return nil, err
		}
		h = k.handle.Load()
	}
	var sig []byte
	err := t.pool.do(ctx, "sign", func(s *session) (err error) {
		if !t.current(h) {
			return errStale
		}
		if sig, err = s.sign(h.object, digest[:n]); err == nil && !t.current(h) {
			return errStale
		}
		return err
	})
	if classOf(err) == ClassHandle {
		k.handle.CompareAndSwap(h, new(handle))
	}
	if err != nil {
		return nil, err
	}
	return sig, nil
}

// sign is C_SignInit and C_Sign: the only place where a signature is made.
func (s *session) sign(key p11.ObjectHandle, digest []byte) ([]byte, error) {
	sig, function, err := s.token.module.calls.sign(s.handle, p11.CKM_ECDSA, key, digest)
	return sig, s.err(function, err)
}

// findAgain replaces a stale handle: by label and CKA_ID, and only by a key that makes
// signatures of this public key, so that no other can take this one's place.
func (k *privateKey) findAgain(ctx context.Context) error {
	var found handle
	var sig []byte // where another token verifies
	template, err := named(p11.CKO_PRIVATE_KEY, k.label)
	if err != nil {
		return err
	}
	if !namedByID(k.label) {
		template = append(template, p11.NewAttribute(p11.CKA_ID, k.id))
	}
	err = k.token.pool.do(ctx, "find", func(s *session) error {
		at := s.token.epoch()
		object, err := s.findOne(template...)
		if errors.Is(err, ErrKeyNotFound) {
			return fmt.Errorf("key %q: %w, and it is not found again", k.label, errStale)
		}
		if err != nil {
			return err
		}
		if err := s.checkSecret(object); err != nil { // it may have been loosened meanwhile
			return fmt.Errorf("key %q, found again: %w", k.label, err)
		}
		if k.token.onlySigns() {
			sig, err = s.sign(object, k.order.truncate(proofDigest[:]))
		} else {
			err = s.prove(object, k.public)
		}
		if err != nil {
			return fmt.Errorf("key %q, found again: %w", k.label, err)
		}
		found = handle{object, at}
		return nil
	})
	if err != nil {
		return err
	}
	if k.token.onlySigns() {
		if err := k.proveElsewhere(ctx, sig); err != nil {
			return fmt.Errorf("key %q, found again: %w", k.label, err)
		}
	}
	k.handle.Store(&found)
	return nil
}

// prove signs with a private key and checks the signature under the public key that it
// must have.
func (s *session) prove(private p11.ObjectHandle, key *bccsp.PublicKey) (err error) {
	digest := orderOf(key.Curve()).truncate(proofDigest[:])
	sig, err := s.sign(private, digest)
	if err != nil {
		return err
	}
	public, err := s.importKey(key)
	if err != nil {
		return err
	}
	defer func() { err = s.destroy(public, err) }()
	if err := s.verify(public, digest, sig); errors.Is(err, bccsp.ErrBadSignature) {
		return fmt.Errorf("%w: it is another key now, or the device errs", ErrFalseAnswer)
	} else if err != nil {
		return err
	}
	return nil
}
