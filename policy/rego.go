package policy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// ErrEvaluation is wrapped by errors of an evaluation that gave no decision.
var ErrEvaluation = errors.New("policy evaluation gave no decision")

// program is the compiled Rego of one shape.
type program struct {
	source   string
	compiler *ast.Compiler // shared by all programs of a batch
	query    ast.Body      // the compiled query for the package's decision
}

// shapePackage names the package of a shape.
func shapePackage(shape string) string {
	sum := sha256.Sum256([]byte(shape))
	return "s" + hex.EncodeToString(sum[:])
}

// generate writes the Rego of a shape. The input is {"satisfied_by": [...]}: for
// each column the set of signers, by index, that satisfy its principal.
//
// A function g… is a gate: it takes the signers used so far and gives those used
// after it, undefined when the gate fails. t… and take wrap a gate and a leaf so
// that they always answer: [1, used after] or [0, used before].
func generate(root *node) string {
	g := &generator{}
	g.line("package strongroom.policy.%s", shapePackage(root.String()))
	g.line("")
	g.line("take(column, used) := [1, used | {first}] if {")
	g.line("\tfirst := min(input.satisfied_by[column] - used)")
	g.line("} else := [0, used]")
	g.line("")
	switch {
	case root.kind == meta:
		g.line("flags := [%s]", strings.Join(g.roots(root.children), ", "))
	case root.kind == gate:
		g.flags(root)
	default:
		g.line("flags := [%s]", g.root(root))
	}
	g.line("")
	g.line("default allow := false")
	g.line("")
	g.line("allow if %s", threshold(root, "flags"))
	g.line("")
	g.line(`decision := {"allow": allow, "flags": flags}`)
	return g.head.String() + g.tail.String()
}

type generator struct {
	head, tail strings.Builder // the tail holds the functions of gates
	next       int
}

func (g *generator) line(format string, args ...any) {
	fmt.Fprintf(&g.head, format, args...)
	g.head.WriteByte('\n')
}

// threshold is the condition that enough of the flags hold.
func threshold(n *node, flags string) string {
	if n.unknown {
		return fmt.Sprintf("sum(%s) == 0", flags)
	}
	return fmt.Sprintf("sum(%s) >= %d", flags, n.n)
}

// roots gives, for each policy that starts anew with all signers, an expression
// that is 1 when it holds and 0 when it does not.
func (g *generator) roots(nodes []*node) []string {
	exprs := make([]string, len(nodes))
	for i, n := range nodes {
		exprs[i] = g.root(n)
	}
	return exprs
}

func (g *generator) root(n *node) string {
	switch n.kind {
	case reject:
		return "0"
	case leaf:
		return fmt.Sprintf("take(%d, set())[0]", n.column)
	case gate:
		return g.gate(n) + "(set())[0]"
	}
	subs := g.roots(n.children)
	g.next++
	name := "m" + strconv.Itoa(g.next)
	fmt.Fprintf(&g.tail, "\n%s := 1 if %s else := 0\n", name, threshold(n, "["+strings.Join(subs, ", ")+"]"))
	return name
}

// flags writes what became of each child of a policy whose root is a gate.
func (g *generator) flags(root *node) {
	if len(root.children) == 0 {
		g.line("flags := []")
		return
	}
	calls, flags, last := g.calls(root, "set()")
	calls[len(calls)-1] = strings.Replace(calls[len(calls)-1], ", "+last+"]", ", _]", 1)
	g.line("flags := [%s] if {", strings.Join(flags, ", "))
	for _, c := range calls {
		g.line("\t%s", c)
	}
	g.line("}")
}

// calls gives the statements that evaluate a gate's children in order, the first with
// the signers that from names, the names of their results, and the variable that holds the signers used at last.
func (g *generator) calls(n *node, from string) (calls, flags []string, last string) {
	last = from
	for i, c := range n.children {
		k, u := "k"+strconv.Itoa(i+1), "u"+strconv.Itoa(i+1)
		call := fmt.Sprintf("take(%d, %s)", c.column, last)
		if c.kind == gate {
			call = fmt.Sprintf("%s(%s)", g.gate(c), last)
		}
		calls = append(calls, fmt.Sprintf("[%s, %s] := %s", k, u, call))
		flags = append(flags, k)
		last = u
	}
	return calls, flags, last
}

// gate writes the functions of a gate and gives the name of the one that always answers.
func (g *generator) gate(n *node) string {
	calls, flags, last := g.calls(n, "u0")
	g.next++
	id := strconv.Itoa(g.next)
	fmt.Fprintf(&g.tail, "\ng%s(u0) := %s if {\n", id, last)
	for _, c := range calls {
		fmt.Fprintf(&g.tail, "\t%s\n", c)
	}
	fmt.Fprintf(&g.tail, "\t%s\n}\n", threshold(n, "["+strings.Join(flags, ", ")+"]"))
	fmt.Fprintf(&g.tail, "\nt%s(u) := [1, v] if v := g%s(u) else := [0, u]\n", id, id)
	return "t" + id
}

