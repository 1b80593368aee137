package ordering

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"strongroom/bccsp/bccsptest"
	"strongroom/channel/configtx"
	"strongroom/ordering/client"
	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
)

// TestClientOverMutualTLS runs the client against the service over mutual TLS, all
// keys in the token, across a restart of the service.
func TestClientOverMutualTLS(t *testing.T) {
	n := sharedNetwork(t)
	ca := bccsptest.NewCA(t, n.token, "tls")
	server, clientCert := ca.IssueTLS(t, "orderer", "orderer.example.com"), ca.IssueTLS(t, "peer", "peer.example.com")
	creds := credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{server},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool(),
	})
	cfg := n.config(t, t.TempDir())
	cfg.MutualTLS = true
	s := start(t, cfg)
	genesis := n.genesis(t, "main", func(d *configtx.Description) { d.Orderer.BatchSize.MaxMessageCount = 1 })
	join(t, s, genesis)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := serveOn(t, s, lis, creds)

	var shown atomic.Pointer[tls.Certificate]
	shown.Store(&clientCert)
	var checked atomic.Int64
	c, err := client.New(client.Config{
		Endpoints:   []client.Endpoint{{Address: lis.Addr().String(), ServerName: "orderer.example.com", RootCAs: ca.Pool()}},
		Identity:    local(t, n.peer),
		Certificate: shown.Load,
		VerifyConnection: func(cs tls.ConnectionState) error {
			checked.Add(1)
			if len(cs.VerifiedChains) == 0 {
				return errors.New("no chain")
			}
			return nil
		},
		MinBackoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	now, err := configtx.FromBlock(t.Context(), n.deps, genesis)
	if err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = c.Blocks(ctx, "main", 0, func(b *commonpb.Block) error {
		switch b.Header.Number {
		case 0:
			return c.Broadcast(ctx, n.tx(t, "main", "one"))
		case 1:
			// The node goes down and comes back where it was.
			g.Stop()
			if err := s.Close(); err != nil {
				return err
			}
			s = start(t, cfg)
			again, err := net.Listen("tcp", lis.Addr().String())
			if err != nil {
				return err
			}
			g = serveOn(t, s, again, creds)
			// The client's key is rotated: the request is bound to the certificate that
			// the new connection showed.
			rotated := ca.IssueTLS(t, "peer-2", "peer.example.com")
			shown.Store(&rotated)
			for c.Broadcast(ctx, n.tx(t, "main", "two")) != nil && ctx.Err() == nil {
				// until the client has found the node again
			}
			return nil
		}
		if err := configtx.VerifyBlock(ctx, now, b); err != nil {
			return err
		}
		return enough
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	if checked.Load() == 0 {
		t.Error("VerifyConnection was not called")
	}
	var status *client.StatusError
	if err := c.Broadcast(ctx, n.tx(t, "none", "x")); !errors.As(err, &status) || status.Status != commonpb.Status_NOT_FOUND {
		t.Errorf("an unknown channel gives %v", err)
	}

	// Without its own certificate a client does not get in; with a certificate that
	// the request does not name, or another's, it gets no block.
	stranger := bccsptest.NewCA(t, n.token, "other").IssueTLS(t, "peer", "peer.example.com")
	for name, cert := range map[string]func() *tls.Certificate{"none": nil, "foreign": func() *tls.Certificate { return &stranger }} {
		bad, err := client.New(client.Config{
			Endpoints:   []client.Endpoint{{Address: lis.Addr().String(), ServerName: "orderer.example.com", RootCAs: ca.Pool()}},
			Certificate: cert,
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := bad.Broadcast(ctx, n.tx(t, "main", "x")); err == nil {
			t.Errorf("certificate %s: the orderer takes the envelope", name)
		}
		bad.Close()
	}
	cc, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: ca.Pool(), ServerName: "orderer.example.com", Certificates: []tls.Certificate{clientCert},
	})))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	sum := sha256.Sum256(clientCert.Certificate[0])
	other := sha256.Sum256(server.Certificate[0])
	for _, tt := range []struct {
		name string
		hash []byte
		want commonpb.Status
	}{
		{"bound", sum[:], commonpb.Status_SUCCESS},
		{"not bound", nil, commonpb.Status_BAD_REQUEST},
		{"bound to another", other[:], commonpb.Status_BAD_REQUEST},
	} {
		env := seekEnvelope(t, n.peer, "main", &ordererpb.SeekInfo{Start: oldest, Stop: oldest}, func(h *commonpb.ChannelHeader) { h.TlsCertHash = tt.hash })
		if _, got := deliverAll(t, ordererpb.NewAtomicBroadcastClient(cc), env); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}

	refusing, err := client.New(client.Config{
		Endpoints:        []client.Endpoint{{Address: lis.Addr().String(), ServerName: "orderer.example.com", RootCAs: ca.Pool()}},
		Certificate:      func() *tls.Certificate { return &clientCert },
		VerifyConnection: func(tls.ConnectionState) error { return errors.New("token says no") },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer refusing.Close()
	if err := refusing.Broadcast(ctx, n.tx(t, "main", "x")); err == nil || !strings.Contains(err.Error(), "token says no") {
		t.Errorf("a connection that the hook refuses gives %v", err)
	}
}
