package policy

import (
	"context"
	"testing"

	"strongroom/msp"
)

func benchmarkPolicy(b *testing.B) (*Policy, []*msp.Identity) {
	e, set := newTestEngine(b), new(roles)
	tree, err := e.Tree(set, channelGroup(3))
	if err != nil {
		b.Fatal(err)
	}
	p, err := tree.Policy("/Channel/Application/Endorsement")
	if err != nil {
		b.Fatal(err)
	}
	return p, []*msp.Identity{set.identity("Org1MSP", peer), set.identity("Org3MSP", peer)}
}

// BenchmarkMemoHit is the usual case: the same organisations endorse again.
func BenchmarkMemoHit(b *testing.B) {
	p, signers := benchmarkPolicy(b)
	b.ReportAllocs()
	for b.Loop() {
		if d, err := p.Evaluate(context.Background(), signers); err != nil || !d.Allowed {
			b.Fatal(d, err)
		}
	}
}

// BenchmarkMemoMiss is one evaluation of the generated Rego.
func BenchmarkMemoMiss(b *testing.B) {
	p, signers := benchmarkPolicy(b)
	rows := make([]row, len(signers))
	for i, id := range signers {
		r, err := p.row(id)
		if err != nil {
			b.Fatal(err)
		}
		rows[i] = r
	}
	b.ReportAllocs()
	for b.Loop() {
		if allowed, _, err := p.program.run(context.Background(), p.engine, rows, len(p.principals)); err != nil || !allowed {
			b.Fatal(allowed, err)
		}
	}
}

// BenchmarkTree compiles the 28 policies of a channel of three organisations, with
// nothing compiled before.
func BenchmarkTree(b *testing.B) {
	e, err := NewEngine(Config{})
	if err != nil {
		b.Fatal(err)
	}
	set, root := new(roles), channelGroup(3)
	for b.Loop() {
		e.programs = newMemo[string, *program](programEntries)
		if _, err := e.Tree(set, root); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNewEngine is the self-test.
func BenchmarkNewEngine(b *testing.B) {
	for b.Loop() {
		if _, err := NewEngine(Config{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkProgram is one evaluation of a team's Rego.
func BenchmarkProgram(b *testing.B) {
	p := mustParse(b, "package team.layer\n\ndefault allow := false\n\nallow if input.caller.mspid in {\"Org1MSP\", \"Org2MSP\"}\n\ndeny contains \"temps\" if \"temps\" in input.caller.ous\n")
	input, err := inputValue(map[string]any{"caller": map[string]any{"mspid": "Org1MSP", "ous": []string{"client"}}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if allowed, _, err := p.Decide(context.Background(), input); err != nil || !allowed {
			b.Fatal(allowed, err)
		}
	}
}
