package policytest

import (
	"fmt"
	"math/rand/v2"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// Source makes random policies over some principals.
type Source struct {
	Rand       *rand.Rand
	Principals []*commonpb.MSPPrincipal
}

// Envelope is a signature policy: gates up to three deep, thresholds from none to one
// more than there are rules, principals that overlap. One in forty is not valid.
func (s *Source) Envelope() *commonpb.SignaturePolicyEnvelope {
	env := &commonpb.SignaturePolicyEnvelope{}
	for range 1 + s.Rand.IntN(5) {
		env.Identities = append(env.Identities, s.Principals[s.Rand.IntN(len(s.Principals))])
	}
	env.Rule = s.rule(3, len(env.Identities))
	if s.Rand.IntN(40) == 0 {
		env.Rule = &commonpb.SignaturePolicy{Type: &commonpb.SignaturePolicy_SignedBy{SignedBy: int32(len(env.Identities))}}
	}
	return env
}

func (s *Source) rule(depth, identities int) *commonpb.SignaturePolicy {
	if depth == 0 || s.Rand.IntN(10) < 3 {
		return &commonpb.SignaturePolicy{Type: &commonpb.SignaturePolicy_SignedBy{SignedBy: int32(s.Rand.IntN(identities))}}
	}
	g := &commonpb.SignaturePolicy_NOutOf{}
	for range s.Rand.IntN(5) {
		g.Rules = append(g.Rules, s.rule(depth-1, identities))
	}
	g.N = int32(s.Rand.IntN(len(g.Rules)+2)) - int32(s.Rand.IntN(12)/11)
	return &commonpb.SignaturePolicy{Type: &commonpb.SignaturePolicy_NOutOf_{NOutOf: g}}
}

// Group is a channel configuration: organisations below Application, and below two of
// them further groups, with signature and implicit meta policies of a few names.
func (s *Source) Group(organisations []string) *commonpb.ConfigGroup {
	app := s.level()
	for i, name := range organisations {
		org := s.level()
		if i < 2 && s.Rand.IntN(2) == 0 {
			org.Groups = map[string]*commonpb.ConfigGroup{"Sub": s.level()}
		}
		app.Groups[name] = org
	}
	root := s.level()
	root.Groups["Application"] = app
	return root
}

// names are the policies of every group; a reference may also name one of another group.
var names = []string{"Readers", "Writers", "Admins", "Endorsement", "LifecycleEndorsement"}

func (s *Source) level() *commonpb.ConfigGroup {
	g := &commonpb.ConfigGroup{Groups: map[string]*commonpb.ConfigGroup{}, Policies: map[string]*commonpb.ConfigPolicy{}}
	for _, name := range names {
		switch s.Rand.IntN(7) {
		case 0: // not defined
		case 1, 2, 3:
			env := s.Envelope()
			for env.Rule.GetNOutOf() == nil && int(env.Rule.GetSignedBy()) >= len(env.Identities) {
				env = s.Envelope() // a configuration with a policy that is not valid is refused as a whole
			}
			g.Policies[name] = configPolicy(commonpb.Policy_SIGNATURE, env)
		default:
			rule := commonpb.ImplicitMetaPolicy_Rule(s.Rand.IntN(3))
			if s.Rand.IntN(20) == 0 {
				rule = 7
			}
			sub := names[s.Rand.IntN(len(names))]
			if s.Rand.IntN(8) == 0 {
				sub = "Sub/" + sub
			}
			g.Policies[name] = configPolicy(commonpb.Policy_IMPLICIT_META, &commonpb.ImplicitMetaPolicy{Rule: rule, SubPolicy: sub})
		}
	}
	return g
}

func configPolicy(t commonpb.Policy_PolicyType, m proto.Message) *commonpb.ConfigPolicy {
	return &commonpb.ConfigPolicy{Policy: &commonpb.Policy{Type: int32(t), Value: mustMarshal(m)}}
}

// Application is a marshalled protos.ApplicationPolicy: half of them refer to the
// channel's configuration, some to what is not there.
func (s *Source) Application(organisations []string) []byte {
	if s.Rand.IntN(30) == 0 {
		return []byte{0xff}
	}
	if s.Rand.IntN(2) == 0 {
		return mustMarshal(&peerpb.ApplicationPolicy{Type: &peerpb.ApplicationPolicy_SignaturePolicy{SignaturePolicy: s.Envelope()}})
	}
	return mustMarshal(&peerpb.ApplicationPolicy{Type: &peerpb.ApplicationPolicy_ChannelConfigPolicyReference{ChannelConfigPolicyReference: s.Path(organisations)}})
}

// Path names a policy of a Group, now and then one that is not there.
func (s *Source) Path(organisations []string) string {
	name := names[s.Rand.IntN(len(names))]
	org := organisations[s.Rand.IntN(len(organisations))]
	switch s.Rand.IntN(12) {
	case 0:
		return "/Channel/" + name
	case 1:
		return "Application/" + name
	case 2:
		return fmt.Sprintf("/Channel/Application/%s/Sub/%s", org, name)
	case 3:
		return "/Orderer/" + name
	case 4, 5, 6:
		return fmt.Sprintf("/Channel/Application/%s/%s", org, name)
	}
	return "/Channel/Application/" + name
}

func mustMarshal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic("policytest: a message made here does not marshal: " + err.Error())
	}
	return b
}
