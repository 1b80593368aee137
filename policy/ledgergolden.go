package policy

import (
	"context"
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// ledgerCase is a program for the ledger, an input, and what must come of it.
type ledgerCase struct {
	name, rules, input string
	allow              bool
	steps              int
}

// ledgerGolden is the corpus that LedgerRules stands for: verdicts and their steps.
var ledgerGolden = []ledgerCase{
	{name: "a comparison", rules: `allow if input.x == 1`, input: `{"x": 1}`, allow: true, steps: 15},
	{name: "numbers have one order", rules: `allow if { 0.1 + 0.2 == 0.3; 2 < 10; 1.0 == 1; {1, 1.0} == {1}; input.x > 9007199254740992 }`, input: `{"x": 9007199254740993}`, allow: true, steps: 31},
	{name: "a set of literals and references", rules: `allow if input.x in {"a", input.y}`, input: `{"x": "b", "y": "b"}`, allow: true, steps: 21},
	{name: "every and some", rules: "allow if { every w in input.w { w.ok }; some w in input.w; w.n > 1 }\ndeny contains \"x\" if { some w in input.w; w.n > 9 }", input: `{"w": [{"ok": true, "n": 1}, {"ok": true, "n": 2}, {"ok": true, "n": 3}]}`, allow: true, steps: 109},
	{name: "a comprehension and a function", rules: "allow if count({f(x) | some x in input.x}) == 2\nf(x) := \"small\" if x < 10\nf(x) := \"large\" if x >= 10", input: `{"x": [1, 5, 12, 50, 3]}`, allow: true, steps: 124},
	{name: "negation", rules: "allow if not bad\nbad if input.x[_] == 3", input: `{"x": [1, 2, 3]}`, allow: false, steps: 37},
	{name: "a contradiction", rules: "allow if f(input.x) == 1\nf(x) := 1 if x > 0\nf(x) := 2 if x > 1", input: `{"x": 2}`, allow: false, steps: 46},
	{name: "else", rules: "allow if grade == \"b\"\ngrade := \"a\" if input.x > 90 else := \"b\" if input.x > 50 else := \"c\"", input: `{"x": 60}`, allow: true, steps: 31},
	{name: "objects", rules: `allow if { o := object.union(input.a, input.b); o == {"x": 1, "y": 2}; object.get(o, "z", 3) == 3; object.keys(o) == {"x", "y"} }`, input: `{"a": {"x": 1, "y": 1}, "b": {"y": 2}}`, allow: true, steps: 42},
	{name: "over the budget", rules: `allow if count([1 | some a in input.x; some b in input.x; some c in input.x; some d in input.x; some e in input.x; a + b + c + d + e > 99]) >= 0`, input: `{"x": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]}`, allow: false, steps: LedgerSteps + 1},
}

// check decides a case.
func (c *ledgerCase) check() error {
	p, err := ParseProgram(context.Background(), ProgramConfig{Package: "golden", Ledger: true},
		map[string][]byte{"golden.rego": []byte("package golden\n\ndefault allow := false\n\n" + c.rules + "\n")})
	if err != nil {
		return fmt.Errorf("ledger case %q: %w", c.name, err)
	}
	in, err := ast.ValueFromReader(strings.NewReader(c.input))
	if err != nil {
		return fmt.Errorf("ledger case %q: %w", c.name, err)
	}
	v, err := p.Judge(context.Background(), in)
	if err != nil {
		return fmt.Errorf("ledger case %q: %w", c.name, err)
	}
	if v.Allowed != c.allow || v.Steps != c.steps {
		return fmt.Errorf("ledger case %q: %t after %d steps (%s), %t after %d is right", c.name, v.Allowed, v.Steps, strings.Join(v.Reasons, "; "), c.allow, c.steps)
	}
	return nil
}

// ledgerSelfTest decides the corpus.
func ledgerSelfTest() error {
	for i := range ledgerGolden {
		if err := ledgerGolden[i].check(); err != nil {
			return err
		}
	}
	return nil
}
