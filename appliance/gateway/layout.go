package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"strongroom/msp"
	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
	"strongroom/wire/peerpb"
)

// Bounds on the search for layouts: a policy comes from the channel, and its
// number of minimal sets of organisations can grow exponentially.
const (
	maxLayouts     = 256
	maxPolicyDepth = 16
)

// errNoLayout says that no endorsing peers can satisfy a policy.
var errNoLayout = errors.New("no combination of organisations can satisfy the endorsement policy")

// Layout says how many endorsements of each organisation satisfy a policy. The
// empty layout is satisfied by none.
type Layout map[msp.ID]int

func (l Layout) key() string {
	ids := slices.Sorted(maps.Keys(l))
	var b strings.Builder
	for _, id := range ids {
		fmt.Fprintf(&b, "%s\x00%d\x00", id, l[id])
	}
	return b.String()
}

// size is the number of endorsements.
func (l Layout) size() int {
	n := 0
	for _, count := range l {
		n += count
	}
	return n
}

// covers tells whether whatever satisfies l satisfies o, too.
func (l Layout) covers(o Layout) bool {
	for id, n := range o {
		if l[id] < n {
			return false
		}
	}
	return true
}

// combine joins two layouts: by sum where one endorsement can serve one side only
// (the leaves of one signature policy), by maximum where it serves both (separate
// policies over the same endorsements).
func combine(a, b Layout, join func(x, y int) int) Layout {
	out := maps.Clone(a)
	if out == nil {
		out = Layout{}
	}
	for id, n := range b {
		out[id] = join(out[id], n)
	}
	return out
}

func sum(x, y int) int { return x + y }

func larger(x, y int) int { return max(x, y) }

// minimal removes duplicates and layouts that cover another, smallest first, at
// most maxLayouts of them.
func minimal(layouts []Layout) []Layout {
	slices.SortStableFunc(layouts, func(a, b Layout) int {
		return cmp.Or(cmp.Compare(a.size(), b.size()), strings.Compare(a.key(), b.key()))
	})
	var out []Layout
	for _, l := range layouts {
		if !slices.ContainsFunc(out, l.covers) {
			out = append(out, l)
			if len(out) == maxLayouts {
				break
			}
		}
	}
	return out
}

// choose gives the layouts that satisfy n of several rules, each given by the
// layouts that satisfy it.
func choose(n int, rules [][]Layout, join func(x, y int) int) []Layout {
	if n < 0 || n > len(rules) {
		return nil
	}
	satisfied := make([][]Layout, n+1) // by the number of rules that they satisfy
	satisfied[0] = []Layout{{}}
	for _, rule := range rules {
		for k := n; k > 0; k-- {
			next := slices.Clone(satisfied[k])
			for _, before := range satisfied[k-1] {
				for _, l := range rule {
					next = append(next, combine(before, l, join))
				}
			}
			satisfied[k] = minimal(next)
		}
	}
	return satisfied[n]
}

// signatureLayouts gives the layouts of a signature policy that peers can satisfy:
// a role of client, admin or orderer is none of a peer's. usable says which
// organisations have an endorser at all.
func signatureLayouts(env *commonpb.SignaturePolicyEnvelope, usable func(msp.ID) bool) ([]Layout, error) {
	orgs := make([]msp.ID, len(env.GetIdentities()))
	for i, p := range env.GetIdentities() {
		id, err := principalOrg(p)
		if err != nil {
			return nil, fmt.Errorf("identity %d of the signature policy: %w", i, err)
		}
		orgs[i] = id
	}
	return ruleLayouts(env.GetRule(), orgs, usable, 0)
}

func ruleLayouts(rule *commonpb.SignaturePolicy, orgs []msp.ID, usable func(msp.ID) bool, depth int) ([]Layout, error) {
	if depth > maxPolicyDepth {
		return nil, fmt.Errorf("signature policy is nested deeper than %d", maxPolicyDepth)
	}
	switch t := rule.GetType().(type) {
	case *commonpb.SignaturePolicy_SignedBy:
		if t.SignedBy < 0 || int(t.SignedBy) >= len(orgs) {
			return nil, fmt.Errorf("signature policy names identity %d of %d", t.SignedBy, len(orgs))
		}
		if id := orgs[t.SignedBy]; id != "" && usable(id) {
			return []Layout{{id: 1}}, nil
		}
		return nil, nil
	case *commonpb.SignaturePolicy_NOutOf_:
		rules := make([][]Layout, len(t.NOutOf.GetRules()))
		for i, r := range t.NOutOf.GetRules() {
			layouts, err := ruleLayouts(r, orgs, usable, depth+1)
			if err != nil {
				return nil, err
			}
			rules[i] = layouts
		}
		return choose(max(0, int(t.NOutOf.GetN())), rules, sum), nil
	}
	return nil, errors.New("signature policy has a rule without a type")
}

