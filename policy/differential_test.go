package policy

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"strongroom/msp"
	"strongroom/policy/policytest"
	"strongroom/wire/commonpb"
)

// comparisons is how many decisions TestDifferential compares: .ci/run gives 300,000, a
// long run by hand ten million.
var comparisons = flag.Int("comparisons", 30_000, "decisions that TestDifferential compares")

// tally is how often each kind of policy was compared, and with what result.
type tally struct{ compared, allowed, invalid map[string]int }

func newTally() *tally {
	return &tally{map[string]int{}, map[string]int{}, map[string]int{}}
}

// TestDifferential holds the generated Rego against an oracle that works on protobuf
// messages and shares no code with the engine: random signature policies, implicit meta
// policies, references into the channel's configuration and application policies, with
// random signers. The verdicts come from Rego each time: nothing remembered is compared.
func TestDifferential(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, %d comparisons", seed, *comparisons)
	d := &differential{t: t, Rand: rand.New(rand.NewPCG(seed, 5)), tally: newTally()}
	for d.done < *comparisons {
		d.round()
	}
	for _, kind := range []string{"signature", "meta", "reference"} {
		n := d.tally.compared[kind]
		t.Logf("%s: %d compared, %d allowed, %d not valid", kind, n, d.tally.allowed[kind], d.tally.invalid[kind])
		if a := d.tally.allowed[kind]; n < *comparisons/20 || a < n/20 || a > n*19/20 {
			t.Errorf("%s: the random policies no longer test what they should", kind)
		}
	}
}

type differential struct {
	t *testing.T
	*rand.Rand
	tally *tally
	done  int
}

var differentialOrganisations = []string{"Org1MSP", "Org2MSP", "Org3MSP"}

// round compares on one channel configuration and 24 policies from elsewhere.
func (d *differential) round() {
	src := &policytest.Source{Rand: d.Rand}
	for _, org := range differentialOrganisations {
		for _, role := range []commonpb.MSPRole_MSPRoleType{member, admin, peer} {
			src.Principals = append(src.Principals, rolePrincipal(org, role))
		}
	}
	set := &roles{}
	var people []*msp.Identity
	for _, org := range differentialOrganisations {
		people = append(people, set.identity(org, peer), set.identity(org, peer), set.identity(org, admin), set.identity(org, admin, peer), set.identity(org))
	}
	people = append(people, set.identity("OtherMSP", admin))
	root := src.Group(differentialOrganisations)
	engine := newTestEngine(d.t)
	tree, err := engine.Tree(set, root)
	if err != nil {
		d.t.Fatalf("the channel's policies: %v", err)
	}
	casts := make([][]*msp.Identity, 60)
	for i := range casts {
		order := d.Perm(len(people))[:d.IntN(7)]
		for _, p := range order {
			casts[i] = append(casts[i], people[p])
		}
	}
	compare := func(p *Policy, kind, what string, oracle func(policytest.Signers) (bool, error)) {
		for _, cast := range casts {
			got := d.rego(p, cast)
			want, err := oracle(policytest.Signers{Count: len(cast), Satisfies: func(i int, principal *commonpb.MSPPrincipal) bool {
				ok, err := set.Satisfies(cast[i], principal)
				return ok && err == nil
			}})
			if err != nil || got != want {
				d.t.Fatalf("%s, signed by %v: Rego says %t, the oracle %t (%v)\n%s", what, cast, got, want, err, p.Rego())
			}
			d.note(kind, want)
		}
	}
	for _, path := range tree.Paths() {
		p, err := tree.Policy(path)
		if err != nil {
			d.t.Fatal(err)
		}
		kind := "signature"
		if p.root.kind == meta {
			kind = "meta"
		}
		compare(p, kind, path, func(s policytest.Signers) (bool, error) { return policytest.Channel(root, path, s) })
	}
	for range 24 {
		b := src.Application(differentialOrganisations)
		p, err := engine.ApplicationPolicy(set, tree, b)
		if err != nil {
			_, wrong := policytest.Application(root, b, policytest.Signers{})
			if !errors.Is(wrong, policytest.ErrInvalid) || !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrNoPolicy) {
				d.t.Fatalf("application policy %x: %v, the oracle says %v", b, err, wrong)
			}
			d.tally.invalid["reference"]++
			d.done++
			continue
		}
		kind := "signature"
		if p.path != "" {
			kind = "reference"
		}
		compare(p, kind, fmt.Sprintf("application policy %x", b), func(s policytest.Signers) (bool, error) { return policytest.Application(root, b, s) })
	}
}

func (d *differential) note(kind string, allowed bool) {
	d.done++
	d.tally.compared[kind]++
	if allowed {
		d.tally.allowed[kind]++
	}
}

// rego evaluates the policy's Rego, past what the policy remembers.
func (d *differential) rego(p *Policy, cast []*msp.Identity) bool {
	rows := make([]row, len(cast))
	for i, id := range cast {
		var err error
		if rows[i], err = p.row(id); err != nil {
			d.t.Fatal(err)
		}
	}
	allowed, _, err := p.program.run(context.Background(), p.engine, rows, len(p.principals))
	if err != nil {
		d.t.Fatalf("%v\n%s", err, p.Rego())
	}
	return allowed
}
