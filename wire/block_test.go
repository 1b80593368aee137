package wire

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// readBlock reads a block of testdata/blocks, which a Fabric 3.1.5 orderer made.
func readBlock(t testing.TB, number uint64) *commonpb.Block {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "blocks", fmt.Sprintf("block-%06d.pb", number)))
	if err != nil {
		t.Fatal(err)
	}
	block := &commonpb.Block{}
	if err := proto.Unmarshal(b, block); err != nil {
		t.Fatal(err)
	}
	return block
}

func parseBlock(t testing.TB, number uint64) *Block {
	t.Helper()
	block, err := ParseBlock(readBlock(t, number))
	if err != nil {
		t.Fatal(err)
	}
	return block
}

func TestParseBlockFaults(t *testing.T) {
	// What a Fabric peer recorded for the malformed transactions of block 6 that
	// parsing alone decides; the rest parse.
	type stage struct {
		header, body, results peerpb.TxValidationCode
	}
	want := map[int]stage{
		4:  {body: peerpb.TxValidationCode_BAD_PROPOSAL_TXID},
		5:  {header: peerpb.TxValidationCode_BAD_COMMON_HEADER},
		6:  {header: peerpb.TxValidationCode_BAD_COMMON_HEADER},
		7:  {body: peerpb.TxValidationCode_INVALID_ENDORSER_TRANSACTION},
		8:  {body: peerpb.TxValidationCode_INVALID_ENDORSER_TRANSACTION},
		9:  {results: peerpb.TxValidationCode_BAD_RWSET},
		10: {results: peerpb.TxValidationCode_ILLEGAL_WRITESET},
		13: {results: peerpb.TxValidationCode_INVALID_CHAINCODE},
		15: {results: peerpb.TxValidationCode_INVALID_OTHER_REASON},
		23: {header: peerpb.TxValidationCode_BAD_COMMON_HEADER},
		27: {results: peerpb.TxValidationCode_INVALID_OTHER_REASON},
		31: {body: peerpb.TxValidationCode_INVALID_ENDORSER_TRANSACTION},
		32: {body: peerpb.TxValidationCode_INVALID_ENDORSER_TRANSACTION},
	}
	code := func(f *Fault) peerpb.TxValidationCode {
		if f == nil {
			return peerpb.TxValidationCode_VALID
		}
		return f.Code
	}
	block := parseBlock(t, 6)
	if len(block.Txs) != 33 {
		t.Fatalf("block 6 has %d transactions, want 33", len(block.Txs))
	}
	for i, tx := range block.Txs {
		got := stage{header: code(tx.HeaderFault), body: code(tx.BodyFault)}
		if tx.Endorsed != nil {
			got.results = code(tx.Endorsed.ResultsFault)
		}
		if got != want[i] {
			t.Errorf("transaction %d: got %v, want %v (%v %v)", i, got, want[i], tx.HeaderFault, tx.BodyFault)
		}
	}
}

func TestParseBlockConfig(t *testing.T) {
	block := parseBlock(t, 10)
	if len(block.Txs) != 1 || block.Txs[0].Config.GetConfig().GetSequence() == 0 {
		t.Fatalf("block 10 is not the configuration block it is: %v", block.Txs[0].BodyFault)
	}
}

func TestParseBlockLifecycle(t *testing.T) {
	tx := parseBlock(t, 3).Txs[0]
	if tx.Endorsed == nil || tx.Endorsed.ResultsFault != nil {
		t.Fatalf("block 3 does not parse: %v", tx.BodyFault)
	}
	type namespace struct {
		Name        string
		Writes      bool
		Collections []string
	}
	var got []namespace
	for _, ns := range tx.Endorsed.ReadWriteSet.Namespaces {
		n := namespace{Name: ns.Namespace, Writes: ns.Writes()}
		for _, c := range ns.Collections {
			n.Collections = append(n.Collections, c.Collection)
		}
		got = append(got, n)
	}
	want := []namespace{
		{"_lifecycle", true, []string{"_implicit_org_Org1MSP", "_implicit_org_Org2MSP"}},
		{"lscc", false, nil},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("namespaces (-want +got):\n%s", diff)
	}
	if len(tx.Endorsed.Endorsements) != 2 {
		t.Errorf("%d endorsements, want 2", len(tx.Endorsed.Endorsements))
	}
}

func TestBlockHashes(t *testing.T) {
	block := readBlock(t, 6)
	if got := DataHash(block.Data); !bytes.Equal(got, block.Header.DataHash) {
		t.Errorf("data hash is %x, the orderer says %x", got, block.Header.DataHash)
	}
	// SEQUENCE { INTEGER 6, OCTET STRING previous_hash, OCTET STRING data_hash }
	want := append([]byte{0x30, 71, 0x02, 1, 6, 0x04, 32}, block.Header.PreviousHash...)
	want = append(append(want, 0x04, 32), block.Header.DataHash...)
	if got := HeaderBytes(block.Header); !bytes.Equal(got, want) {
		t.Errorf("header bytes are %x, want %x", got, want)
	}
	big := &commonpb.BlockHeader{Number: 1 << 63}
	if got, want := HeaderBytes(big), []byte{0x30, 15, 0x02, 9, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 4, 0, 4, 0}; !bytes.Equal(got, want) {
		t.Errorf("header bytes of a large number are %x, want %x", got, want)
	}
}

func TestParseBlockRefuses(t *testing.T) {
	for _, b := range []*commonpb.Block{nil, {}, {Header: &commonpb.BlockHeader{}}} {
		if _, err := ParseBlock(b); err == nil {
			t.Errorf("block %v parsed", b)
		}
	}
}
