package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// MaskPackage is the package whose set mask says what of a decision's record nobody
// shall read: Open Policy Agent's convention for its decision log.
const MaskPackage = "system.log"

// maxMasked bounds what one record may be masked by.
const maxMasked = 256

// MaskRule is one element of mask: a JSON pointer into the event, below /input or
// /result, alone or as {"op": "remove"|"upsert", "path": …, "value": …}.
type MaskRule struct {
	Path   []string // unescaped
	Upsert bool
	Value  any // with Upsert
}

// Pointer is the rule's path as it was written.
func (r *MaskRule) Pointer() string {
	var b strings.Builder
	for _, p := range r.Path {
		b.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(p))
	}
	return b.String()
}

// Mask is the compiled rules of package system.log. It is immutable and safe for
// concurrent use.
type Mask struct {
	compiler *ast.Compiler
	query    ast.Body
	data     *data
	deadline time.Duration
}

// ParseMask compiles the package system.log of a set of files, such as a bundle's, under
// the restrictions of all of a team's Rego. Without that package it is nil. Tests are not
// run. It performs no I/O.
func ParseMask(files map[string][]byte, document map[string]any, deadline time.Duration) (*Mask, error) {
	modules, _, err := parseModules(files)
	if err != nil {
		return nil, err
	}
	needed := closure(modules, MaskPackage)
	if len(needed) == 0 {
		return nil, nil
	}
	own := make(map[string]*ast.Module, len(needed))
	for _, name := range needed {
		own[name] = modules[name]
	}
	c, err := compileModules(ProgramConfig{}, own)
	if err != nil {
		return nil, err
	}
	if err := checkReferences(c, document); err != nil {
		return nil, err
	}
	name := ast.MustParseRef("data." + MaskPackage + ".mask")
	rules := c.GetRulesWithPrefix(name)
	if len(rules) == 0 {
		return nil, fmt.Errorf("package %s has no rule mask: write mask contains \"/input/args/1\" if { … }", MaskPackage)
	}
	for _, r := range rules {
		if r.Head.RuleKind() != ast.MultiValue || len(r.Head.Ref()) != 1 {
			return nil, fmt.Errorf("%s: mask must be a set: write mask contains \"/input/args/1\" if { … }", r.Location)
		}
	}
	m := &Mask{compiler: c, deadline: deadline}
	if m.deadline == 0 {
		m.deadline = defaultDeadline
	}
	body, err := ast.ParseBodyWithOpts("mask = "+name.String(), ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: teamCapabilities()})
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	if m.query, err = c.QueryCompiler().Compile(body); err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	if m.data, err = newData(document); err != nil {
		return nil, err
	}
	return m, nil
}

// LoadMask is ParseMask for a file or a folder, which must have the package.
func LoadMask(path string, deadline time.Duration) (*Mask, error) {
	files, err := readRego(path)
	if err != nil {
		return nil, err
	}
	m, err := ParseMask(files, nil, deadline)
	if err == nil && m == nil {
		err = fmt.Errorf("there is no package %s", MaskPackage)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// Rules are what to mask of an event, in the order of the set. On an error the caller
// must not show the event's input or result at all.
func (m *Mask) Rules(ctx context.Context, event ast.Value) ([]MaskRule, error) {
	ctx, cancel := context.WithTimeout(ctx, m.deadline)
	defer cancel()
	rs, err := evalQuery(ctx, m.compiler, m.data, m.query, ast.NewTerm(event))
	if err != nil {
		return nil, fmt.Errorf("%s.mask: %w", MaskPackage, err)
	}
	if len(rs) != 1 {
		return nil, fmt.Errorf("%w: %s.mask: %d results instead of 1", ErrEvaluation, MaskPackage, len(rs))
	}
	set, ok := rs[0]["mask"].Value.(ast.Set)
	if !ok {
		return nil, fmt.Errorf("%w: %s.mask is %s: it must be a set", ErrEvaluation, MaskPackage, ast.ValueName(rs[0]["mask"].Value))
	}
	if set.Len() > maxMasked {
		return nil, fmt.Errorf("%s.mask has %d elements, %d are the most", MaskPackage, set.Len(), maxMasked)
	}
	var rules []MaskRule
	for _, t := range set.Slice() {
		r, err := maskRule(t)
		if err != nil {
			return nil, fmt.Errorf("%s.mask: %s: %w", MaskPackage, t, err)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func maskRule(t *ast.Term) (MaskRule, error) {
	if s, ok := t.Value.(ast.String); ok {
		path, err := pointer(string(s))
		return MaskRule{Path: path}, err
	}
	v, err := ast.JSON(t.Value)
	if err != nil {
		return MaskRule{}, err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return MaskRule{}, err
	}
	var o struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.DisallowUnknownFields()
	dec.UseNumber()
	if err := dec.Decode(&o); err != nil {
		return MaskRule{}, errors.New("it is neither a path nor an object with op, path and value")
	}
	if o.Op != "remove" && o.Op != "upsert" {
		return MaskRule{}, fmt.Errorf("op is %q: use remove or upsert", o.Op)
	}
	path, err := pointer(o.Path)
	return MaskRule{Path: path, Upsert: o.Op == "upsert", Value: o.Value}, err
}

func pointer(s string) ([]string, error) {
	rest, ok := strings.CutPrefix(s, "/")
	if !ok {
		return nil, errors.New("a path begins with /input or /result")
	}
	parts := strings.Split(rest, "/")
	for i := range parts {
		parts[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(parts[i])
	}
	if parts[0] != "input" && parts[0] != "result" {
		return nil, errors.New("a path begins with /input or /result")
	}
	return parts, nil
}
