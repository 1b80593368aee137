package pkcs11_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
)

// software is a key outside the token, and a signature by it.
func software(t testing.TB, curve elliptic.Curve, digest []byte) (*bccsp.PublicKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := bccsp.NewPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest)
	if err != nil {
		t.Fatal(err)
	}
	return pub, sig
}

// lowS makes a software signature into one that Verify takes.
func lowS(curve elliptic.Curve, sig []byte) []byte {
	twin := bccsptest.Twin(curve, sig)
	a, _ := pkcs11.ParseStrict(curve, sig)
	b, _ := pkcs11.ParseStrict(curve, twin)
	if bytes.Compare(a[len(a)/2:], b[len(b)/2:]) <= 0 {
		return sig
	}
	return twin
}

func TestAgreesWithSoftware(t *testing.T) {
	ctx := context.Background()
	token := bccsptest.Open(t)
	digest := sha256.Sum256([]byte("message"))
	for _, curve := range curves {
		pub, sig := software(t, curve, digest[:])
		if err := token.Verify(ctx, pub, digest[:], lowS(curve, sig)); err != nil {
			t.Errorf("%s: the token refuses a software signature: %v", curve.Params().Name, err)
		}
		if err := token.VerifyX509(ctx, pub, digest[:], sig); err != nil {
			t.Errorf("%s: the token refuses a software signature: %v", curve.Params().Name, err)
		}
		if _, err := token.GenerateKey(ctx, curve.Params().Name, curve); err != nil {
			t.Fatal(err)
		}
		signer, err := token.Signer(ctx, curve.Params().Name)
		if err != nil {
			t.Fatal(err)
		}
		for range 8 {
			sig, err := signer.SignProposal(ctx, []byte("message"))
			if err != nil {
				t.Fatal(err)
			}
			if !ecdsa.VerifyASN1(signer.PublicKey().ECDSA(), digest[:], sig) || !bytes.Equal(lowS(curve, sig), sig) {
				t.Fatalf("%s: software refuses the token's signature, or its S is high: %x", curve.Params().Name, sig)
			}
		}
	}
}

func TestFindsTokenByLabelAndSerial(t *testing.T) {
	cfg := bccsptest.Config(t)
	token := bccsptest.OpenWith(t, cfg)
	info := token.Info()
	if info.Label != cfg.TokenLabel || info.Serial == "" || info.Library == "" || info.Manufacturer == "" {
		t.Errorf("info %+v", info)
	}
	cfg.TokenLabel, cfg.TokenSerial = "", info.Serial
	if got := bccsptest.OpenWith(t, cfg).Info().Label; got != info.Label {
		t.Errorf("by serial: token %q, want %q", got, info.Label)
	}
	cfg.TokenLabel = "no such token"
	if _, err := pkcs11.Open(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), info.Label) {
		t.Errorf("got %v, want an error that lists %q", err, info.Label)
	}
	cfg.Module = "/nowhere/lib.so"
	if _, err := pkcs11.Open(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "/nowhere/lib.so") {
		t.Errorf("got %v", err)
	}
	cfg.Module, _ = filepath.Abs("token_test.go")
	if _, err := pkcs11.Open(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "cannot be loaded") {
		t.Errorf("got %v", err)
	}
}

func TestRefusesTwoTokensWithOneLabel(t *testing.T) {
	cfg := bccsptest.Config(t)
	token := bccsptest.OpenWith(t, cfg) // keeps the module initialized
	if _, err := pkcs11.InitToken(cfg.Module, cfg.TokenLabel, []byte("so"), []byte("user")); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second token with one label: got %v", err)
	}
	// Another tool does not mind.
	module := p11.New(token.Info().Module)
	slots, err := module.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	free := slots[len(slots)-1]
	if err := module.InitToken(free, "5678", cfg.TokenLabel); err != nil {
		t.Fatal(err)
	}
	_, err = pkcs11.Open(context.Background(), cfg)
	if err == nil || strings.Count(err.Error(), cfg.TokenLabel) != 3 || !strings.Contains(err.Error(), token.Info().Serial) {
		t.Errorf("got %v, want an error that lists both tokens", err)
	}
	cfg.TokenSerial = token.Info().Serial
	bccsptest.OpenWith(t, cfg)
}

