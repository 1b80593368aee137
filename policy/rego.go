package policy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

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

// chunk is how many rules stand in one Rego body: the compiler's work grows with the
// square of a body's length.
const chunk = 64

// generate writes the Rego of a shape. The input is {"satisfied_by": [...]}: for
// each column the set of signers, by index, that satisfy its principal.
//
// take asks a leaf: given the signers used so far it answers [1, used after] or
// [0, used before]. A function g… is a gate, undefined when the gate fails; t… wraps
// it to answer as take does. c… evaluates a part of a wide gate's rules and answers
// [flags, used after]. m… is an implicit meta policy below the root, 1 or 0. The
// rule flags says for each child of the root whether it held.
func generate(root *node) string {
	g := &generator{}
	g.line("package strongroom.policy.%s", shapePackage(root.String()))
	g.line("")
	g.line("take(column, used) := [1, used | {first}] if {")
	g.line("\tfirst := min(input.satisfied_by[column] - used)")
	g.line("} else := [0, used]")
	switch root.kind {
	case gate:
		body, parts, last := g.children(root, "set()")
		if len(body) > 0 { // nobody asks for the signers used at last
			body[len(body)-1] = strings.Replace(body[len(body)-1], ", "+last+"]", ", _]", 1)
		}
		g.rule("flags", nil, "["+strings.Join(parts, ", ")+"]", body)
	case meta:
		g.rule("flags", nil, "["+strings.Join(g.parts(root), ", ")+"]", nil)
	default:
		g.rule("flags", nil, "[["+g.root(root)+"]]", nil)
	}
	g.line("")
	g.line("default allow := false")
	g.line("")
	g.line("allow if %s", threshold(root, "sum([sum(part) | part := flags[_]])"))
	g.line("")
	g.line(`decision := {"allow": allow, "flags": flags}`)
	return g.text.String()
}

type generator struct {
	text strings.Builder
	next int
}

func (g *generator) line(format string, args ...any) {
	fmt.Fprintf(&g.text, format, args...)
	g.text.WriteByte('\n')
}

// rule writes a rule, or a function when it has an argument, with its value and body.
func (g *generator) rule(name string, args []string, value string, body []string) {
	g.line("")
	if args != nil {
		name += "(" + strings.Join(args, ", ") + ")"
	}
	if len(body) == 0 {
		g.line("%s := %s", name, value)
		return
	}
	g.line("%s := %s if {", name, value)
	for _, l := range body {
		g.line("\t%s", l)
	}
	g.line("}")
}

func (g *generator) name(prefix string) string {
	g.next++
	return prefix + strconv.Itoa(g.next)
}

// threshold is the condition that enough held.
func threshold(n *node, held string) string {
	if n.unknown {
		return held + " == 0"
	}
	return fmt.Sprintf("%s >= %d", held, n.n)
}

// parts gives the flags of a meta policy's children, in arrays of chunk.
func (g *generator) parts(n *node) []string {
	var names []string
	for part := range slices.Chunk(n.children, chunk) {
		exprs := make([]string, len(part))
		for i, c := range part {
			exprs[i] = g.root(c)
		}
		name := g.name("p")
		g.rule(name, nil, "["+strings.Join(exprs, ", ")+"]", nil)
		names = append(names, name)
	}
	return names
}

// root gives an expression that is 1 when a policy holds for all signers, each
// unused, and 0 when it does not.
func (g *generator) root(n *node) string {
	switch n.kind {
	case reject:
		return "0"
	case leaf:
		return fmt.Sprintf("take(%d, set())[0]", n.column)
	case gate:
		return g.gate(n) + "(set())[0]"
	}
	parts := g.parts(n)
	name := g.name("m")
	g.line("")
	g.line("%s := 1 if %s else := 0", name, threshold(n, sums(parts)))
	return name
}

// sums adds up the flags of several arrays.
func sums(parts []string) string {
	each := make([]string, len(parts))
	for i, p := range parts {
		each[i] = "sum(" + p + ")"
	}
	return "sum([" + strings.Join(each, ", ") + "])"
}

// gate writes the functions of a gate and gives the name of the one that always answers.
func (g *generator) gate(n *node) string {
	body, parts, last := g.children(n, "used")
	id := g.name("")
	g.rule("g"+id, []string{"used"}, last, append(body, threshold(n, sums(parts))))
	g.line("")
	g.line("t%s(used) := [1, after] if after := g%s(used) else := [0, used]", id, id)
	return "t" + id
}

// children gives the statements that evaluate a gate's children in order, the first
// with the signers that from names; the arrays that then hold their flags; and the
// variable with the signers used at last.
func (g *generator) children(n *node, from string) (body, parts []string, last string) {
	if len(n.children) <= chunk {
		body, flags, last := g.calls(n.children, from)
		return body, []string{flags}, last
	}
	for children := range slices.Chunk(n.children, chunk) {
		calls, flags, last := g.calls(children, "used")
		name := g.name("c")
		g.rule(name, []string{"used"}, fmt.Sprintf("[%s, %s]", flags, last), calls)
		part, used := "f"+strconv.Itoa(len(parts)+1), "u"+strconv.Itoa(len(parts)+1)
		body = append(body, fmt.Sprintf("[%s, %s] := %s(%s)", part, used, name, from))
		parts, from = append(parts, part), used
	}
	return body, parts, from
}

// calls is children for those of one chunk: flags is one array.
func (g *generator) calls(children []*node, from string) (body []string, flags, last string) {
	names := make([]string, len(children))
	for i, c := range children {
		flag, used := "k"+strconv.Itoa(i+1), "u"+strconv.Itoa(i+1)
		call := fmt.Sprintf("take(%d, %s)", c.column, from)
		if c.kind == gate {
			call = fmt.Sprintf("%s(%s)", g.gate(c), from)
		}
		body = append(body, fmt.Sprintf("[%s, %s] := %s", flag, used, call))
		names[i], from = flag, used
	}
	return body, "[" + strings.Join(names, ", ") + "]", from
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
	for i := range list.Len() {
		part, ok := list.Elem(i).Value.(*ast.Array)
		if !ok {
			return false, nil, fmt.Errorf("%w: decision.flags[%d] is not an array", ErrEvaluation, i)
		}
		for j := range part.Len() {
			n, _ := part.Elem(j).Value.(ast.Number)
			if n != "0" && n != "1" {
				return false, nil, fmt.Errorf("%w: decision.flags[%d][%d] is neither 0 nor 1", ErrEvaluation, i, j)
			}
			flags = append(flags, n == "1")
		}
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
		WithTime(noTime).
		Run(ctx)
	switch {
	case err == nil:
		return rs, nil
	case topdown.IsCancel(err) && ctx.Err() != nil:
		return nil, fmt.Errorf("%w: %w", ErrEvaluation, ctx.Err())
	}
	return nil, fmt.Errorf("%w: %w", ErrEvaluation, err)
}

// noTime is the clock of every evaluation: it stands still.
var noTime = time.Unix(0, 0)

// noSeed is the random source of an evaluation: there is none.
type noSeed struct{}

func (noSeed) Read([]byte) (int, error) {
	return 0, errors.New("policies have no random source")
}
