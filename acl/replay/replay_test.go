package replay_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"strongroom/acl/bundles"
	"strongroom/acl/decisions"
	"strongroom/acl/replay"
)

const function = `package strongroom.acl.function

default allow := false

allow if input.function == "Read"

deny contains "temps may not" if "temps" in input.caller.ous
`

const guard = `package strongroom.endorse

default allow := false

allow if input.response.status < 400

deny contains "above the limit" if input.writes[_].value.amount > LIMIT
`

func compile(t *testing.T, limit string) *bundles.Rules {
	t.Helper()
	dir := t.TempDir()
	for name, source := range map[string]string{"function.rego": function, "guard.rego": strings.Replace(guard, "LIMIT", limit, 1)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := bundles.ReadRules(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const request = `{"resource":"peer/Propose","channel":"main","chaincode":"a","function":"FUNCTION","caller":{"mspid":"Org1MSP","ous":["OU"],"name":"ann"},"remote":{"address":"10.0.0.1"}}`

func access(r *bundles.Rules, function, ou string, result decisions.Result) *decisions.Recorded {
	result.Layers = append([]decisions.Layer{{Layer: "fabric", Allow: true}}, result.Layers...)
	last := len(result.Layers) - 1
	result.Layers[last].Policy = r.Layers["function"].Digest().String()
	return &decisions.Recorded{Path: decisions.AccessPath, Result: result,
		Input: []byte(strings.NewReplacer("FUNCTION", function, "OU", ou).Replace(request))}
}

func endorse(r *bundles.Rules, amount string, result decisions.Result) *decisions.Recorded {
	result.Policy = r.Endorse.Digest().String()
	return &decisions.Recorded{Path: decisions.EndorsementPath, Result: result,
		Input: []byte(`{"response":{"status":200},"writes":[{"value":{"amount":` + amount + `}}]}`)}
}

// TestAgain holds records, right and wrong ones, against the rules that made them.
func TestAgain(t *testing.T) {
	r := compile(t, "100")
	rules := replay.Rules{}
	rules.Add(r)
	layer := func(allow bool, reasons ...string) decisions.Result {
		return decisions.Result{Allow: allow, Layers: []decisions.Layer{{Layer: "function", Allow: allow, Reasons: reasons}}}
	}
	limited := layer(false, "too often")
	limited.Limited = true
	masked := endorse(r, "1", decisions.Result{Allow: true})
	masked.Erased = []string{"/input/args"}
	fabric := &decisions.Recorded{Path: decisions.AccessPath, Result: decisions.Result{Layers: []decisions.Layer{{Layer: "fabric"}}}}
	none := endorse(r, "1", decisions.Result{Allow: true})
	none.Input = []byte("null")
	for name, tc := range map[string]struct {
		d          *decisions.Recorded
		difference string
		err        error
	}{
		"allowed":                   {access(r, "Read", "staff", layer(true)), "", nil},
		"denied by a reason":        {access(r, "Read", "temps", layer(false, "temps may not")), "", nil},
		"denied by no rule":         {access(r, "Write", "staff", layer(false, "no rule of strongroom.acl.function allows it")), "", nil},
		"a condition refused":       {access(r, "Read", "staff", limited), "", nil},
		"recorded as allowed":       {access(r, "Write", "staff", layer(true)), "the record says yes, the rules say no", nil},
		"recorded as denied":        {access(r, "Read", "staff", layer(false, "x")), "the record says no, the rules say yes", nil},
		"another reason":            {access(r, "Read", "temps", layer(false, "x")), "the record's reasons", nil},
		"endorsed":                  {endorse(r, "100", decisions.Result{Allow: true}), "", nil},
		"refused":                   {endorse(r, "101", decisions.Result{Deny: []string{"above the limit"}}), "", nil},
		"an input that was changed": {endorse(r, "101", decisions.Result{Allow: true}), "above the limit", nil},
		"masked":                    {masked, "", replay.ErrMasked},
		"without input":             {none, "", replay.ErrNoInput},
		"of Fabric alone":           {fabric, "", replay.ErrNoRego},
		"of other rules":            {endorse(compile(t, "7"), "1", decisions.Result{Allow: true}), "", replay.ErrNoRules},
	} {
		differences, err := rules.Again(t.Context(), tc.d)
		if !errors.Is(err, tc.err) || (tc.difference == "") != (len(differences) == 0) || !strings.Contains(strings.Join(differences, ";"), tc.difference) {
			t.Errorf("%s: %q, %v", name, differences, err)
		}
	}
}

// TestStockOPA decides the same inputs with Open Policy Agent's own engine, as `opa eval`
// does with all its capabilities, and compares.
func TestStockOPA(t *testing.T) {
	r := compile(t, "100")
	for _, d := range []*decisions.Recorded{
		access(r, "Read", "staff", decisions.Result{}), access(r, "Read", "temps", decisions.Result{}), access(r, "Write", "x", decisions.Result{}),
		endorse(r, "100", decisions.Result{}), endorse(r, "100.5", decisions.Result{}), endorse(r, `"x"`, decisions.Result{}),
	} {
		pkg := "strongroom.endorse"
		if d.Path == decisions.AccessPath {
			pkg = "strongroom.acl.function"
		}
		in, err := ast.ValueFromReader(strings.NewReader(string(d.Input)))
		if err != nil {
			t.Fatal(err)
		}
		rs, err := rego.New(rego.Query("data."+pkg), rego.Module("f.rego", function), rego.Module("g.rego", strings.Replace(guard, "LIMIT", "100", 1)),
			rego.ParsedInput(in)).Eval(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		out := rs[0].Expressions[0].Value.(map[string]any)
		want := out["allow"].(bool) && len(out["deny"].([]any)) == 0
		got, err := replay.Under(t.Context(), r, d)
		if err != nil || got.Allow != want {
			t.Errorf("%s: %+v, %v; opa says %v", d.Input, got, err, out)
		}
	}
}

// TestUnder shows what other rules would change.
func TestUnder(t *testing.T) {
	r, strict := compile(t, "100"), compile(t, "10")
	refused := access(r, "Read", "staff", decisions.Result{})
	refused.Result.Layers[0].Allow = false
	for name, tc := range map[string]struct {
		d    *decisions.Recorded
		want replay.Outcome
	}{
		"still allowed":   {endorse(r, "5", decisions.Result{}), replay.Outcome{Allow: true}},
		"now refused":     {endorse(r, "50", decisions.Result{}), replay.Outcome{Layer: "endorsement", Reasons: []string{"above the limit"}}},
		"the same layers": {access(r, "Read", "staff", decisions.Result{}), replay.Outcome{Allow: true}},
		"denied":          {access(r, "Write", "staff", decisions.Result{}), replay.Outcome{Layer: "function", Reasons: []string{"no rule of strongroom.acl.function allows it"}}},
		"Fabric refuses":  {refused, replay.Outcome{Layer: "fabric"}},
	} {
		got, err := replay.Under(t.Context(), strict, tc.d)
		if err != nil || cmp.Diff(tc.want, got) != "" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	none := &bundles.Rules{}
	if got, err := replay.Under(t.Context(), none, endorse(r, "500", decisions.Result{})); err != nil || !got.Allow {
		t.Errorf("without a guard: %+v, %v", got, err)
	}
}

// TestExplain names the lines that failed and the rules that spoke.
func TestExplain(t *testing.T) {
	r := compile(t, "100")
	d := access(r, "Write", "temps", decisions.Result{})
	in, err := ast.ValueFromReader(strings.NewReader(string(d.Input)))
	if err != nil {
		t.Fatal(err)
	}
	e, err := r.Layers["function"].Explain(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Spoke) != 1 || e.Spoke[0].Rule != "strongroom.acl.function.deny" || e.Spoke[0].Place != "function.rego:7" {
		t.Errorf("spoke: %+v", e.Spoke)
	}
	if len(e.Failed) != 1 || e.Failed[0].Place != "function.rego:5" || !strings.Contains(e.Failed[0].Text, "Read") {
		t.Errorf("failed: %+v", e.Failed)
	}
}
