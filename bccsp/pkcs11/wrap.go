package pkcs11

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync/atomic"

	p11 "github.com/miekg/pkcs11"
)

const (
	wrappedKeySize = 32                 // of the keys that are wrapped, and of the wrapping key
	wrappedSize    = wrappedKeySize + 8 // RFC 3394 adds its integrity check
	maxRandom      = 64 << 10
)

// wrappingKey is an AES-256 key in the token.
type wrappingKey struct {
	label  string
	id     []byte // CKA_ID
	name   string // see WrappingKeyID
	handle atomic.Pointer[handle]
}

// keyWrap is CKM_AES_KEY_WRAP: AES key wrap with the default initial value (RFC 3394).
var keyWrap = []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_KEY_WRAP, nil)}

var errNoWrappingKey = errors.New("token has no wrapping key in use: make one with `strongroom token init` and set wrappingKeyLabel to its label")

func (t *Token) wrappingKey() *wrappingKey {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wrapping
}

// WrappingKeyID names the wrapping key: the token's serial number and the key's
// CKA_ID. It is "" when the token has no wrapping key in use.
func (t *Token) WrappingKeyID() string {
	if k := t.wrappingKey(); k != nil {
		return k.name
	}
	return ""
}

// Random returns n bytes, 1 to 65536, of the token's random generator.
func (t *Token) Random(ctx context.Context, n int) ([]byte, error) {
	if n < 1 || n > maxRandom {
		return nil, fmt.Errorf("%d random bytes asked for: ask for 1 to %d", n, maxRandom)
	}
	var out []byte
	err := t.ask(ctx, "random", func(s *session) (err error) {
		out, err = s.token.module.ctx.GenerateRandom(s.handle, n)
		return s.err("C_GenerateRandom", err)
	})
	if err != nil {
		return nil, err
	}
	if len(out) != n {
		return nil, fmt.Errorf("token gave %d random bytes, not %d", len(out), n)
	}
	return out, nil
}

// WrapKey wraps a 32-byte key with the wrapping key (RFC 3394): 40 bytes.
func (t *Token) WrapKey(ctx context.Context, key []byte) ([]byte, error) {
	if len(key) != wrappedKeySize {
		return nil, fmt.Errorf("key to wrap has %d bytes, not %d", len(key), wrappedKeySize)
	}
	k := t.wrappingKey()
	if k == nil {
		return nil, errNoWrappingKey
	}
	var out []byte
	err := t.withWrappingKey(ctx, k, "wrap", key, func(s *session, h p11.ObjectHandle, key []byte) (err error) {
		out, err = s.wrap(h, key)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("wrap with key %q: %w", k.label, err)
	}
	return out, nil
}

// UnwrapKey is the reverse of WrapKey. The result is the caller's to lock and wipe.
func (t *Token) UnwrapKey(ctx context.Context, wrapped []byte) ([]byte, error) {
	if len(wrapped) != wrappedSize {
		return nil, fmt.Errorf("wrapped key has %d bytes, not %d", len(wrapped), wrappedSize)
	}
	k := t.wrappingKey()
	if k == nil {
		return nil, errNoWrappingKey
	}
	var out []byte
	err := t.withWrappingKey(ctx, k, "unwrap", wrapped, func(s *session, h p11.ObjectHandle, wrapped []byte) (err error) {
		out, err = s.unwrap(h, wrapped)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("unwrap with key %q (%s): was it wrapped by this key, and is it unchanged? %w", k.label, k.name, err)
	}
	return out, nil
}

// withWrappingKey runs f with the key's handle and a copy of input that is wiped when
// f is done; the caller may have given up by then.
func (t *Token) withWrappingKey(ctx context.Context, k *wrappingKey, op string, input []byte, f func(*session, p11.ObjectHandle, []byte) error) error {
	return t.persist(ctx, func() error {
		h := k.handle.Load()
		if !t.current(h) {
			if err := t.findWrappingKeyAgain(ctx, k); err != nil {
				return err
			}
			h = k.handle.Load()
		}
		own := bytes.Clone(input)
		err := t.pool.doThen(ctx, op, func(s *session) error {
			if !t.current(h) {
				return errStale
			}
			if err := f(s, h.object, own); err != nil || t.current(h) {
				return err
			}
			return errStale
		}, func(error) { clear(own) })
		if classOf(err) == ClassHandle {
			k.handle.CompareAndSwap(h, new(handle))
		}
		return err
	})
}

// findWrappingKeyAgain replaces a stale handle, by that of the same key only.
func (t *Token) findWrappingKeyAgain(ctx context.Context, k *wrappingKey) error {
	again, err := t.findWrappingKey(ctx, k.label)
	if errors.Is(err, ErrKeyNotFound) {
		return fmt.Errorf("wrapping key %q: %w, and it is not found again", k.label, errStale)
	}
	if err != nil {
		return err
	}
	if !bytes.Equal(again.id, k.id) {
		return fmt.Errorf("wrapping key %q: the token has another key with this label: CKA_ID %x, not %x", k.label, again.id, k.id)
	}
	k.handle.Store(again.handle.Load())
	return nil
}

// wrap makes a session object of key and wraps it.
func (s *session) wrap(wrapping p11.ObjectHandle, key []byte) (out []byte, err error) {
	c := s.token.module.ctx
	object, err := s.importSecret(key, p11.NewAttribute(p11.CKA_EXTRACTABLE, true))
	if err != nil {
		return nil, err
	}
	defer func() { err = s.destroy(object, err) }()
	out, err = c.WrapKey(s.handle, keyWrap, wrapping, object)
	if err != nil {
		return nil, s.err("C_WrapKey", err)
	}
	if len(out) != len(key)+8 {
		return nil, fmt.Errorf("token made a wrapped key of %d bytes, not %d: it does not do RFC 3394", len(out), len(key)+8)
	}
	return out, nil
}

// importSecret makes a session object of a secret. The value stays the caller's to wipe.
func (s *session) importSecret(value []byte, more ...*p11.Attribute) (p11.ObjectHandle, error) {
	object, err := s.token.module.ctx.CreateObject(s.handle, append([]*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY),
		p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_AES),
		p11.NewAttribute(p11.CKA_TOKEN, false),
		p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_ENCRYPT, false),
		p11.NewAttribute(p11.CKA_DECRYPT, false),
		p11.NewAttribute(p11.CKA_VALUE, value),
	}, more...))
	return object, s.err("C_CreateObject", err)
}

