package policy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/tester"
)

// testDeadline bounds one Rego test.
const testDeadline = 5 * time.Second

// TestResult is the outcome of one Rego test (a rule whose name begins with test_).
type TestResult struct {
	Name     string // package and rule
	Location string // file:line
	Passed   bool
	Detail   string // what went wrong, and what the test printed
	Duration time.Duration
}

// TestProgram runs the tests of the Rego at cfg.Path, under the restrictions that
// the program itself is under. A failed test is in the results, not in the error.
func TestProgram(ctx context.Context, cfg ProgramConfig) ([]TestResult, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	files, err := readRego(cfg.Path)
	if err != nil {
		return nil, err
	}
	results, err := runTests(ctx, cfg, files, nil)
	if err != nil {
		return nil, fmt.Errorf("Rego program %s: %w", cfg.Path, err)
	}
	return results, nil
}

// runTests runs the tests of files; tracer may be nil.
func runTests(ctx context.Context, cfg ProgramConfig, files map[string][]byte, tracer *cover.Cover) ([]TestResult, error) {
	modules := make(map[string]*ast.Module, len(files))
	for name, b := range files {
		m, err := ast.ParseModuleWithOpts(name, string(b), parserOptions())
		if err != nil {
			return nil, err
		}
		modules[name] = m
	}
	c, err := newCompiler(cfg)
	if err != nil {
		return nil, err
	}
	var results []TestResult
	store := newStore(cfg.Data)
	err = storage.Txn(ctx, store, storage.TransactionParams{}, func(txn storage.Transaction) error {
		runner := tester.NewRunner().SetCompiler(c.WithEnablePrintStatements(true)).SetStore(store).SetModules(modules).
			RaiseBuiltinErrors(true).CapturePrintOutput(true).SetTimeout(testDeadline)
		if tracer != nil {
			runner.SetCoverageQueryTracer(tracer)
		}
		ch, err := runner.RunTests(ctx, txn)
		if err != nil {
			return err
		}
		for r := range ch {
			results = append(results, testResult(r))
		}
		return ctx.Err()
	})
	if err != nil {
		if c.Failed() {
			return nil, explain(c.Errors)
		}
		return nil, err
	}
	slices.SortFunc(results, func(a, b TestResult) int { return cmp.Compare(a.Name, b.Name) })
	return results, nil
}

func testResult(r *tester.Result) TestResult {
	out := TestResult{
		Name:     strings.TrimPrefix(r.Package, "data.") + "." + r.Name,
		Location: fmt.Sprintf("%s:%d", r.Location.File, r.Location.Row),
		Passed:   r.Pass(),
		Duration: r.Duration,
	}
	switch {
	case r.Error != nil:
		out.Detail = r.Error.Error()
	case r.Skip:
		out.Detail = "skipped: rename todo_test_… to test_… so that it runs"
	case !out.Passed:
		out.Detail = "the test is not true"
	}
	if len(r.Output) > 0 {
		out.Detail = strings.TrimSpace(out.Detail + "\n" + string(r.Output))
	}
	return out
}

// failures is an error that lists the tests that did not pass, or nil.
func failures(results []TestResult) error {
	var lines []string
	for _, r := range results {
		if !r.Passed {
			lines = append(lines, fmt.Sprintf("%s: test %s: %s", r.Location, r.Name, r.Detail))
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return fmt.Errorf("its own tests fail:\n%s", strings.Join(lines, "\n"))
}
