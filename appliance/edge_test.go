package appliance

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"

	"strongroom/appliance/config"
)

// TestNetworks: a connection from elsewhere is closed unread, one from a listed network
// is served.
func TestNetworks(t *testing.T) {
	for network, served := range map[string]bool{"127.0.0.0/8": true, "10.0.0.0/8": false, "::/0": false} {
		var log bytes.Buffer
		l, err := listen(config.Listen{Address: "127.0.0.1:0", Networks: []string{"192.0.2.0/24", network}}, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		accepted := make(chan struct{})
		go func() {
			defer close(accepted)
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write([]byte("hello")) // what comes of it the client sees
				_ = conn.Close()
			}
		}()
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		if errors.Is(err, net.ErrClosed) || (string(got) == "hello") != served {
			t.Errorf("%s: %q, %v", network, got, err)
		}
		if err := errors.Join(conn.Close(), l.Close()); err != nil {
			t.Error(err)
		}
		<-accepted
		if strings.Contains(log.String(), "connection refused") == served {
			t.Errorf("%s: the log says %q", network, log.String())
		}
	}
	if _, err := listen(config.Listen{Address: "127.0.0.1:0", Networks: []string{"10.0.0.1"}}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("an address passes for a network")
	}
}

// TestUnverifiedCertificateIsNoName: a certificate counts for the guard if its chain was
// verified alone.
func TestUnverifiedCertificateIsNoName(t *testing.T) {
	shown := &x509.Certificate{Raw: []byte("self-signed")}
	state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{shown}}
	over := func() context.Context {
		return grpcpeer.NewContext(t.Context(), &grpcpeer.Peer{Addr: &net.TCPAddr{}, AuthInfo: credentials.TLSInfo{State: state}})
	}
	if _, certificate := connectionOf(over()); certificate != nil {
		t.Error("a certificate that nobody verified is a client's name")
	}
	state.VerifiedChains = [][]*x509.Certificate{{shown}}
	if _, certificate := connectionOf(over()); certificate != shown {
		t.Error("a verified certificate is not the client's name")
	}
}
