package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"strongroom/msp"
	"strongroom/wire/commonpb"
)

// Principals tells which principals an identity satisfies. *msp.Set is one. It
// must be safe for concurrent use, answer the same for as long as it lives, and be
// comparable (a pointer), since compiled policies are kept for it.
type Principals interface {
	// Satisfies returns an error only for a principal that is malformed, which
	// counts as not satisfied, as in Fabric.
	Satisfies(id *msp.Identity, p *commonpb.MSPPrincipal) (bool, error)
}

// Bounds of what a Policy remembers.
const (
	memoEntries     = 512  // verdicts, in each of two generations
	identityEntries = 1024 // identities, in each of two generations
)

// Policy is one compiled policy, bound to the principals of one channel
// configuration. It is immutable but for its caches and safe for concurrent use.
type Policy struct {
	engine     *Engine
	set        Principals
	path       string // as the reason names it
	rule       string // "MAJORITY Endorsement" or the text of the signature policy
	digest     Digest
	root       *node
	labels     []string // of the root's children
	principals []*commonpb.MSPPrincipal
	words      int // of 64 columns each
	program    *program

	rows     *memo[*msp.Identity, row]
	verdicts *memo[memoKey, verdict]
}

// row is what one identity satisfies: a bit for each column.
type row []uint64

// memoKey holds the rows of all signers, in order: the first eight words in
// place, further ones as bytes, so that the common case allocates nothing.
type memoKey struct {
	signers int
	words   [8]uint64
	rest    string
}

type verdict struct {
	allowed bool
	reason  string
}

// Digest names the policy.
func (p *Policy) Digest() Digest { return p.digest }

// Path is where the policy stands in the channel configuration, such as
// "/Channel/Application/Writers", or "" for a policy from elsewhere.
func (p *Policy) Path() string { return p.path }

// String describes the policy for people: its rule as text.
func (p *Policy) String() string { return p.rule }

// Principals are the principals that the policy names, each once, in the order of
// the columns of its Rego. The caller must not change them.
func (p *Policy) Principals() []*commonpb.MSPPrincipal { return p.principals }

// Rego is the generated source that decides the policy, with a heading that says
// which principal each column stands for.
func (p *Policy) Rego() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# policy %s %s\n# digest %s\n", p.path, oneLine(p.rule), p.digest)
	for i, principal := range p.principals {
		fmt.Fprintf(&b, "# input.satisfied_by[%d]: signers that are %s\n", i, oneLine(describePrincipal(principal)))
	}
	b.WriteString(p.program.source)
	return b.String()
}

func oneLine(s string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(s) }

// Evaluate decides whether the signers satisfy the policy. Signers are identities
// whose signatures were verified, in the order of the signatures, each once: the
// caller drops repetitions, as Fabric does. An error means that nothing was decided
// (a context that ended, a fault of the engine or of the set): the caller refuses,
// and must not record it as a verdict on a transaction.
func (p *Policy) Evaluate(ctx context.Context, signers []*msp.Identity) (Decision, error) {
	var space [8]row
	rows := space[:0]
	for _, id := range signers {
		r, err := p.row(id)
		if err != nil {
			return Decision{}, fmt.Errorf("policy %s: %w", p.name(), err)
		}
		rows = append(rows, r)
	}
	key := p.key(rows)
	v, ok := p.verdicts.get(key)
	if !ok {
		allowed, flags, err := p.program.run(ctx, p.engine, rows, len(p.principals))
		if err != nil {
			return Decision{}, fmt.Errorf("policy %s: %w", p.name(), err)
		}
		v = verdict{allowed: allowed, reason: p.reason(flags)}
		p.verdicts.put(key, v)
	}
	return Decision{Allowed: v.allowed, ID: p.engine.ids.take(), Reason: v.reason, Policy: p.digest}, nil
}

// Reference decides as Evaluate does, but by the second implementation of Fabric's
// rules in Go instead of Rego. It exists to hold the two against each other (tests,
// fuzzing, audits); nothing that decides may call it.
func (p *Policy) Reference(signers []*msp.Identity) (bool, error) {
	rows := make([]row, len(signers))
	for i, id := range signers {
		r, err := p.row(id)
		if err != nil {
			return false, err
		}
		rows[i] = r
	}
	return oracle(p.root, rows), nil
}

func (p *Policy) row(id *msp.Identity) (row, error) {
	if id == nil {
		return nil, errors.New("a signer is nil: drop signers whose identity is not valid")
	}
	if r, ok := p.rows.get(id); ok {
		return r, nil
	}
	r := make(row, p.words)
	for i, principal := range p.principals {
		ok, err := p.set.Satisfies(id, principal)
		if err != nil {
			p.engine.log.Warn("a policy's principal is malformed: nobody satisfies it",
				"policy", p.name(), "principal", describePrincipal(principal), "error", err)
		}
		if ok && err == nil {
			r[i/64] |= 1 << (i % 64)
		}
	}
	p.rows.put(id, r)
	return r, nil
}

func (r row) has(column int) bool { return r[column/64]&(1<<(column%64)) != 0 }

// key packs the rows. Their width is fixed for a policy and their number is part of
// the key, so different matrices have different keys.
func (p *Policy) key(rows []row) memoKey {
	k := memoKey{signers: len(rows)}
	i := 0
	var rest []byte
	for _, r := range rows {
		for _, w := range r {
			if i < len(k.words) {
				k.words[i] = w
			} else {
				for range 8 {
					rest = append(rest, byte(w))
					w >>= 8
				}
			}
			i++
		}
	}
	k.rest = string(rest)
	return k
}

func (p *Policy) name() string {
	if p.path == "" {
		return p.rule
	}
	return p.path
}

// reason says what the policy needs and which parts of it held.
func (p *Policy) reason(flags []bool) string {
	var b strings.Builder
	b.WriteString("policy ")
	if p.path != "" {
		b.WriteString(p.path)
		b.WriteString(" (")
		b.WriteString(p.rule)
		b.WriteString(")")
	} else {
		b.WriteString(p.rule)
	}
	if p.root.unknown {
		b.WriteString(" has a rule that Fabric does not know: it holds when no sub-policy does")
	} else {
		fmt.Fprintf(&b, " needs %d of %d", p.root.n, len(flags))
	}
	b.WriteString("; satisfied by ")
	b.WriteString(p.list(flags, true))
	b.WriteString("; missing ")
	b.WriteString(p.list(flags, false))
	return b.String()
}

// listed bounds the names in a reason.
const listed = 16

func (p *Policy) list(flags []bool, want bool) string {
	var names []string
	more := 0
	for i, f := range flags {
		if f != want {
			continue
		}
		if len(names) == listed {
			more++
			continue
		}
		names = append(names, p.labels[i])
	}
	switch {
	case len(names) == 0:
		return "none"
	case more > 0:
		return fmt.Sprintf("%s and %d more", strings.Join(names, ", "), more)
	}
	return strings.Join(names, ", ")
}

// wordsFor is the number of 64-bit words that a row of n columns needs.
func wordsFor(n int) int { return (n + 63) / 64 }
