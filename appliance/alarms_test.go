package appliance

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"strongroom/appliance/config"
	"strongroom/appliance/operations"
	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
)

// value is a metric's, 0 where it is not there.
func value(t *testing.T, m *operations.Metrics, name string, labels map[string]string) float64 {
	t.Helper()
	families, err := m.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, metric := range f.GetMetric() {
			match := true
			for _, l := range metric.GetLabel() {
				match = match && labels[l.GetName()] == l.GetValue()
			}
			if match {
				return metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// TestAlarmsAreLoggedAndCounted: what the documentation has operators watch.
func TestAlarmsAreLoggedAndCounted(t *testing.T) {
	var text bytes.Buffer
	m := operations.NewMetrics()
	alarm := alarms(slog.New(slog.NewTextHandler(&text, nil)), m, "org1")
	for _, step := range []struct {
		event pkcs11.Event
		up    float64
	}{{pkcs11.EventUp, 1}, {pkcs11.EventFailed, 1}, {pkcs11.EventHung, 1}, {pkcs11.EventDown, 0}, {pkcs11.EventUp, 1}, {pkcs11.EventStopped, 0}} {
		alarm(step.event, errors.New("the reason"))
		if got := value(t, m, "strongroom_hsm_up", map[string]string{"token": "org1"}); got != step.up {
			t.Errorf("after %s: up is %g, want %g", step.event, got, step.up)
		}
	}
	if n := value(t, m, "strongroom_hsm_alarms_total", map[string]string{"token": "org1", "event": "up"}); n != 2 {
		t.Errorf("%g alarms with event up, want 2", n)
	}
	for _, want := range []string{"token alarm", "event=stopped", "the reason"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, text.String())
		}
	}
}

// TestFalseSignaturesAreNoFailures: nobody is woken for what clients send.
func TestFalseSignaturesAreNoFailures(t *testing.T) {
	ctx, made, m := context.Background(), bccsptest.Config(t), operations.NewMetrics()
	tokens, err := OpenTokens(ctx, config.Token{Module: made.Module, Label: made.TokenLabel, PIN: config.PIN{File: made.PIN.File}}, nil, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tokens.Close()
	if value(t, m, "strongroom_hsm_up", map[string]string{"token": made.TokenLabel}) != 1 {
		t.Error("an open token is not up")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := bccsp.NewPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("m"))
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	before := value(t, m, "strongroom_hsm_errors_total", map[string]string{"operation": "verify"})
	digest[0] ^= 1
	if err := tokens.VerifyX509(ctx, pub, digest[:], sig); !errors.Is(err, bccsp.ErrBadSignature) {
		t.Fatalf("got %v, want ErrBadSignature", err)
	}
	if n := value(t, m, "strongroom_hsm_errors_total", map[string]string{"operation": "verify"}); n != before {
		t.Errorf("a false signature is counted as a failure")
	}
}
