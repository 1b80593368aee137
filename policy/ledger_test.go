package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

func ledgerProgram(t testing.TB, rules string) *Program {
	t.Helper()
	p, err := ParseProgram(t.Context(), ProgramConfig{Package: "team", Ledger: true}, map[string][]byte{"team.rego": []byte("package team\n\ndefault allow := false\n\n" + rules + "\n")})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func document(t testing.TB, text string) ast.Value {
	t.Helper()
	v, err := ast.ValueFromReader(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestJudge: what goes wrong in the rules denies, what goes wrong here decides nothing.
func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name, rules, input string
		allow              bool
		reason             string
	}{
		{"allowed", "allow if input.x == 1", `{"x": 1}`, true, ""},
		{"not allowed", "allow if input.x == 1", `{"x": 2}`, false, "no rule of team allows it"},
		{"undefined", "allow if input.y == 1", `{"x": 2}`, false, "no rule"},
		{"denied", "allow if true\ndeny contains \"two\" if input.x == 2", `{"x": 2}`, false, "two"},
		{"two rules that contradict each other", "allow if f(input.x) == 1\nf(x) := 1 if x > 0\nf(x) := 2 if x > 1", `{"x": 2}`, false, "eval_conflict_error"},
		{"a built-in that fails", "allow if substring(\"abc\", input.x, 1) == \"a\"", `{"x": -1}`, false, "eval_builtin_error"},
		{"too many steps", "allow if count([1 | some a in input.x; some b in input.x; some c in input.x; a < b; b < c]) > 0", fmt.Sprintf(`{"x": [%s1]}`, strings.Repeat("1,", 200)), false, "more than 100000 steps"},
	} {
		v, err := ledgerProgram(t, c.rules).Judge(context.Background(), document(t, c.input))
		if err != nil || v.Allowed != c.allow || !strings.Contains(strings.Join(v.Reasons, ";"), c.reason) {
			t.Errorf("%s: %+v, %v", c.name, v, err)
		}
	}
	p := ledgerProgram(t, "allow if input.x == 1")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if v, err := p.Judge(ctx, document(t, `{"x": 1}`)); !errors.Is(err, context.Canceled) || v.Allowed {
		t.Errorf("a context that ended: %+v, %v", v, err)
	}
	other, err := ParseProgram(t.Context(), ProgramConfig{Package: "team"}, map[string][]byte{"team.rego": []byte("package team\n\ndefault allow := false\n\nallow if input.x == 1\n")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Judge(context.Background(), document(t, `{"x": 1}`)); err == nil {
		t.Error("a program with a team's built-in functions decided about the ledger")
	}
}

// ledgerGolden are verdicts with the steps that they take. A change of either is a
// change of consensus: it needs another name of LedgerRules, which nodes and channels
// agree on. NewEngine holds the same cases against itself.
func TestLedgerGolden(t *testing.T) {
	if err := ledgerSelfTest(); err != nil {
		t.Error(err)
	}
	for i := range ledgerGolden {
		wrong := ledgerGolden[i]
		wrong.steps++
		if err := wrong.check(); err == nil {
			t.Errorf("%s: one step more went unnoticed", wrong.name)
		}
		wrong = ledgerGolden[i]
		wrong.allow = !wrong.allow
		if err := wrong.check(); err == nil {
			t.Errorf("%s: the opposite verdict went unnoticed", wrong.name)
		}
	}
}

// TestStepsAreTheSame compiles and evaluates the same many times, in modules whose order
// in Go's maps differs: the steps must not.
func TestStepsAreTheSame(t *testing.T) {
	files := map[string][]byte{"a.rego": []byte("package team\n\ndefault allow := false\n\nallow if count(good) > 3\n")}
	for i := range 6 {
		files[fmt.Sprintf("r%d.rego", i)] = fmt.Appendf(nil, "package team\n\ngood contains x if { some x in input.x; x > %d }\n\nlimits[%d] := %d if input.x[%d] > 0\n\ndeny contains \"over\" if limits[_] > 100\n", i, i, i, i)
	}
	in := document(t, `{"x": [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], "y": {"a": {"b": [1, 2, {"c": 3}]}}}`)
	steps := map[int]bool{}
	for range 40 {
		p, err := ParseProgram(t.Context(), ProgramConfig{Package: "team", Ledger: true}, files)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			v, err := p.Judge(context.Background(), in)
			if err != nil || !v.Allowed {
				t.Fatalf("%+v, %v", v, err)
			}
			steps[v.Steps] = true
		}
	}
	if len(steps) != 1 {
		t.Errorf("the same evaluation took %v steps", steps)
	}
}

// TestLedgerBuiltins: what could make values grow past the budget, or differs between
// hosts, is refused with file and line.
func TestLedgerBuiltins(t *testing.T) {
	for _, call := range []string{
		`concat("", [input.x, input.x])`, `array.concat(input.x, input.x)`, `replace(input.x, "a", "aa")`, `sprintf("%999999999d", [1])`,
		`upper(input.x)`, `lower(input.x)`, `regex.match("a", input.x)`, `glob.match("a", [], input.x)`, `to_number(input.x)`, `format_int(1, 2)`,
		`time.now_ns()`, `rand.intn("a", 2)`, `http.send({})`, `opa.runtime()`, `numbers.range(1, 9)`, `json.unmarshal(input.x)`, `net.cidr_contains(input.x, input.x)`,
		"$`{input.x}{input.x}`", `crypto.sha256(input.x)`, `input.x * 2`, `walk(input)`,
	} {
		_, err := ParseProgram(t.Context(), ProgramConfig{Package: "team", Ledger: true}, map[string][]byte{"team.rego": []byte("package team\n\ndefault allow := false\n\nallow if { v := " + call + "; v != null }\n")})
		if err == nil || !strings.Contains(err.Error(), "team.rego:5") {
			t.Errorf("%s: %v", call, err)
		}
	}
}

func BenchmarkJudge(b *testing.B) {
	p := ledgerProgram(b, "allow if { every w in input.writes { w.json; w.value.amount < 100 } }\ndeny contains \"two\" if { some w in input.writes; w.value.amount > 50; count({e.mspid | some e in input.endorsers}) < 2 }")
	in := document(b, `{"writes": [{"json": true, "value": {"amount": 7}}, {"json": true, "value": {"amount": 70}}], "endorsers": [{"mspid": "Org1MSP"}, {"mspid": "Org2MSP"}]}`)
	b.ReportAllocs()
	for b.Loop() {
		if v, err := p.Judge(context.Background(), in); err != nil || !v.Allowed {
			b.Fatal(v, err)
		}
	}
}
