package replay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"strongroom/acl"
	"strongroom/acl/bundles"
	"strongroom/acl/decisions"
	"strongroom/acl/endorsement"
	"strongroom/policy"
)

// Rules are programs to decide with, by digest.
type Rules map[string]*policy.Program

// Add adds the programs of a bundle.
func (r Rules) Add(b *bundles.Rules) {
	for _, p := range b.Layers {
		r[p.Digest().String()] = p
	}
	if b.Endorse != nil {
		r[b.Endorse.Digest().String()] = b.Endorse
	}
}

// Why a decision cannot be decided again.
var (
	ErrMasked  = errors.New("its input is masked")
	ErrNoInput = errors.New("it has no input")
	ErrNoRules = errors.New("the rules that decided are not given")
	ErrNoRego  = errors.New("no rules of the team decided it, but Fabric's policies")
)

// Again decides a recorded decision with the rules that decided it, found by their
// digests. The differences say what the record says otherwise; an error that wraps one
// of the sentinels says why it cannot be decided again.
func (r Rules) Again(ctx context.Context, d *decisions.Recorded) (differences []string, err error) {
	asked := asked(d)
	if len(asked) == 0 {
		return nil, ErrNoRego
	}
	in, err := inputOf(d)
	if err != nil {
		return nil, err
	}
	for _, a := range asked {
		p := r[a.Policy]
		if p == nil {
			return nil, fmt.Errorf("%w: %s", ErrNoRules, a.Policy)
		}
		v, err := p.Verdict(ctx, in)
		reasons := reasonsOf(p, v, err)
		last := a.Layer == asked[len(asked)-1].Layer
		allow := a.Allow || last && d.Result.Limited // the rules said yes, a condition did not hold
		switch {
		case v.Allowed != allow:
			differences = append(differences, fmt.Sprintf("%s: the record says %s, the rules say %s: %s", a.Layer, word(allow), word(v.Allowed), strings.Join(reasons, "; ")))
		case !allow && err == nil && !slices.Equal(reasons, a.Reasons):
			differences = append(differences, fmt.Sprintf("%s: the record's reasons are %q, the rules give %q", a.Layer, a.Reasons, reasons))
		}
	}
	return differences, nil
}

func word(allow bool) string {
	if allow {
		return "yes"
	}
	return "no"
}

// asked are the verdicts of the team's rules in a decision.
func asked(d *decisions.Recorded) []decisions.Layer {
	if d.Path == decisions.EndorsementPath {
		if d.Result.Policy == "" {
			return nil
		}
		return []decisions.Layer{{Layer: endorsement.Layer, Allow: d.Result.Allow, Reasons: d.Result.Deny, Policy: d.Result.Policy}}
	}
	return slices.DeleteFunc(slices.Clone(d.Result.Layers), func(l decisions.Layer) bool { return l.Layer == string(acl.Fabric) || l.Policy == "" })
}

// reasonsOf are a verdict's reasons as the guards record them.
func reasonsOf(p *policy.Program, v policy.Verdict, err error) []string {
	switch {
	case err != nil:
		return []string{err.Error()}
	case !v.Allowed && len(v.Reasons) == 0:
		return []string{"no rule of " + p.Package() + " allows it"}
	}
	return v.Reasons
}

func inputOf(d *decisions.Recorded) (ast.Value, error) {
	for _, path := range slices.Concat(d.Erased, d.Masked) {
		if path == "/input" || strings.HasPrefix(path, "/input/") || strings.HasPrefix(path, "/result") {
			return nil, ErrMasked
		}
	}
	if len(d.Input) == 0 || bytes.Equal(d.Input, []byte("null")) {
		return nil, ErrNoInput
	}
	return ast.ValueFromReader(bytes.NewReader(d.Input))
}

// Outcome is what other rules say about a recorded decision.
type Outcome struct {
	Allow   bool     `json:"allow"`
	Layer   string   `json:"layer,omitempty"` // that denied
	Reasons []string `json:"reasons,omitempty"`
}

// Under decides a recorded decision under the rules of a bundle. Fabric's verdict, and
// where it was a condition that refused the conditions, are not decided again: the
// outcome then is the recorded one. An error that wraps a sentinel says why not.
func Under(ctx context.Context, b *bundles.Rules, d *decisions.Recorded) (Outcome, error) {
	in, err := inputOf(d)
	if err != nil {
		return Outcome{}, err
	}
	if d.Path == decisions.EndorsementPath {
		if b.Endorse == nil {
			return Outcome{Allow: true}, nil
		}
		return verdictOf(ctx, endorsement.Layer, b.Endorse, in), nil
	}
	for _, l := range d.Result.Layers {
		if l.Layer == string(acl.Fabric) && !l.Allow {
			return Outcome{Layer: l.Layer, Reasons: l.Reasons}, nil
		}
	}
	layers := []acl.Layer{acl.Connection}
	if d.Path == decisions.AccessPath {
		if layers, err = concerned(in); err != nil {
			return Outcome{}, err
		}
	}
	for _, l := range layers {
		p := b.Layers[l]
		if p == nil {
			continue
		}
		if o := verdictOf(ctx, string(l), p, in); !o.Allow {
			return o, nil
		}
	}
	return Outcome{Allow: true}, nil
}

func verdictOf(ctx context.Context, layer string, p *policy.Program, in ast.Value) Outcome {
	v, err := p.Verdict(ctx, in)
	if v.Allowed && err == nil {
		return Outcome{Allow: true}
	}
	return Outcome{Layer: layer, Reasons: reasonsOf(p, v, err)}
}

// concerned are the layers in whose scope a recorded request is.
func concerned(in ast.Value) ([]acl.Layer, error) {
	field := func(name string) string {
		if o, ok := in.(ast.Object); ok {
			if t := o.Get(ast.StringTerm(name)); t != nil {
				if s, ok := t.Value.(ast.String); ok {
					return string(s)
				}
			}
		}
		return ""
	}
	r := acl.Request{Resource: acl.Resource(field("resource")), Channel: field("channel"), Chaincode: field("chaincode"), Function: field("function")}
	if r.Resource == "" {
		return nil, errors.New("its input has no resource")
	}
	return acl.Concerned(&r), nil
}
