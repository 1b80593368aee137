package bundles

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"strongroom/policy/bundle"
)

// ErrUnchanged is what a Source returns that offers what it offered at the last Fetch.
var ErrUnchanged = errors.New("nothing new is offered")

// ErrUnreachable is wrapped by errors that say that a source could not be asked: Run
// waits longer before it asks again.
var ErrUnreachable = errors.New("the source of bundles cannot be reached")

// fetchTimeout bounds one download.
const fetchTimeout = 30 * time.Second

// URL is a bundle on a web server, over TLS alone. It asks with the ETag of what it got
// last, so that a server need not send it again. It follows no redirects and uses no
// proxy. It is safe for concurrent use.
type URL struct {
	address string
	client  *http.Client

	mu   sync.Mutex // guards etag
	etag string     // of the last archive that was read whole
}

// NewURL makes a source of an https address; c says whom to trust, and must not be
// changed afterwards.
func NewURL(address string, c *tls.Config) (*URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("policy bundle: %q: give an address https://host/path, without a password", redacted(u))
	}
	if c == nil || c.RootCAs == nil {
		return nil, errors.New("policy bundle: the web server's CA certificates are missing")
	}
	return &URL{address: address, client: &http.Client{
		Timeout:       fetchTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			TLSClientConfig: c, MaxIdleConns: 1, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 10 * time.Second,
			MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
		},
	}}, nil
}

func redacted(u *url.URL) string {
	if u == nil {
		return ""
	}
	return u.Redacted()
}

// Fetch downloads the archive unless the server says that it is still the same.
func (u *URL) Fetch(ctx context.Context) ([]byte, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.address, nil)
	if err != nil {
		return nil, fmt.Errorf("policy bundle: %w", err)
	}
	if u.etag != "" {
		r.Header.Set("If-None-Match", u.etag)
	}
	resp, err := u.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("policy bundle: %w: %w", ErrUnreachable, err)
	}
	defer func() { _ = resp.Body.Close() }() // it is read, or given up
	switch {
	case resp.StatusCode == http.StatusNotModified && u.etag != "":
		return nil, ErrUnchanged
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("policy bundle: %w: %s answers %q", ErrUnreachable, u, resp.Status)
	case resp.ContentLength > bundle.MaxArchive:
		return nil, fmt.Errorf("policy bundle: %w: %s offers %d bytes: at most %d are taken", ErrUnreachable, u, resp.ContentLength, bundle.MaxArchive)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, bundle.MaxArchive+1))
	if err != nil {
		return nil, fmt.Errorf("policy bundle: %w: %w", ErrUnreachable, err)
	}
	if len(b) > bundle.MaxArchive {
		return nil, fmt.Errorf("policy bundle: %w: %s offers more than %d bytes", ErrUnreachable, u, bundle.MaxArchive)
	}
	u.etag = resp.Header.Get("ETag")
	return b, nil
}

// Forget makes the next Fetch ask for the archive whatever its ETag: what was read was
// not dealt with.
func (u *URL) Forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.etag = ""
}

func (u *URL) String() string { return u.address }
