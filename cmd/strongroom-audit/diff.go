package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"strongroom/ledger/evidence"
	"strongroom/ledger/provenance"
	"strongroom/ledger/translog"
)

// Comparison says how two packs of one channel stand to each other.
type Comparison struct {
	Channel        string       `json:"channel"`
	Packs          [2]PackSeen  `json:"packs"`
	Common         uint64       `json:"commonBlocks"`   // that both have, and that are the same
	Continuous     bool         `json:"continuous"`     // no block is missing between the two, and the hash chain runs through both
	Log            string       `json:"log"`            // what can be said of the transparency logs
	Contradictions []string     `json:"contradictions"` // what cannot both be true
	Changes        []ChangeSeen `json:"changes"`        // what the second has and the first has not, and the reverse
}

// PackSeen is one of the packs.
type PackSeen struct {
	File       string    `json:"file"`
	From       uint64    `json:"from"`
	To         uint64    `json:"to"`
	ConfigHash string    `json:"configHash"`
	Signer     string    `json:"signer"`
	Findings   []Finding `json:"findings"`
}

// ChangeSeen is something that only one of the packs has.
type ChangeSeen struct {
	Pack int    `json:"pack"` // 1 or 2
	What string `json:"what"`
}

func diffCommand() *cobra.Command {
	var output, configHash string
	cmd := &cobra.Command{
		Use:   "diff PACK PACK",
		Short: "Compare two packs of one channel: do they tell one history?",
		Long: `Verifies two packs of one channel, of one peer or of two, and compares them: the blocks that both
have, whether the hash chain runs from one to the other, whether the second's
transparency log only adds to the first's, and which signers, policies and devices only
one of them has. A contradiction, or a finding in either pack, makes the exit status 1.`,
		Example: "  strongroom-audit diff pack-2025.tar.zst pack-2026.tar.zst",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output is %q: use text or json", output)
			}
			c, err := comparePacks(cmd.Context(), [2]string(args), configHash, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if err := c.print(cmd.OutOrStdout(), output); err != nil {
				return err
			}
			if n := len(c.Contradictions) + len(c.Packs[0].Findings) + len(c.Packs[1].Findings); n > 0 {
				return fmt.Errorf("%d contradictions and findings", n)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&output, "output", "text", "how to print the comparison: text or json")
	cmd.Flags().StringVar(&configHash, "config-hash", "", "block hash, in `HEX`, that config.block of the first pack must have")
	return cmd
}

// history is what the comparison keeps of a pack: some 100 bytes a block.
type history struct {
	report     *Report
	keyID      string                   // of the statements' signer
	hashes     map[uint64][]byte        // of the blocks
	before     []byte                   // the hash that the first block names
	statements map[uint64]statementSeen // by block
}

type statementSeen struct {
	digest [32]byte
	leaf   translog.Hash
	index  uint64
}

func readHistory(ctx context.Context, pack, configHash string, progress io.Writer) (*history, error) {
	h := &history{hashes: map[uint64][]byte{}, statements: map[uint64]statementSeen{}}
	var err error
	h.report, err = verify(ctx, pack, configHash, progress, func(b *seenBlock, files *[4][]byte) error {
		if len(h.hashes) == 0 {
			h.before = b.Proto.GetHeader().GetPreviousHash()
		}
		h.hashes[b.Number()] = b.Hash
		if s := b.evidence.statement; s != nil && b.evidence.logged {
			bundle, err := provenance.ParseBundle(files[evidence.Statement])
			if err != nil {
				return err // it was parsed before
			}
			h.statements[b.Number()] = statementSeen{s.Digest, translog.LeafHash(bundle.Envelope.Payload), b.evidence.index}
			h.keyID = s.Statement.Predicate.HSM.KeyID
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pack, err)
	}
	return h, nil
}

func comparePacks(ctx context.Context, packs [2]string, configHash string, progress io.Writer) (*Comparison, error) {
	var h [2]*history
	c := &Comparison{Contradictions: []string{}, Changes: []ChangeSeen{}}
	for i, pack := range packs {
		var err error
		if h[i], err = readHistory(ctx, pack, configHash, progress); err != nil {
			return nil, err
		}
		configHash = "" // the second pack may begin under another configuration
		r := h[i].report
		c.Packs[i] = PackSeen{pack, r.From, r.To, r.ConfigHash, r.Signer, r.Findings}
	}
	c.Channel = h[0].report.Channel
	if other := h[1].report.Channel; other != c.Channel {
		return nil, fmt.Errorf("%s is of channel %q, %s of channel %q: nothing to compare", packs[0], c.Channel, packs[1], other)
	}
	c.blocks(h)
	c.logs(h)
	c.changes(h)
	return c, nil
}

func (c *Comparison) contradict(format string, args ...any) {
	c.Contradictions = append(c.Contradictions, fmt.Sprintf(format, args...))
}

// blocks compares the chains.
func (c *Comparison) blocks(h [2]*history) {
	for n := max(h[0].report.From, h[1].report.From); n <= min(h[0].report.To, h[1].report.To); n++ {
		one, two := h[0].hashes[n], h[1].hashes[n]
		switch {
		case one == nil || two == nil: // a finding of its pack
		case !bytes.Equal(one, two):
			c.contradict("block %d has hash %x in the first pack and %x in the second: the channel was forked, or one of them is not its block", n, one, two)
		default:
			c.Common++
		}
		s, t := h[0].statements[n], h[1].statements[n]
		if h[0].keyID == h[1].keyID && s.digest != t.digest && s.digest != [32]byte{} && t.digest != [32]byte{} {
			c.contradict("the statements about block %d differ and have one signer: it said two things", n)
		}
	}
	first, second := h[0], h[1]
	if first.report.From > second.report.From {
		first, second = second, first
	}
	last := first.hashes[second.report.From-min(second.report.From, 1)]
	switch {
	case second.report.From <= first.report.To:
		c.Continuous = c.Common > 0 && len(c.Contradictions) == 0
	case second.report.From == first.report.To+1 && last != nil:
		if c.Continuous = bytes.Equal(second.before, last); !c.Continuous {
			c.contradict("block %d names %x as the one before it, which is %x in the other pack", second.report.From, second.before, last)
		}
	}
}

// logs holds the shorter transparency log against the statements that make up the
// longer one.
func (c *Comparison) logs(h [2]*history) {
	one, two := h[0].report.Log, h[1].report.Log
	switch {
	case one == nil || two == nil:
		c.Log = "a pack has no good checkpoint"
		return
	case one.Origin != two.Origin:
		c.Log = "they are logs of two signers"
		return
	case one.Size == two.Size:
		if c.Log = "they are the same"; one.Root != two.Root {
			c.Log = "they contradict each other"
			c.contradict("two checkpoints of one log of %d have the roots %s and %s", one.Size, one.Root, two.Root)
		}
		return
	}
	short, long := h[0], h[1]
	if one.Size > two.Size {
		short, long = long, short
	}
	leaves := make([]translog.Hash, short.report.Log.Size)
	known := uint64(0)
	for _, s := range long.statements {
		if s.index < uint64(len(leaves)) {
			leaves[s.index] = s.leaf
			known++
		}
	}
	if known < uint64(len(leaves)) {
		c.Log = fmt.Sprintf("whether the log of %d continues the log of %d, these packs cannot show: ask the peer for a consistency proof", long.report.Log.Size, short.report.Log.Size)
		return
	}
	root := rootOf(leaves)
	if hex.EncodeToString(root[:]) != short.report.Log.Root {
		c.Log = "they contradict each other"
		c.contradict("the log of %d does not continue the log of %d: its first %d statements have the root %x, the checkpoint of then says %s",
			long.report.Log.Size, short.report.Log.Size, len(leaves), root, short.report.Log.Root)
		return
	}
	c.Log = fmt.Sprintf("the log of %d only adds to the log of %d", long.report.Log.Size, short.report.Log.Size)
}

// changes lists who and what only one of the packs has.
func (c *Comparison) changes(h [2]*history) {
	var have [2][]string
	for i, one := range h {
		r := one.report
		for _, m := range r.Members {
			have[i] = append(have[i], fmt.Sprintf("%s of %s signed", m.Subject, m.MSPID))
		}
		for _, p := range r.Policies {
			have[i] = append(have[i], fmt.Sprintf("endorsement policy %s of %s", p.Digest, p.Namespace))
		}
		for _, d := range r.Devices {
			have[i] = append(have[i], "made by "+d)
		}
		have[i] = append(have[i], "statements are signed by "+r.Signer)
	}
	for i := range have {
		for _, what := range have[i] {
			if !slices.Contains(have[1-i], what) {
				c.Changes = append(c.Changes, ChangeSeen{i + 1, what})
			}
		}
	}
}

func (c *Comparison) print(w io.Writer, format string) error {
	if format == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(c)
	}
	fmt.Fprintf(w, "channel       %s\n", c.Channel)
	for i, p := range c.Packs {
		fmt.Fprintf(w, "pack %d        %s: blocks %d to %d, signed by %s, configuration %s\n", i+1, p.File, p.From, p.To, p.Signer, p.ConfigHash)
		for _, f := range p.Findings {
			fmt.Fprintf(w, "  FINDING     %s\n", f)
		}
	}
	fmt.Fprintf(w, "blocks        %d are in both and the same\n", c.Common)
	if c.Continuous {
		fmt.Fprintln(w, "chain         runs through both without a gap")
	} else {
		fmt.Fprintln(w, "chain         is not shown to run from one to the other")
	}
	fmt.Fprintf(w, "logs          %s\n", c.Log)
	for _, change := range c.Changes {
		fmt.Fprintf(w, "only in %d     %s\n", change.Pack, change.What)
	}
	for _, contradiction := range c.Contradictions {
		fmt.Fprintf(w, "CONTRADICTION %s\n", contradiction)
	}
	if len(c.Contradictions) == 0 {
		fmt.Fprintln(w, "no contradiction")
	}
	return nil
}

// leafHashes are the nodes of a tree of which every leaf is known.
type leafHashes []translog.Hash

// Node never fails.
func (l leafHashes) Node(level int, index uint64) (translog.Hash, error) {
	if level == 0 {
		return l[index], nil
	}
	left, _ := l.Node(level-1, 2*index)
	right, _ := l.Node(level-1, 2*index+1)
	return translog.NodeHash(left, right), nil
}

func rootOf(l leafHashes) translog.Hash {
	root, _ := translog.Root(l, uint64(len(l)))
	return root
}
