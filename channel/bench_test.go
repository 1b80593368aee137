package channel

import (
	"context"
	"testing"
	"time"

	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// BenchmarkValidate validates a block of 500 transactions with two endorsements
// each, 1,500 signatures, and in the same run asks the token for one of those
// signatures over and over, with as many callers: the ratio is what the pipeline
// gets out of the token. The block is block 4 twenty-five times over.
func BenchmarkValidate(b *testing.B) {
	n := newNode(b, nil)
	c := n.open(b, nil)
	replayTo(b, c, 4)
	block := readBlock(b, 4)
	twenty := block.Data.Data
	for len(block.Data.Data) < 500 {
		block.Data.Data = append(block.Data.Data, twenty...)
	}
	state, err := c.chain.state()
	if err != nil {
		b.Fatal(err)
	}
	defer state.Release()
	run := func() {
		facts, err := c.validator.Facts(b.Context(), c.Config(), block)
		if err != nil {
			b.Fatal(err)
		}
		j, err := c.validator.Judge(b.Context(), facts, state)
		if err != nil || j.Verdicts[0].Code != peerpb.TxValidationCode_VALID {
			b.Fatalf("%v %v", j, err)
		}
	}
	tx := func() *wire.Tx {
		facts, err := c.validator.Facts(b.Context(), c.Config(), readBlock(b, 4))
		if err != nil {
			b.Fatal(err)
		}
		return facts.Block.Txs[0]
	}()
	creator, err := c.Config().MSPs.Identity(b.Context(), tx.SignatureHeader.Creator)
	if err != nil {
		b.Fatal(err)
	}
	run() // identities are checked once in the life of a configuration
	b.ReportAllocs()
	var token time.Duration // for as many checks as a block has, block by block
	for b.Loop() {
		run()
		b.StopTimer()
		started := time.Now()
		batch := c.validator.pool.batch(b.Context())
		batch.each(1500, 1, func(ctx context.Context, _ int) error { return creator.Verify(ctx, tx.Payload, tx.Signature) })
		if err := batch.wait(); err != nil {
			b.Fatal(err)
		}
		token += time.Since(started)
		b.StartTimer()
	}
	b.ReportMetric(500*float64(b.N)/b.Elapsed().Seconds(), "tx/s")
	b.ReportMetric(1500*float64(b.N)/token.Seconds(), "token-checks/s")
	b.ReportMetric(token.Seconds()/b.Elapsed().Seconds(), "of-token-rate")
}

// BenchmarkReplay takes the whole chain of testdata/interop, 86 transactions in
// eleven blocks, into a fresh ledger: the small blocks show the fixed cost of one.
func BenchmarkReplay(b *testing.B) {
	transactions := 0
	for number := uint64(1); number <= lastBlock; number++ {
		transactions += len(readBlock(b, number).Data.Data)
	}
	for b.Loop() {
		b.StopTimer()
		c := newNode(b, nil).open(b, nil)
		b.StartTimer()
		replayTo(b, c, lastBlock+1)
	}
	b.ReportMetric(float64(transactions*b.N)/b.Elapsed().Seconds(), "tx/s")
}

func replayTo(b testing.TB, c *Channel, height uint64) {
	err := c.Replay(b.Context(), func(yield func(*commonpb.Block, error) bool) {
		for number := uint64(1); number < height; number++ {
			if !yield(readBlock(b, number), nil) {
				return
			}
		}
	}, func(Difference) {})
	if err != nil {
		b.Fatal(err)
	}
}
