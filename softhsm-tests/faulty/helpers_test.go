package faulty_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
	"strongroom/softhsm-tests/faulty"
)

// module is built before the first test, and is the module of all tokens here.
var module, second *faulty.Module

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "strongroom-faulty-")
	if err == nil {
		defer os.RemoveAll(dir)
		real := os.Getenv("FAULTY_MODULE")
		if real == "" {
			real = realModule()
		}
		if module, err = faulty.Build(dir, real); err == nil {
			second, err = faulty.BuildCopy(dir, real)
		}
	}
	if err == nil {
		err = os.Setenv("SOFTHSM2_MODULE", module.Path)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// realModule is the SoftHSM that bccsptest would find.
func realModule() string {
	var found finder
	return bccsptest.Module(&found)
}

// finder lets bccsptest.Module speak outside of a test.
type finder struct{ testing.TB }

func (*finder) Helper() {}
func (*finder) Fatal(args ...any) {
	fmt.Fprintln(os.Stderr, args...)
	os.Exit(1)
}

// bench is a token with keys in use, and messages with known verdicts.
type bench struct {
	cfg    pkcs11.Config
	token  *pkcs11.Token
	signer *bccsp.Signer
	good   []sample

	mu     sync.Mutex
	events []pkcs11.Event
}

// sample is a signature by a foreign key.
type sample struct {
	key    *bccsp.PublicKey
	digest [32]byte
	sig    []byte
}

func (b *bench) alarm(e pkcs11.Event, _ error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, e)
}

func (b *bench) saw(e pkcs11.Event) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, x := range b.events {
		if x == e {
			return true
		}
	}
	return false
}

// newBench makes a token with a signing key, a neighbour of it, and a wrapping key.
func newBench(t testing.TB, change func(*pkcs11.Config)) *bench {
	t.Helper()
	ctx := context.Background()
	set(t, module)
	b := &bench{cfg: bccsptest.Config(t)}
	maker, err := pkcs11.Open(ctx, b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, label := range []string{"before", "key", "after"} {
		if _, err := maker.GenerateKey(ctx, label, elliptic.P256()); err != nil {
			t.Fatal(err)
		}
	}
	if err := maker.GenerateWrappingKey(ctx, "wrapping"); err != nil {
		t.Fatal(err)
	}
	if err := maker.Close(); err != nil {
		t.Fatal(err)
	}
	b.cfg.WrappingKeyLabel, b.cfg.Sessions, b.cfg.CallTimeout, b.cfg.Alarm = "wrapping", 4, 2*time.Second, b.alarm
	if change != nil {
		change(&b.cfg)
	}
	b.open(t)
	for range 3 {
		b.good = append(b.good, newSample(t))
	}
	t.Cleanup(func() {
		set(t, module)
		if err := b.token.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bench) open(t testing.TB) {
	t.Helper()
	var err error
	if b.token, err = pkcs11.Open(context.Background(), b.cfg); err != nil {
		t.Fatal(err)
	}
	if b.signer, err = b.token.Signer(context.Background(), "key"); err != nil {
		t.Fatal(err)
	}
}

func newSample(t testing.TB) sample {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var s sample
	if s.key, err = bccsp.NewPublicKey(&key.PublicKey); err != nil {
		t.Fatal(err)
	}
	if _, err := rand.Read(s.digest[:]); err != nil {
		t.Fatal(err)
	}
	if s.sig, err = ecdsa.SignASN1(rand.Reader, key, s.digest[:]); err != nil {
		t.Fatal(err)
	}
	return s
}

func set(t testing.TB, m *faulty.Module, rules ...faulty.Rule) {
	t.Helper()
	if err := m.Set(rules...); err != nil {
		t.Fatal(err)
	}
}

// round does one of each operation and returns what failed. A wrong answer is fatal: no
// fault may change a verdict, or have a false signature given out.
func (b *bench) round(ctx context.Context, t testing.TB, n int) (failed []error) {
	note := func(err error) {
		if err != nil {
			failed = append(failed, err)
		}
	}
	message := []byte(fmt.Sprint("message ", n))
	sig, err := b.signer.SignProposal(ctx, message)
	if digest := sha256.Sum256(message); err == nil && !ecdsa.VerifyASN1(b.signer.PublicKey().ECDSA(), digest[:], sig) {
		t.Errorf("signature over %q is false", message)
	}
	note(err)
	s := b.good[n%len(b.good)]
	if err := b.token.VerifyX509(ctx, s.key, s.digest[:], s.sig); errors.Is(err, bccsp.ErrBadSignature) {
		t.Errorf("a good signature became bad: %v", err)
	} else {
		note(err)
	}
	s.digest[0] ^= 1
	if err := b.token.VerifyX509(ctx, s.key, s.digest[:], s.sig); err == nil {
		t.Error("a bad signature became good")
	} else if !errors.Is(err, bccsp.ErrBadSignature) {
		note(err)
	}
	secret := sha256.Sum256(message)
	wrapped, err := b.token.WrapKey(ctx, secret[:])
	note(err)
	if err == nil {
		back, err := b.token.UnwrapKey(ctx, wrapped)
		note(err)
		if err == nil && [32]byte(back) != secret {
			t.Error("a key came back changed")
		}
	}
	_, err = b.token.Random(ctx, 16)
	note(err)
	return failed
}

// rounds does n rounds from each of several goroutines.
func (b *bench) rounds(t testing.TB, workers, n int, limit time.Duration) (failed []error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range n {
				f := b.round(ctx, t, w*n+i)
				mu.Lock()
				failed = append(failed, f...)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return failed
}

// serves waits until the token does all of its work again.
func (b *bench) serves(t testing.TB, within time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		err := b.token.Healthy(ctx)
		failed := b.round(ctx, t, 1)
		cancel()
		if err == nil && len(failed) == 0 {
			return time.Since(began)
		}
		if time.Since(began) > within {
			t.Fatalf("not back within %s: health %v, operations %v", within, err, errors.Join(failed...))
		}
		time.Sleep(5 * time.Millisecond)
	}
}
