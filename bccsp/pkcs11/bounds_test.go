package pkcs11_test

import (
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"flag"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"strongroom/bccsp/bccsptest"
)

// Allocations of one operation through the pool, hashing and DER included; most are the
// binding's. A change that needs more raises the bound knowingly.
const (
	maxSignAllocs   = 9
	maxVerifyAllocs = 6
)

func TestAllocationsAreBounded(t *testing.T) {
	ctx, token := context.Background(), bccsptest.Open(t)
	if _, err := token.GenerateKey(ctx, "k", elliptic.P256()); err != nil {
		t.Fatal(err)
	}
	signer, err := token.Signer(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("m")
	digest := sha256.Sum256(message)
	sig, err := signer.SignProposal(ctx, message)
	if err != nil {
		t.Fatal(err)
	}
	sign := func() {
		if _, err := signer.SignProposal(ctx, message); err != nil {
			t.Fatal(err)
		}
	}
	verify := func() {
		if err := token.Verify(ctx, signer.PublicKey(), digest[:], sig); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		sign()
		verify()
	}
	before := liveHeap()
	if !raceEnabled { // the race detector's own allocations count too
		if n := testing.AllocsPerRun(500, sign); n > maxSignAllocs {
			t.Errorf("a signature takes %.1f allocations, at most %d are allowed", n, maxSignAllocs)
		}
		if n := testing.AllocsPerRun(500, verify); n > maxVerifyAllocs {
			t.Errorf("a verification takes %.1f allocations, at most %d are allowed", n, maxVerifyAllocs)
		}
	}
	for range 4000 {
		sign()
		verify()
	}
	if grown := liveHeap() - before; grown > 64<<10 {
		t.Errorf("after 9,000 operations %d bytes more are alive: they are kept", grown)
	}
}

func liveHeap() int64 {
	runtime.GC()
	runtime.GC() // what finalizers and pools kept
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

var distinct = flag.Int("distinct", 20_000, "certificates of TestResidentKeysAreBounded")

// TestResidentKeysAreBounded verifies under many public keys, each once, as a peer does
// that sees as many certificates: the token never holds more than the cache's size and
// what is on its way.
func TestResidentKeysAreBounded(t *testing.T) {
	const workers, room = 8, 64
	ctx, cfg := context.Background(), bccsptest.Config(t)
	cfg.KeyCache = room
	var evicted atomic.Int64
	cfg.Observe = func(op string, _ time.Duration, _ error) {
		if op == "destroy" {
			evicted.Add(1)
		}
	}
	token := bccsptest.OpenWith(t, cfg)
	var wg sync.WaitGroup
	var done atomic.Int64
	for range workers {
		wg.Go(func() {
			for done.Add(1) <= int64(*distinct) {
				digest := sha256.Sum256([]byte("m"))
				pub, sig := software(t, elliptic.P256(), digest[:])
				if err := token.VerifyX509(ctx, pub, digest[:], sig); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	finished := make(chan struct{})
	go func() {
		wg.Wait()
		close(finished)
	}()
	most := 0
	look := func() {
		cached, objects, err := token.Imported(ctx)
		if err != nil {
			t.Error(err)
		}
		most = max(most, objects)
		if cached > room || objects > room+2*workers {
			t.Errorf("%d keys are cached and %d are in the token, with room for %d", cached, objects, room)
		}
	}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for running := true; running; {
		select {
		case <-finished:
			running = false
		case <-ticker.C:
		}
		look()
	}
	deadline := time.Now().Add(10 * time.Second)
	for evicted.Load() < int64(*distinct-room) && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if n := evicted.Load(); n < int64(*distinct-room) {
		t.Errorf("%d keys of %d were destroyed", n, *distinct)
	}
	t.Logf("%d public keys: at most %d in the token at a time", *distinct, most)
}
