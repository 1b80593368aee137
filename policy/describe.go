package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
)

// Describe renders a signature policy for people, in the language that Fabric's
// tools read: AND('Org1MSP.peer', OR(…)), OutOf(2, …). Principals that the language
// cannot write are shown in angle brackets. It never fails: what is malformed is
// shown as such.
func Describe(env *commonpb.SignaturePolicyEnvelope) string {
	return describeRule(env.GetRule(), env.GetIdentities())
}

func describeRule(rule *commonpb.SignaturePolicy, identities []*commonpb.MSPPrincipal) string {
	var b strings.Builder
	writeRule(&b, rule, identities, 0)
	return b.String()
}

func writeRule(b *strings.Builder, rule *commonpb.SignaturePolicy, identities []*commonpb.MSPPrincipal, depth int) {
	if depth > MaxDepth || b.Len() > 4096 {
		b.WriteString("…")
		return
	}
	switch t := rule.GetType().(type) {
	case *commonpb.SignaturePolicy_SignedBy:
		if t.SignedBy < 0 || int(t.SignedBy) >= len(identities) {
			fmt.Fprintf(b, "<no identity %d>", t.SignedBy)
			return
		}
		b.WriteString(describePrincipal(identities[t.SignedBy]))
	case *commonpb.SignaturePolicy_NOutOf_:
		rules := t.NOutOf.GetRules()
		n := int(t.NOutOf.GetN())
		switch {
		case n == len(rules) && n > 0:
			b.WriteString("AND(")
		case n == 1:
			b.WriteString("OR(")
		default:
			b.WriteString("OutOf(" + strconv.Itoa(n))
			if len(rules) > 0 {
				b.WriteString(", ")
			}
		}
		for i, r := range rules {
			if i > 0 {
				b.WriteString(", ")
			}
			writeRule(b, r, identities, depth+1)
		}
		b.WriteString(")")
	default:
		b.WriteString("<empty rule>")
	}
}

// describePrincipal is 'Org1MSP.peer' for a role and words in angle brackets for
// every other principal. Names are cut down to what is printable.
func describePrincipal(p *commonpb.MSPPrincipal) string {
	switch p.GetPrincipalClassification() {
	case commonpb.MSPPrincipal_ROLE:
		role := new(commonpb.MSPRole)
		if proto.Unmarshal(p.GetPrincipal(), role) == nil {
			return fmt.Sprintf("'%s.%s'", printable(role.GetMspIdentifier()), strings.ToLower(role.GetRole().String()))
		}
	case commonpb.MSPPrincipal_ORGANIZATION_UNIT:
		ou := new(commonpb.OrganizationUnit)
		if proto.Unmarshal(p.GetPrincipal(), ou) == nil {
			return fmt.Sprintf("<%s unit %s>", printable(ou.GetMspIdentifier()), printable(ou.GetOrganizationalUnitIdentifier()))
		}
	case commonpb.MSPPrincipal_IDENTITY:
		id := new(msppb.SerializedIdentity)
		if proto.Unmarshal(p.GetPrincipal(), id) == nil {
			sum := sha256.Sum256(p.GetPrincipal())
			return fmt.Sprintf("<%s identity %s>", printable(id.GetMspid()), hex.EncodeToString(sum[:8]))
		}
	case commonpb.MSPPrincipal_ANONYMITY:
		a := new(commonpb.MSPIdentityAnonymity)
		if proto.Unmarshal(p.GetPrincipal(), a) == nil {
			return fmt.Sprintf("<%s identity>", strings.ToLower(a.GetAnonymityType().String()))
		}
	case commonpb.MSPPrincipal_COMBINED:
		c := new(commonpb.CombinedPrincipal)
		if proto.Unmarshal(p.GetPrincipal(), c) == nil && len(c.GetPrincipals()) <= listed {
			parts := make([]string, len(c.GetPrincipals()))
			for i, sub := range c.GetPrincipals() {
				if sub.GetPrincipalClassification() == commonpb.MSPPrincipal_COMBINED {
					parts[i] = "<combined>"
					continue
				}
				parts[i] = describePrincipal(sub)
			}
			return "<all of " + strings.Join(parts, ", ") + ">"
		}
	}
	return fmt.Sprintf("<unreadable %s principal>", strings.ToLower(p.GetPrincipalClassification().String()))
}

// printable keeps a name as it is when it is plain, and quotes it otherwise.
func printable(s string) string {
	if len(s) > 64 {
		s = s[:64]
	}
	if q := strconv.QuoteToASCII(s); q != `"`+s+`"` || s == "" {
		return q
	}
	return s
}
