package appliance

import (
	"crypto/tls"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	"strongroom/appliance/config"
	"strongroom/bccsp"
)

// maxMessageBytes bounds a gRPC message, as Fabric's peers and orderers do.
const maxMessageBytes = 100 << 20

// Dial prepares a connection to another node. It connects on the first call.
func Dial(r config.Remote, verifier bccsp.Verifier) (*grpc.ClientConn, error) {
	return dial(r, verifier, nil)
}

func dial(r config.Remote, verifier bccsp.Verifier, certificate func() *tls.Certificate) (*grpc.ClientConn, error) {
	roots, err := certPool(r.TLSCACert)
	if err != nil {
		return nil, fmt.Errorf("tlsCACert: %w", err)
	}
	return connect(r.Address, clientTLS(verifier, roots, r.ServerName, certificate))
}

func connect(address string, c *tls.Config) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(credentials.NewTLS(c)),
		// A node that restarts is found again within seconds.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.MaxCallSendMsgSize(maxMessageBytes)),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return conn, nil
}
