package policy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// newTestEngine gives the engine of this test process.
func newTestEngine(t testing.TB) *Engine {
	t.Helper()
	e, err := theEngine()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

var theEngine = sync.OnceValues(func() (*Engine, error) { return NewEngine(Config{}) })

// randomNode makes a policy of up to the given depth over the columns; inMeta says
// that implicit meta policies may still occur, as they do from the root down.
func randomNode(r *rand.Rand, depth, columns int, inMeta bool) *node {
	pick := r.IntN(10)
	switch {
	case inMeta && pick == 0 && depth < 3:
		return &node{kind: reject}
	case inMeta && pick < 5 && depth > 0:
		n := &node{kind: meta, children: make([]*node, r.IntN(4))}
		if len(n.children) > 0 {
			n.n = int32(1 + r.IntN(len(n.children)))
			if r.IntN(12) == 0 {
				n.n, n.unknown = 0, true
			}
		}
		for i := range n.children {
			n.children[i] = randomNode(r, depth-1, columns, true)
		}
		return n
	case depth > 0 && pick < 8:
		n := &node{kind: gate, children: make([]*node, r.IntN(5))}
		n.n = int32(r.IntN(len(n.children)+2)) - int32(r.IntN(8)/7)
		for i := range n.children {
			n.children[i] = randomNode(r, depth-1, columns, false)
		}
		return n
	}
	return &node{kind: leaf, n: 1, column: r.IntN(columns)}
}

func randomRows(r *rand.Rand, columns int) []row {
	rows := make([]row, r.IntN(7))
	density := 1 + r.IntN(4)
	for i := range rows {
		rows[i] = make(row, wordsFor(columns))
		for c := range columns {
			if r.IntN(5) < density {
				rows[i][c/64] |= 1 << (c % 64)
			}
		}
	}
	return rows
}

// counted is the tempting misreading of a signature policy: a leaf holds when some
// signer satisfies it, whoever else needs that signer.
func counted(n *node, rows []row) bool {
	switch n.kind {
	case reject:
		return false
	case leaf:
		for _, r := range rows {
			if r.has(n.column) {
				return true
			}
		}
		return false
	}
	held := int32(0)
	for _, c := range n.children {
		if counted(c, rows) {
			held++
		}
	}
	if n.unknown {
		return held == 0
	}
	return held >= n.n
}

// TestRegoEqualsOracle compares the generated Rego with the oracle on random
// policies and signers, and makes sure that the cases are not all easy ones.
func TestRegoEqualsOracle(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	e := newTestEngine(t)
	const trees, perTree, columns = 480, 25, 6
	compared, allowed, misread := 0, 0, 0
	for range trees / 40 {
		nodes := make([]*node, 40)
		seen := map[string]bool{}
		for i := range nodes {
			for nodes[i] == nil || seen[nodes[i].String()] {
				nodes[i] = randomNode(r, 3, columns, i%2 == 0)
			}
			seen[nodes[i].String()] = true
		}
		programs, err := compile(nodes)
		if err != nil {
			t.Fatal(err)
		}
		for i, n := range nodes {
			for range perTree {
				rows := randomRows(r, columns)
				got, _, err := programs[i].run(context.Background(), e, rows, columns)
				if err != nil {
					t.Fatalf("%s with %v: %v", n, rows, err)
				}
				want := oracle(n, rows)
				if got != want {
					t.Fatalf("%s with %v: Rego says %t, the oracle %t\n%s", n, rows, got, want, generate(n))
				}
				compared++
				if want {
					allowed++
				}
				if counted(n, rows) != want {
					misread++
				}
			}
		}
	}
	t.Logf("%d comparisons, %d allowed, %d where counting principals is wrong", compared, allowed, misread)
	if compared < 10000 || allowed < compared/10 || allowed > compared*9/10 || misread < compared/200 {
		t.Fatal("the random policies no longer test what they should")
	}
}

// TestWideGatesEqualOracle does the same for flat policies of many principals, more
// than a word of columns, and many signers.
func TestWideGatesEqualOracle(t *testing.T) {
	e := newTestEngine(t)
	rapid.Check(t, func(rt *rapid.T) {
		columns := rapid.IntRange(1, 140).Draw(rt, "columns")
		kinds := rapid.SampledFrom([]kind{gate, meta}).Draw(rt, "kind")
		n := &node{kind: kinds, n: int32(rapid.IntRange(1, columns).Draw(rt, "n"))}
		for c := range columns {
			n.children = append(n.children, &node{kind: leaf, n: 1, column: c})
		}
		if rapid.Bool().Draw(rt, "nested") { // the second half in a gate of its own
			half := columns / 2
			inner := &node{kind: gate, n: int32(rapid.IntRange(0, columns-half).Draw(rt, "inner n")), children: n.children[half:]}
			n.children = append(n.children[:half:half], inner)
		}
		rows := make([]row, rapid.IntRange(0, 20).Draw(rt, "signers"))
		for i := range rows {
			rows[i] = make(row, wordsFor(columns))
			for range rapid.IntRange(0, 12).Draw(rt, "satisfied") {
				c := rapid.IntRange(0, columns-1).Draw(rt, "column")
				rows[i][c/64] |= 1 << (c % 64)
			}
		}
		ps, err := compile([]*node{n})
		if err != nil {
			rt.Fatal(err)
		}
		got, flags, err := ps[0].run(context.Background(), e, rows, columns)
		if err != nil {
			rt.Fatal(err)
		}
		if want := oracle(n, rows); got != want {
			rt.Fatalf("Rego says %t, the oracle %t", got, want)
		}
		if len(flags) != len(n.children) {
			rt.Fatalf("%d flags for %d rules", len(flags), len(n.children))
		}
	})
}

// TestLargePolicies: policies near the bounds compile and are decided.
func TestLargePolicies(t *testing.T) {
	e := newTestEngine(t)
	wide := &node{kind: gate, n: 2}
	for c := range 1500 {
		wide.children = append(wide.children, &node{kind: leaf, n: 1, column: c})
	}
	deep := &node{kind: leaf, n: 1, column: 0}
	for range MaxDepth - 1 {
		deep = &node{kind: gate, n: 1, children: []*node{{kind: leaf, n: 1, column: 1}, deep}}
	}
	rows := []row{make(row, wordsFor(1500)), make(row, wordsFor(1500))}
	rows[0][0], rows[1][1499/64] = 1, 1<<(1499%64)
	ps, err := compile([]*node{wide, deep})
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range []*node{wide, deep} {
		if got, _, err := ps[i].run(context.Background(), e, rows, 1500); err != nil || !got || !oracle(n, rows) {
			t.Errorf("policy %d: %t, %v", i, got, err)
		}
		if got, _, err := ps[i].run(context.Background(), e, rows[1:], 1500); err != nil || got || oracle(n, rows[1:]) {
			t.Errorf("policy %d with one signer less: %t, %v", i, got, err)
		}
	}
}

// TestGoldenIsRead makes sure that the corpus is not empty and has both verdicts.
func TestGoldenIsRead(t *testing.T) {
	cases, err := parseGolden(goldenText)
	if err != nil {
		t.Fatal(err)
	}
	allowed := 0
	for _, c := range cases {
		if c.allow {
			allowed++
		}
		if p := (&shapeParser{text: c.root.String()}); true {
			again, err := p.node()
			if err != nil || again.String() != c.root.String() {
				t.Errorf("line %d: %s reads back as %v, %v", c.line, c.root, again, err)
			}
		}
	}
	if len(cases) < 50 || allowed < 20 || allowed > len(cases)-20 {
		t.Fatalf("%d cases, %d allowed", len(cases), allowed)
	}
}

// TestSelfTestNoticesADifference turns each verdict of the corpus round: every one
// must be noticed.
func TestSelfTestNoticesADifference(t *testing.T) {
	e := newTestEngine(t)
	cases, err := parseGolden(goldenText)
	if err != nil {
		t.Fatal(err)
	}
	for i := range cases {
		cases[i].allow = !cases[i].allow
		if err := e.golden(cases[i : i+1]); err == nil {
			t.Errorf("golden.txt line %d: the opposite verdict went unnoticed", cases[i].line)
		}
	}
}

func TestGoldenErrors(t *testing.T) {
	for _, line := range []string{"#0", "#0 | 0 | maybe", "#0 | 1 | allow", "2 | 0 | allow", "2(#0 | 0 | deny", "2(#0)) | 0 | deny", "x | | deny", "# | | deny", "?(#0) | | deny"} {
		if _, err := parseGolden(line); err == nil {
			t.Errorf("%q was read", line)
		} else if got := fmt.Sprint(err); len(got) < 10 {
			t.Errorf("%q: %v", line, err)
		}
	}
}
