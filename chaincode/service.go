package chaincode

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"strongroom/wire/peerpb"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// Pauses between dial attempts. A transaction that waits cuts the pause short,
// but never below the first.
const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 30 * time.Second
)

// service dials one chaincode as a service and keeps the connection.
type service struct {
	host        *Host
	packageID   string
	conn        Connection
	credentials credentials.TransportCredentials
	ctx         context.Context
	cancel      context.CancelFunc
	wake        chan struct{} // one place: a transaction waits for the connection

	mu       sync.Mutex    // guards what follows
	link     *link         // nil unless ready
	err      error         // why the last attempt or connection ended
	attempts uint64        // attempts that have ended
	changed  chan struct{} // closed and replaced when any of these changes
}

func newService(h *Host, packageID string, c Connection, creds credentials.TransportCredentials) *service {
	s := &service{host: h, packageID: packageID, conn: c, credentials: creds, wake: make(chan struct{}, 1), changed: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(h.ctx)
	return s
}

// current is the link, nil with the reason if there is none.
func (s *service) current() (*link, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live()
}

// live is the link unless it has ended, which run is about to tell. s.mu is held.
func (s *service) live() (*link, error) {
	if s.link != nil {
		if err := s.link.reason(); err != nil {
			return nil, err
		}
	}
	return s.link, s.err
}

// await waits for the link until one whole dial attempt has failed or the
// context ends.
func (s *service) await(ctx context.Context) (*link, error) {
	s.mu.Lock()
	seen := s.attempts
	s.mu.Unlock()
	for {
		s.mu.Lock()
		l, err := s.live()
		attempts, changed := s.attempts, s.changed
		s.mu.Unlock()
		if l != nil {
			return l, nil
		}
		if attempts > seen {
			return nil, err
		}
		select {
		case s.wake <- struct{}{}:
		default:
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if err == nil {
				err = errors.New("still connecting")
			}
			return nil, fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		case <-s.ctx.Done():
			return nil, errors.New("service was removed")
		}
	}
}

func (s *service) set(l *link, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l != nil && l.reason() != nil {
		return // it ended before its readiness was told; run says so next
	}
	if s.link == nil && l == nil {
		s.attempts++
	}
	s.link, s.err = l, err
	close(s.changed)
	s.changed = make(chan struct{})
}

// run dials until the service is removed.
func (s *service) run() {
	backoff := firstBackoff
	for s.ctx.Err() == nil {
		ready, err := s.connect()
		s.set(nil, err)
		if s.ctx.Err() != nil {
			return
		}
		if ready {
			backoff = firstBackoff
		}
		s.host.cfg.Logger.Warn("chaincode service is not connected", "package", s.packageID, "address", s.conn.Address, "reason", err, "retry", backoff)
		s.pause(backoff)
		backoff = min(2*backoff, lastBackoff)
	}
}

// pause waits for d, or for a transaction that needs the connection.
func (s *service) pause(d time.Duration) {
	floor := time.NewTimer(firstBackoff)
	defer floor.Stop()
	select {
	case <-floor.C:
	case <-s.ctx.Done():
		return
	}
	if d -= firstBackoff; d <= 0 {
		return
	}
	rest := time.NewTimer(d/2 + rand.N(d/2+1)) // jitter: many peers may wait for one chaincode
	defer rest.Stop()
	select {
	case <-rest.C:
	case <-s.wake:
	case <-s.ctx.Done():
	}
}

// connect makes one attempt and, if it succeeds, serves the connection until it
// ends. ready says whether it did succeed.
func (s *service) connect() (ready bool, err error) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	limit := s.host.cfg.MaxMessageBytes
	cc, err := grpc.NewClient("passthrough:///"+s.conn.Address,
		grpc.WithTransportCredentials(s.credentials),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(limit), grpc.MaxCallSendMsgSize(limit)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: 20 * time.Second}),
	)
	if err != nil {
		return false, err
	}
	defer cc.Close()

	l := newLink(s.host, s.conn.Address)
	timeout := s.conn.Timeout()
	handshake := time.AfterFunc(timeout, func() {
		l.failUnlessReady(fmt.Errorf("no registration within dial_timeout %s", timeout))
		if !l.isReady() {
			cancel()
		}
	})
	defer handshake.Stop()
	stop := context.AfterFunc(s.ctx, func() { l.fail(errors.New("service was removed")) })
	defer stop()

	stream, err := peerpb.NewChaincodeClient(cc).Connect(ctx)
	if err != nil {
		if failed := l.reason(); failed != nil {
			return false, failed
		}
		return false, plain(err)
	}
	l.onReady = func() {
		handshake.Stop()
		s.set(l, nil)
		s.host.cfg.Logger.Info("chaincode service is connected", "package", s.packageID, "address", s.conn.Address)
	}
	err = l.run(stream, func(id string) error {
		if id != s.packageID {
			return fmt.Errorf("it registered as %q but %q was expected; start it with CORE_CHAINCODE_ID_NAME (or --chaincode-id) %s", id, s.packageID, s.packageID)
		}
		return nil
	})
	return l.isReady(), err
}

// plain drops gRPC's wrapping from an error text.
func plain(err error) error {
	if st, ok := status.FromError(err); ok {
		return errors.New(st.Message())
	}
	return err
}

// credentials builds the transport credentials of a connection.
func (h *Host) credentials(c Connection) (credentials.TransportCredentials, error) {
	if !c.TLSRequired {
		return insecure.NewCredentials(), nil
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(c.RootCert)) {
		return nil, errors.New("connection.json: root_cert holds no PEM certificate")
	}
	name := c.Domain
	if name == "" {
		host, _, err := net.SplitHostPort(c.Address)
		if err != nil {
			return nil, err
		}
		name = host
	}
	cfg := &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12}
	switch {
	case !c.ClientAuthRequired:
	case c.ClientCert != "":
		pair, err := tls.X509KeyPair([]byte(c.ClientCert), []byte(c.ClientKey))
		if err != nil {
			return nil, fmt.Errorf("connection.json: client_cert and client_key: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	case h.cfg.ClientCertificate != nil:
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return h.cfg.ClientCertificate(), nil
		}
	default:
		return nil, errors.New("connection.json: client_auth_required is true, but there is neither client_cert with client_key nor a TLS key of this peer")
	}
	return credentials.NewTLS(cfg), nil
}
