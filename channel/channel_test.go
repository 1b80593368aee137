package channel

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/channel/configtx"
	"strongroom/ledger"
	"strongroom/ledger/seal"
	"strongroom/policy"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

const interop = "testdata/interop"

// lastBlock is the number of the last block of testdata/interop.
const lastBlock = 11

func readBlock(t testing.TB, number uint64) *commonpb.Block {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(interop, fmt.Sprintf("block-%06d.pb", number)))
	if err != nil {
		t.Fatal(err)
	}
	block := &commonpb.Block{}
	if err := proto.Unmarshal(b, block); err != nil {
		t.Fatal(err)
	}
	return block
}

// lines reads a text file of testdata/interop without its comments.
func lines(t testing.TB, name string) []string {
	t.Helper()
	f, err := os.Open(filepath.Join(interop, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if line := s.Text(); line != "" && line[0] != '#' {
			out = append(out, line)
		}
	}
	return out
}

// recordedVerdicts are the codes that Fabric's peer recorded, by block.
func recordedVerdicts(t testing.TB) map[uint64][]string {
	t.Helper()
	out := map[uint64][]string{}
	for _, line := range lines(t, "verdicts.txt") {
		var block, index uint64
		var code string
		if _, err := fmt.Sscan(line, &block, &index, &code); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		if uint64(len(out[block])) != index {
			t.Fatalf("line %q is out of order", line)
		}
		out[block] = append(out[block], code)
	}
	return out
}

// node is what a channel needs beside its source: a token, and a ledger with the
// genesis block.
type node struct {
	deps   configtx.Deps
	ledger *ledger.Ledger
}

func newNode(t testing.TB, verifier func(bccsp.Verifier) bccsp.Verifier) *node {
	t.Helper()
	return newNodeAt(t, readBlock(t, 0), verifier)
}

// newNodeAt is newNode with a genesis block of its own.
func newNodeAt(t testing.TB, genesis *commonpb.Block, verifier func(bccsp.Verifier) bccsp.Verifier) *node {
	t.Helper()
	token := bccsptest.Open(t)
	keyring, err := seal.OpenKeyring(t.Context(), t.TempDir(), token)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), ledger.Config{Dir: t.TempDir(), ChannelID: "mychannel", Keyring: keyring})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(l.Close(), keyring.Close()); err != nil {
			t.Error(err)
		}
	})
	engine, err := policy.NewEngine(policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{deps: configtx.Deps{Verifier: token, Engine: engine}, ledger: l}
	if verifier != nil {
		n.deps.Verifier = verifier(token)
	}
	if err := Join(t.Context(), l, n.deps, genesis); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) open(t testing.TB, change func(*Config)) *Channel {
	t.Helper()
	cfg := Config{Ledger: n.ledger, Deps: n.deps, RetryMin: time.Microsecond, RetryMax: time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	c, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// orderer gives the blocks of testdata/interop as an orderer does: without the
// codes, and it waits for more at the end. Alter may change or replace a block.
type orderer struct {
	t     testing.TB
	alter func(*commonpb.Block) *commonpb.Block
	asked []uint64
	ends  bool // at the last block, instead of waiting for another
}

func (o *orderer) Blocks(ctx context.Context, from uint64, emit func(*commonpb.Block) error) error {
	o.asked = append(o.asked, from)
	for number := from; number <= lastBlock; number++ {
		block := readBlock(o.t, number)
		if o.alter != nil {
			block = o.alter(block)
		}
		if err := emit(block); err != nil {
			return err
		}
	}
	if o.ends {
		return nil
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// follow runs a channel until it has published height blocks.
func follow(t testing.TB, c *Channel, height uint64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	lastTx := readBlock(t, height-1)
	if _, _, err := c.AwaitTx(t.Context(), firstTxID(t, lastTx)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v", err)
	}
	if c.Height() != height {
		t.Errorf("height is %d, want %d", c.Height(), height)
	}
}

// checkLedger compares codes and commit hashes with what Fabric's peer recorded.
func checkLedger(t testing.TB, l *ledger.Ledger) {
	t.Helper()
	for number, want := range recordedVerdicts(t) {
		block, err := l.Block(number)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, flag := range filter(block) {
			got = append(got, peerpb.TxValidationCode(flag).String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("codes of block %d (-Fabric +ours):\n%s", number, diff)
		}
	}
	for _, line := range lines(t, "commit-hashes.txt") {
		var number uint64
		var want string
		if _, err := fmt.Sscan(line, &number, &want); err != nil {
			t.Fatal(err)
		}
		block, err := l.Block(number)
		if err != nil {
			t.Fatal(err)
		}
		value := &commonpb.Metadata{}
		if err := proto.Unmarshal(metadata(block, commonpb.BlockMetadataIndex_COMMIT_HASH), value); err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(value.Value); got != want {
			t.Errorf("commit hash of block %d is %s, Fabric's is %s", number, got, want)
		}
	}
}

// TestInterop is the test: a channel of a real Fabric network, joined from its
// genesis block, comes out with the codes and commit hashes of Fabric's own peers.
func TestInterop(t *testing.T) {
	n := newNode(t, nil)
	source := &orderer{t: t}
	c := n.open(t, func(cfg *Config) { cfg.Source = source })
	follow(t, c, lastBlock+1)
	checkLedger(t, n.ledger)
	if got := c.Config().Sequence; got == 0 {
		t.Errorf("the configuration of block 10 is not in force: sequence %d", got)
	}
	if got := c.Config().BatchTimeout; got != time.Second {
		t.Errorf("batch timeout is %v after block 10, want 1s", got)
	}
	again := n.open(t, nil)
	if again.Config().Sequence != c.Config().Sequence || again.Height() != lastBlock+1 {
		t.Errorf("opened again: height %d, configuration sequence %d", again.Height(), again.Config().Sequence)
	}
	d, err := again.Definition("kv")
	if err != nil || d.Version != "1.0" || d.Sequence != 1 {
		t.Errorf("definition of kv is %+v (%v)", d, err)
	}
}
