package policy

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"strings"
)

//go:embed golden.txt
var goldenText string

// goldenCase is one line of golden.txt.
type goldenCase struct {
	line    int
	root    *node
	rows    []row
	columns int
	allow   bool
}

// selfTest decides every golden case with Rego and with the oracle.
func (e *Engine) selfTest() error {
	cases, err := parseGolden(goldenText)
	if err != nil {
		return err
	}
	return e.golden(cases)
}

func (e *Engine) golden(cases []goldenCase) error {
	defs := make([]*definition, len(cases))
	for i, c := range cases {
		defs[i] = &definition{root: c.root}
	}
	programs, err := e.compiled(defs)
	if err != nil {
		return err
	}
	for i, c := range cases {
		got, _, err := programs[i].run(context.Background(), e, c.rows, c.columns)
		if err != nil {
			return fmt.Errorf("golden.txt line %d: %w", c.line, err)
		}
		if got != c.allow {
			return fmt.Errorf("golden.txt line %d: Rego says %t for %s, %t is right", c.line, got, c.root, c.allow)
		}
		if got := oracle(c.root, c.rows); got != c.allow {
			return fmt.Errorf("golden.txt line %d: the oracle says %t for %s, %t is right", c.line, got, c.root, c.allow)
		}
	}
	return nil
}

// parseGolden reads "shape | signers | allow or deny"; signers are separated by
// commas, each a list of the columns that it satisfies, or "-" for none.
func parseGolden(text string) ([]goldenCase, error) {
	var cases []goldenCase
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "//") {
			continue
		}
		c, err := parseGoldenLine(line)
		if err != nil {
			return nil, fmt.Errorf("golden.txt line %d: %w", n, err)
		}
		c.line = n
		cases = append(cases, c)
	}
	return cases, lines.Err()
}

func parseGoldenLine(line string) (goldenCase, error) {
	var c goldenCase
	fields := strings.Split(line, "|")
	if len(fields) != 3 {
		return c, fmt.Errorf("%d fields instead of 3", len(fields))
	}
	p := &shapeParser{text: strings.TrimSpace(fields[0])}
	root, err := p.node()
	if err != nil {
		return c, err
	}
	if p.text != "" {
		return c, fmt.Errorf("%q follows the policy", p.text)
	}
	c.root, c.columns = root, p.columns
	if signers := strings.TrimSpace(fields[1]); signers != "" {
		for s := range strings.SplitSeq(signers, ",") {
			r := make(row, max(1, wordsFor(c.columns)))
			for col := range strings.FieldsSeq(s) {
				if col == "-" {
					continue
				}
				i, err := strconv.Atoi(col)
				if err != nil || i < 0 || i >= c.columns {
					return c, fmt.Errorf("signer satisfies column %q, which the policy does not have", col)
				}
				r[i/64] |= 1 << (i % 64)
			}
			c.rows = append(c.rows, r)
		}
	}
	switch strings.TrimSpace(fields[2]) {
	case "allow":
		c.allow = true
	case "deny":
	default:
		return c, fmt.Errorf("verdict %q is neither allow nor deny", fields[2])
	}
	return c, nil
}

// shapeParser reads what node.String writes.
type shapeParser struct {
	text    string
	columns int
}

func (p *shapeParser) node() (*node, error) {
	if rest, ok := strings.CutPrefix(p.text, "!"); ok {
		p.text = rest
		return &node{kind: reject}, nil
	}
	if rest, ok := strings.CutPrefix(p.text, "#"); ok {
		p.text = rest
		n, err := p.number()
		if err != nil || n < 0 || n >= MaxRules {
			return nil, fmt.Errorf("column before %q is no small number", p.text)
		}
		p.columns = max(p.columns, n+1)
		return &node{kind: leaf, n: 1, column: n}, nil
	}
	out := &node{}
	if rest, ok := strings.CutPrefix(p.text, "?"); ok {
		p.text = rest
		out.unknown = true
	} else {
		n, err := p.number()
		if err != nil {
			return nil, err
		}
		out.n = int32(n)
	}
	end := ")"
	switch {
	case strings.HasPrefix(p.text, "(") && !out.unknown:
		out.kind = gate
	case strings.HasPrefix(p.text, "["):
		out.kind, end = meta, "]"
	default:
		return nil, fmt.Errorf("a threshold is followed by %q instead of its rules", p.text)
	}
	p.text = p.text[1:]
	for {
		p.text = strings.TrimLeft(p.text, " ")
		if rest, ok := strings.CutPrefix(p.text, end); ok {
			p.text = rest
			return out, nil
		}
		child, err := p.node()
		if err != nil {
			return nil, err
		}
		out.children = append(out.children, child)
	}
}

func (p *shapeParser) number() (int, error) {
	i := 0
	for i < len(p.text) && (p.text[i] == '-' || p.text[i] >= '0' && p.text[i] <= '9') {
		i++
	}
	n, err := strconv.ParseInt(p.text[:i], 10, 32)
	p.text = p.text[i:]
	return int(n), err
}
