package configtx

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
)

// Bounds of a policy expression.
const (
	maxExpression = 64 << 10 // bytes
	maxNesting    = 100      // gates in each other
)

// principalPattern is MSPID.role. The MSP id may have dots itself.
var principalPattern = regexp.MustCompile(`^([[:alnum:].-]+)\.(admin|member|client|peer|orderer)$`)

var roles = map[string]commonpb.MSPRole_MSPRoleType{
	"member": commonpb.MSPRole_MEMBER, "admin": commonpb.MSPRole_ADMIN, "client": commonpb.MSPRole_CLIENT,
	"peer": commonpb.MSPRole_PEER, "orderer": commonpb.MSPRole_ORDERER,
}

// ParsePolicy reads a signature policy in Fabric's language: AND(…), OR(…) and
// OutOf(n, …) over 'MSPID.role' and each other, with roles member, admin, client,
// peer and orderer. The gates' names may also be all upper or all lower case, or
// And and Or. The result has the identities and rules in the order that Fabric's
// tools give them: a gate's nested gates, from left to right, number their
// principals before its own. Errors name the byte at which the text is wrong.
func ParsePolicy(expr string) (*commonpb.SignaturePolicyEnvelope, error) {
	if len(expr) > maxExpression {
		return nil, fmt.Errorf("policy expression has %d bytes: at most %d are allowed", len(expr), maxExpression)
	}
	p := &expressionParser{text: expr}
	g, err := p.gate(0)
	if err == nil {
		if p.space(); p.at < len(expr) {
			err = fmt.Errorf("%q follows the end", clip(expr[p.at:]))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("policy expression %q: byte %d: %w", clip(expr), p.at, err)
	}
	env := &commonpb.SignaturePolicyEnvelope{}
	env.Rule = g.rule(env)
	return env, nil
}

// gate is one gate of an expression. Each argument is a principal or a gate.
type gate struct {
	n    int
	args []argument
}

type argument struct {
	principal *commonpb.MSPPrincipal
	gate      *gate
}

// rule numbers the principals of nested gates first and then the gate's own, which
// is the order in which Fabric's evaluator comes to them.
func (g *gate) rule(env *commonpb.SignaturePolicyEnvelope) *commonpb.SignaturePolicy {
	rules := make([]*commonpb.SignaturePolicy, len(g.args))
	for i, a := range g.args {
		if a.gate != nil {
			rules[i] = a.gate.rule(env)
		}
	}
	for i, a := range g.args {
		if a.gate == nil {
			rules[i] = &commonpb.SignaturePolicy{Type: &commonpb.SignaturePolicy_SignedBy{SignedBy: int32(len(env.Identities))}}
			env.Identities = append(env.Identities, a.principal)
		}
	}
	return &commonpb.SignaturePolicy{Type: &commonpb.SignaturePolicy_NOutOf_{
		NOutOf: &commonpb.SignaturePolicy_NOutOf{N: int32(g.n), Rules: rules},
	}}
}

type expressionParser struct {
	text string
	at   int
}

func (p *expressionParser) space() {
	for p.at < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.at]) >= 0 {
		p.at++
	}
}

// next takes one byte if it is the wanted one.
func (p *expressionParser) next(want byte) bool {
	p.space()
	if p.at < len(p.text) && p.text[p.at] == want {
		p.at++
		return true
	}
	return false
}

func (p *expressionParser) word() string {
	p.space()
	start := p.at
	for p.at < len(p.text) && isLetter(p.text[p.at]) {
		p.at++
	}
	return p.text[start:p.at]
}

