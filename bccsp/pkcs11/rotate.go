package pkcs11

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	p11 "github.com/miekg/pkcs11"

	"strongroom/bccsp"
)

// SignerOf finds an identity's signing key by its public half. The label decides where the
// token has several private keys of it, or does not find keys by their public half; "" is
// none. Several keys that match all the same give an error that wraps ErrKeyAmbiguous, and
// none gives one that wraps ErrKeyNotFound. Otherwise as Signer.
func (t *Token) SignerOf(ctx context.Context, public *bccsp.PublicKey, label string) (*bccsp.Signer, error) {
	key, err := t.signingKeyOf(ctx, public, label, forIdentity)
	if err != nil {
		return nil, err
	}
	return bccsp.NewSigner(key), nil
}

// TLSKeyOf finds a key for TLS handshakes by its public half; as SignerOf otherwise.
func (t *Token) TLSKeyOf(ctx context.Context, public *bccsp.PublicKey, label string) (*bccsp.TLSKey, error) {
	key, err := t.signingKeyOf(ctx, public, label, forTLS)
	if err != nil {
		return nil, err
	}
	return bccsp.NewTLSKey(key), nil
}

// Retire forgets a signing key that was replaced: recovery and health do without it from
// now on. Signatures that are under way end with it, and it stays in the token until
// the token's own tool deletes it. A retired key never changes its purpose in this process.
func (t *Token) Retire(public *bccsp.PublicKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.signing, public.ID())
}

// signingKeyOf finds a key by its public half.
func (t *Token) signingKeyOf(ctx context.Context, public *bccsp.PublicKey, label string, use purpose) (*privateKey, error) {
	t.mu.Lock()
	key := t.signing[public.ID()]
	t.mu.Unlock()
	if key == nil {
		found, err := t.findSigningKey(ctx, &privateKey{token: t, use: use}, func(s *session) (p11.ObjectHandle, error) { return s.findPrivateOf(public, label) })
		if err != nil {
			return nil, fmt.Errorf("signing key %s: %w", public.ID(), err)
		}
		if !found.public.Equal(public) {
			return nil, fmt.Errorf("signing key %s: the token names key %s by its CKA_ID: give each key pair a CKA_ID of its own", public.ID(), found.public.ID())
		}
		return t.useSigningKey(found)
	}
	return key, key.serves(use)
}

// useSigningKey takes a key that was found into use, unless it is already.
func (t *Token) useSigningKey(found *privateKey) (*privateKey, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := found.public.ID()
	if before, ok := t.purposes[id]; ok && before != found.use {
		return nil, fmt.Errorf("signing key %q serves %s already: %s needs a key of its own", found.label, before, found.use)
	}
	if key := t.signing[id]; key != nil {
		return key, nil
	}
	t.purposes[id], t.signing[id] = found.use, found
	return found, nil
}

// labelled is the one key in use with the label.
func (t *Token) labelled(label string) *privateKey {
	t.mu.Lock()
	defer t.mu.Unlock()
	var only *privateKey
	for _, k := range t.signing {
		if k.label == label {
			if only != nil {
				return nil
			}
			only = k
		}
	}
	return only
}

func (k *privateKey) serves(use purpose) error {
	if k.use != use {
		return fmt.Errorf("signing key %q serves %s already: %s needs a key of its own", k.label, k.use, use)
	}
	return nil
}

// maxMatches is how many objects of one template are told apart.
const maxMatches = 8

// findPrivateOf finds the private key of a public half: by the CKA_ID that this program
// and Fabric's tools give it, by the CKA_ID of the public key object with this point, by
// the point on the private key itself, or among those with the label.
func (s *session) findPrivateOf(key *bccsp.PublicKey, label string) (p11.ObjectHandle, error) {
	id := sha256.Sum256(key.Point())
	found, err := s.find(maxMatches, p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), p11.NewAttribute(p11.CKA_ID, id[:]))
	for _, point := range [][]byte{octetString(key.Point()), key.Point()} {
		if err == nil && len(found) == 0 {
			found, err = s.findPrivateByPoint(point)
		}
	}
	if err != nil {
		return 0, err
	}
	if len(found) == 0 && label != "" {
		return s.findLabelled(key, label)
	}
	if len(found) > 1 && label != "" {
		if found, err = s.withLabel(found, label); err != nil {
			return 0, err
		}
	}
	return one(found)
}

