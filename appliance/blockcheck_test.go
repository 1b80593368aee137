package appliance

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/bccsp/bccsptest"
	"strongroom/ledger"
	"strongroom/policy"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// The orderers' signatures of a real Fabric channel are found good, and one that was
// changed is named, whatever else of the block is in order.
func TestBlockCheckSignatures(t *testing.T) {
	token := bccsptest.Open(t)
	engine, err := policy.NewEngine(policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	c := newBlockCheck(token, engine, nil, t.TempDir())
	defer c.close()
	for n := range 12 {
		raw, err := os.ReadFile(fmt.Sprintf("../ledger/testdata/fabric/block-%06d.pb", n))
		if err != nil {
			t.Fatal(err)
		}
		b := &commonpb.Block{}
		if err := proto.Unmarshal(raw, b); err != nil {
			t.Fatal(err)
		}
		if n == 7 {
			m := &commonpb.Metadata{}
			at := commonpb.BlockMetadataIndex_SIGNATURES
			if err := proto.Unmarshal(b.Metadata.Metadata[at], m); err != nil {
				t.Fatal(err)
			}
			m.Signatures[0].Signature[20] ^= 1
			if b.Metadata.Metadata[at], err = proto.Marshal(m); err != nil {
				t.Fatal(err)
			}
		}
		parsed, err := wire.ParseBlock(b)
		if err != nil {
			t.Fatal(err)
		}
		problems, err := c.block(context.Background(), parsed)
		if err != nil {
			t.Fatal(err)
		}
		if want := map[bool]int{true: 1}[n == 7]; len(problems) != want || want == 1 && !strings.HasPrefix(problems[0], "the orderers' signatures: ") {
			t.Errorf("block %d: %q", n, problems)
		}
	}
	if c.signed != 10 {
		t.Errorf("%d blocks have good signatures", c.signed)
	}
	v := &ledger.Verification{Height: 12}
	c.end(v)
	if len(v.Problems) != 0 || len(v.Notes) != 1 || !strings.Contains(v.Notes[0], "12 of 12 blocks have no statement") {
		t.Errorf("%+v", v)
	}
}

// A block puts a configuration in force only if its one transaction was valid.
func TestIsConfiguration(t *testing.T) {
	b := func(number uint64, config bool, flags ...byte) *wire.Block {
		tx := &wire.Tx{}
		if config {
			tx.Config = &commonpb.ConfigEnvelope{}
		}
		return &wire.Block{Txs: []*wire.Tx{tx}, Proto: &commonpb.Block{Header: &commonpb.BlockHeader{Number: number},
			Metadata: &commonpb.BlockMetadata{Metadata: [][]byte{nil, nil, bytes.Clone(flags)}}}}
	}
	for _, c := range []struct {
		block *wire.Block
		want  bool
	}{{b(0, false), true}, {b(3, true, 0), true}, {b(3, true, byte(peerpb.TxValidationCode_BAD_CREATOR_SIGNATURE)), false}, {b(3, false, 0), false}, {b(3, true), false}} {
		if got := isConfiguration(c.block); got != c.want {
			t.Errorf("%v gives %t", c.block.Proto, got)
		}
	}
}
