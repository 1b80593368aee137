package policy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// LedgerRules names how Rego that decides about the ledger is evaluated here: the list
// of its built-in functions, the budget of steps, and OPA's version. Two nodes with the
// same name come to the same verdict; a node with another must not judge.
func LedgerRules() string { return "strongroom-1/opa-" + OPAVersion }

// LedgerSteps is the budget of one verdict on the ledger, in events of the evaluator
// (topdown.Event): a count that is the same wherever the evaluator is the same, as a
// deadline is not. A verdict that needs more is a denial.
const LedgerSteps = 100_000

// ledgerPatience bounds one evaluation by the clock. It decides nothing: a node that is
// too slow for it fails, and tries again.
const ledgerPatience = time.Minute

// ledgerTeamBuiltins are what a team's Rego may call where it decides about the ledger. What
// they give is bounded by what they are given, so that no step makes values grow beyond
// the budget (concat, array.concat, replace, sprintf and template strings would double
// them); none depends on tables that change with Go's releases, as upper and lower case
// and regular expressions do.
var ledgerTeamBuiltins = []string{
	"assign", "eq", "equal", "neq", "lt", "lte", "gt", "gte",
	"internal.member_2", "internal.member_3",
	"plus", "minus", "abs", "count", "sum", "max", "min", "sort",
	"and", "or", "intersection", "union",
	"array.slice",
	"object.filter", "object.get", "object.keys", "object.remove", "object.subset", "object.union",
	"contains", "endswith", "indexof", "split", "startswith", "strings.any_prefix_match", "strings.any_suffix_match", "substring",
	"trim_prefix", "trim_suffix",
	"is_array", "is_boolean", "is_null", "is_number", "is_object", "is_set", "is_string", "type_name",
	"internal.print", "internal.test_case", "print",
}

var ledgerTeamCapabilities = allow(ledgerTeamBuiltins)

// LedgerVerdict is what a program says about a transaction: the same on each node that
// judges by the same LedgerRules.
type LedgerVerdict struct {
	Allowed bool
	Reasons []string // why not, for logs
	Steps   int      // that it took, at most LedgerSteps+1
}

// Judge decides about the ledger. The program must have been made with
// ProgramConfig.Ledger. Faults of the rules on this input (two rules that contradict each
// other, a built-in function that fails, more steps than LedgerSteps) deny, as they would
// on every node. An error says that this node could not decide: nothing may be recorded.
func (p *Program) Judge(ctx context.Context, input ast.Value) (LedgerVerdict, error) {
	if !p.config.Ledger {
		return LedgerVerdict{}, fmt.Errorf("%s: the program was not made for the ledger", p.config.Package)
	}
	ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
	defer cancel()
	meter := &meter{limit: LedgerSteps, cancel: topdown.NewCancel()}
	defer context.AfterFunc(ctx, meter.cancel.Cancel)()
	rs, err := p.metered(ctx, meter, ast.NewTerm(input))
	out := LedgerVerdict{Steps: min(meter.steps, LedgerSteps+1)}
	if ctx.Err() != nil {
		return LedgerVerdict{}, fmt.Errorf("%w: %s: %w", ErrEvaluation, p.config.Package, ctx.Err())
	}
	var fault *topdown.Error
	switch {
	case meter.steps > meter.limit:
		out.Reasons = []string{fmt.Sprintf("more than %d steps", LedgerSteps)}
		return out, nil
	case errors.As(err, &fault) && (fault.Code == topdown.ConflictErr || fault.Code == topdown.BuiltinErr || fault.Code == topdown.TypeErr || fault.Code == topdown.WithMergeErr):
		out.Reasons = []string{fault.Error()}
		return out, nil
	case err != nil:
		return LedgerVerdict{}, fmt.Errorf("%w: %s: %w", ErrEvaluation, p.config.Package, err)
	}
	v, err := p.read(rs)
	if err != nil {
		// What a rule gave has not the form of a verdict: the input led to it, on every node.
		out.Reasons = []string{err.Error()}
		return out, nil
	}
	out.Allowed, out.Reasons = v.Allowed, v.Reasons
	if !out.Allowed && len(out.Reasons) == 0 {
		out.Reasons = []string{"no rule of " + p.config.Package + " allows it"}
	}
	return out, nil
}

func (p *Program) metered(ctx context.Context, m *meter, input *ast.Term) (topdown.QueryResultSet, error) {
	return topdown.NewQuery(p.query).
		WithCompiler(p.compiler).
		WithStore(p.data.store).
		WithTransaction(p.data.txn).
		WithInput(input).
		WithCancel(m.cancel).
		WithQueryTracer(m).
		WithStrictBuiltinErrors(true).
		WithSeed(noSeed{}).
		WithTime(noTime).
		Run(ctx)
}

// meter counts the evaluator's events and ends an evaluation that is over its budget.
// One goroutine uses it.
type meter struct {
	steps, limit int
	cancel       topdown.Cancel
}

// Enabled is true: every evaluation is counted.
func (m *meter) Enabled() bool { return true }

// TraceEvent counts one event.
func (m *meter) TraceEvent(topdown.Event) {
	if m.steps++; m.steps > m.limit {
		m.cancel.Cancel()
	}
}

// Config asks for no more than the events.
func (m *meter) Config() topdown.TraceConfig { return topdown.TraceConfig{} }
