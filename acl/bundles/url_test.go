package bundles_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"strongroom/acl/bundles"
	"strongroom/policy/bundle"
)

// web serves the node's source file, as a web server with ETags does.
type web struct {
	*httptest.Server
	full, same, failing atomic.Int64
	fail                atomic.Pointer[http.HandlerFunc]
}

func newWeb(t *testing.T, n *node) *web {
	t.Helper()
	w := &web{}
	w.Server = httptest.NewTLSServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if f := w.fail.Load(); f != nil {
			w.failing.Add(1)
			(*f)(out, r)
			return
		}
		info, err := os.Stat(n.source)
		if err != nil {
			http.NotFound(out, r)
			return
		}
		out.Header().Set("ETag", `"`+info.ModTime().Format(time.RFC3339Nano)+`"`)
		if r.Header.Get("If-None-Match") == out.Header().Get("ETag") {
			w.same.Add(1)
		} else {
			w.full.Add(1)
		}
		http.ServeFile(out, r, n.source)
	}))
	t.Cleanup(w.Close)
	return w
}

func (w *web) trusted() *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(w.Certificate())
	return &tls.Config{RootCAs: roots}
}

func (w *web) source(t *testing.T) *bundles.URL {
	t.Helper()
	u, err := bundles.NewURL(w.URL+"/bundle.tar.gz", w.trusted())
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestURL takes bundles from a web server: what has not changed is not sent again, and
// whatever the server does, the bundle in force stays.
func TestURL(t *testing.T) {
	n := newNode(t)
	n.offer(t, 1, rules("a"))
	w := newWeb(t, n)
	c := n.config()
	c.Source = w.source(t)
	k := open(t, c)
	for range 3 {
		if err := k.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if w.full.Load() != 1 || w.same.Load() != 3 || !n.allows("a") {
		t.Errorf("sent %d times, unchanged %d times", w.full.Load(), w.same.Load())
	}
	answer := func(h http.HandlerFunc) { w.fail.Store(&h) }
	for name, h := range map[string]http.HandlerFunc{
		"an error": func(out http.ResponseWriter, _ *http.Request) { http.Error(out, "no", http.StatusInternalServerError) },
		"a redirect": func(out http.ResponseWriter, r *http.Request) {
			http.Redirect(out, r, "https://192.0.2.1/", http.StatusFound)
		},
		"too much": func(out http.ResponseWriter, _ *http.Request) {
			out.WriteHeader(http.StatusOK)
			for range bundle.MaxArchive>>20 + 1 {
				if _, err := out.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		},
		"half of it": func(out http.ResponseWriter, _ *http.Request) {
			out.Header().Set("Content-Length", "1000")
			_, _ = out.Write([]byte("half"))
		},
	} {
		answer(h)
		if err := k.Refresh(t.Context()); !errors.Is(err, bundles.ErrUnreachable) || k.Current().Revision != 1 || !n.allows("a") {
			t.Errorf("%s: %v, revision %d", name, err, k.Current().Revision)
		}
	}
	answer(func(out http.ResponseWriter, _ *http.Request) { _, _ = out.Write([]byte("no bundle")) })
	if err := k.Refresh(t.Context()); err == nil || errors.Is(err, bundles.ErrUnreachable) || k.Current().Revision != 1 {
		t.Errorf("something else: %v", err)
	}
	w.fail.Store(nil)
	n.offer(t, 2, rules("b"))
	if err := k.Refresh(t.Context()); err != nil || k.Current().Revision != 2 || n.allows("a") || !n.allows("b") || !n.endorses("b") {
		t.Errorf("the next one: %v, revision %d", err, k.Current().Revision)
	}
}

func TestURLIsTrusted(t *testing.T) {
	n := newNode(t)
	n.offer(t, 1, rules("a"))
	w := newWeb(t, n)
	u, err := bundles.NewURL(w.URL, &tls.Config{RootCAs: x509.NewCertPool()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Fetch(t.Context()); !errors.Is(err, bundles.ErrUnreachable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a server of nobody we trust: %v", err)
	}
	for _, address := range []string{"http://example.org/b", "https://", "https://user:secret@example.org/b", "ftp://x/y", "%"} {
		if _, err := bundles.NewURL(address, w.trusted()); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", address, err)
		}
	}
	if _, err := bundles.NewURL(w.URL, &tls.Config{}); err == nil {
		t.Error("the host's own CA certificates were taken")
	}
}

// TestBackOff: a server that fails is asked less and less often, and one that is back is
// asked as before.
func TestBackOff(t *testing.T) {
	n := newNode(t)
	n.offer(t, 1, rules("a"))
	w := newWeb(t, n)
	c := n.config()
	c.Source, c.Poll = w.source(t), 5*time.Millisecond
	k := open(t, c)
	down := http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) { http.Error(out, "down", http.StatusBadGateway) })
	w.fail.Store(&down)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { k.Run(ctx) })
	time.Sleep(700 * time.Millisecond) // 140 polls; doubling pauses leave about 7
	if asked := w.failing.Load(); asked < 2 || asked > 20 {
		t.Errorf("a server that fails was asked %d times", asked)
	}
	w.fail.Store(nil)
	n.offer(t, 2, rules("b"))
	for deadline := time.Now().Add(20 * time.Second); k.Current().Revision != 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the server that is back was not asked")
		}
	}
	cancel()
	running.Wait()
}

// TestLedgerKey: the key's value counts as soon as it is committed, the first bundle
// until then.
func TestLedgerKey(t *testing.T) {
	n := newNode(t)
	n.offer(t, 1, rules("a"))
	var committed atomic.Pointer[[]byte]
	source := bundles.NewLedgerKey("main/policies/bundle", func() ([]byte, error) {
		if b := committed.Load(); b != nil {
			return *b, nil
		}
		return nil, nil
	}, bundles.File(n.source))
	c := n.config()
	c.Source, c.Poll = source, time.Hour
	k := open(t, c)
	if k.Current().Revision != 1 {
		t.Fatal("the first bundle is not in force")
	}
	other := *n
	other.source = n.source + ".committed"
	other.offer(t, 2, rules("b"))
	archive, err := os.ReadFile(other.source)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { k.Run(ctx) })
	committed.Store(&archive)
	source.Committed()
	for deadline := time.Now().Add(20 * time.Second); k.Current().Revision != 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the committed bundle was not taken")
		}
	}
	cancel()
	running.Wait()
	if !n.allows("b") || n.allows("a") {
		t.Error("the rules are not the committed ones")
	}
	large := make([]byte, bundle.MaxArchive+1)
	committed.Store(&large)
	if err := k.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "at most") || k.Current().Revision != 2 {
		t.Errorf("too large: %v", err)
	}
	none := bundles.NewLedgerKey("main/policies/bundle", func() ([]byte, error) { return nil, nil }, nil)
	if _, err := none.Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "policy.bundle.file") {
		t.Errorf("nothing at all: %v", err)
	}
}
