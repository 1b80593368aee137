package policy

import (
	"context"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Fourteen ways in which an embedded OPA decides other than its users think. Traps 1, 2,
// 7 and 11 are in program_test.go, trap 10 (a replaced bundle that nobody notices) is
// TestRunLooksAtTheSource of acl/bundles.

func teamProgram(t *testing.T, rules string, data map[string]any) (*Program, error) {
	t.Helper()
	return ParseProgram(t.Context(), ProgramConfig{Package: "team", Data: data}, map[string][]byte{"team.rego": []byte("package team\n\ndefault allow := false\n\n" + rules + "\n")})
}

func mustTeam(t *testing.T, rules string, data map[string]any) *Program {
	t.Helper()
	p, err := teamProgram(t, rules, data)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func allows(t *testing.T, p *Program, input any) bool {
	t.Helper()
	allowed, _, err := p.Decide(context.Background(), input)
	if err != nil {
		t.Fatal(err)
	}
	return allowed
}

// TestTrap03PartialEvaluation: partial evaluation bakes data into a prepared query, so that a grant
// which is taken back still allows. Data here belongs to a program: other data is
// another program with another digest, and the old one's answers stay its own.
func TestTrap03PartialEvaluation(t *testing.T) {
	const rules = "allow if input.user in data.grants"
	before := mustTeam(t, rules, map[string]any{"grants": []any{"alice", "bob"}})
	after := mustTeam(t, rules, map[string]any{"grants": []any{"bob"}})
	alice := map[string]any{"user": "alice"}
	if !allows(t, before, alice) || allows(t, after, alice) || before.Digest() == after.Digest() {
		t.Errorf("before %t, after %t, digests %s %s", allows(t, before, alice), allows(t, after, alice), before.Digest(), after.Digest())
	}
}

// TestTrap04DataAsValues: reading data as OPA's own values made another target evaluate
// with empty data. Here nested data, numbers and sets of keys are all there.
func TestTrap04DataAsValues(t *testing.T) {
	p := mustTeam(t, "allow if { data.limits[input.org].amount >= input.amount; count(data.limits) == 2; data.list[1] == \"b\" }",
		map[string]any{"limits": map[string]any{"Org1": map[string]any{"amount": 10}, "Org2": map[string]any{"amount": 20}}, "list": []any{"a", "b"}})
	if !allows(t, p, map[string]any{"org": "Org2", "amount": 20}) || allows(t, p, map[string]any{"org": "Org1", "amount": 20}) {
		t.Error("data is not what it was given as")
	}
}

// TestTrap05SetThatIsAnObject: `deny[x] if …` makes an object in Rego 1, and "x in deny" then tests its
// values. Such a deny is refused when it is loaded.
func TestTrap05SetThatIsAnObject(t *testing.T) {
	for _, rules := range []string{"allow if true\n\ndeny[reason] if { reason := \"no\" }", "allow if true\n\ndeny := {\"no\"}", "allow if true\n\ndeny if true"} {
		if _, err := teamProgram(t, rules, nil); err == nil || !strings.Contains(err.Error(), "deny must be a set") {
			t.Errorf("%s: %v", rules, err)
		}
	}
}

// TestTrap06MissingRule: a query of a rule that is not there has no results and no error.
// Here the rules that decide must exist, and so must what they refer to.
func TestTrap06MissingRule(t *testing.T) {
	if _, err := ParseProgram(t.Context(), ProgramConfig{Package: "team"}, map[string][]byte{"team.rego": []byte("package team\n\ndefault alow := false\n")}); err == nil || !strings.Contains(err.Error(), "has no rule allow") {
		t.Errorf("a misspelt allow: %v", err)
	}
	if _, err := teamProgram(t, "allow if data.shared.ok", nil); err == nil || !strings.Contains(err.Error(), "nothing defines data.shared.ok") {
		t.Errorf("a reference to nothing: %v", err)
	}
}

// TestTrap08PrintAndCoverage: print is dropped unless asked for, and coverage of modules without a
// file name reports nothing. What a test prints is shown, and coverage is of named files.
func TestTrap08PrintAndCoverage(t *testing.T) {
	files := map[string][]byte{
		"team.rego":      []byte("package team\n\ndefault allow := false\n\nallow if input.x == 1\n\nallow if input.x == 2\n"),
		"team_test.rego": []byte("package team_test\n\nimport data.team\n\ntest_one if team.allow with input as {\"x\": 1}\n\ntest_printed if {\n\tprint(\"seen\")\n\tteam.allow with input as {\"x\": 3}\n}\n"),
	}
	results, coverage, err := Coverage(t.Context(), files, nil)
	if err != nil || len(results) != 2 || results[0].Passed != true || results[1].Passed || !strings.Contains(results[1].Detail, "seen") {
		t.Errorf("%+v, %v", results, err)
	}
	if len(coverage) != 1 || coverage[0].File != "team.rego" || coverage[0].Percent < 30 || coverage[0].Percent > 99 {
		t.Errorf("%+v", coverage)
	}
	p := mustTeam(t, "allow if { print(input.secret); input.x == 1 }", nil)
	if !allows(t, p, map[string]any{"x": 1}) {
		t.Error("a print whose argument is undefined decides")
	}
}

// TestTrap09NoPluginManager: OPA's SDK waits for all of its plugins and hangs if one does not report.
// Neither it nor its plugins, servers and downloads are part of the binary.
func TestTrap09NoPluginManager(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "strongroom/cmd/strongroom").Output()
	if err != nil {
		t.Fatal(err)
	}
	for p := range strings.Lines(string(out)) {
		p = strings.TrimSpace(p)
		for _, unwanted := range []string{"v1/sdk", "v1/plugins", "v1/runtime", "v1/server", "v1/download"} {
			if strings.HasPrefix(p, "github.com/open-policy-agent/opa/"+unwanted) {
				t.Errorf("%s is linked", p)
			}
		}
	}
}

// TestTrap12PreparedOnce: a program is compiled once and asked by many at once; nothing is compiled in a
// decision, and answers do not mix.
func TestTrap12PreparedOnce(t *testing.T) {
	p := mustTeam(t, "allow if input.x > 500", nil)
	query := p.compiler
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 200 {
				x := (w*200 + i) % 1001
				allowed, _, err := p.Decide(context.Background(), map[string]any{"x": x})
				if err != nil || allowed != (x > 500) {
					t.Errorf("%d: %t, %v", x, allowed, err)
				}
			}
		})
	}
	wg.Wait()
	if p.compiler != query {
		t.Error("the program was compiled again")
	}
	if n := testing.AllocsPerRun(100, func() { _, _, _ = p.Decide(context.Background(), ast.NewObject()) }); n > 200 {
		t.Errorf("a decision allocates %v times", n)
	}
}

