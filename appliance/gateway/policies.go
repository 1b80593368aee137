package gateway

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	state "strongroom/channel/lifecycle"
	"strongroom/msp"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// lifecyclePolicy is the policy of the namespace `_lifecycle`.
const lifecyclePolicy = "/Channel/Application/LifecycleEndorsement"

// policies finds the endorsement policies of a channel.
type policies struct {
	root    *commonpb.ConfigGroup
	channel Channel
}

func newPolicies(ch Channel) *policies {
	return &policies{root: ch.Config().Proto.GetChannelGroup(), channel: ch}
}

// layouts gives the sets of organisations that satisfy the policies of all calls.
// With guarded set, or where private data was read, only members of the collections
// may endorse.
func (p *policies) layouts(calls []*peerpb.ChaincodeCall, has func(msp.ID) bool, guarded bool) ([]Layout, error) {
	definitions := make(map[string]*state.Definition)
	for _, c := range calls {
		if c.GetName() == state.Namespace || definitions[c.GetName()] != nil {
			continue
		}
		d, err := p.channel.Definition(c.GetName())
		if errors.Is(err, state.ErrNotDefined) {
			return nil, fmt.Errorf("chaincode %s isn't defined on the channel", c.GetName())
		}
		if err != nil {
			return nil, err
		}
		definitions[c.GetName()] = d
	}
	usable := has
	for _, c := range calls {
		if c.GetNoPrivateReads() && !guarded {
			continue
		}
		for _, name := range c.GetCollectionNames() {
			members, err := collectionMembers(definitions[c.GetName()], name)
			if err != nil {
				return nil, err
			}
			before := usable
			usable = func(id msp.ID) bool { return members[id] && before(id) }
		}
	}
	var needed [][]Layout
	for _, c := range calls {
		more, err := p.ofCall(c, definitions[c.GetName()], usable)
		if err != nil {
			return nil, err
		}
		needed = append(needed, more...)
	}
	return all(needed), nil
}

// ofCall gives, for each policy that a call brings with it, its layouts.
func (p *policies) ofCall(c *peerpb.ChaincodeCall, d *state.Definition, usable func(msp.ID) bool) ([][]Layout, error) {
	if d == nil { // _lifecycle
		l, err := referenceLayouts(p.root, lifecyclePolicy, usable)
		return [][]Layout{l}, err
	}
	var out [][]Layout
	for _, env := range c.GetKeyPolicies() {
		l, err := signatureLayouts(env, usable)
		if err != nil {
			return nil, fmt.Errorf("key policy in %s: %w", d.Name, err)
		}
		out = append(out, l)
	}
	own := &peerpb.ApplicationPolicy{}
	if err := proto.Unmarshal(d.ValidationParameter, own); err != nil {
		return nil, fmt.Errorf("endorsement policy of %s: %w", d.Name, err)
	}
	var wanted []*peerpb.ApplicationPolicy
	switch {
	case len(c.GetCollectionNames()) > 0:
		for _, name := range c.GetCollectionNames() {
			if special := d.Collection(name).GetEndorsementPolicy(); special != nil {
				wanted = append(wanted, special)
			} else {
				wanted = append(wanted, own)
			}
		}
	case !c.GetDisregardNamespacePolicy():
		wanted = append(wanted, own)
	}
	for _, policy := range wanted {
		l, err := applicationLayouts(p.root, policy, usable)
		if err != nil {
			return nil, fmt.Errorf("endorsement policy of %s: %w", d.Name, err)
		}
		out = append(out, l)
	}
	return out, nil
}

// collectionMembers are the organisations that hold a collection's data.
func collectionMembers(d *state.Definition, name string) (map[msp.ID]bool, error) {
	if org, ok := state.ImplicitOrg(name); ok {
		return map[msp.ID]bool{msp.ID(org): true}, nil
	}
	c := (*peerpb.StaticCollectionConfig)(nil)
	if d != nil {
		c = d.Collection(name)
	}
	if c == nil {
		return nil, fmt.Errorf("collection %s isn't defined", name)
	}
	out := make(map[msp.ID]bool)
	for _, principal := range c.GetMemberOrgsPolicy().GetSignaturePolicy().GetIdentities() {
		id, err := principalOrg(principal)
		if err != nil {
			return nil, fmt.Errorf("members of collection %s: %w", name, err)
		}
		if id != "" {
			out[id] = true
		}
	}
	return out, nil
}

// Layouts gives the sets of organisations whose endorsements satisfy the policies of
// an interest, smallest first; has says which organisations have a peer to ask. Without
// any layout the policies cannot be satisfied.
func Layouts(ch Channel, interest *peerpb.ChaincodeInterest, has func(msp.ID) bool) ([]Layout, error) {
	return newPolicies(ch).layouts(interest.GetChaincodes(), has, false)
}
