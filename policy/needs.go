package policy

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
)

// Organizations lists the MSPs that a signature policy names, and those that it cannot do without:
// whoever else signs, and however often, it does not hold unless one of theirs does.
// Principals that belong to no MSP (anonymity) or do not parse count as anybody's.
// The error wraps ErrInvalid for a policy that does not compile.
func Organizations(env *commonpb.SignaturePolicyEnvelope) (named, needed []string, err error) {
	d, err := envelopeDefinition(env)
	if err != nil {
		return nil, nil, err
	}
	of := make([]string, len(d.principals))
	set := map[string]bool{}
	for i, p := range d.principals {
		if of[i] = mspOf(p); of[i] != "" {
			set[of[i]] = true
		}
	}
	named = slices.Sorted(maps.Keys(set))
	for _, id := range named {
		if !d.root.without(func(column int) bool { return of[column] == id }) {
			needed = append(needed, id)
		}
	}
	return named, needed, nil
}

// without tells whether a policy could hold if no signer satisfied the columns that
// are gone, and any number satisfied each of the others.
func (n *node) without(gone func(column int) bool) bool {
	switch n.kind {
	case leaf:
		return !gone(n.column)
	case reject:
		return false
	}
	held := int32(0)
	for _, c := range n.children {
		if c.without(gone) {
			held++
		}
	}
	return held >= n.n
}

// mspOf is the MSP whose members alone can satisfy a principal, "" if that cannot be told.
func mspOf(p *commonpb.MSPPrincipal) string {
	switch p.GetPrincipalClassification() {
	case commonpb.MSPPrincipal_ROLE:
		role := new(commonpb.MSPRole)
		if proto.Unmarshal(p.GetPrincipal(), role) == nil {
			return role.GetMspIdentifier()
		}
	case commonpb.MSPPrincipal_ORGANIZATION_UNIT:
		unit := new(commonpb.OrganizationUnit)
		if proto.Unmarshal(p.GetPrincipal(), unit) == nil {
			return unit.GetMspIdentifier()
		}
	case commonpb.MSPPrincipal_IDENTITY:
		id := new(msppb.SerializedIdentity)
		if proto.Unmarshal(p.GetPrincipal(), id) == nil {
			return id.GetMspid()
		}
	}
	return ""
}
