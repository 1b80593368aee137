package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"strongroom/ledger/seal"
	"strongroom/ledger/seal/sealtest"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

const testChannel = "mychannel"

// openTest opens a ledger in a folder and closes it at the end of the test.
func openTest(t testing.TB, dir string, k *seal.Keyring, change ...func(*Config)) *Ledger {
	t.Helper()
	l, err := openIn(dir, k, change...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func openIn(dir string, k *seal.Keyring, change ...func(*Config)) (*Ledger, error) {
	c := Config{Dir: dir, ChannelID: testChannel, Keyring: k}
	for _, f := range change {
		f(&c)
	}
	return Open(context.Background(), c)
}

// newTest opens an empty ledger.
func newTest(t testing.TB, change ...func(*Config)) *Ledger {
	t.Helper()
	return openTest(t, memoryDir(t), sealtest.Keyring(t), change...)
}

// fabricTx is a line of testdata/fabric/transactions.json.
type fabricTx struct {
	Block  uint64 `json:"block"`
	Index  int    `json:"index"`
	TxID   string `json:"tx_id"`
	Number int32  `json:"validation_code_number"`
}

// fabricBlocks is how many blocks of a Fabric channel testdata/fabric holds.
const fabricBlocks = 12

// fabricBlock reads a block as Fabric's peer delivered it.
func fabricBlock(t testing.TB, number uint64) *commonpb.Block {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "fabric", blockName(number)))
	if err != nil {
		t.Fatal(err)
	}
	b := &commonpb.Block{}
	if err := proto.Unmarshal(raw, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// fabricFlags are the flags that Fabric's peer recorded for a block.
func fabricFlags(t testing.TB, number uint64) []peerpb.TxValidationCode {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "fabric", "transactions.json"))
	if err != nil {
		t.Fatal(err)
	}
	var txs []fabricTx
	if err := json.Unmarshal(raw, &txs); err != nil {
		t.Fatal(err)
	}
	var flags []peerpb.TxValidationCode
	for _, tx := range txs {
		if tx.Block == number {
			if tx.Index != len(flags) {
				t.Fatalf("transactions.json: block %d: index %d comes after %d", number, tx.Index, len(flags)-1)
			}
			flags = append(flags, peerpb.TxValidationCode(tx.Number))
		}
	}
	return flags
}

// asValidated turns final flags into what a validator knows before the commit:
// conflicts of reads are for the ledger to find.
func asValidated(flags []peerpb.TxValidationCode) []peerpb.TxValidationCode {
	out := make([]peerpb.TxValidationCode, len(flags))
	for i, f := range flags {
		if f != peerpb.TxValidationCode_MVCC_READ_CONFLICT && f != peerpb.TxValidationCode_PHANTOM_READ_CONFLICT {
			out[i] = f
		}
	}
	return out
}

// parse parses a block for a commit: without what a peer recorded in it.
func parse(t testing.TB, b *commonpb.Block) *wire.Block {
	t.Helper()
	parsed, err := wire.ParseBlock(b)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// commitFabric commits the blocks of the Fabric channel from the ledger's height to n.
func commitFabric(t testing.TB, l *Ledger, n uint64) {
	t.Helper()
	for number := l.Height(); number < n; number++ {
		b := fabricBlock(t, number)
		b.Metadata.Metadata[commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER] = nil
		b.Metadata.Metadata = b.Metadata.Metadata[:commonpb.BlockMetadataIndex_COMMIT_HASH]
		if err := l.Commit(context.Background(), parse(t, b), asValidated(fabricFlags(t, number))); err != nil {
			t.Fatal(err)
		}
	}
}

func blockName(number uint64) string { return fmt.Sprintf("block-%06d.pb", number) }

// consumeBytes reads a length as a varint and that many bytes.
func consumeBytes(t testing.TB, b []byte) (value []byte, n int) {
	t.Helper()
	value, n = protowire.ConsumeBytes(b)
	if n < 0 {
		t.Fatal(protowire.ParseError(n))
	}
	return value, n
}

// bytesFields reads a message of fields that all hold bytes.
func bytesFields(t testing.TB, b []byte) map[protowire.Number][]byte {
	t.Helper()
	fields := map[protowire.Number][]byte{}
	for len(b) > 0 {
		number, _, n := protowire.ConsumeTag(b)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		value, m := consumeBytes(t, b[n:])
		fields[number], b = value, b[n+m:]
	}
	return fields
}

// memoryDir is a folder in memory where the system has one: thousands of synced
// writes are no use to these tests.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "ledger")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
