// Package sealtest wraps data keys without a token, for the tests of packages that
// seal. Its keys live in the test process: it protects nothing.
package sealtest

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"testing"

	"strongroom/ledger/seal"
)

// Wrapper is a bccsp.KeyWrapper (AES key wrap, RFC 3394) in memory. Its fields may
// be set before it is used. It is safe for concurrent use.
type Wrapper struct {
	ID   string
	Fail error // what every call gives, if it is set
	kek  cipher.Block
}

// NewWrapper returns a wrapper with a wrapping key of its own and an id.
func NewWrapper(t testing.TB, id string) *Wrapper {
	t.Helper()
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	return WrapperOf(t, id, key)
}

// WrapperOf returns a wrapper with a given wrapping key of 32 bytes, for tests over
// more than one process.
func WrapperOf(t testing.TB, id string, key []byte) *Wrapper {
	t.Helper()
	kek, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	return &Wrapper{ID: id, kek: kek}
}

// Keyring opens a keyring in a new folder and closes it at the end of the test.
func Keyring(t testing.TB) *seal.Keyring {
	t.Helper()
	return KeyringIn(t, t.TempDir(), NewWrapper(t, "wrapping key of a test"))
}

// KeyringIn opens a keyring and closes it at the end of the test.
func KeyringIn(t testing.TB, dir string, w *Wrapper) *seal.Keyring {
	t.Helper()
	k, err := seal.OpenKeyring(context.Background(), dir, w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// WrappingKeyID is the ID field.
func (w *Wrapper) WrappingKeyID() string { return w.ID }

// Random returns bytes of crypto/rand.
func (w *Wrapper) Random(_ context.Context, n int) ([]byte, error) {
	if w.Fail != nil {
		return nil, w.Fail
	}
	b := make([]byte, n)
	_, err := rand.Read(b)
	return b, err
}

const defaultIV = 0xa6a6a6a6a6a6a6a6 // RFC 3394 section 2.2.3.1

// WrapKey is RFC 3394 section 2.2.1.
func (w *Wrapper) WrapKey(_ context.Context, key []byte) ([]byte, error) {
	if w.Fail != nil {
		return nil, w.Fail
	}
	n := len(key) / 8
	if len(key)%8 != 0 || n < 2 {
		return nil, errors.New("a key of 16 bytes or more, in steps of 8, is needed")
	}
	out := make([]byte, 8+len(key))
	copy(out[8:], key)
	var block [16]byte
	a := uint64(defaultIV)
	for j := range 6 {
		for i := 1; i <= n; i++ {
			binary.BigEndian.PutUint64(block[:8], a)
			copy(block[8:], out[8*i:8*i+8])
			w.kek.Encrypt(block[:], block[:])
			a = binary.BigEndian.Uint64(block[:8]) ^ uint64(n*j+i)
			copy(out[8*i:], block[8:])
		}
	}
	binary.BigEndian.PutUint64(out, a)
	return out, nil
}

// UnwrapKey is RFC 3394 section 2.2.2.
func (w *Wrapper) UnwrapKey(_ context.Context, wrapped []byte) ([]byte, error) {
	if w.Fail != nil {
		return nil, w.Fail
	}
	n := len(wrapped)/8 - 1
	if len(wrapped)%8 != 0 || n < 2 {
		return nil, errors.New("wrapped key has a wrong length")
	}
	out := append([]byte(nil), wrapped[8:]...)
	var block [16]byte
	a := binary.BigEndian.Uint64(wrapped)
	for j := 5; j >= 0; j-- {
		for i := n; i >= 1; i-- {
			binary.BigEndian.PutUint64(block[:8], a^uint64(n*j+i))
			copy(block[8:], out[8*(i-1):8*i])
			w.kek.Decrypt(block[:], block[:])
			a = binary.BigEndian.Uint64(block[:8])
			copy(out[8*(i-1):], block[8:])
		}
	}
	var got, want [8]byte
	binary.BigEndian.PutUint64(got[:], a)
	binary.BigEndian.PutUint64(want[:], defaultIV)
	if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		return nil, errors.New("wrapped key was altered or is another wrapping key's")
	}
	return out, nil
}
