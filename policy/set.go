package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// ParseSet compiles the programs of one set of files, such as a bundle's: those of
// configs whose package the files have, by package. Each sees its own package and what
// that needs of the others, under its own schema. All tests of the files are run
// together; one that fails is an error, and the results are given in any case.
//
// A package below "strongroom" that none of configs names is an error, since it would
// decide nothing. It performs no I/O.
func ParseSet(ctx context.Context, configs []ProgramConfig, files map[string][]byte, data map[string]any) (map[string]*Program, []TestResult, error) {
	modules, tests, err := parseModules(files)
	if err != nil {
		return nil, nil, err
	}
	known := map[string]bool{}
	for _, c := range configs {
		known[c.Package] = true
	}
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		pkg := packageName(modules[name])
		if (pkg == "strongroom" || strings.HasPrefix(pkg, "strongroom.")) && !known[pkg] {
			return nil, nil, fmt.Errorf("%s: nothing asks the package %s: use one of %s, or a name of your own for rules that others share",
				name, pkg, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
	}
	programs := map[string]*Program{}
	for _, c := range configs {
		needed := closure(modules, c.Package)
		if len(needed) == 0 {
			continue
		}
		c.Data = data
		own := make(map[string][]byte, len(needed))
		for _, name := range needed {
			own[name] = files[name]
		}
		p, err := ParseProgram(ctx, c, own)
		if err != nil {
			return nil, nil, err
		}
		programs[c.Package] = p
	}
	if len(programs) == 0 {
		return nil, nil, fmt.Errorf("the files have none of the packages %s", strings.Join(slices.Sorted(maps.Keys(known)), ", "))
	}
	// Everything once more together: what no program needs must compile too.
	c, err := compileModules(ProgramConfig{}, modules)
	if err != nil {
		return nil, nil, err
	}
	if err := checkReferences(c, data); err != nil {
		return nil, nil, err
	}
	if len(tests) == 0 {
		return programs, nil, nil
	}
	results, err := runTests(ctx, ProgramConfig{Data: data}, files, nil)
	if err != nil {
		return nil, nil, err
	}
	if len(results) == 0 {
		return nil, nil, errors.New("the files named *_test.rego have no test: name their rules test_…")
	}
	if err := failures(results); err != nil {
		return nil, results, err
	}
	return programs, results, nil
}

func packageName(m *ast.Module) string {
	return strings.TrimPrefix(m.Package.Path.String(), "data.")
}

// closure names the modules of a package and those that they refer to.
func closure(modules map[string]*ast.Module, pkg string) []string {
	need := map[string]bool{}
	var visit func(m *ast.Module)
	take := func(wanted func(path ast.Ref) bool) {
		for name, m := range modules {
			if !need[name] && wanted(m.Package.Path) {
				need[name] = true
				visit(m)
			}
		}
	}
	visit = func(m *ast.Module) {
		ast.WalkRefs(m, func(ref ast.Ref) bool {
			if !ref[0].Equal(ast.DefaultRootDocument) {
				return false
			}
			constant := ref.ConstantPrefix()
			take(func(path ast.Ref) bool { return constant.HasPrefix(path) || path.HasPrefix(constant) })
			return false
		})
	}
	take(func(path ast.Ref) bool { return strings.TrimPrefix(path.String(), "data.") == pkg })
	return slices.Sorted(maps.Keys(need))
}
