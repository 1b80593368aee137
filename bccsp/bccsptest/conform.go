package bccsptest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"sync"
	"testing"

	"strongroom/bccsp"
	"strongroom/bccsp/pkcs11"
)

// Driver is what a driver of tokens offers, as *pkcs11.Token does.
type Driver interface {
	bccsp.Verifier
	bccsp.KeyWrapper
	GenerateKey(ctx context.Context, label string, curve elliptic.Curve) (*bccsp.PublicKey, error)
	Signer(ctx context.Context, label string) (*bccsp.Signer, error)
	TLSKey(ctx context.Context, label string) (*bccsp.TLSKey, error)
	Keys(ctx context.Context) ([]pkcs11.KeyInfo, error)
	Healthy(ctx context.Context) error
}

// Conform is the suite that every driver, and every device behind it, must pass. It
// calls open for each part: for a token with a wrapping key, with so many sessions and
// room for so many foreign keys, closed by t.Cleanup. It leaves its keys in the token,
// under labels that begin with "conform-".
func Conform(t *testing.T, open func(t testing.TB, sessions, keyCache int) Driver) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		t.Run("Signatures/"+curve.Params().Name, func(t *testing.T) { conformSignatures(t, open(t, 2, 16), curve) })
	}
	t.Run("KeyWrap", func(t *testing.T) { conformKeyWrap(t, open(t, 2, 16)) })
	t.Run("Keys", func(t *testing.T) { conformKeys(t, open(t, 2, 16)) })
	t.Run("Exhaustion", func(t *testing.T) { conformParallel(t, open(t, 1, 16), 3) })
	t.Run("Eviction", func(t *testing.T) { conformParallel(t, open(t, 4, 2), 8) })
}

func newConformKey(t testing.TB, d Driver, curve elliptic.Curve) (*bccsp.PublicKey, *bccsp.TLSKey) {
	t.Helper()
	ctx, label := context.Background(), newLabel("conform-"+rand.Text()[:8])
	pub, err := d.GenerateKey(ctx, label, curve)
	if err != nil {
		t.Fatal(err)
	}
	key, err := d.TLSKey(ctx, label)
	if err != nil {
		t.Fatal(err)
	}
	return pub, key
}

func conformSignatures(t *testing.T, d Driver, curve elliptic.Curve) {
	ctx := context.Background()
	pub, key := newConformKey(t, d, curve)
	other, _ := newConformKey(t, d, curve)
	short, long := sha256.Sum256([]byte("message")), sha512.Sum512([]byte("message"))
	digests := []struct {
		name   string
		digest []byte
		hash   crypto.Hash
	}{
		{"SHA-256", short[:], crypto.SHA256},
		{"SHA-512", long[:], crypto.SHA512}, // longer than either order: cut
	}
	for _, tt := range digests {
		// Half of a token's signatures have a high S before they are normalized.
		for range 8 {
			sig, err := key.Sign(nil, tt.digest, tt.hash)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Verify(ctx, pub, tt.digest, sig); err != nil {
				t.Fatalf("%s: own signature: %v", tt.name, err)
			}
			conformRefusals(t, d, pub, other, tt.digest, sig)
		}
	}
	for _, digest := range [][]byte{nil, {}, short[:20], append(long[:], 0)} {
		if err := d.Verify(ctx, pub, digest, []byte{0x30, 0}); err == nil || errors.Is(err, bccsp.ErrBadSignature) {
			t.Errorf("digest of %d bytes: got %v, want an error that is no verdict", len(digest), err)
		}
	}
}

// conformRefusals takes a good signature and spoils it in all the ways.
func conformRefusals(t *testing.T, d Driver, pub, other *bccsp.PublicKey, digest, sig []byte) {
	t.Helper()
	ctx := context.Background()
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, bccsp.ErrBadSignature) {
			t.Errorf("%s: got %v, want ErrBadSignature", what, err)
		}
	}
	twin := Twin(pub.Curve(), sig)
	refused("high-S twin", d.Verify(ctx, pub, digest, twin))
	for _, s := range [][]byte{sig, twin} {
		if err := d.VerifyX509(ctx, pub, digest, s); err != nil {
			t.Errorf("X.509 signature: %v", err)
		}
	}
	refused("another key", d.Verify(ctx, other, digest, sig))
	refused("another key, X.509", d.VerifyX509(ctx, other, digest, sig))

	changed := bytes.Clone(digest)
	changed[0] ^= 0x80
	refused("changed digest", d.Verify(ctx, pub, changed, sig))
	if n := (pub.Curve().Params().BitSize + 7) / 8; len(digest) > n {
		// Beyond the order's size nothing counts (FIPS 186-5 section 6.4.2).
		changed = bytes.Clone(digest)
		changed[n] ^= 1
		if err := d.Verify(ctx, pub, changed, sig); err != nil {
			t.Errorf("digest changed after the order's size: %v", err)
		}
	}
	for _, at := range []int{0, 1, 3, 8, len(sig) - 1} {
		changed = bytes.Clone(sig)
		changed[at] ^= 1
		refused(fmt.Sprintf("bit flipped in byte %d", at), d.Verify(ctx, pub, digest, changed))
		refused(fmt.Sprintf("bit flipped in byte %d, X.509", at), d.VerifyX509(ctx, pub, digest, changed))
	}
	for _, bad := range [][]byte{nil, {0x30}, {0x30, 0}, {0x30, 6, 2, 1, 0, 2, 1, 0}, {0x30, 6, 2, 1, 1, 2, 1, 0xff}, sig[:len(sig)-1]} {
		refused(fmt.Sprintf("signature %x", bad), d.Verify(ctx, pub, digest, bad))
		refused(fmt.Sprintf("signature %x, X.509", bad), d.VerifyX509(ctx, pub, digest, bad))
	}
	refused("bytes after the signature, X.509", d.VerifyX509(ctx, pub, digest, append(bytes.Clone(sig), 0)))
	if err := d.Verify(ctx, pub, digest, append(bytes.Clone(sig), 0)); err != nil {
		t.Errorf("bytes after the signature, which Fabric allows: %v", err)
	}
}

