package decisions

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"

	"strongroom/policy"
)

type record struct {
	Input  any            `json:"input"`
	Result map[string]any `json:"result"`
	Erased []string       `json:"erased"`
	Masked []string       `json:"masked"`
	Custom map[string]string
}

// render1 renders an event as the store does later.
func render1(t *testing.T, l *Log, e *Event) (record, Private) {
	t.Helper()
	e.log = l
	decision, private, err := e.Render()
	if err != nil {
		t.Fatal(err)
	}
	var r record
	var p Private
	if err := errors.Join(json.Unmarshal(decision, &r), json.Unmarshal(private, &p)); err != nil {
		t.Fatalf("%v in %s", err, decision)
	}
	return r, p
}

const input = `{"args": ["p1", "4711", "x"], "caller": {"name": "ann", "attributes": {"iban": "DE1"}}, "n": 12345678901234567890}`

// frozen is a refusal of an endorsement.
type frozen struct {
	same  any
	calls *int // of Input
}

func (f frozen) Input() (ast.Value, error) {
	*f.calls++
	return ast.ValueFromReader(strings.NewReader(input))
}

func (f frozen) Result() Result { return Result{Deny: []string{"account 4711 is frozen"}} }

func (f frozen) Same() any { return f.same }

func event(same any, calls *int) *Event {
	return &Event{ID: "d1", Path: EndorsementPath, Time: time.Unix(1, 0), Bundle: policy.BundleRef{Revision: 7}, About: frozen{same, calls}}
}

func newLog(t *testing.T, mask string) *Log {
	t.Helper()
	l, err := New(Config{Store: StoreFunc(func(context.Context, Entry, int) error { return nil })})
	if err != nil {
		t.Fatal(err)
	}
	if mask != "" {
		m, err := policy.ParseMask(map[string][]byte{"mask.rego": []byte("package system.log\n\n" + mask)}, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		l.Mask(m)
	}
	return l
}

// TestMask shows what of a record is left under a mask.
func TestMask(t *testing.T) {
	deny := map[string]any{"allow": false, "deny": []any{"account 4711 is frozen"}}
	ann := map[string]any{"name": "ann", "attributes": map[string]any{"iban": "DE1"}}
	for name, tc := range map[string]struct {
		mask           string
		args           any
		caller         any
		result         map[string]any
		erased, masked []string
	}{
		"none":             {"", []any{"p1", "4711", "x"}, ann, deny, nil, nil},
		"a member":         {`mask contains "/input/caller/attributes"`, []any{"p1", "4711", "x"}, map[string]any{"name": "ann"}, deny, []string{"/input/caller/attributes"}, nil},
		"an element":       {`mask contains "/input/args/1" if input.path == "strongroom/endorse"`, []any{"p1", nil, "x"}, ann, deny, []string{"/input/args/1"}, nil},
		"an upsert":        {`mask contains {"op": "upsert", "path": "/input/caller/name", "value": "***"}`, []any{"p1", "4711", "x"}, map[string]any{"name": "***", "attributes": ann["attributes"]}, deny, nil, []string{"/input/caller/name"}},
		"the reasons":      {`mask contains "/result/deny"`, []any{"p1", "4711", "x"}, ann, map[string]any{"allow": false}, []string{"/result/deny"}, nil},
		"what is not":      {`mask contains "/input/missing/x"`, []any{"p1", "4711", "x"}, ann, deny, nil, nil},
		"another event's":  {`mask contains "/input/args" if input.path == "strongroom/acl"`, []any{"p1", "4711", "x"}, ann, deny, nil, nil},
		"reads the bundle": {`mask contains "/result/deny" if input.bundles.policy.revision == "7"`, []any{"p1", "4711", "x"}, ann, map[string]any{"allow": false}, []string{"/result/deny"}, nil},
	} {
		calls := 0
		r, p := render1(t, newLog(t, tc.mask), event(nil, &calls))
		in := r.Input.(map[string]any)
		if diff := cmp.Diff([]any{tc.args, tc.caller, tc.result, tc.erased, tc.masked}, []any{in["args"], in["caller"], r.Result, r.Erased, r.Masked}); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
		full, err := CanonicalInput([]byte(input))
		if err != nil {
			t.Fatal(err)
		}
		salt, err := hex.DecodeString(p.Salt)
		if err != nil || len(salt) != 16 {
			t.Fatalf("salt %q", p.Salt)
		}
		if sum := InputHash(salt, full); r.Custom["input_sha256"] != hex.EncodeToString(sum[:]) {
			t.Errorf("%s: the hash is not that of the full input", name)
		}
		if calls != 1 {
			t.Errorf("%s: the input was made %d times", name, calls)
		}
	}
}

// TestMaskFails shows nothing of an event whose mask fails.
func TestMaskFails(t *testing.T) {
	for name, mask := range map[string]string{
		"a built-in's error": `mask contains "/input/x" if to_number(input.input.args[0]) > 1`,
		"another's path":     `mask contains "/custom"`,
		"an unknown op":      `mask contains {"op": "hide", "path": "/input"}`,
		"a number":           `mask contains 1`,
	} {
		calls := 0
		r, _ := render1(t, newLog(t, mask), event(nil, &calls))
		if r.Input != nil || cmp.Diff(r.Result, map[string]any{"allow": false}) != "" || r.Custom["mask_error"] == "" || len(r.Erased) != 2 {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// TestRemembered renders equal events once, until the mask changes, and gives each its
// own id, time and salt.
func TestRemembered(t *testing.T) {
	l := newLog(t, "")
	calls := 0
	_, first := render1(t, l, event("same", &calls))
	_, second := render1(t, l, event("same", &calls))
	if calls != 1 || first.Salt == second.Salt {
		t.Errorf("rendered %d times, salts %q %q", calls, first.Salt, second.Salt)
	}
	m, err := policy.ParseMask(map[string][]byte{"mask.rego": []byte("package system.log\n\nmask contains \"/input/args\"")}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	l.Mask(m)
	if r, _ := render1(t, l, event("same", &calls)); calls != 2 || len(r.Erased) != 1 {
		t.Errorf("the new mask is not in force: rendered %d times, %+v", calls, r)
	}
}

func TestParseMaskRefuses(t *testing.T) {
	for source, want := range map[string]string{
		"package system.log\n\nmasks contains \"/input\"":                  "no rule mask",
		"package system.log\n\nmask := [\"/input\"]":                       "must be a set",
		"package system.log\n\nmask contains x if x := http.send({})":      "may not call it",
		"package system.log\n\nmask contains \"/input\" if data.nowhere.x": "nothing defines",
	} {
		if _, err := policy.ParseMask(map[string][]byte{"mask.rego": []byte(source)}, nil, 0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", source, err, want)
		}
	}
	if m, err := policy.ParseMask(map[string][]byte{"a.rego": []byte("package a")}, nil, 0); m != nil || err == nil && m != nil {
		t.Errorf("%v %v", m, err)
	}
}
