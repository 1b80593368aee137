// Package operations is a node's HTTP endpoint for its operators: health, metrics
// and version. It tells nothing about transactions and takes no commands.
package operations

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"strongroom/appliance/version"
)

// checkTimeout bounds each health check, so that a hung HSM turns health red
// instead of hanging it.
const checkTimeout = 3 * time.Second

// Check reports what is wrong with one part of the node, or nil.
type Check func(ctx context.Context) error

// Server is the endpoint. It is safe for concurrent use.
type Server struct {
	log      *slog.Logger
	listener net.Listener
	http     *http.Server
	mux      *http.ServeMux

	mu       sync.Mutex
	checks   map[string]Check  // guarded by mu
	warnings []func() []string // guarded by mu
}

// Listen binds the address; Serve answers on it.
func Listen(address string, registry *prometheus.Registry, log *slog.Logger) (*Server, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("operations.address: %w", err)
	}
	mux := http.NewServeMux()
	s := &Server{log: log, listener: listener, mux: mux, checks: map[string]Check{}}
	mux.HandleFunc("GET /healthz", s.health)
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, version.Read())
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second}
	return s, nil
}

// EnableProfiles adds Go's profiles under /debug/pprof/, for whoever reaches the
// endpoint. They show where the node spends time and memory, no contents; taking one
// costs time. The server's write timeout bounds one to 30 s. Call it before Serve.
func (s *Server) EnableProfiles() {
	for pattern, handler := range map[string]http.HandlerFunc{
		"GET /debug/pprof/":        pprof.Index,
		"GET /debug/pprof/profile": pprof.Profile,
		"GET /debug/pprof/trace":   pprof.Trace,
		"GET /debug/pprof/symbol":  pprof.Symbol,
	} {
		s.mux.HandleFunc(pattern, handler)
	}
	s.log.Warn("profiles are served on the operations endpoint: turn operations.pprof off when they are not needed")
}

// Address is where the server listens.
func (s *Server) Address() string { return s.listener.Addr().String() }

// AddCheck adds a named part to /healthz.
func (s *Server) AddCheck(name string, check Check) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks[name] = check
}

// AddWarning adds a source of what an operator should look at in time. Warnings do
// not turn health red. warn must not block: it reads what the node knows.
func (s *Server) AddWarning(warn func() []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.warnings = append(s.warnings, warn)
}

// Serve answers until ctx ends.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.http.Close() })
	defer stop()
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Health is the answer of /healthz.
type Health struct {
	Status string            `json:"status"` // OK or FAILED
	Time   time.Time         `json:"time"`
	Failed map[string]string `json:"failed,omitempty"` // part → what is wrong
	Parts  []string          `json:"parts"`
	// Warnings need an operator in time: the node works, and Status is OK in spite of them.
	Warnings []string `json:"warnings,omitempty"`
}

// Health runs all checks, side by side.
func (s *Server) Health(ctx context.Context) Health {
	s.mu.Lock()
	checks := make(map[string]Check, len(s.checks))
	for name, check := range s.checks {
		checks[name] = check
	}
	warnings := slices.Clone(s.warnings)
	s.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	type result struct {
		name string
		err  error
	}
	results := make(chan result, len(checks))
	h := Health{Status: "OK", Time: time.Now().UTC(), Failed: map[string]string{}}
	for name, check := range checks {
		h.Parts = append(h.Parts, name)
		go func() { results <- result{name, check(ctx)} }()
	}
	sort.Strings(h.Parts)
	for _, warn := range warnings {
		h.Warnings = append(h.Warnings, warn()...)
	}
	pending := map[string]bool{}
	for name := range checks {
		pending[name] = true
	}
	for len(pending) > 0 {
		select {
		case r := <-results:
			delete(pending, r.name)
			if r.err != nil {
				h.Failed[r.name] = r.err.Error()
			}
		case <-ctx.Done():
			for name := range pending {
				h.Failed[name] = "no answer within " + checkTimeout.String()
			}
			clear(pending)
		}
	}
	if len(h.Failed) > 0 {
		h.Status = "FAILED"
	}
	return h
}

func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	h := s.Health(r.Context())
	code := http.StatusOK
	if h.Status != "OK" {
		code = http.StatusServiceUnavailable
		s.log.Warn("health check failed", "failed", h.Failed)
	}
	reply(w, code, h)
}

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}
