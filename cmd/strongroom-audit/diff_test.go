package main

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"strongroom/ledger/translog"
)

// told makes the history of a signer up to a block, with the statements that say gives.
func told(from, to uint64, say func(n uint64) string) *history {
	h := &history{
		report: &Report{Channel: "c", From: from, To: to, Signer: "s", Log: &LogReport{Origin: "o", Size: to + 1}},
		keyID:  "k", hashes: map[uint64][]byte{}, statements: map[uint64]statementSeen{},
	}
	var leaves leafHashes
	for n := range to + 1 {
		s := statementSeen{leaf: translog.LeafHash([]byte(say(n))), index: n, digest: [32]byte{1, byte(n)}}
		copy(s.digest[2:], say(n))
		leaves = append(leaves, s.leaf)
		if n >= from {
			h.hashes[n], h.statements[n] = []byte{byte(n)}, s
		}
	}
	if from > 0 {
		h.before = []byte{byte(from - 1)}
	}
	root := rootOf(leaves)
	h.report.Log.Root = hex.EncodeToString(root[:])
	return h
}

func TestContradictions(t *testing.T) {
	plain := func(n uint64) string { return fmt.Sprint("statement ", n) }
	lie := func(n uint64) string {
		if n == 2 {
			return "another"
		}
		return plain(n)
	}
	forked := told(0, 9, plain)
	forked.hashes[3] = []byte("fork")
	detached := told(6, 9, plain)
	detached.before = []byte("nothing")
	for name, c := range map[string]struct {
		one, two   *history
		log        string
		continuous bool
		want       []string
	}{
		"grown":          {told(0, 5, plain), told(0, 9, plain), "the log of 10 only adds to the log of 6", true, nil},
		"the other way":  {told(0, 9, plain), told(0, 5, plain), "the log of 10 only adds to the log of 6", true, nil},
		"same":           {told(0, 5, plain), told(0, 5, plain), "they are the same", true, nil},
		"adjacent":       {told(0, 5, plain), told(6, 9, plain), "ask the peer for a consistency proof", true, nil},
		"a gap":          {told(0, 5, plain), told(7, 9, plain), "ask the peer for a consistency proof", false, nil},
		"rewritten":      {told(0, 5, lie), told(0, 9, plain), "contradict", false, []string{"it said two things", "does not continue"}},
		"rewritten, cut": {told(3, 5, lie), told(0, 9, plain), "contradict", true, []string{"does not continue"}},
		"two roots":      {told(3, 5, lie), told(3, 5, plain), "contradict", true, []string{"have the roots"}},
		"forked":         {told(0, 9, plain), forked, "they are the same", false, []string{"was forked"}},
		"detached":       {told(0, 5, plain), detached, "ask the peer", false, []string{"as the one before it"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := &Comparison{}
			h := [2]*history{c.one, c.two}
			got.blocks(h)
			got.logs(h)
			got.changes(h)
			if !strings.Contains(got.Log, c.log) || got.Continuous != c.continuous || len(got.Contradictions) != len(c.want) || len(got.Changes) != 0 {
				t.Fatalf("%+v", got)
			}
			for i, want := range c.want {
				if !strings.Contains(got.Contradictions[i], want) {
					t.Errorf("%q does not say %q", got.Contradictions[i], want)
				}
			}
		})
	}
}
