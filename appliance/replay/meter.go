package replay

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"strongroom/bccsp"
)

// meter counts the signatures that the token checks, and keeps one that was good for
// the baseline. It judges nothing: the token does.
type meter struct {
	token  bccsp.Verifier
	checks atomic.Uint64
	kept   atomic.Bool
	mu     sync.Mutex // guards sample
	sample *sample
}

// sample is a good signature of the channel.
type sample struct {
	key         *bccsp.PublicKey
	digest, sig []byte
}

func (m *meter) Verify(ctx context.Context, key *bccsp.PublicKey, digest, sig []byte) error {
	err := m.token.Verify(ctx, key, digest, sig)
	m.checks.Add(1)
	if err == nil && !m.kept.Load() && m.kept.CompareAndSwap(false, true) {
		m.mu.Lock()
		m.sample = &sample{key, bytes.Clone(digest), bytes.Clone(sig)}
		m.mu.Unlock()
	}
	return err
}

func (m *meter) VerifyX509(ctx context.Context, key *bccsp.PublicKey, digest, sig []byte) error {
	err := m.token.VerifyX509(ctx, key, digest, sig)
	m.checks.Add(1)
	return err
}

func (m *meter) good() *sample {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sample
}

// poolRate checks the sample over and over through the session pool, and returns how
// many were checked in how long.
func (m *meter) poolRate(ctx context.Context, s *sample, callers int, d time.Duration) (uint64, time.Duration, error) {
	var done atomic.Uint64
	var wg sync.WaitGroup
	errs := make([]error, callers)
	began := time.Now()
	for i := range callers {
		wg.Go(func() {
			for time.Since(began) < d && errs[i] == nil {
				if errs[i] = m.token.Verify(ctx, s.key, s.digest, s.sig); errs[i] == nil {
					done.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return done.Load(), time.Since(began), errors.Join(errs...)
}

// peakMemory is the most memory that this process has had resident, in bytes, as
// Linux counts it (VmHWM); 0 where it does not tell.
func peakMemory() uint64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, rest, ok := bytes.Cut(status, []byte("VmHWM:"))
	if !ok {
		return 0
	}
	fields := bytes.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kib, err := strconv.ParseUint(string(fields[0]), 10, 64)
	if err != nil {
		return 0
	}
	return kib << 10
}

// machineLoad is the system's load average over one minute, as it says itself.
func machineLoad() float64 {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := bytes.Cut(raw, []byte(" "))
	load, err := strconv.ParseFloat(string(first), 64)
	if err != nil {
		return 0
	}
	return load
}
