package appliance

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"strongroom/appliance/config"
)

const (
	// gracePeriod is how long running calls may go on after a stop was asked for.
	gracePeriod = 5 * time.Second
	// defaultConcurrent bounds the calls at once on one connection.
	defaultConcurrent = 2500
)

// newServer makes a gRPC server with the limits of an edge that strangers reach.
// No call is served before edge admitted it.
func newServer(l config.Listen, creds credentials.TransportCredentials, guard connectionGuard, log *slog.Logger) (*grpc.Server, *health.Server) {
	limit := l.MaxMessageBytes
	if limit == 0 {
		limit = maxMessageBytes
	}
	concurrent := l.MaxConcurrent
	if concurrent == 0 {
		concurrent = defaultConcurrent
	}
	e := &edge{guard: guard, log: log}
	server := grpc.NewServer(
		grpc.Creds(creds),
		grpc.UnaryInterceptor(e.unary),
		grpc.StreamInterceptor(e.stream),
		grpc.UnknownServiceHandler(refuseUnknown),
		grpc.MaxRecvMsgSize(limit),
		grpc.MaxSendMsgSize(maxMessageBytes),
		grpc.MaxConcurrentStreams(uint32(concurrent)),
		grpc.ConnectionTimeout(20*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Hour, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Minute, PermitWithoutStream: true}),
	)
	h := health.NewServer()
	healthpb.RegisterHealthServer(server, h)
	return server, h
}

// serve answers on the address until ctx ends, then lets running calls finish for a
// short while.
func serve(ctx context.Context, server *grpc.Server, l config.Listen, log *slog.Logger) error {
	listener, err := listen(l, log)
	if err != nil {
		return err
	}
	log.Info("serving", "address", listener.Addr().String())
	stop := context.AfterFunc(ctx, func() {
		hard := time.AfterFunc(gracePeriod, server.Stop)
		server.GracefulStop()
		hard.Stop()
	})
	defer stop()
	if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}
