package client

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"strongroom/wire/ordererpb"
)

// StatusError is an answer of an orderer other than SUCCESS.
type StatusError struct {
	Endpoint string
	Status   Status
	Info     string // the orderer's text; "" in deliver responses, which carry none
}

// Error names the endpoint, the status and the orderer's text.
func (e *StatusError) Error() string {
	if e.Info == "" {
		return fmt.Sprintf("orderer %s answered %s", e.Endpoint, e.Status)
	}
	return fmt.Sprintf("orderer %s answered %s: %q", e.Endpoint, e.Status, e.Info)
}

// connection is one gRPC connection and its broadcast streams.
type connection struct {
	endpoint Endpoint
	cc       *grpc.ClientConn
	client   ordererpb.AtomicBroadcastClient
	streams  []*broadcastStream
	shown    atomic.Pointer[tls.Certificate] // in the latest handshake, if the orderer asked for one
}

func (c *connection) close() {
	for _, s := range c.streams {
		s.close()
	}
	// The error would only say that it is closed already.
	_ = c.cc.Close()
}

// opened opens a stream that lives as long as ctx; caller bounds only the opening. A
// connection that waits to be
// tried again is tried at once. wait says to wait for it, up to timeout; else a
// connection that failed before fails at once, and is up again, if it can, when the
// caller comes round next.
func opened[S any](ctx, caller context.Context, conn *connection, timeout time.Duration, wait bool, open func(context.Context, ...grpc.CallOption) (S, error)) (S, context.CancelFunc, error) {
	if conn.cc.GetState() == connectivity.TransientFailure {
		conn.cc.ResetConnectBackoff()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(timeout, func() { cancel(errNoConnection) })
	defer timer.Stop()
	defer context.AfterFunc(caller, func() { cancel(context.Cause(caller)) })()
	stream, err := open(ctx, grpc.WaitForReady(wait))
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w: %w", cause, err) // gRPC's tells why the connection failed
		}
		cancel(nil)
		return stream, nil, fmt.Errorf("orderer %s: %w", conn.endpoint.Address, err)
	}
	return stream, func() { cancel(nil) }, nil
}

// errNoConnection says that ConnectTimeout passed.
var errNoConnection = errors.New("no connection in time")

// connection returns the shared connection to an endpoint and makes it if needed.
func (c *Client) connection(e Endpoint) (*connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return nil, errClosed
	}
	if conn, ok := c.conns[e]; ok {
		return conn, nil
	}
	conn := &connection{endpoint: e}
	creds := insecure.NewCredentials()
	if !e.Plaintext {
		creds = credentials.NewTLS(c.tlsConfig(conn))
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(c.cfg.MaxMessageBytes), grpc.MaxCallSendMsgSize(c.cfg.MaxMessageBytes)),
		// Fabric's orderers allow one ping a minute; a dead connection is found by it.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           grpcbackoff.Config{BaseDelay: c.cfg.MinBackoff, Multiplier: 2, Jitter: 0.2, MaxDelay: c.cfg.MaxBackoff},
			MinConnectTimeout: 10 * time.Second,
		}),
		// Retries are this package's: they rotate endpoints.
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
	}
	cc, err := grpc.NewClient("passthrough:///"+e.Address, append(options, c.cfg.DialOptions...)...)
	if err != nil {
		return nil, fmt.Errorf("orderer endpoint %q: %w", e.Address, err)
	}
	conn.cc, conn.client = cc, ordererpb.NewAtomicBroadcastClient(cc)
	for range c.cfg.BroadcastStreams {
		conn.streams = append(conn.streams, newBroadcastStream(c.ctx, conn, c.cfg.ConnectTimeout))
	}
	c.conns[e] = conn
	return conn, nil
}

func (c *Client) tlsConfig(conn *connection) *tls.Config {
	cfg := &tls.Config{
		MinVersion:       tls.VersionTLS12,
		RootCAs:          conn.endpoint.RootCAs,
		ServerName:       conn.endpoint.ServerName,
		VerifyConnection: c.cfg.VerifyConnection,
	}
	if c.cfg.Certificate != nil {
		// Not Certificates: crypto/tls would leave the certificate out when the server's
		// list of authorities does not name its issuer, and the server would then say
		// no more than that a certificate is missing.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			certificate := c.cfg.Certificate()
			conn.shown.Store(certificate)
			return certificate, nil
		}
	}
	return cfg
}

// certificateHash is what a seek request on an open connection carries in tls_cert_hash:
// of the certificate that was shown there; of the one in force if the orderer asked for none.
func (c *Client) certificateHash(conn *connection) []byte {
	if c.cfg.Certificate == nil {
		return nil
	}
	shown := conn.shown.Load()
	if shown == nil {
		shown = c.cfg.Certificate()
	}
	sum := sha256.Sum256(shown.Certificate[0])
	return sum[:]
}

// errClosed is what calls return after Close.
var errClosed = errors.New("orderer client is closed")