func isLetter(b byte) bool { return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' }

func (p *expressionParser) gate(depth int) (*gate, error) {
	if depth >= maxNesting {
		return nil, fmt.Errorf("gates are nested more than %d deep", maxNesting)
	}
	name := p.word()
	counted := false
	switch name {
	case "AND", "And", "and", "OR", "Or", "or":
	case "OutOf", "OUTOF", "outof":
		counted = true
	case "":
		return nil, errors.New("a gate is needed here: AND(…), OR(…) or OutOf(n, …)")
	default:
		return nil, fmt.Errorf("gate %q is unknown: use AND, OR or OutOf", name)
	}
	if !p.next('(') {
		return nil, fmt.Errorf("( is needed after %s", name)
	}
	g := &gate{}
	if counted {
		n, err := p.number()
		if err != nil {
			return nil, err
		}
		if !p.next(',') {
			return nil, fmt.Errorf(", and what %d are taken of is needed here", n)
		}
		g.n = n
	}
	for {
		a, err := p.argument(depth)
		if err != nil {
			return nil, err
		}
		g.args = append(g.args, a)
		if p.next(')') {
			break
		}
		if !p.next(',') {
			return nil, errors.New(", or ) is needed here")
		}
	}
	switch strings.ToUpper(name) {
	case "AND":
		g.n = len(g.args)
	case "OR":
		g.n = 1
	}
	// Fabric allows one more than there are, which nothing satisfies.
	if g.n > len(g.args)+1 {
		return nil, fmt.Errorf("%d of %d cannot be satisfied", g.n, len(g.args))
	}
	return g, nil
}

// number reads the count of OutOf, bare or in quotes.
func (p *expressionParser) number() (int, error) {
	p.space()
	quote := byte(0)
	if p.at < len(p.text) && (p.text[p.at] == '\'' || p.text[p.at] == '"') {
		quote = p.text[p.at]
		p.at++
	}
	start := p.at
	for p.at < len(p.text) && p.text[p.at] >= '0' && p.text[p.at] <= '9' {
		p.at++
	}
	n, err := strconv.ParseUint(p.text[start:p.at], 10, 31)
	if err != nil {
		return 0, errors.New("OutOf needs a whole number first")
	}
	if quote != 0 {
		if p.at >= len(p.text) || p.text[p.at] != quote {
			return 0, errors.New("OutOf needs a whole number first")
		}
		p.at++
	}
	return int(n), nil
}

func (p *expressionParser) argument(depth int) (argument, error) {
	p.space()
	if p.at >= len(p.text) {
		return argument{}, errors.New("the text ends where a 'MSPID.role' or a gate is needed")
	}
	quote := p.text[p.at]
	if quote != '\'' && quote != '"' {
		g, err := p.gate(depth + 1)
		return argument{gate: g}, err
	}
	end := strings.IndexByte(p.text[p.at+1:], quote)
	if end < 0 {
		return argument{}, errors.New("a quoted principal does not end")
	}
	text := p.text[p.at+1 : p.at+1+end]
	match := principalPattern.FindStringSubmatch(text)
	if match == nil {
		return argument{}, fmt.Errorf("principal %q is not MSPID.role with role member, admin, client, peer or orderer", clip(text))
	}
	p.at += end + 2
	role, err := proto.MarshalOptions{Deterministic: true}.Marshal(&commonpb.MSPRole{MspIdentifier: match[1], Role: roles[match[2]]})
	if err != nil {
		return argument{}, err
	}
	return argument{principal: &commonpb.MSPPrincipal{PrincipalClassification: commonpb.MSPPrincipal_ROLE, Principal: role}}, nil
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// implicitMetaPrefix tells a policy of the configuration's tree from a signature
// policy in a description.
const implicitMetaPrefix = "ImplicitMeta:"

// parseRule reads a policy of a description: "ImplicitMeta: MAJORITY Admins", or a
// signature policy.
func parseRule(rule string) (*commonpb.Policy, error) {
	rule = strings.TrimSpace(rule)
	var (
		m proto.Message
		t commonpb.Policy_PolicyType
	)
	if rest, ok := strings.CutPrefix(rule, implicitMetaPrefix); ok {
		meta, err := parseImplicitMeta(rest)
		if err != nil {
			return nil, err
		}
		m, t = meta, commonpb.Policy_IMPLICIT_META
	} else {
		env, err := ParsePolicy(rule)
		if err != nil {
			return nil, err
		}
		m, t = env, commonpb.Policy_SIGNATURE
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	return &commonpb.Policy{Type: int32(t), Value: value}, nil
}

func parseImplicitMeta(rule string) (*commonpb.ImplicitMetaPolicy, error) {
	words := strings.Fields(rule)
	if len(words) != 2 {
		return nil, fmt.Errorf("implicit meta policy %q: write ANY, ALL or MAJORITY and the name of the policy below, as in %q", clip(rule), implicitMetaPrefix+" MAJORITY Admins")
	}
	n, ok := commonpb.ImplicitMetaPolicy_Rule_value[words[0]]
	if !ok {
		return nil, fmt.Errorf("implicit meta policy %q: rule %q is not ANY, ALL or MAJORITY", clip(rule), words[0])
	}
	return &commonpb.ImplicitMetaPolicy{Rule: commonpb.ImplicitMetaPolicy_Rule(n), SubPolicy: words[1]}, nil
}
