package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
)

// Bounds of one policy. Fabric has none; a policy beyond them is refused, since
// compiling it would stall the peer.
const (
	MaxRules = 20000 // leaves and gates
	MaxDepth = 256   // of nested gates
)

// ErrInvalid is wrapped by every error that says a policy itself cannot be
// compiled. It is a property of the policy's bytes: each peer finds the same.
var ErrInvalid = errors.New("invalid policy")

// ErrTooLarge is wrapped by the error for a policy beyond MaxRules or MaxDepth.
// Fabric would decide it; nothing may be recorded on the strength of this error.
var ErrTooLarge = errors.New("policy is too large")

type kind uint8

const (
	leaf   kind = iota // one signer that satisfies the principal of a column
	gate               // n of the children, sharing the signers
	meta               // threshold of the children, each with all signers anew
	reject             // never satisfied: a sub-policy that is not defined
)

// node is a policy as Fabric evaluates it, freed of names: what decides is its
// shape and, for each leaf, a column of the matrix signers × principals. Equal
// shapes share one compiled Rego package.
type node struct {
	kind     kind
	column   int
	n        int32 // threshold
	unknown  bool  // meta with a rule that Fabric does not know: satisfied when no child is
	children []*node
}

// columns collects the principals that the leaves of one policy name, each once.
type columns struct {
	index      map[string]int
	principals []*commonpb.MSPPrincipal
}

func (c *columns) add(p *commonpb.MSPPrincipal) int {
	key := strconv.Itoa(int(p.GetPrincipalClassification())) + ":" + string(p.GetPrincipal())
	if i, ok := c.index[key]; ok {
		return i
	}
	if c.index == nil {
		c.index = make(map[string]int)
	}
	i := len(c.principals)
	c.index[key] = i
	c.principals = append(c.principals, p)
	return i
}

// signatureNode builds the node of a signature policy. It refuses what Fabric's
// compiler refuses: an empty element and an index beyond the identities.
func signatureNode(rule *commonpb.SignaturePolicy, identities []*commonpb.MSPPrincipal, cols *columns) (*node, error) {
	rules := 0
	var build func(r *commonpb.SignaturePolicy, depth int) (*node, error)
	build = func(r *commonpb.SignaturePolicy, depth int) (*node, error) {
		if rules++; rules > MaxRules {
			return nil, fmt.Errorf("%w: more than %d rules", ErrTooLarge, MaxRules)
		}
		if depth > MaxDepth {
			return nil, fmt.Errorf("%w: gates nested more than %d deep", ErrTooLarge, MaxDepth)
		}
		switch t := r.GetType().(type) {
		case *commonpb.SignaturePolicy_SignedBy:
			if t.SignedBy < 0 || int(t.SignedBy) >= len(identities) {
				return nil, fmt.Errorf("%w: signed_by is %d, but there are %d identities", ErrInvalid, t.SignedBy, len(identities))
			}
			return &node{kind: leaf, n: 1, column: cols.add(identities[t.SignedBy])}, nil
		case *commonpb.SignaturePolicy_NOutOf_:
			g := &node{kind: gate, n: t.NOutOf.GetN(), children: make([]*node, len(t.NOutOf.GetRules()))}
			for i, child := range t.NOutOf.GetRules() {
				c, err := build(child, depth+1)
				if err != nil {
					return nil, err
				}
				g.children[i] = c
			}
			return g, nil
		default:
			return nil, fmt.Errorf("%w: a rule is empty: give it signed_by or n_out_of", ErrInvalid)
		}
	}
	return build(rule, 1)
}

// parseSignature decodes common.SignaturePolicyEnvelope as it stands in a channel
// configuration, where Fabric knows version 0 alone.
func parseSignature(value []byte) (*commonpb.SignaturePolicyEnvelope, error) {
	env := new(commonpb.SignaturePolicyEnvelope)
	if err := proto.Unmarshal(value, env); err != nil {
		return nil, fmt.Errorf("%w: SignaturePolicyEnvelope does not parse: %v", ErrInvalid, err)
	}
	if env.GetVersion() != 0 {
		return nil, fmt.Errorf("%w: SignaturePolicyEnvelope.version is %d: only 0 is known", ErrInvalid, env.GetVersion())
	}
	return env, nil
}

// metaThreshold is the number of sub-policies that an implicit meta policy needs
// of total. With no sub-policy at all it needs none (Fabric's rule).
func metaThreshold(rule commonpb.ImplicitMetaPolicy_Rule, total int) (n int32, unknown bool) {
	if total == 0 {
		return 0, false
	}
	switch rule {
	case commonpb.ImplicitMetaPolicy_ANY:
		return 1, false
	case commonpb.ImplicitMetaPolicy_ALL:
		return int32(total), false
	case commonpb.ImplicitMetaPolicy_MAJORITY:
		return int32(total/2 + 1), false
	}
	return 0, true
}

// String writes the shape: "#3" is a leaf of column 3, "2(…)" a gate, "2[…]" a
// meta policy, "?[…]" one with an unknown rule, "!" a missing sub-policy. Two
// policies with the same string are decided by the same Rego.
func (n *node) String() string {
	var b strings.Builder
	n.write(&b)
	return b.String()
}

func (n *node) write(b *strings.Builder) {
	open, end := byte('('), byte(')')
	switch n.kind {
	case leaf:
		b.WriteByte('#')
		b.WriteString(strconv.Itoa(n.column))
		return
	case reject:
		b.WriteByte('!')
		return
	case meta:
		open, end = '[', ']'
	}
	if n.unknown {
		b.WriteByte('?')
	} else {
		b.WriteString(strconv.Itoa(int(n.n)))
	}
	b.WriteByte(open)
	for i, c := range n.children {
		if i > 0 {
			b.WriteByte(' ')
		}
		c.write(b)
	}
	b.WriteByte(end)
}

// size counts the node and everything below it.
func (n *node) size() int {
	total := 1
	for _, c := range n.children {
		total += c.size()
	}
	return total
}

// remap copies the node, its columns renumbered: column i becomes to[i].
func (n *node) remap(to []int) *node {
	c := *n
	if n.kind == leaf {
		c.column = to[n.column]
	}
	c.children = make([]*node, len(n.children))
	for i, child := range n.children {
		c.children[i] = child.remap(to)
	}
	return &c
}