// principalOrg is the organisation whose peers may satisfy a principal, "" if no
// peer can.
func principalOrg(p *commonpb.MSPPrincipal) (msp.ID, error) {
	switch p.GetPrincipalClassification() {
	case commonpb.MSPPrincipal_ROLE:
		var role commonpb.MSPRole
		if err := proto.Unmarshal(p.GetPrincipal(), &role); err != nil {
			return "", fmt.Errorf("role: %w", err)
		}
		switch role.GetRole() {
		case commonpb.MSPRole_MEMBER, commonpb.MSPRole_PEER:
			return msp.ID(role.GetMspIdentifier()), nil
		}
		return "", nil
	case commonpb.MSPPrincipal_ORGANIZATION_UNIT:
		var ou commonpb.OrganizationUnit
		if err := proto.Unmarshal(p.GetPrincipal(), &ou); err != nil {
			return "", fmt.Errorf("organizational unit: %w", err)
		}
		return msp.ID(ou.GetMspIdentifier()), nil
	case commonpb.MSPPrincipal_IDENTITY:
		var id msppb.SerializedIdentity
		if err := proto.Unmarshal(p.GetPrincipal(), &id); err != nil {
			return "", fmt.Errorf("identity: %w", err)
		}
		return msp.ID(id.GetMspid()), nil
	}
	return "", nil
}

// applicationLayouts gives the layouts of an application policy: a signature
// policy, or a reference into the channel's configuration.
func applicationLayouts(channel *commonpb.ConfigGroup, p *peerpb.ApplicationPolicy, usable func(msp.ID) bool) ([]Layout, error) {
	switch t := p.GetType().(type) {
	case *peerpb.ApplicationPolicy_SignaturePolicy:
		return signatureLayouts(t.SignaturePolicy, usable)
	case *peerpb.ApplicationPolicy_ChannelConfigPolicyReference:
		return referenceLayouts(channel, t.ChannelConfigPolicyReference, usable)
	}
	return nil, errors.New("endorsement policy is neither a signature policy nor a reference")
}

// referenceLayouts gives the layouts of a policy of the channel configuration,
// named by its path, such as /Channel/Application/Endorsement.
func referenceLayouts(channel *commonpb.ConfigGroup, path string, usable func(msp.ID) bool) ([]Layout, error) {
	rest, ok := strings.CutPrefix(path, "/Channel/")
	if !ok {
		rest = path // relative names are looked up from the channel's group
	}
	parts := strings.Split(rest, "/")
	group := channel
	for _, name := range parts[:len(parts)-1] {
		if group = group.GetGroups()[name]; group == nil {
			return nil, fmt.Errorf("policy %q: the channel has no group %q", path, name)
		}
	}
	return groupLayouts(group, parts[len(parts)-1], usable, 0)
}

func groupLayouts(group *commonpb.ConfigGroup, name string, usable func(msp.ID) bool, depth int) ([]Layout, error) {
	if depth > maxPolicyDepth {
		return nil, fmt.Errorf("policy %q: configuration groups are nested deeper than %d", name, maxPolicyDepth)
	}
	policy := group.GetPolicies()[name].GetPolicy()
	switch commonpb.Policy_PolicyType(policy.GetType()) {
	case commonpb.Policy_SIGNATURE:
		var env commonpb.SignaturePolicyEnvelope
		if err := proto.Unmarshal(policy.GetValue(), &env); err != nil {
			return nil, fmt.Errorf("policy %q: %w", name, err)
		}
		return signatureLayouts(&env, usable)
	case commonpb.Policy_IMPLICIT_META:
		var meta commonpb.ImplicitMetaPolicy
		if err := proto.Unmarshal(policy.GetValue(), &meta); err != nil {
			return nil, fmt.Errorf("policy %q: %w", name, err)
		}
		var rules [][]Layout
		for _, sub := range slices.Sorted(maps.Keys(group.GetGroups())) {
			layouts, err := groupLayouts(group.GetGroups()[sub], meta.GetSubPolicy(), usable, depth+1)
			if err != nil {
				return nil, err
			}
			rules = append(rules, layouts)
		}
		n := 0
		switch {
		case len(rules) == 0:
		case meta.GetRule() == commonpb.ImplicitMetaPolicy_ANY:
			n = 1
		case meta.GetRule() == commonpb.ImplicitMetaPolicy_ALL:
			n = len(rules)
		default:
			n = len(rules)/2 + 1
		}
		return choose(n, rules, larger), nil
	}
	return nil, nil // a policy that does not exist is satisfied by nobody
}

// all gives the layouts that satisfy every one of several policies.
func all(policies [][]Layout) []Layout { return choose(len(policies), policies, larger) }