// compile makes the programs of several shapes with one compiler.
func compile(shapes []*node) ([]*program, error) {
	modules := make(map[string]*ast.Module, len(shapes))
	programs := make([]*program, len(shapes))
	opts := ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: ledgerCapabilities()}
	for i, s := range shapes {
		source := generate(s)
		pkg := shapePackage(s.String())
		m, err := ast.ParseModuleWithOpts(pkg+".rego", source, opts)
		if err != nil {
			return nil, fmt.Errorf("generated Rego does not parse: %w", err)
		}
		modules[pkg] = m
		programs[i] = &program{source: source}
	}
	c := ast.NewCompiler().WithCapabilities(ledgerCapabilities()).WithStrict(true).WithDefaultRegoVersion(ast.RegoV1)
	if c.Compile(modules); c.Failed() {
		return nil, fmt.Errorf("generated Rego does not compile: %w", c.Errors)
	}
	for i, s := range shapes {
		q, err := ast.ParseBodyWithOpts("decision = data.strongroom.policy."+shapePackage(s.String())+".decision", opts)
		if err != nil {
			return nil, fmt.Errorf("generated query does not parse: %w", err)
		}
		if q, err = c.QueryCompiler().Compile(q); err != nil {
			return nil, fmt.Errorf("generated query does not compile: %w", err)
		}
		programs[i].compiler, programs[i].query = c, q
	}
	return programs, nil
}

var (
	satisfiedBy = ast.StringTerm("satisfied_by")
	allowKey    = ast.StringTerm("allow")
	flagsKey    = ast.StringTerm("flags")
)

// run evaluates the shape for a matrix with the given number of columns.
func (p *program) run(ctx context.Context, e *Engine, rows []row, columns int) (allowed bool, flags []bool, err error) {
	sets := make([]*ast.Term, columns)
	for c := range sets {
		s := ast.NewSet()
		for i, r := range rows {
			if r.has(c) {
				s.Add(ast.InternedTerm(i))
			}
		}
		sets[c] = ast.NewTerm(s)
	}
	input := ast.ObjectTerm([2]*ast.Term{satisfiedBy, ast.ArrayTerm(sets...)})
	rs, err := e.eval(ctx, p.compiler, p.query, input)
	if err != nil {
		return false, nil, err
	}
	if len(rs) != 1 {
		return false, nil, fmt.Errorf("%w: %d results instead of 1", ErrEvaluation, len(rs))
	}
	return decode(rs[0]["decision"])
}

func decode(t *ast.Term) (allowed bool, flags []bool, err error) {
	if t == nil {
		return false, nil, fmt.Errorf("%w: no decision", ErrEvaluation)
	}
	obj, ok := t.Value.(ast.Object)
	if !ok {
		return false, nil, fmt.Errorf("%w: decision is %s", ErrEvaluation, ast.ValueName(t.Value))
	}
	allow, ok := valueOf(obj, allowKey).(ast.Boolean)
	if !ok {
		return false, nil, fmt.Errorf("%w: decision.allow is not a boolean", ErrEvaluation)
	}
	list, ok := valueOf(obj, flagsKey).(*ast.Array)
	if !ok {
		return false, nil, fmt.Errorf("%w: decision.flags is not an array", ErrEvaluation)
	}
	flags = make([]bool, list.Len())
	for i := range flags {
		n, ok := list.Elem(i).Value.(ast.Number)
		v, isInt := n.Int()
		if !ok || !isInt {
			return false, nil, fmt.Errorf("%w: decision.flags[%d] is not a number", ErrEvaluation, i)
		}
		flags[i] = v == 1
	}
	return bool(allow), flags, nil
}

func valueOf(o ast.Object, key *ast.Term) ast.Value {
	if t := o.Get(key); t != nil {
		return t.Value
	}
	return nil
}

// eval runs a compiled query. It ends early, with the context's error, when the
// context does; no goroutine is started for that unless it happens.
func (e *Engine) eval(ctx context.Context, c *ast.Compiler, query ast.Body, input *ast.Term) (topdown.QueryResultSet, error) {
	return evalQuery(ctx, c, e.data, query, input)
}

func evalQuery(ctx context.Context, c *ast.Compiler, d *data, query ast.Body, input *ast.Term) (topdown.QueryResultSet, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvaluation, err)
	}
	cancel := topdown.NewCancel()
	if ctx.Done() != nil {
		defer context.AfterFunc(ctx, cancel.Cancel)()
	}
	rs, err := topdown.NewQuery(query).
		WithCompiler(c).
		WithStore(d.store).
		WithTransaction(d.txn).
		WithInput(input).
		WithCancel(cancel).
		WithStrictBuiltinErrors(true).
		WithSeed(noSeed{}).
		Run(ctx)
	switch {
	case err == nil:
		return rs, nil
	case topdown.IsCancel(err) && ctx.Err() != nil:
		return nil, fmt.Errorf("%w: %w", ErrEvaluation, ctx.Err())
	}
	return nil, fmt.Errorf("%w: %w", ErrEvaluation, err)
}

// noSeed is the random source of an evaluation: there is none.
type noSeed struct{}

func (noSeed) Read([]byte) (int, error) {
	return 0, errors.New("policies have no random source")
}
