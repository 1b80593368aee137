package channel

import (
	"testing"

	"strongroom/wire"
	"strongroom/wire/commonpb"
)

func firstTxID(t testing.TB, b *commonpb.Block) string {
	t.Helper()
	block, err := wire.ParseBlock(b)
	if err != nil {
		t.Fatal(err)
	}
	return block.Txs[0].TxID()
}
