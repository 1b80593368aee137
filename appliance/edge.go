package appliance

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"strongroom/acl"
	"strongroom/appliance/config"
)

// connectionGuard decides about calls of which only the connection is known.
// *acl.Guard is one.
type connectionGuard interface {
	Connect(ctx context.Context, c acl.Call) (acl.Decision, error)
}

// edge asks the guard about every call, whatever service it is for, before the service sees its first
// message.
type edge struct {
	guard connectionGuard
	log   *slog.Logger
}

func (e *edge) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if err := e.admit(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handle(ctx, request)
}

func (e *edge) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if err := e.admit(stream.Context(), info.FullMethod); err != nil {
		return err
	}
	return handle(server, stream)
}

func (e *edge) admit(ctx context.Context, method string) error {
	address, certificate := connectionOf(ctx)
	if _, err := e.guard.Connect(ctx, acl.Call{Method: method, RemoteAddr: address, Certificate: certificate}); err != nil {
		return status.Error(codes.PermissionDenied, err.Error())
	}
	return nil
}

// connectionOf is the address of a call's connection, and its client's TLS certificate
// if its chain was verified: without client CAs any certificate is taken, which says
// nothing about who has it.
func connectionOf(ctx context.Context) (address string, certificate *x509.Certificate) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return "", nil
	}
	if p.Addr != nil {
		address = p.Addr.String()
	}
	if t, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(t.State.VerifiedChains) > 0 {
		certificate = t.State.PeerCertificates[0]
	}
	return address, certificate
}

// listen binds the address. With networks, a connection from elsewhere is closed before
// a byte of it is read.
func listen(l config.Listen, log *slog.Logger) (net.Listener, error) {
	listener, err := net.Listen("tcp", l.Address)
	if err != nil {
		return nil, fmt.Errorf("listen.address: %w", err)
	}
	if len(l.Networks) == 0 {
		return listener, nil
	}
	filtered := &filteredListener{Listener: listener, log: log}
	for _, n := range l.Networks {
		prefix, err := netip.ParsePrefix(n)
		if err != nil {
			return nil, fmt.Errorf("listen.networks: %w", err)
		}
		filtered.networks = append(filtered.networks, prefix.Masked())
	}
	return filtered, nil
}

// filteredListener accepts connections from some networks alone.
type filteredListener struct {
	net.Listener
	networks []netip.Prefix
	log      *slog.Logger
}

// Accept waits for the next connection from one of the networks.
func (f *filteredListener) Accept() (net.Conn, error) {
	for {
		conn, err := f.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if f.takes(conn.RemoteAddr()) {
			return conn, nil
		}
		f.log.Warn("connection refused: its address is in none of listen.networks", "remote", conn.RemoteAddr().String())
		_ = conn.Close() // nothing was read or written
	}
}

func (f *filteredListener) takes(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip, ok := netip.AddrFromSlice(tcp.IP)
	if !ok {
		return false
	}
	ip = ip.Unmap()
	for _, n := range f.networks {
		if n.Contains(ip) {
			return true
		}
	}
	return false
}