// TestTrap13PatchReleases: patch releases of OPA answered this rule differently (a regression of the rule
// index). The version is one that was tested, and its answers are part of what a node tests of itself.
func TestTrap13PatchReleases(t *testing.T) {
	p := mustTeam(t, `allow if { input.x in {"a", input.y} }`, nil)
	if !allows(t, p, map[string]any{"x": "b", "y": "b"}) || allows(t, p, map[string]any{"x": "c", "y": "b"}) {
		t.Error("this OPA has the fault of the rule index of 1.21.0 to 1.22.0")
	}
	found := false
	for _, c := range ledgerGolden {
		found = found || strings.Contains(c.rules, `input.x in {"a", input.y}`)
	}
	if !found || !strings.HasSuffix(LedgerRules(), "opa-"+OPAVersion) {
		t.Error("a node does not test itself for it, or does not name its OPA")
	}
}

// TestTrap14FlagsAreIncomplete: OPA's mark for what is not deterministic is missing on functions that read the
// host's clock and time zone. What may be called is a list of what is allowed.
func TestTrap14FlagsAreIncomplete(t *testing.T) {
	allowed := map[string]bool{}
	for _, list := range [][]string{teamBuiltins, ledgerTeamBuiltins, ledgerBuiltins} {
		for _, name := range list {
			allowed[name] = true
		}
	}
	unmarked := 0
	for _, b := range ast.Builtins {
		reads := strings.HasPrefix(b.Name, "time.") || strings.HasPrefix(b.Name, "crypto.x509.parse_and_verify") || strings.HasPrefix(b.Name, "rand.") ||
			strings.HasPrefix(b.Name, "http.") || strings.HasPrefix(b.Name, "opa.") || strings.HasPrefix(b.Name, "uuid.") || strings.HasPrefix(b.Name, "io.jwt") || b.Name == "net.lookup_ip_addr"
		if (reads || b.Nondeterministic) && allowed[b.Name] {
			t.Errorf("%s is allowed", b.Name)
		}
		if reads && !b.Nondeterministic {
			unmarked++
		}
	}
	if unmarked == 0 {
		t.Error("OPA marks all of them now: the trap is gone, and this test tests nothing")
	}
	for _, call := range []string{"crypto.x509.parse_and_verify_certificates(input.x)", `time.clock([0, "Local"])`, "time.now_ns()"} {
		if _, err := teamProgram(t, "allow if { x := "+call+"; x != 0 }", nil); err == nil || !strings.Contains(err.Error(), "policies may not call it") {
			t.Errorf("%s: %v", call, err)
		}
	}
}
