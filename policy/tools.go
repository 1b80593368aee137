package policy

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/format"
)

// Format is Rego in its usual form. The error names the file and the line.
func Format(name string, source []byte) ([]byte, error) {
	version := ast.RegoV1
	return format.SourceWithOpts(name, source, format.Opts{RegoVersion: version})
}

// FileCoverage is how much of a file its tests reached.
type FileCoverage struct {
	File       string   `json:"file"`
	Percent    float64  `json:"percent"`
	NotCovered []string `json:"notCovered,omitempty"` // lines, such as "12" or "14-16"
}

// Coverage runs the tests of a set of files, such as a bundle's, and says what of the
// other files they reached. A failed test is in the results, not in the error.
func Coverage(ctx context.Context, files map[string][]byte, data map[string]any) ([]TestResult, []FileCoverage, error) {
	modules, _, err := parseModules(files)
	if err != nil {
		return nil, nil, err
	}
	tracer := cover.New()
	results, err := runTests(ctx, ProgramConfig{Data: data}, files, tracer)
	if err != nil {
		return nil, nil, err
	}
	var reached []FileCoverage
	for name, f := range tracer.Report(modules).Files {
		if IsTest(name) {
			continue
		}
		c := FileCoverage{File: name, Percent: f.Coverage}
		for _, r := range f.NotCovered {
			lines := fmt.Sprint(r.Start.Row)
			if r.End.Row != r.Start.Row {
				lines += fmt.Sprint("-", r.End.Row)
			}
			c.NotCovered = append(c.NotCovered, lines)
		}
		reached = append(reached, c)
	}
	slices.SortFunc(reached, func(a, b FileCoverage) int { return cmp.Compare(a.File, b.File) })
	return results, reached, nil
}
