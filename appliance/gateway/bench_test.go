package gateway_test

import (
	"testing"

	"strongroom/channel/lifecycle"
)

// BenchmarkDefinition holds what the gateway asks for each endorsement, the channel's
// remembered definition, against reading it from the state.
func BenchmarkDefinition(b *testing.B) {
	n, _ := start(b, nil, "Org1MSP")
	ch := n.Peers[0].Channel
	b.Run("remembered", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ch.Definition("kv"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("state", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			snap, err := ch.Ledger().Snapshot()
			if err != nil {
				b.Fatal(err)
			}
			if _, err := lifecycle.ReadDefinition(snap, "kv"); err != nil {
				b.Fatal(err)
			}
			snap.Release()
		}
	})
}
