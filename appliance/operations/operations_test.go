package operations_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"strongroom/appliance/operations"
)

func serve(t *testing.T, prepare ...func(*operations.Server)) (*operations.Server, *operations.Metrics) {
	t.Helper()
	metrics := operations.NewMetrics()
	s, err := operations.Listen("127.0.0.1:0", metrics.Registry, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range prepare {
		f(s)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, metrics
}

func get(t *testing.T, s *operations.Server, path string) (int, string) {
	t.Helper()
	resp, err := http.Get("http://" + s.Address() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestHealthNamesWhatFailed(t *testing.T) {
	s, _ := serve(t)
	s.AddCheck("disk", func(context.Context) error { return nil })
	if code, body := get(t, s, "/healthz"); code != http.StatusOK {
		t.Fatalf("healthy node: %d %s", code, body)
	}
	s.AddCheck("hsm", func(context.Context) error { return errors.New("CKR_DEVICE_REMOVED") })
	code, body := get(t, s, "/healthz")
	var h operations.Health
	if err := json.Unmarshal([]byte(body), &h); err != nil {
		t.Fatal(err)
	}
	if code != http.StatusServiceUnavailable || h.Failed["hsm"] != "CKR_DEVICE_REMOVED" || len(h.Failed) != 1 {
		t.Fatalf("node without its HSM: %d %s", code, body)
	}
}

func TestHealthOfAHungPartIsRed(t *testing.T) {
	s, _ := serve(t)
	block := make(chan struct{})
	defer close(block)
	s.AddCheck("hsm", func(context.Context) error { <-block; return nil })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if h := s.Health(ctx); h.Status != "FAILED" || h.Failed["hsm"] == "" {
		t.Fatalf("hung part: %+v", h)
	}
}

func TestMetricsAndVersion(t *testing.T) {
	s, m := serve(t)
	m.HSM("verify", 1, nil)
	m.Height("main", 7)
	m.TokenUp("org1", true)
	m.TokenAlarm("org1", "up")
	if _, body := get(t, s, "/metrics"); !strings.Contains(body, `strongroom_ledger_height{channel="main"} 7`) ||
		!strings.Contains(body, `strongroom_hsm_up{token="org1"} 1`) || !strings.Contains(body, `strongroom_hsm_alarms_total{event="up",token="org1"} 1`) ||
		!strings.Contains(body, `strongroom_hsm_operation_seconds_count{operation="verify"} 1`) {
		t.Fatalf("metrics lack what was recorded:\n%s", body)
	}
	if code, body := get(t, s, "/version"); code != http.StatusOK || !strings.Contains(body, `"go":"go1.`) {
		t.Fatalf("version: %d %s", code, body)
	}
}

func TestProfilesAreServedOnlyWhenAsked(t *testing.T) {
	s, _ := serve(t)
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/profile", "/debug/pprof/trace"} {
		if code, _ := get(t, s, path); code != http.StatusNotFound {
			t.Errorf("%s without being asked for: %d", path, code)
		}
	}
	s, _ = serve(t, (*operations.Server).EnableProfiles)
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine?debug=1", "/debug/pprof/trace?seconds=0.01"} {
		if code, body := get(t, s, path); code != http.StatusOK || body == "" {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	if code, _ := get(t, s, "/debug/pprof/cmdline"); code == http.StatusOK {
		t.Error("the command line is served")
	}
}

func TestWarningsLeaveHealthGreen(t *testing.T) {
	s, m := serve(t)
	s.AddWarning(func() []string { return []string{"TLS certificate expires in 3 days"} })
	code, body := get(t, s, "/healthz")
	if code != http.StatusOK || !strings.Contains(body, `"warnings":["TLS certificate expires in 3 days"]`) {
		t.Fatalf("node with a warning: %d %s", code, body)
	}
	m.NotAfter("TLS", time.Unix(1_800_000_000, 0))
	if _, body := get(t, s, "/metrics"); !strings.Contains(body, `strongroom_certificate_not_after_seconds{certificate="TLS"} 1.8e+09`) {
		t.Fatalf("metrics lack the certificate's end:\n%s", body)
	}
}