func conformKeyWrap(t *testing.T, d Driver) {
	ctx := context.Background()
	key, err := d.Random(ctx, 32)
	if err != nil || len(key) != 32 {
		t.Fatalf("random: %d bytes, %v", len(key), err)
	}
	again, err := d.Random(ctx, 32)
	if err != nil || bytes.Equal(key, again) {
		t.Fatalf("random came twice the same, %v", err)
	}
	wrapped, err := d.WrapKey(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	if len(wrapped) != 40 || bytes.Contains(wrapped, key[:8]) {
		t.Fatalf("wrapped key is no RFC 3394 of 32 bytes: %x", wrapped)
	}
	back, err := d.UnwrapKey(ctx, wrapped)
	if err != nil || !bytes.Equal(back, key) {
		t.Fatalf("unwrapped: equal %t, %v", bytes.Equal(back, key), err)
	}
	for i := range wrapped {
		changed := bytes.Clone(wrapped)
		changed[i] ^= 1
		if out, err := d.UnwrapKey(ctx, changed); err == nil {
			t.Fatalf("unwrapped a key changed in byte %d: %d bytes", i, len(out))
		}
	}
	for _, n := range []int{0, 16, 31, 33} {
		if _, err := d.WrapKey(ctx, make([]byte, n)); err == nil {
			t.Errorf("wrapped a key of %d bytes", n)
		}
	}
	for _, n := range []int{0, 24, 39, 41} {
		if _, err := d.UnwrapKey(ctx, make([]byte, n)); err == nil {
			t.Errorf("unwrapped %d bytes", n)
		}
	}
	if _, err := d.Random(ctx, 0); err == nil {
		t.Error("gave 0 random bytes")
	}
	if d.WrappingKeyID() == "" {
		t.Error("the wrapping key has no id")
	}
	if err := d.Healthy(ctx); err != nil {
		t.Error(err)
	}
}

func conformKeys(t *testing.T, d Driver) {
	ctx := context.Background()
	label := newLabel("conform-" + rand.Text()[:8])
	pub, err := d.GenerateKey(ctx, label, elliptic.P384())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.GenerateKey(ctx, label, elliptic.P256()); !errors.Is(err, pkcs11.ErrKeyExists) {
		t.Errorf("second key with one label: got %v, want ErrKeyExists", err)
	}
	if _, err := d.GenerateKey(ctx, label+"b", elliptic.P521()); err == nil {
		t.Error("made a key on P-521")
	}
	if _, err := d.Signer(ctx, label+"b"); !errors.Is(err, pkcs11.ErrKeyNotFound) {
		t.Errorf("key that is not there: got %v, want ErrKeyNotFound", err)
	}
	signer, err := d.Signer(ctx, label)
	if err != nil {
		t.Fatal(err)
	}
	if !signer.PublicKey().Equal(pub) {
		t.Error("the signer's public key is not the one that was made")
	}
	if _, err := d.TLSKey(ctx, label); err == nil {
		t.Error("an identity's key serves TLS")
	}
	keys, err := d.Keys(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ski := sha256.Sum256(pub.Point())
	found := false
	for _, k := range keys {
		if !k.Protected {
			t.Errorf("key %q may leave the token", k.Label)
		}
		if k.Label == label {
			found = k.Type == "P-384" && k.ID == fmt.Sprintf("%x", ski)
		}
	}
	if !found {
		t.Errorf("key %q with id %x is not listed: %v", label, ski, keys)
	}
}

// conformParallel has many goroutines sign and verify with several keys at once.
func conformParallel(t *testing.T, d Driver, keys int) {
	ctx := context.Background()
	pubs, privs := make([]*bccsp.PublicKey, keys), make([]*bccsp.TLSKey, keys)
	for i := range keys {
		pubs[i], privs[i] = newConformKey(t, d, elliptic.P256())
	}
	digest := sha256.Sum256([]byte("parallel"))
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 24 {
				k := (g + i) % keys
				sig, err := privs[k].Sign(nil, digest[:], crypto.SHA256)
				if err != nil {
					t.Error(err)
					return
				}
				if err := d.Verify(ctx, pubs[k], digest[:], sig); err != nil {
					t.Errorf("key %d: %v", k, err)
				}
				if err := d.Verify(ctx, pubs[(k+1)%keys], digest[:], sig); !errors.Is(err, bccsp.ErrBadSignature) {
					t.Errorf("signature of key %d under key %d: got %v, want ErrBadSignature", k, (k+1)%keys, err)
				}
			}
		})
	}
	wg.Wait()
}
