// Package shim runs chaincode written in Go for Strongroom or any Hyperledger
// Fabric peer (2.x, 3.x). A chaincode process either serves, which is chaincode
// as a service (Serve), or dials a peer in development mode (Dial).
//
//	type counter struct{}
//
//	func (counter) Init(*shim.Stub) shim.Response { return shim.Success(nil) }
//	func (counter) Invoke(stub *shim.Stub) shim.Response {
//		name, args := stub.GetFunctionAndParameters()
//		…
//	}
//
// Each transaction runs in a goroutine of its own with a Stub of its own; many
// run at once, so a Chaincode must be safe for concurrent use and, because all
// endorsing peers must compute the same result, keep no state outside the ledger,
// read no clock and use no randomness.
package shim

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"strongroom/wire/peerpb"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// Chaincode is the business logic.
type Chaincode interface {
	// Init runs when the definition says that the chaincode must be initialised
	// and the client asks for it; most chaincode returns Success(nil).
	Init(stub *Stub) Response
	// Invoke runs a transaction or a query.
	Invoke(stub *Stub) Response
}

// Status codes of a Response. Peers endorse nothing with a status of 400 or more.
const (
	OK             int32 = 200
	ErrorThreshold int32 = 400
	ERROR          int32 = 500
)

// Response is what a transaction returns to the client.
type Response struct {
	Status  int32
	Message string
	Payload []byte
}

// Success is a response with a payload, which may be nil.
func Success(payload []byte) Response { return Response{Status: OK, Payload: payload} }

// Error is a failure with a text that the client gets to see.
func Error(message string) Response { return Response{Status: ERROR, Message: message} }

// MaxMessageBytes bounds a message of the protocol, as in Fabric.
const MaxMessageBytes = 100 << 20

// Config says where a chaincode process serves or dials.
type Config struct {
	// Address is host:port to listen on (Serve) or the peer's (Dial).
	Address string
	// PackageID is the name to register with: the package id printed at
	// installation. Required.
	PackageID string
	// TLS is used as it stands; nil is plain TCP, for a trusted host or
	// container network only.
	TLS *tls.Config
	// Listener, if set, is used instead of Address. Serve closes it.
	Listener net.Listener
	// Logger gets connections and panics, never values; nil discards.
	Logger *slog.Logger
}

// Validate names the field that is wrong.
func (c Config) Validate() error {
	if c.PackageID == "" {
		return errors.New("chaincode: package id is empty; set CORE_CHAINCODE_ID_NAME to the id printed when the package was installed")
	}
	if c.Listener == nil {
		if _, _, err := net.SplitHostPort(c.Address); err != nil {
			return fmt.Errorf("chaincode: address %q is not host:port; set CHAINCODE_SERVER_ADDRESS", c.Address)
		}
	}
	return nil
}

func (c Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

// Serve runs chaincode as a service until the context ends, which is no error.
// Peers dial it; each gets a stream of its own.
func Serve(ctx context.Context, cc Chaincode, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	lis := cfg.Listener
	if lis == nil {
		var err error
		if lis, err = new(net.ListenConfig).Listen(ctx, "tcp", cfg.Address); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("chaincode: listen: %w", err)
		}
	}
	creds := insecure.NewCredentials()
	if cfg.TLS != nil {
		creds = credentials.NewTLS(cfg.TLS)
	}
	server := grpc.NewServer(grpc.Creds(creds),
		grpc.MaxRecvMsgSize(MaxMessageBytes), grpc.MaxSendMsgSize(MaxMessageBytes),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Minute, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 30 * time.Second, PermitWithoutStream: true}))
	peerpb.RegisterChaincodeServer(server, &service{cc: cc, cfg: cfg})
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	cfg.logger().Info("chaincode serves", "address", lis.Addr().String(), "package", cfg.PackageID)
	if err := server.Serve(lis); err != nil && ctx.Err() == nil {
		return fmt.Errorf("chaincode: serve: %w", err)
	}
	return nil
}

// service is protos.Chaincode.
type service struct {
	peerpb.UnimplementedChaincodeServer
	cc  Chaincode
	cfg Config
}

// Connect serves one peer.
func (s *service) Connect(stream peerpb.Chaincode_ConnectServer) error {
	if err := newSession(stream.Context(), s.cc, stream, s.cfg).run(s.cfg.PackageID); err != nil {
		return status.Error(codes.Aborted, err.Error())
	}
	return nil
}

// Dial connects to a peer in development mode and runs chaincode until the
// connection or the context ends. The latter is no error.
func Dial(ctx context.Context, cc Chaincode, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	creds := insecure.NewCredentials()
	if cfg.TLS != nil {
		creds = credentials.NewTLS(cfg.TLS)
	}
	conn, err := grpc.NewClient("passthrough:///"+cfg.Address, grpc.WithTransportCredentials(creds), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessageBytes), grpc.MaxCallSendMsgSize(MaxMessageBytes)))
	if err != nil {
		return fmt.Errorf("chaincode: %w", err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := peerpb.NewChaincodeSupportClient(conn).Register(ctx)
	if err == nil {
		err = newSession(ctx, cc, stream, cfg).run(cfg.PackageID)
	}
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		err = errors.New("the peer closed the connection")
	}
	return fmt.Errorf("chaincode: peer at %s: %w", cfg.Address, err)
}