// unwrap makes a session object of what was wrapped, reads it and destroys it.
func (s *session) unwrap(wrapping p11.ObjectHandle, wrapped []byte) (out []byte, err error) {
	c := s.token.module.ctx
	object, err := c.UnwrapKey(s.handle, keyWrap, wrapping, wrapped, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY),
		p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_AES),
		p11.NewAttribute(p11.CKA_TOKEN, false),
		p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, false),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, true),
		p11.NewAttribute(p11.CKA_ENCRYPT, false),
		p11.NewAttribute(p11.CKA_DECRYPT, false),
	})
	if err != nil {
		return nil, s.err("C_UnwrapKey", err)
	}
	defer func() { err = s.destroy(object, err) }()
	if out, err = s.attribute(object, p11.CKA_VALUE); err != nil {
		return nil, err
	}
	if len(out) != wrappedKeySize {
		clear(out)
		return nil, fmt.Errorf("token unwrapped a key of %d bytes, not %d", len(out), wrappedKeySize)
	}
	return out, nil
}

// destroy removes a session object. Its own error counts: a secret that stays in the
// session is one too many.
func (s *session) destroy(object p11.ObjectHandle, err error) error {
	failed := s.err("C_DestroyObject", s.token.module.ctx.DestroyObject(s.handle, object))
	if failed != nil && !s.anchor {
		s.close() // its objects end with it
	}
	return errors.Join(err, failed)
}

// findWrappingKey finds the wrapping key by its label and checks what protects it.
func (t *Token) findWrappingKey(ctx context.Context, label string) (*wrappingKey, error) {
	k := &wrappingKey{label: label}
	template, err := named(p11.CKO_SECRET_KEY, label)
	if err != nil {
		return nil, fmt.Errorf("wrapping key: %w", err)
	}
	err = t.pool.do(ctx, "find", func(s *session) error {
		object, err := s.findOne(template...)
		if err != nil {
			return err
		}
		return s.loadWrappingKey(k, object)
	})
	if errors.Is(err, ErrKeyNotFound) {
		return nil, fmt.Errorf("wrapping key %q: %w: make it with `strongroom token init`, or correct wrappingKeyLabel", label, err)
	}
	if err != nil {
		return nil, fmt.Errorf("wrapping key %q: %w", label, err)
	}
	return k, nil
}

func (s *session) loadWrappingKey(k *wrappingKey, object p11.ObjectHandle) error {
	at := s.token.epoch()
	kind, err := s.number(object, p11.CKA_KEY_TYPE)
	if err != nil {
		return err
	}
	size, err := s.number(object, p11.CKA_VALUE_LEN)
	if err != nil {
		return err
	}
	if kind != p11.CKK_AES || size != wrappedKeySize {
		return fmt.Errorf("it is no AES-256 key (CKA_KEY_TYPE 0x%X, %d bytes)", kind, size)
	}
	if err := s.checkSecret(object); err != nil {
		return err
	}
	if k.id, err = s.attribute(object, p11.CKA_ID); err != nil {
		return err
	}
	if len(k.id) == 0 {
		return errors.New("it has no CKA_ID, by which what it wrapped knows it: make a new key with `strongroom token init`")
	}
	k.name = s.token.info.Serial + "/" + hex.EncodeToString(k.id)
	k.handle.Store(&handle{object, at})
	return nil
}

// useWrappingKey tests the key and puts it to use.
func (t *Token) useWrappingKey(ctx context.Context, k *wrappingKey) error {
	if err := t.testWrappingKey(ctx, k); err != nil {
		return fmt.Errorf("wrapping key %q: self-test: %w", k.label, err)
	}
	t.mu.Lock()
	t.wrapping = k
	t.mu.Unlock()
	return nil
}

// testWrappingKey wraps and unwraps, sees that a changed byte is refused, and that the
// key does not come out wrapped by itself.
func (t *Token) testWrappingKey(ctx context.Context, k *wrappingKey) error {
	return t.pool.do(ctx, "selftest", func(s *session) error {
		h := k.handle.Load().object
		wrapped, err := s.wrap(h, katWrapData)
		if err != nil {
			return err
		}
		back, err := s.unwrap(h, wrapped)
		if err != nil {
			return err
		}
		if !bytes.Equal(back, katWrapData) {
			return errors.New("a key that was wrapped and unwrapped came back changed")
		}
		wrapped[len(wrapped)-1] ^= 1
		if _, err := s.unwrap(h, wrapped); err == nil {
			return errors.New("the token unwrapped a key that was changed: it does not check integrity")
		} else if c := classOf(err); c == ClassSession || c == ClassHandle || c == ClassModule {
			return err
		}
		return s.checkUnwrappable(h, h)
	})
}