func one(found []p11.ObjectHandle) (p11.ObjectHandle, error) {
	switch len(found) {
	case 0:
		return 0, ErrKeyNotFound
	case 1:
		return found[0], nil
	}
	return 0, fmt.Errorf("%w: give each key pair a CKA_ID and a label of its own (pkcs11-tool --list-objects shows them)", ErrKeyAmbiguous)
}

// withLabel are the objects with the label, or with the CKA_ID of a name; all of them where
// none has it.
func (s *session) withLabel(objects []p11.ObjectHandle, label string) ([]p11.ObjectHandle, error) {
	template, err := named(p11.CKO_PRIVATE_KEY, label)
	if err != nil {
		return nil, err
	}
	labelled, err := s.find(maxMatches, template...)
	if err != nil {
		return nil, err
	}
	with := slices.DeleteFunc(slices.Clone(objects), func(o p11.ObjectHandle) bool { return !slices.Contains(labelled, o) })
	if len(with) == 0 {
		return objects, nil
	}
	return with, nil
}

// nameOf is a name by which a key that was found by its public half is found again.
func (s *session) nameOf(object p11.ObjectHandle, id []byte) (string, error) {
	label, err := s.attribute(object, p11.CKA_LABEL)
	if err != nil {
		return "", err
	}
	if name := string(label); name != "" && !namedByID(name) {
		return name, nil
	}
	return idPrefix + hex.EncodeToString(id), nil
}

// findLabelled finds the private key with the label that has the public half.
func (s *session) findLabelled(key *bccsp.PublicKey, label string) (p11.ObjectHandle, error) {
	template, err := named(p11.CKO_PRIVATE_KEY, label)
	if err != nil {
		return 0, err
	}
	labelled, err := s.find(maxMatches, template...)
	if err != nil {
		return 0, err
	}
	var found []p11.ObjectHandle
	other := ErrKeyNotFound
	for _, o := range labelled {
		id, err := s.attribute(o, p11.CKA_ID)
		if err != nil {
			return 0, err
		}
		public, err := s.publicHalf(id, o)
		if err != nil {
			other = fmt.Errorf("%w, and of %q: %w", ErrKeyNotFound, label, err)
			continue
		}
		if public.Equal(key) {
			found = append(found, o)
		} else {
			other = fmt.Errorf("%w: %q is key %s: give the certificate that was issued for it, or put the certificate's key into the token", ErrKeyNotFound, label, public.ID())
		}
	}
	if len(found) == 0 {
		return 0, other
	}
	return one(found)
}

func (s *session) findPrivateByPoint(point []byte) ([]p11.ObjectHandle, error) {
	publics, err := s.find(maxMatches, p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY), p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_EC_POINT, point))
	if err != nil {
		return nil, err
	}
	var ids [][]byte
	for _, object := range publics {
		id, err := s.attribute(object, p11.CKA_ID)
		if err != nil {
			return nil, err
		}
		if len(id) > 0 && !slices.ContainsFunc(ids, func(b []byte) bool { return string(b) == string(id) }) {
			ids = append(ids, id)
		}
	}
	var all []p11.ObjectHandle
	for _, id := range ids {
		found, err := s.find(maxMatches, p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), p11.NewAttribute(p11.CKA_ID, id))
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	if len(all) > 0 {
		return all, nil
	}
	return s.find(maxMatches, p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), p11.NewAttribute(p11.CKA_EC_POINT, point))
}

// SignerOf is Token.SignerOf on every token of the group that has the key. An error wraps
// ErrKeyNotFound when no token has it.
func (g *Group) SignerOf(ctx context.Context, public *bccsp.PublicKey, label string) (*bccsp.Signer, error) {
	key, err := g.keyOf(public.ID().String(), func(t *Token) (*privateKey, error) { return t.signingKeyOf(ctx, public, label, forIdentity) })
	if err != nil {
		return nil, err
	}
	return bccsp.NewSigner(key), nil
}

// TLSKeyOf is as SignerOf, for TLS handshakes.
func (g *Group) TLSKeyOf(ctx context.Context, public *bccsp.PublicKey, label string) (*bccsp.TLSKey, error) {
	key, err := g.keyOf(public.ID().String(), func(t *Token) (*privateKey, error) { return t.signingKeyOf(ctx, public, label, forTLS) })
	if err != nil {
		return nil, err
	}
	return bccsp.NewTLSKey(key), nil
}

// Retire is Token.Retire on all tokens of the group.
func (g *Group) Retire(public *bccsp.PublicKey) {
	for _, m := range g.members {
		m.token.Retire(public)
	}
}
