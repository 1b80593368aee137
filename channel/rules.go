package channel

import (
	"errors"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	"strongroom/acl/validation"
	"strongroom/channel/lifecycle"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// ErrUnsupported is wrapped by errors that say that a block cannot be judged by
// this node at all, whatever is tried again: it names a validation plugin that
// only another peer may have.
var ErrUnsupported = errors.New("not supported")

const lifecyclePolicy = "/Channel/Application/LifecycleEndorsement"

// namespaceRules say who must endorse writes to a namespace.
type namespaceRules struct {
	fault       *wire.Fault // of every transaction: there is no chaincode of that name, or its validation rules are not valid
	definition  *lifecycle.Definition
	endorsement compiled
	rego        *validation.Rules // asked after the endorsement policy; nil without

	mu          sync.Mutex // guards collections
	collections map[string]compiled
}

// compiled is a policy, or the reason why it can never be satisfied.
type compiled struct {
	policy *policy.Policy
	broken string
}

// compile finds the policy of marshalled protos.ApplicationPolicy bytes. A policy
// that is malformed, or that refers to one that is not there, denies.
func (j *judge) compile(b []byte) (compiled, error) {
	return settle(j.engine.ApplicationPolicy(j.config.MSPs, j.config.Policies, b))
}

func settle(p *policy.Policy, err error) (compiled, error) {
	if errors.Is(err, policy.ErrInvalid) || errors.Is(err, policy.ErrNoPolicy) {
		return compiled{broken: err.Error()}, nil
	}
	return compiled{policy: p}, err
}

// readRules reads the rules of one namespace from its committed definition.
func (j *judge) readRules(name string) (*namespaceRules, error) {
	if name == lifecycle.Namespace {
		endorsement, err := j.lifecyclePolicy()
		return &namespaceRules{definition: &lifecycle.Definition{Name: name}, endorsement: endorsement}, err
	}
	d, err := j.definitions.read(j.state, name)
	if errors.Is(err, lifecycle.ErrNotDefined) || errors.Is(err, lifecycle.ErrMalformed) {
		return &namespaceRules{fault: newFault(peerpb.TxValidationCode_INVALID_CHAINCODE, "%s", err)}, nil
	}
	if err != nil {
		return nil, err
	}
	switch {
	case d.ValidationPlugin == "" || len(d.ValidationParameter) == 0:
		return &namespaceRules{fault: newFault(peerpb.TxValidationCode_INVALID_CHAINCODE, "chaincode %q is defined without validation plugin or parameter", name)}, nil
	case d.ValidationPlugin == validation.Plugin:
		return j.readRego(d)
	case d.ValidationPlugin != lifecycle.ValidationPlugin:
		return nil, fmt.Errorf("%w: validation plugin %q; commit a definition with the plugin %q or %q", ErrUnsupported, d.ValidationPlugin, lifecycle.ValidationPlugin, validation.Plugin)
	}
	endorsement, err := j.compile(d.ValidationParameter)
	return &namespaceRules{definition: d, endorsement: endorsement}, err
}

// lifecyclePolicy is who must endorse a chaincode definition: the channel's policy
// LifecycleEndorsement, or without one a majority of the organizations' members.
func (j *judge) lifecyclePolicy() (compiled, error) {
	p, err := j.config.Policies.Policy(lifecyclePolicy)
	if !errors.Is(err, policy.ErrNoPolicy) {
		return settle(p, err)
	}
	orgs := make([]msp.ID, len(j.config.Organizations))
	for i, org := range j.config.Organizations {
		orgs[i] = org.MSPID
	}
	return settle(j.engine.Signature(j.config.MSPs, members(len(orgs)/2+1, orgs)))
}

// members is the policy that n of the organizations have a member sign.
func members(n int, orgs []msp.ID) *commonpb.SignaturePolicyEnvelope {
	env := &commonpb.SignaturePolicyEnvelope{}
	rules := &commonpb.SignaturePolicy_NOutOf{N: int32(n)}
	for i, org := range orgs {
		rules.Rules = append(rules.Rules, &commonpb.SignaturePolicy{Type: &commonpb.SignaturePolicy_SignedBy{SignedBy: int32(i)}})
		role, err := proto.Marshal(&commonpb.MSPRole{MspIdentifier: string(org), Role: commonpb.MSPRole_MEMBER})
		if err != nil {
			panic("channel: a role of an MSP that was read from a message does not marshal: " + err.Error())
		}
		env.Identities = append(env.Identities, &commonpb.MSPPrincipal{PrincipalClassification: commonpb.MSPPrincipal_ROLE, Principal: role})
	}
	env.Rule = &commonpb.SignaturePolicy{Type: &commonpb.SignaturePolicy_NOutOf_{NOutOf: rules}}
	return env
}

// collection finds who must endorse writes to a collection: for the implicit
// collection of an organization that organization alone, for an explicit one its
// own policy, or without one the chaincode's.
func (j *judge) collection(rules *namespaceRules, name string) (compiled, error) {
	rules.mu.Lock()
	defer rules.mu.Unlock()
	if c, ok := rules.collections[name]; ok {
		return c, nil
	}
	c, err := j.readCollection(rules, name)
	if err != nil {
		return c, err
	}
	if rules.collections == nil {
		rules.collections = map[string]compiled{}
	}
	rules.collections[name] = c
	return c, nil
}

func (j *judge) readCollection(rules *namespaceRules, name string) (compiled, error) {
	if org, ok := lifecycle.ImplicitOrg(name); ok {
		member, ok := j.config.Organization(msp.ID(org))
		if !ok {
			return compiled{broken: fmt.Sprintf("collection %q: the channel has no organization %q", name, org)}, nil
		}
		p, err := j.config.Policies.Policy("/Channel/Application/" + member.Name + "/Endorsement")
		if errors.Is(err, policy.ErrNoPolicy) {
			return settle(j.engine.Signature(j.config.MSPs, members(1, []msp.ID{member.MSPID})))
		}
		return settle(p, err)
	}
	c := rules.definition.Collection(name)
	if c == nil {
		return compiled{broken: fmt.Sprintf("chaincode %q has no collection %q", rules.definition.Name, name)}, nil
	}
	if c.EndorsementPolicy == nil {
		return rules.endorsement, nil
	}
	b, err := proto.Marshal(c.EndorsementPolicy)
	if err != nil {
		return compiled{}, err
	}
	return j.compile(b)
}
