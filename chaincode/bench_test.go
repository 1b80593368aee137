package chaincode_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"strongroom/chaincode"
	"strongroom/chaincode/chaincodetest"
)

// BenchmarkExecutePut runs one put through chaincode on the shim in the same
// process, over gRPC on the loopback interface: two round trips.
func BenchmarkExecutePut(b *testing.B) {
	for _, inFlight := range []int{1, 64} {
		b.Run(fmt.Sprintf("inflight=%d", inFlight), func(b *testing.B) {
			p := chaincodetest.Start(b, everything{}, chaincode.Config{})
			if _, err := p.Evaluate("get", "k"); err != nil {
				b.Fatal(err)
			}
			calls := make([]chaincode.Invocation, b.N)
			for i := range calls {
				calls[i] = p.Invocation(nil, nil, "put", "key", "a value of some thirty-two bytes")
				calls[i].State = p.Store.Simulate(calls[i].TxID)
			}
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for range inFlight {
				wg.Go(func() {
					for {
						i := next.Add(1) - 1
						if i >= int64(b.N) {
							return
						}
						if out, err := p.Host.Execute(b.Context(), calls[i]); err != nil || out.Response.Status != 200 {
							b.Error(out, err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tx/s")
		})
	}
}
