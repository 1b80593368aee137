package pkcs11

import (
	"context"
	"crypto/elliptic"
	"crypto/sha256"

	p11 "github.com/miekg/pkcs11"

	"strongroom/bccsp"
)

// What the tests of package pkcs11_test see of the inside.

// Classify is the class of a CK_RV that a C function returned.
func Classify(op string, code uint) Class { return classify(op, code) }

// TokenError is the error that a CK_RV becomes.
func TokenError(op string, slot, code uint) error { return tokenError(op, slot, p11.Error(code)) }

// ParseStrict and ParseFabric read a DER signature into r||s.
func ParseStrict(c elliptic.Curve, der []byte) ([]byte, bool) {
	raw, ok := orderOf(c).parse(der)
	return raw.bytes[:raw.len], ok
}

func ParseFabric(c elliptic.Curve, der []byte) ([]byte, bool) {
	raw, ok := orderOf(c).parseFabric(der)
	return raw.bytes[:raw.len], ok
}

// Encode is what SignDigest makes of a token's answer.
func Encode(c elliptic.Curve, sig []byte) ([]byte, error) {
	o := orderOf(c)
	raw, err := o.fromToken(sig)
	if err != nil {
		return nil, err
	}
	o.normalize(&raw)
	return o.der(&raw), nil
}

// CloseSessions closes the sessions of a token behind its back: n of its pool, or the
// anchor.
func (t *Token) CloseSessions(ctx context.Context, n int) error {
	for range n {
		if err := t.ask(ctx, "break", breakSession); err != nil {
			return err
		}
	}
	return nil
}

func (t *Token) CloseAnchor(ctx context.Context) error {
	return t.anchor.do(ctx, "break", breakSession)
}

func breakSession(s *session) error {
	return s.err("C_CloseSession", s.token.module.ctx.CloseSession(s.handle))
}

// Hang occupies one session until release is closed, as a module that hangs does.
func (t *Token) Hang(ctx context.Context, entered chan<- struct{}, release <-chan struct{}) error {
	return t.pool.do(ctx, "hang", func(*session) error {
		close(entered)
		<-release
		return nil
	})
}

// Mislead makes the handles of a signing key and of the wrapping key stale.
func (t *Token) Mislead() {
	stale := &handle{object: 1 << 40, epoch: t.epoch()}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range t.signing {
		k.handle.Store(stale)
	}
	if t.wrapping != nil {
		t.wrapping.handle.Store(stale)
	}
}

// Imported is the number of foreign keys in the cache, and of objects that the token
// holds for them.
func (t *Token) Imported(ctx context.Context) (cached, objects int, err error) {
	t.foreign.mu.Lock()
	cached = t.foreign.recent.Len()
	t.foreign.mu.Unlock()
	err = t.anchor.do(ctx, "count", func(s *session) error {
		found, err := s.find(1000, p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY), p11.NewAttribute(p11.CKA_TOKEN, false))
		objects = len(found)
		return err
	})
	return cached, objects, err
}

// MakeTwin makes a key pair with a label and a CKA_ID that others may have.
func (t *Token) MakeTwin(ctx context.Context, label string, curve elliptic.Curve, id []byte) (key *PublicKey, err error) {
	err = t.pool.do(ctx, "generate", func(s *session) error {
		public, private, err := s.generatePair(curve, true, label)
		if err != nil {
			return err
		}
		for _, object := range []p11.ObjectHandle{public, private} {
			err := s.token.module.ctx.SetAttributeValue(s.handle, object, []*p11.Attribute{p11.NewAttribute(p11.CKA_ID, id)})
			if err != nil {
				return s.err("C_SetAttributeValue", err)
			}
		}
		key, err = s.publicKey(public)
		return err
	})
	return key, err
}

// PublicKey is what keys are named by.
type PublicKey = bccsp.PublicKey

// DestroyKeys deletes the key pairs with a label from the token.
func (t *Token) DestroyKeys(ctx context.Context, label string) error {
	return t.pool.do(ctx, "destroy", func(s *session) error {
		found, err := s.find(maxMatches, p11.NewAttribute(p11.CKA_LABEL, label))
		for _, o := range found {
			err = s.destroy(o, err)
		}
		return err
	})
}

// MakeLoose makes a wrapping key that may leave the token.
func (t *Token) MakeLoose(ctx context.Context, label string) error {
	return t.pool.do(ctx, "generate", func(s *session) error {
		_, err := s.token.module.ctx.GenerateKey(s.handle, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_KEY_GEN, nil)}, []*p11.Attribute{
			p11.NewAttribute(p11.CKA_VALUE_LEN, 32), p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_LABEL, label),
			p11.NewAttribute(p11.CKA_ID, []byte{1}), p11.NewAttribute(p11.CKA_EXTRACTABLE, true), p11.NewAttribute(p11.CKA_SENSITIVE, true),
			p11.NewAttribute(p11.CKA_WRAP, true), p11.NewAttribute(p11.CKA_UNWRAP, true),
		})
		return s.err("C_GenerateKey", err)
	})
}

var ecdsaMechanism = []*p11.Mechanism{p11.NewMechanism(p11.CKM_ECDSA, nil)}

// Raw signs and verifies by the bare module on a session of its own, for benchmarks.
type Raw struct {
	ctx      *p11.Ctx
	session  p11.SessionHandle
	key, pub p11.ObjectHandle
	calls    functions
}

// OpenRaw opens a bare session beside the token's own, on a signing key that was
// loaded and on its public half.
func (t *Token) OpenRaw(label string) (*Raw, error) {
	k := t.labelled(label)
	e, err := t.foreign.acquire(context.Background(), k.public)
	if err != nil {
		return nil, err
	}
	h, err := t.module.ctx.OpenSession(uint(t.slot.Load()), p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	return &Raw{t.module.ctx, h, k.handle.Load().object, e.handle.object, t.module.calls}, err
}

// Close closes the session.
func (r *Raw) Close() { _ = r.ctx.CloseSession(r.session) }

// Sign is C_SignInit and C_Sign.
func (r *Raw) Sign(digest [sha256.Size]byte) ([]byte, error) {
	if err := r.ctx.SignInit(r.session, ecdsaMechanism, r.key); err != nil {
		return nil, err
	}
	return r.ctx.Sign(r.session, digest[:])
}

// Verify is C_VerifyInit and C_Verify.
func (r *Raw) Verify(digest [sha256.Size]byte, sig []byte) error {
	if err := r.ctx.VerifyInit(r.session, ecdsaMechanism, r.pub); err != nil {
		return err
	}
	return r.ctx.Verify(r.session, digest[:], sig)
}

// SignDirect and VerifyDirect are the same without the binding, as the pool asks.
func (r *Raw) SignDirect(digest [sha256.Size]byte) ([]byte, error) {
	sig, _, err := r.calls.sign(r.session, p11.CKM_ECDSA, r.key, digest[:])
	return sig, err
}

func (r *Raw) VerifyDirect(digest [sha256.Size]byte, sig []byte) error {
	_, err := r.calls.verify(r.session, p11.CKM_ECDSA, r.pub, digest[:], sig)
	return err
}
