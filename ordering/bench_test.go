package ordering

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"strongroom/channel/configtx"
	"strongroom/wire"
	"strongroom/wire/commonpb"
)

// BenchmarkBroadcast is envelopes a second over gRPC on one stream, each with a
// signature that is checked in the token, acknowledged when durable. The envelopes
// are signed before the clock starts.
func BenchmarkBroadcast(b *testing.B) {
	n := sharedNetwork(b)
	cfg := n.config(b, b.TempDir())
	cfg.Logger = slog.New(slog.DiscardHandler)
	s := start(b, cfg)
	join(b, s, n.genesis(b, "bench", func(d *configtx.Description) {
		d.Orderer.BatchSize = configtx.BatchSizeDescription{MaxMessageCount: 500, AbsoluteMaxBytes: 10 << 20, PreferredMaxBytes: 2 << 20}
		d.Orderer.BatchTimeout = configtx.Duration(100 * time.Millisecond)
	}))
	c := dial(b, serve(b, s, nil))
	envs := make([]*commonpb.Envelope, 256)
	for i := range envs {
		envs[i] = n.tx(b, "bench", fmt.Sprintf("%04d%s", i, make([]byte, 3000)))
	}
	stream, err := c.Broadcast(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	answered := make(chan error)
	b.ResetTimer()
	go func() {
		for range b.N {
			resp, err := stream.Recv()
			if err == nil && resp.Status != commonpb.Status_SUCCESS {
				err = fmt.Errorf("%s %s", resp.Status, resp.Info)
			}
			if err != nil {
				answered <- err
				return
			}
		}
		answered <- nil
	}()
	for i := range b.N {
		if err := stream.Send(envs[i%len(envs)]); err != nil {
			break // the answers tell why
		}
	}
	if err := <-answered; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tx/s")
}

// BenchmarkCheck is the check of one envelope alone: parse, signature in the token,
// Writers policy.
func BenchmarkCheck(b *testing.B) {
	n := sharedNetwork(b)
	cfg := n.config(b, b.TempDir())
	cfg.Logger = slog.New(slog.DiscardHandler)
	s := start(b, cfg)
	join(b, s, n.genesis(b, "bench", nil))
	env := n.tx(b, "bench", string(make([]byte, 3000)))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, _, err := s.check(b.Context(), env, ""); err != nil {
				b.Error(err)
			}
		}
	})
	e, fault := wire.ParseEnvelope(env)
	if fault != nil || len(e.Data) != 3000 {
		b.Fatal(fault)
	}
}
