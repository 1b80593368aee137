package client

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
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
}

func (c *connection) close() {
	for _, s := range c.streams {
		s.close()
	}
	// The error would only say that it is closed already.
	_ = c.cc.Close()
}

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
	creds := insecure.NewCredentials()
	if !e.Plaintext {
		creds = credentials.NewTLS(c.tlsConfig(e))
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
	conn := &connection{endpoint: e, cc: cc, client: ordererpb.NewAtomicBroadcastClient(cc)}
	for range c.cfg.BroadcastStreams {
		conn.streams = append(conn.streams, &broadcastStream{ctx: c.ctx, endpoint: e.Address, open: conn.client.Broadcast})
	}
	c.conns[e] = conn
	return conn, nil
}

func (c *Client) tlsConfig(e Endpoint) *tls.Config {
	cfg := &tls.Config{
		MinVersion:       tls.VersionTLS12,
		RootCAs:          e.RootCAs,
		ServerName:       e.ServerName,
		VerifyConnection: c.cfg.VerifyConnection,
	}
	if c.cfg.Certificate != nil {
		// Not Certificates: crypto/tls would leave the certificate out when the server's
		// list of authorities does not name its issuer, and the server would then say
		// no more than that a certificate is missing.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return c.cfg.Certificate, nil
		}
	}
	return cfg
}

// certificateHash is what a seek request carries in tls_cert_hash.
func certificateHash(cert *tls.Certificate) ([]byte, error) {
	if cert == nil {
		return nil, nil
	}
	if len(cert.Certificate) == 0 {
		return nil, errors.New("TLS client certificate: the chain is empty")
	}
	sum := sha256.Sum256(cert.Certificate[0])
	return sum[:], nil
}

// errClosed is what calls return after Close.
var errClosed = errors.New("orderer client is closed")
