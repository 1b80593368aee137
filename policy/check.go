package policy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
)

// parseModules parses all files; tests are given by name alone, since they are
// compiled apart.
func parseModules(files map[string][]byte) (modules map[string]*ast.Module, tests []string, err error) {
	modules = make(map[string]*ast.Module, len(files))
	var faults ast.Errors
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		m, err := ast.ParseModuleWithOpts(name, string(files[name]), parserOptions())
		if err != nil {
			var list ast.Errors
			var one *ast.Error
			switch {
			case errors.As(err, &list):
				faults = append(faults, list...)
			case errors.As(err, &one):
				faults = append(faults, one)
			default:
				return nil, nil, fmt.Errorf("%s: %w", name, err)
			}
			continue
		}
		if IsTest(name) {
			tests = append(tests, name)
		} else {
			modules[name] = m
		}
	}
	if len(faults) > 0 {
		return nil, nil, explain(faults)
	}
	if len(modules) == 0 {
		return nil, nil, errors.New("there is no .rego file besides tests")
	}
	return modules, tests, nil
}

func parserOptions() ast.ParserOptions {
	return ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: teamCapabilities(), ProcessAnnotation: true}
}

// checkEntrypoints makes sure that the package decides at all: OPA takes a query
// for a rule that does not exist as undefined, without an error. It names the sets
// that are there: deny, public_reason and conditions.
func checkEntrypoints(c *ast.Compiler, cfg ProgramConfig) (sets []string, err error) {
	pkg := ast.MustParseRef("data." + cfg.Package)
	allow := c.GetRulesExact(pkg.Append(ast.StringTerm("allow")))
	if len(allow) == 0 {
		return nil, fmt.Errorf("package %s has no rule allow%s: write\n\tpackage %s\n\tdefault allow := false\n\tallow if { … }", cfg.Package, packagesOf(c), cfg.Package)
	}
	hasDefault := false
	for _, r := range allow {
		if r.Default {
			if hasDefault = r.Head.Value.Value.Compare(ast.Boolean(false)) == 0; !hasDefault {
				return nil, fmt.Errorf("%s: the default of allow is %s: it must be false", r.Location, r.Head.Value)
			}
		}
		if len(r.Head.Args) > 0 || r.Head.RuleKind() != ast.SingleValue || len(r.Head.Ref()) != 1 {
			return nil, fmt.Errorf("%s: allow must be true or false: write allow if { … }", r.Location)
		}
	}
	if !hasDefault {
		return nil, fmt.Errorf("%s: package %s has no default for allow: write default allow := false", allow[0].Location, cfg.Package)
	}
	names := []string{"deny"}
	if cfg.PublicReasons {
		names = append(names, "public_reason")
	}
	if cfg.Conditions {
		names = append(names, "conditions")
	} else if rules := c.GetRulesWithPrefix(pkg.Append(ast.StringTerm("conditions"))); len(rules) > 0 {
		return nil, fmt.Errorf("%s: nothing checks conditions of package %s: give the rule another name", rules[0].Location, cfg.Package)
	}
	for _, name := range names {
		example := `"a reason"`
		if name == "conditions" {
			example = `{"not_after": "2026-12-31T23:59:59Z"}`
		}
		rules := c.GetRulesWithPrefix(pkg.Append(ast.StringTerm(name)))
		for _, r := range rules {
			if r.Head.RuleKind() != ast.MultiValue || len(r.Head.Ref()) != 1 {
				return nil, fmt.Errorf("%s: %s must be a set: write %s contains %s if { … }", r.Location, name, name, example)
			}
		}
		if len(rules) > 0 {
			sets = append(sets, name)
		}
	}
	return sets, checkReferences(c, cfg.Data)
}

func packagesOf(c *ast.Compiler) string {
	var names []string
	for _, m := range c.Modules {
		names = append(names, strings.TrimPrefix(m.Package.Path.String(), "data."))
	}
	slices.Sort(names)
	return " (the files have package " + strings.Join(slices.Compact(names), ", ") + ")"
}

// checkReferences refuses a reference below data that neither a rule nor the data
// document defines: it could only be undefined.
func checkReferences(c *ast.Compiler, data map[string]any) error {
	var faults []error
	for _, m := range c.Modules {
		ast.WalkRefs(m, func(ref ast.Ref) bool {
			if len(ref) < 2 || !ref[0].Equal(ast.DefaultRootDocument) {
				return false
			}
			node := c.RuleTree.Child(ast.Var("data"))
			for _, t := range ref[1:] {
				if node == nil || len(node.Values) > 0 {
					break
				}
				if _, ok := t.Value.(ast.String); !ok {
					return false // decided at run time
				}
				node = node.Child(t.Value)
			}
			if node == nil && !inData(data, ref[1:]) {
				faults = append(faults, fmt.Errorf("%s: nothing defines %s: policies have no data besides their own rules and a bundle's data.json", ref[0].Location, ref))
			}
			return false
		})
	}
	return errors.Join(faults...)
}

// inData tells whether the document has what a reference begins with. Where the
// reference goes on with a variable, it is decided at run time.
func inData(data map[string]any, ref ast.Ref) bool {
	var node any = data
	for _, t := range ref {
		object, ok := node.(map[string]any)
		if !ok {
			return node != nil // an array's element, or a value that has no fields: undefined at run time
		}
		name, ok := t.Value.(ast.String)
		if !ok {
			return len(object) > 0
		}
		if node, ok = object[string(name)]; !ok {
			return false
		}
	}
	return true
}

var undefinedFunction = regexp.MustCompile(`undefined function ([a-zA-Z0-9_.]+)`)

// allBuiltins are the names of OPA's built-in functions, allowed or not.
var allBuiltins = sync.OnceValue(func() map[string]bool {
	names := make(map[string]bool, len(ast.Builtins))
	for _, b := range ast.Builtins {
		names[b.Name] = true
	}
	return names
})

// explain turns the compiler's errors into one that says, a line each, file, line,
// fault and fix.
func explain(list ast.Errors) error {
	lines := make([]string, 0, len(list))
	for _, e := range list {
		var b strings.Builder
		if e.Location != nil {
			fmt.Fprintf(&b, "%s:%d: ", e.Location.File, e.Location.Row)
		}
		b.WriteString(e.Message)
		if e.Code == ast.TypeErr && e.Details != nil {
			for _, d := range e.Details.Lines() {
				if d = strings.TrimSpace(d); d != "" && d != "^" && !strings.HasPrefix(d, "input.") {
					b.WriteString("; " + d)
				}
			}
		}
		if e.Message == "empty module" {
			b.WriteString(": begin the file with a package")
		}
		if m := undefinedFunction.FindStringSubmatch(e.Message); m != nil {
			if allBuiltins()[m[1]] {
				b.WriteString(": policies may not call it, since it reads a clock, the network or the host, or makes large values: put what it would find into the input")
			} else {
				b.WriteString(": there is no such function: check its name, and import the package that defines it")
			}
		}
		lines = append(lines, b.String())
	}
	return errors.New(strings.Join(lines, "\n"))
}
