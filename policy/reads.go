package policy

import "github.com/open-policy-agent/opa/v1/ast"

// Reads tells whether the program may look at a field of its input: any of its rules
// names it, or the input as a whole. Who remembers decisions may leave out what the
// program does not read.
func (p *Program) Reads(field string) bool {
	found := false
	var visitor *ast.GenericVisitor
	visitor = ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case ast.Ref:
			if len(x) > 1 && x[0].Equal(ast.InputRootDocument) {
				name, ok := x[1].Value.(ast.String)
				found = found || !ok || string(name) == field
				for _, t := range x[1:] {
					visitor.Walk(t)
				}
				return true
			}
		case ast.Var:
			found = found || x.Equal(ast.InputRootDocument.Value)
		}
		return found
	})
	for _, m := range p.compiler.Modules {
		visitor.Walk(m)
	}
	return found
}
