// Package policytest decides Fabric's policies a second time, straight from their
// protobuf messages: it shares nothing with package policy, neither its Rego nor its
// nodes, and makes random policies to hold that package against. It is for tests.
//
// The rules are those of Fabric's common/cauthdsl and common/policies: a leaf takes the
// first signer that is left and satisfies its principal; a gate tries its rules in order,
// and a rule that fails gives back what it took; every rule is tried, also after enough
// of them held. An implicit meta policy gives each sub-policy all signers anew.
package policytest

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// ErrInvalid says that a policy is one that Fabric does not compile, or that there is none.
var ErrInvalid = errors.New("no such policy, or not a valid one")

// Signers says who signed: Count of them, at most 64, and which principals each satisfies.
type Signers struct {
	Count     int
	Satisfies func(signer int, p *commonpb.MSPPrincipal) bool
}

func (s Signers) all() uint64 { return 1<<s.Count - 1 }

// Signature decides a signature policy. version says whether the envelope's version
// counts: it does in a channel configuration, and nowhere else.
func Signature(env *commonpb.SignaturePolicyEnvelope, s Signers, version bool) (bool, error) {
	if env == nil || version && env.Version != 0 || !wellFormed(env.Rule, len(env.Identities)) {
		return false, ErrInvalid
	}
	held, _ := signed(env, env.Rule, s, s.all())
	return held, nil
}

func wellFormed(r *commonpb.SignaturePolicy, identities int) bool {
	switch t := r.GetType().(type) {
	case *commonpb.SignaturePolicy_SignedBy:
		return t.SignedBy >= 0 && int(t.SignedBy) < identities
	case *commonpb.SignaturePolicy_NOutOf_:
		for _, rule := range t.NOutOf.GetRules() {
			if !wellFormed(rule, identities) {
				return false
			}
		}
		return true
	}
	return false
}

// signed returns whether a rule held, and the signers that are left if it did.
func signed(env *commonpb.SignaturePolicyEnvelope, r *commonpb.SignaturePolicy, s Signers, left uint64) (bool, uint64) {
	gate, ok := r.Type.(*commonpb.SignaturePolicy_NOutOf_)
	if !ok {
		for rest := left; rest != 0; rest &= rest - 1 {
			if i := bits.TrailingZeros64(rest); s.Satisfies(i, env.Identities[r.GetSignedBy()]) {
				return true, left &^ (1 << i)
			}
		}
		return false, left
	}
	wanted := int64(gate.NOutOf.GetN())
	after := left
	for _, rule := range gate.NOutOf.GetRules() {
		if held, rest := signed(env, rule, s, after); held {
			wanted, after = wanted-1, rest
		}
	}
	if wanted > 0 {
		return false, left
	}
	return true, after
}

// Channel decides the policy that a path names in a channel configuration: absolute,
// or relative to the channel's group.
func Channel(root *commonpb.ConfigGroup, path string, s Signers) (bool, error) {
	return group(root, "Channel", path, s)
}

func group(g *commonpb.ConfigGroup, own, id string, s Signers) (bool, error) {
	if strings.HasPrefix(id, "/") {
		rest, ok := strings.CutPrefix(id, "/"+own)
		if !ok || rest == "" {
			return false, ErrInvalid
		}
		id = rest[1:]
	}
	above, name := "", id
	if i := strings.LastIndexByte(id, '/'); i >= 0 {
		above, name = id[:i], id[i+1:]
		for step := range strings.SplitSeq(above, "/") {
			if g = g.GetGroups()[step]; g == nil {
				return false, ErrInvalid
			}
		}
		own += "/" + above
	}
	p := g.GetPolicies()[name].GetPolicy()
	switch {
	case p == nil:
		return false, ErrInvalid
	case p.Type == int32(commonpb.Policy_SIGNATURE):
		env := &commonpb.SignaturePolicyEnvelope{}
		if err := proto.Unmarshal(p.Value, env); err != nil {
			return false, ErrInvalid
		}
		return Signature(env, s, true)
	case p.Type == int32(commonpb.Policy_IMPLICIT_META):
		m := &commonpb.ImplicitMetaPolicy{}
		if err := proto.Unmarshal(p.Value, m); err != nil {
			return false, ErrInvalid
		}
		return meta(g, own, m, s), nil
	}
	return false, ErrInvalid
}

func meta(g *commonpb.ConfigGroup, own string, m *commonpb.ImplicitMetaPolicy, s Signers) bool {
	held := 0
	for name, sub := range g.GetGroups() {
		if ok, err := group(sub, own+"/"+name, m.SubPolicy, s); err == nil && ok {
			held++
		}
	}
	total := len(g.GetGroups())
	switch m.Rule {
	case commonpb.ImplicitMetaPolicy_ANY:
		return held > 0 || total == 0
	case commonpb.ImplicitMetaPolicy_ALL:
		return held == total
	case commonpb.ImplicitMetaPolicy_MAJORITY:
		return held > total/2 || total == 0
	}
	return held == 0 // a rule that Fabric does not know has the threshold 0, which one that holds misses
}

// Application decides a marshalled protos.ApplicationPolicy, as it stands in a
// chaincode's definition and in that of a collection.
func Application(root *commonpb.ConfigGroup, b []byte, s Signers) (bool, error) {
	p := &peerpb.ApplicationPolicy{}
	if err := proto.Unmarshal(b, p); err != nil {
		return false, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	switch t := p.Type.(type) {
	case *peerpb.ApplicationPolicy_SignaturePolicy:
		return Signature(t.SignaturePolicy, s, false)
	case *peerpb.ApplicationPolicy_ChannelConfigPolicyReference:
		return Channel(root, t.ChannelConfigPolicyReference, s)
	}
	return false, ErrInvalid
}
