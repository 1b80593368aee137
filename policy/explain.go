package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Line is a line of a program and how often the evaluation came there.
type Line struct {
	Place string `json:"place"` // file:line
	Text  string `json:"text"`
	Rule  string `json:"rule"` // in which it stands
	Times int    `json:"times"`
}

// Explanation says how a program came to its verdict.
type Explanation struct {
	Spoke  []Line `json:"spoke"`  // rules that came to a result
	Failed []Line `json:"failed"` // expressions that did not hold, in rules that did not either
}

// maxLines bounds each list of an Explanation.
const maxLines = 64

// Explain evaluates the program once more and says which rules spoke and which lines
// failed. It takes several times as long as Verdict.
func (p *Program) Explain(ctx context.Context, input any) (*Explanation, error) {
	value, err := inputValue(input)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrEvaluation, p.config.Package, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*p.config.Deadline)
	defer cancel()
	stop := topdown.NewCancel()
	defer context.AfterFunc(ctx, stop.Cancel)()
	trace := &tracer{rules: map[uint64]*ast.Rule{}, parents: map[uint64]uint64{}}
	_, err = topdown.NewQuery(p.query).WithCompiler(p.compiler).WithStore(p.data.store).WithTransaction(p.data.txn).
		WithInput(ast.NewTerm(value)).WithCancel(stop).WithStrictBuiltinErrors(true).WithSeed(noSeed{}).WithTime(noTime).
		WithQueryTracer(trace).WithIndexing(false).Run(ctx)
	if err != nil && len(trace.spoke)+len(trace.failed) == 0 {
		return nil, fmt.Errorf("%w: %w", ErrEvaluation, err)
	}
	return &Explanation{Spoke: trace.spoke, Failed: trace.failed}, nil
}

// tracer collects rules that were left with a result and expressions that failed.
type tracer struct {
	rules         map[uint64]*ast.Rule // by query
	parents       map[uint64]uint64
	spoke, failed []Line
}

// Enabled implements topdown.QueryTracer.
func (t *tracer) Enabled() bool { return true }

// Config implements topdown.QueryTracer: variables are not looked at.
func (t *tracer) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent implements topdown.QueryTracer.
func (t *tracer) TraceEvent(e topdown.Event) {
	switch node := e.Node.(type) {
	case *ast.Rule:
		if e.Op == topdown.EnterOp {
			t.rules[e.QueryID] = node
		}
		if e.Op == topdown.ExitOp && !node.Default {
			t.spoke = note(t.spoke, node.Location, ruleName(node))
		}
	case *ast.Expr:
		if _, known := t.parents[e.QueryID]; !known {
			t.parents[e.QueryID] = e.ParentID
		}
		if e.Op == topdown.FailOp {
			if rule := t.ruleOf(e.QueryID, e.ParentID); rule != nil {
				t.failed = note(t.failed, node.Location, ruleName(rule))
			}
		}
	}
}

// ruleOf is the rule in which a query stands.
func (t *tracer) ruleOf(query, parent uint64) *ast.Rule {
	if r := t.rules[query]; r != nil {
		return r
	}
	for range 32 {
		if r := t.rules[parent]; r != nil {
			return r
		}
		parent = t.parents[parent]
	}
	return nil
}

func ruleName(r *ast.Rule) string {
	return strings.TrimPrefix(r.Ref().GroundPrefix().String(), "data.")
}

func note(lines []Line, at *ast.Location, rule string) []Line {
	if at == nil {
		return lines
	}
	place := fmt.Sprintf("%s:%d", at.File, at.Row)
	text, _, _ := strings.Cut(strings.TrimSpace(string(at.Text)), "\n")
	i := slices.IndexFunc(lines, func(l Line) bool { return l.Place == place && l.Text == text })
	switch {
	case i >= 0:
		lines[i].Times++
	case len(lines) < maxLines:
		lines = append(lines, Line{Place: place, Text: text, Rule: rule, Times: 1})
	}
	return lines
}
