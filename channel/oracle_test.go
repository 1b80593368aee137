package channel

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"strongroom/bccsp"
	"strongroom/wire/commonpb"
)

// believer is a Verifier for which every signature over a message is good that is there, so that
// changed transactions come as far as the checks after the signature. Certificates
// are checked in the token as ever.
type believer struct{ bccsp.Verifier }

func (believer) Verify(_ context.Context, _ *bccsp.PublicKey, _, sig []byte) error {
	if len(sig) == 0 {
		return bccsp.ErrBadSignature
	}
	return nil
}

// stages runs the chain block by block by hand and gives each block with the
// configuration and state that it meets before it is committed.
func stages(t *testing.T, n *node, visit func(c *Channel, b *commonpb.Block, state State)) {
	t.Helper()
	c := n.open(t, nil)
	for number := uint64(1); number <= lastBlock; number++ {
		b := readBlock(t, number)
		state, err := c.chain.state()
		if err != nil {
			t.Fatal(err)
		}
		visit(c, b, state)
		state.Release()
		replayBlocks(t, c, number, number)
	}
}

// replayBlocks commits some blocks of testdata/interop.
func replayBlocks(t *testing.T, c *Channel, from, to uint64) {
	t.Helper()
	err := c.Replay(t.Context(), func(yield func(*commonpb.Block, error) bool) {
		for number := from; number <= to; number++ {
			if !yield(readBlock(t, number), nil) {
				return
			}
		}
	}, func(d Difference) { t.Error(d) })
	if err != nil {
		t.Fatal(err)
	}
}

func pipelined(t *testing.T, c *Channel, b *commonpb.Block, state State) []code {
	t.Helper()
	facts, err := c.validator.Facts(t.Context(), c.Config(), b)
	if err != nil {
		t.Fatal(err)
	}
	j, err := c.validator.Judge(t.Context(), facts, state)
	if err != nil {
		t.Fatal(err)
	}
	return j.Flags()
}

func TestPipelineAgreesWithReference(t *testing.T) {
	n := newNode(t, nil)
	stages(t, n, func(c *Channel, b *commonpb.Block, state State) {
		r := &reference{t: t, engine: n.deps.Engine, config: c.Config(), state: state}
		if diff := cmp.Diff(r.judge(b), pipelined(t, c, b, state)); diff != "" {
			t.Errorf("block %d (-reference +pipeline):\n%s", b.Header.Number, diff)
		}
	})
}

// TestPipelineAgreesOnChangedBlocks mixes, cuts and flips the transactions of the
// chain, with a token that believes every signature: whatever comes of it, both
// implementations must say the same.
func TestPipelineAgreesOnChangedBlocks(t *testing.T) {
	n := newNode(t, func(v bccsp.Verifier) bccsp.Verifier { return believer{v} })
	seed := uint64(20261123)
	random := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	var pool [][]byte
	for number := uint64(1); number <= lastBlock; number++ {
		pool = append(pool, readBlock(t, number).Data.Data...)
	}
	counts := map[code]int{}
	state, err := openAt(t, n, 7).chain.state()
	if err != nil {
		t.Fatal(err)
	}
	defer state.Release()
	c := n.open(t, nil)
	for range 60 {
		b := readBlock(t, 8)
		b.Data.Data = nil
		for range 40 {
			envelope := append([]byte(nil), pool[random.IntN(len(pool))]...)
			if random.IntN(3) > 0 {
				envelope[random.IntN(len(envelope))] ^= 1 << random.IntN(8)
			}
			if random.IntN(20) == 0 {
				envelope = envelope[:random.IntN(len(envelope))]
			}
			b.Data.Data = append(b.Data.Data, envelope)
		}
		r := &reference{t: t, engine: n.deps.Engine, config: c.Config(), state: state}
		got := pipelined(t, c, b, state)
		if diff := cmp.Diff(r.judge(b), got); diff != "" {
			t.Fatalf("(-reference +pipeline):\n%s", diff)
		}
		for _, flag := range got {
			counts[flag]++
		}
	}
	t.Log(counts)
	if len(counts) < 8 {
		t.Errorf("the changed blocks reach only %d codes: %v", len(counts), counts)
	}
}

// openAt gives a channel with the blocks below height.
func openAt(t *testing.T, n *node, height uint64) *Channel {
	t.Helper()
	c := n.open(t, nil)
	replayBlocks(t, c, 1, height-1)
	return c
}

// TestKeyPoliciesInsideOneBlock puts transactions of blocks 7 and 8 into one block:
// 7:0 sets a policy on key a04, 8:0 and 8:3 write it, 8:2 writes another key.
func TestKeyPoliciesInsideOneBlock(t *testing.T) {
	n := newNode(t, nil)
	c := openAt(t, n, 7)
	state, err := c.chain.state()
	if err != nil {
		t.Fatal(err)
	}
	defer state.Release()
	envelope := func(block, index int) []byte { return readBlock(t, uint64(block)).Data.Data[index] }
	broken := append([]byte(nil), envelope(7, 0)...)
	broken[len(broken)-1] ^= 1 // the end of the creator's signature
	for name, test := range map[string]struct {
		envelopes [][]byte
		want      []string
	}{
		"write by all before the change": {
			[][]byte{envelope(8, 3), envelope(7, 0)},
			[]string{"VALID", "VALID"},
		},
		"writes after the change": {
			[][]byte{envelope(7, 0), envelope(8, 3), envelope(8, 0), envelope(9, 1)},
			[]string{"VALID", "ENDORSEMENT_POLICY_FAILURE", "ENDORSEMENT_POLICY_FAILURE", "VALID"},
		},
		"the change is not valid": {
			[][]byte{broken, envelope(8, 3), envelope(8, 0)},
			[]string{"BAD_CREATOR_SIGNATURE", "VALID", "ENDORSEMENT_POLICY_FAILURE"},
		},
		"the change comes twice": {
			[][]byte{envelope(7, 0), envelope(7, 0), envelope(8, 3)},
			[]string{"VALID", "ENDORSEMENT_POLICY_FAILURE", "ENDORSEMENT_POLICY_FAILURE"},
		},
	} {
		b := readBlock(t, 8)
		b.Data.Data = test.envelopes
		var got []string
		for _, flag := range pipelined(t, c, b, state) {
			got = append(got, flag.String())
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		r := &reference{t: t, engine: n.deps.Engine, config: c.Config(), state: state}
		if diff := cmp.Diff(r.judge(b), pipelined(t, c, b, state)); diff != "" {
			t.Errorf("%s (-reference +pipeline):\n%s", name, diff)
		}
	}
}
