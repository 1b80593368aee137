package pkcs11_test

import (
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
)

// working signs, verifies and wraps.
func working(t *testing.T, token *pkcs11.Token, signer *bccsp.Signer) {
	t.Helper()
	ctx := context.Background()
	sig, err := signer.SignProposal(ctx, []byte("m"))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("m"))
	if err := token.Verify(ctx, signer.PublicKey(), digest[:], sig); err != nil {
		t.Fatal(err)
	}
	digest[0] ^= 1
	if err := token.Verify(ctx, signer.PublicKey(), digest[:], sig); !errors.Is(err, bccsp.ErrBadSignature) {
		t.Fatalf("got %v, want ErrBadSignature", err)
	}
	if _, err := token.WrapKey(ctx, make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	if err := token.Healthy(ctx); err != nil {
		t.Fatal(err)
	}
}

func signerIn(t *testing.T, token *pkcs11.Token) *bccsp.Signer {
	t.Helper()
	ctx := context.Background()
	if _, err := token.GenerateKey(ctx, "key", elliptic.P256()); err != nil {
		t.Fatal(err)
	}
	signer, err := token.Signer(ctx, "key")
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func TestLostSessionsAreReplaced(t *testing.T) {
	ctx, token := context.Background(), bccsptest.Open(t)
	signer := signerIn(t, token)
	for range 3 {
		if err := token.CloseSessions(ctx, pkcs11.DefaultSessions); err != nil {
			t.Fatal(err)
		}
		for range 2 * pkcs11.DefaultSessions {
			working(t, token, signer)
		}
	}
}

func TestLostAnchorIsReplaced(t *testing.T) {
	ctx, token := context.Background(), bccsptest.Open(t)
	signer := signerIn(t, token)
	working(t, token, signer)
	if err := token.CloseAnchor(ctx); err != nil { // takes the imported keys along
		t.Fatal(err)
	}
	working(t, token, signer)
}

func TestStaleHandlesAreFoundAgain(t *testing.T) {
	token := bccsptest.Open(t)
	signer := signerIn(t, token)
	token.Mislead()
	working(t, token, signer)
}

func TestHungCallCostsOneSession(t *testing.T) {
	t.Parallel()
	ctx, cfg := context.Background(), bccsptest.Config(t)
	patient := bccsptest.OpenWith(t, cfg)
	if err := patient.GenerateWrappingKey(ctx, "w"); err != nil {
		t.Fatal(err)
	}
	signerIn(t, patient)

	var waits atomic.Int64
	cfg.Sessions, cfg.CallTimeout, cfg.WrappingKeyLabel = 1, 2*time.Second, "w"
	cfg.PoolWait = func(time.Duration) { waits.Add(1) }
	token := bccsptest.OpenWith(t, cfg)
	signer, err := token.Signer(ctx, "key")
	if err != nil {
		t.Fatal(err)
	}

	entered, release := make(chan struct{}), make(chan struct{})
	err = token.Hang(ctx, entered, release)
	if !errors.Is(err, pkcs11.ErrTimeout) {
		t.Fatalf("got %v, want ErrTimeout", err)
	}
	working(t, token, signer) // on a fresh session
	close(release)

	// A caller that gives up gets its context's reason; its session hangs and is
	// replaced all the same.
	entered, release = make(chan struct{}), make(chan struct{})
	gone, cancel := context.WithCancelCause(ctx)
	reason := errors.New("client went away")
	go func() {
		<-entered
		cancel(reason)
	}()
	if err := token.Hang(gone, entered, release); !errors.Is(err, reason) {
		t.Fatalf("got %v, want %v", err, reason)
	}
	waits.Store(0)
	working(t, token, signer)
	if waits.Load() == 0 {
		t.Error("PoolWait was not called though the only session hung")
	}
	close(release)
}

func TestWaitingForASessionEndsWithTheContext(t *testing.T) {
	ctx, cfg := context.Background(), bccsptest.Config(t)
	cfg.Sessions = 1
	token := bccsptest.OpenWith(t, cfg)
	entered, release := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() { done <- token.Hang(ctx, entered, release) }()
	<-entered
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if _, err := token.Random(short, 8); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "idle session") {
		t.Errorf("got %v", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := token.Random(ctx, 8); err != nil {
		t.Error(err)
	}
}

func TestClosedTokenSaysSo(t *testing.T) {
	ctx, cfg := context.Background(), bccsptest.Config(t)
	token, err := pkcs11.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("m"))
	pub, sig := software(t, elliptic.P256(), digest[:])
	for range 2 {
		if err := token.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := token.Random(ctx, 8); !errors.Is(err, pkcs11.ErrClosed) {
		t.Errorf("random: got %v, want ErrClosed", err)
	}
	if err := token.VerifyX509(ctx, pub, digest[:], sig); !errors.Is(err, pkcs11.ErrClosed) {
		t.Errorf("verify: got %v, want ErrClosed", err)
	}
	// The module starts again for the next one.
	bccsptest.OpenWith(t, cfg)
}

func TestCloseDoesNotWaitForAHungCall(t *testing.T) {
	t.Parallel()
	ctx, cfg := context.Background(), bccsptest.Config(t)
	cfg.Sessions, cfg.CallTimeout = 1, 2*time.Second
	token, err := pkcs11.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	entered, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	hung, waits := make(chan error, 1), make(chan error, 1)
	go func() { hung <- token.Hang(ctx, entered, release) }()
	<-entered
	go func() {
		_, err := token.Random(ctx, 8)
		waits <- err
	}()
	if err := token.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-hung; !errors.Is(err, pkcs11.ErrTimeout) {
		t.Errorf("got %v, want ErrTimeout", err)
	}
	if err := <-waits; !errors.Is(err, pkcs11.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	// The module was not finalized under the hung call: other tokens can be opened.
	cfg.CallTimeout = 0
	if _, err := bccsptest.OpenWith(t, cfg).Random(ctx, 8); err != nil {
		t.Error(err)
	}
}