func TestRefusedPINIsNotTriedAgain(t *testing.T) {
	ctx, cfg := context.Background(), bccsptest.Config(t)
	right := cfg.PIN
	wrong := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(wrong, []byte("not-the-pin"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.PIN = pkcs11.PINSource{File: wrong}
	_, err := pkcs11.Open(ctx, cfg)
	var e *pkcs11.Error
	if !errors.Is(err, pkcs11.ErrPINRefused) || !errors.As(err, &e) || e.Name != "CKR_PIN_INCORRECT" || e.Class != pkcs11.ClassStop {
		t.Fatalf("got %v, want CKR_PIN_INCORRECT as ErrPINRefused", err)
	}
	if strings.Contains(err.Error(), "not-the-pin") {
		t.Errorf("the error shows the PIN: %v", err)
	}
	cfg.PIN = right
	if _, err := pkcs11.Open(ctx, cfg); !errors.Is(err, pkcs11.ErrPINRefused) || errors.As(err, &e) {
		t.Errorf("second attempt: got %v, want a refusal that does not come from the token", err)
	}
}

func TestKeysWithOneLabelAreRefused(t *testing.T) {
	ctx, token := context.Background(), bccsptest.Open(t)
	for range 2 {
		if _, err := token.MakeTwin(ctx, "twins", elliptic.P256(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := token.Signer(ctx, "twins"); err == nil || !strings.Contains(err.Error(), "several keys") {
		t.Errorf("got %v", err)
	}
	if _, err := token.GenerateKey(ctx, "twins", elliptic.P256()); !errors.Is(err, pkcs11.ErrKeyExists) {
		t.Errorf("got %v", err)
	}
	for _, label := range []string{"", strings.Repeat("x", 256)} {
		if _, err := token.GenerateKey(ctx, label, elliptic.P256()); err == nil {
			t.Errorf("took a label of %d bytes", len(label))
		}
	}
}

func TestWrappingKey(t *testing.T) {
	ctx, cfg := context.Background(), bccsptest.Config(t)
	token := bccsptest.OpenWith(t, cfg)
	if _, err := token.WrapKey(ctx, make([]byte, 32)); err == nil || !strings.Contains(err.Error(), "wrappingKeyLabel") {
		t.Errorf("without a wrapping key: got %v", err)
	}
	missing := cfg
	missing.WrappingKeyLabel = "w"
	if _, err := pkcs11.Open(ctx, missing); !errors.Is(err, pkcs11.ErrKeyNotFound) {
		t.Errorf("got %v, want ErrKeyNotFound", err)
	}
	if err := token.GenerateWrappingKey(ctx, "w"); err != nil {
		t.Fatal(err)
	}
	wrapped, err := token.WrapKey(ctx, bytes.Repeat([]byte{3}, 32))
	if err != nil {
		t.Fatal(err)
	}
	again := bccsptest.OpenWith(t, missing)
	if again.WrappingKeyID() != token.WrappingKeyID() || again.WrappingKeyID() == "" {
		t.Errorf("id %q, want %q", again.WrappingKeyID(), token.WrappingKeyID())
	}
	if key, err := again.UnwrapKey(ctx, wrapped); err != nil || key[0] != 3 {
		t.Error(err)
	}
	if err := token.GenerateWrappingKey(ctx, "w2"); err != nil {
		t.Fatal(err)
	}
	other := cfg
	other.WrappingKeyLabel = "w2"
	if _, err := bccsptest.OpenWith(t, other).UnwrapKey(ctx, wrapped); err == nil {
		t.Error("another key unwrapped")
	}
	if err := token.MakeLoose(ctx, "loose"); err != nil {
		t.Fatal(err)
	}
	other.WrappingKeyLabel = "loose"
	if _, err := pkcs11.Open(ctx, other); err == nil || !strings.Contains(err.Error(), "extractable true") {
		t.Errorf("a key that may leave the token: got %v", err)
	}
}

func TestCacheHoldsNoMoreThanItMay(t *testing.T) {
	ctx, cfg := context.Background(), bccsptest.Config(t)
	cfg.KeyCache, cfg.Sessions = 4, 4
	var imports atomic.Int64
	cfg.Observe = func(op string, _ time.Duration, err error) {
		if op == "import" {
			imports.Add(1)
		}
	}
	token := bccsptest.OpenWith(t, cfg)
	digest := sha256.Sum256([]byte("m"))
	type signed struct {
		pub *bccsp.PublicKey
		sig []byte
	}
	var all []signed
	for range 32 {
		pub, sig := software(t, elliptic.P256(), digest[:])
		all = append(all, signed{pub, sig})
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 64 {
				s := all[(g*7+i)%len(all)]
				if err := token.VerifyX509(ctx, s.pub, digest[:], s.sig); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	// Destroys run behind; each runs before an import that was asked for later.
	for {
		cached, objects, err := token.Imported(ctx)
		if err != nil || cached > 4 {
			t.Fatalf("%d keys cached, %v", cached, err)
		}
		if objects == cached {
			break
		}
	}
	// One key that many ask for at once is imported once.
	before := imports.Load()
	pub, sig := software(t, elliptic.P256(), digest[:])
	for range 16 {
		wg.Go(func() {
			if err := token.VerifyX509(ctx, pub, digest[:], sig); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := imports.Load() - before; n != 1 {
		t.Errorf("%d imports of one key", n)
	}
}

func TestTokensAreListed(t *testing.T) {
	cfg := bccsptest.Config(t)
	infos, err := pkcs11.Tokens(cfg.Module)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, info := range infos {
		if info.Label == cfg.TokenLabel {
			n++
			found, err := pkcs11.Find(cfg.Module, "", info.Serial)
			if err != nil || found.Label != cfg.TokenLabel {
				t.Errorf("found %+v, %v", found, err)
			}
		}
	}
	if n != 1 {
		t.Errorf("token %q is listed %d times: %+v", cfg.TokenLabel, n, infos)
	}
	if _, err := pkcs11.Find(cfg.Module, "", "no such serial"); err == nil {
		t.Error("found a token that is not there")
	}
}

// TestOneLibraryTakesOneString: C_Initialize is for the whole process.
func TestOneLibraryTakesOneString(t *testing.T) {
	cfg := bccsptest.Config(t)
	bccsptest.OpenWith(t, cfg)
	cfg.Reserved = "another"
	if _, err := pkcs11.Open(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "one library takes one string") {
		t.Errorf("got %v, want a refusal", err)
	}
}

// TestObserve sees that operations are reported by kind, false signatures as such.
func TestObserve(t *testing.T) {
	ctx, cfg := context.Background(), bccsptest.Config(t)
	var mu sync.Mutex
	seen, bad := make(map[string]int), 0
	cfg.Observe = func(op string, d time.Duration, err error) {
		mu.Lock()
		defer mu.Unlock()
		seen[op]++
		if errors.Is(err, bccsp.ErrBadSignature) {
			bad++
		}
		if d <= 0 || d > time.Minute {
			t.Errorf("%s took %s", op, d)
		}
	}
	token := bccsptest.OpenWith(t, cfg)
	mu.Lock()
	clear(seen)
	bad = 0
	mu.Unlock()
	digest := sha256.Sum256([]byte("m"))
	pub, sig := software(t, elliptic.P256(), digest[:])
	for i := range 4 {
		d := digest
		d[0] ^= byte(i % 2)
		_ = token.VerifyX509(ctx, pub, d[:], sig)
	}
	mu.Lock()
	defer mu.Unlock()
	if seen["verify"] != 4 || seen["import"] != 1 || bad != 2 || len(seen) != 2 {
		t.Errorf("observed %v, %d bad", seen, bad)
	}
}
