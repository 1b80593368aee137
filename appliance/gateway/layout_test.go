package gateway

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"strongroom/msp"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

func principal(t *testing.T, org string, role commonpb.MSPRole_MSPRoleType) *commonpb.MSPPrincipal {
	t.Helper()
	return &commonpb.MSPPrincipal{Principal: mustMarshal(t, &commonpb.MSPRole{MspIdentifier: org, Role: role})}
}

func mustMarshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func signedBy(i int32) *commonpb.SignaturePolicy {
	return &commonpb.SignaturePolicy{Type: &commonpb.SignaturePolicy_SignedBy{SignedBy: i}}
}

func nOutOf(n int32, rules ...*commonpb.SignaturePolicy) *commonpb.SignaturePolicy {
	return &commonpb.SignaturePolicy{Type: &commonpb.SignaturePolicy_NOutOf_{NOutOf: &commonpb.SignaturePolicy_NOutOf{N: n, Rules: rules}}}
}

func everyone(msp.ID) bool { return true }

func TestSignatureLayouts(t *testing.T) {
	peers := []*commonpb.MSPPrincipal{
		principal(t, "A", commonpb.MSPRole_PEER), principal(t, "B", commonpb.MSPRole_MEMBER),
		principal(t, "C", commonpb.MSPRole_PEER), principal(t, "A", commonpb.MSPRole_ADMIN),
	}
	tests := []struct {
		name   string
		rule   *commonpb.SignaturePolicy
		usable func(msp.ID) bool
		want   []Layout
	}{
		{"one", signedBy(0), everyone, []Layout{{"A": 1}}},
		{"and", nOutOf(2, signedBy(0), signedBy(1)), everyone, []Layout{{"A": 1, "B": 1}}},
		{"two of three", nOutOf(2, signedBy(0), signedBy(1), signedBy(2)), everyone,
			[]Layout{{"A": 1, "B": 1}, {"A": 1, "C": 1}, {"B": 1, "C": 1}}},
		{"two of three without C", nOutOf(2, signedBy(0), signedBy(1), signedBy(2)), func(id msp.ID) bool { return id != "C" },
			[]Layout{{"A": 1, "B": 1}}},
		{"same organisation twice", nOutOf(2, signedBy(0), signedBy(0)), everyone, []Layout{{"A": 2}}},
		{"or keeps the smaller", nOutOf(1, signedBy(0), nOutOf(2, signedBy(0), signedBy(1))), everyone, []Layout{{"A": 1}}},
		{"an admin is no peer", signedBy(3), everyone, nil},
		{"nobody is needed", nOutOf(0, signedBy(0)), everyone, []Layout{{}}},
		{"more than there are", nOutOf(3, signedBy(0), signedBy(1)), everyone, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := signatureLayouts(&commonpb.SignaturePolicyEnvelope{Rule: test.rule, Identities: peers}, test.usable)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("layouts (-want +got):\n%s", diff)
			}
		})
	}
	for name, env := range map[string]*commonpb.SignaturePolicyEnvelope{
		"index out of range": {Rule: signedBy(9), Identities: peers},
		"negative index":     {Rule: signedBy(-1), Identities: peers},
		"no rule":            {Identities: peers},
		"broken principal":   {Rule: signedBy(0), Identities: []*commonpb.MSPPrincipal{{Principal: []byte{0xff}}}},
	} {
		if got, err := signatureLayouts(env, everyone); err == nil {
			t.Errorf("%s: got %v, want an error", name, got)
		}
	}
}

func TestReferenceLayouts(t *testing.T) {
	sub := func(org string) *commonpb.ConfigGroup {
		env := mustMarshal(t, &commonpb.SignaturePolicyEnvelope{Rule: signedBy(0), Identities: []*commonpb.MSPPrincipal{principal(t, org, commonpb.MSPRole_PEER)}})
		return &commonpb.ConfigGroup{Policies: map[string]*commonpb.ConfigPolicy{
			"Endorsement": {Policy: &commonpb.Policy{Type: int32(commonpb.Policy_SIGNATURE), Value: env}},
		}}
	}
	meta := func(rule commonpb.ImplicitMetaPolicy_Rule) *commonpb.ConfigPolicy {
		return &commonpb.ConfigPolicy{Policy: &commonpb.Policy{Type: int32(commonpb.Policy_IMPLICIT_META),
			Value: mustMarshal(t, &commonpb.ImplicitMetaPolicy{SubPolicy: "Endorsement", Rule: rule})}}
	}
	channel := &commonpb.ConfigGroup{Groups: map[string]*commonpb.ConfigGroup{"Application": {
		Groups: map[string]*commonpb.ConfigGroup{"a": sub("A"), "b": sub("B"), "c": sub("C")},
		Policies: map[string]*commonpb.ConfigPolicy{
			"Endorsement": meta(commonpb.ImplicitMetaPolicy_MAJORITY), "Any": meta(commonpb.ImplicitMetaPolicy_ANY), "All": meta(commonpb.ImplicitMetaPolicy_ALL)},
	}}}
	tests := map[string][]Layout{
		"/Channel/Application/Endorsement": {{"A": 1, "B": 1}, {"A": 1, "C": 1}, {"B": 1, "C": 1}},
		"/Channel/Application/Any":         {{"A": 1}, {"B": 1}, {"C": 1}},
		"/Channel/Application/All":         {{"A": 1, "B": 1, "C": 1}},
		"/Channel/Application/Missing":     nil,
	}
	for path, want := range tests {
		p := &peerpb.ApplicationPolicy{Type: &peerpb.ApplicationPolicy_ChannelConfigPolicyReference{ChannelConfigPolicyReference: path}}
		got, err := applicationLayouts(channel, p, everyone)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	if _, err := referenceLayouts(channel, "/Channel/Nowhere/Endorsement", everyone); err == nil {
		t.Error("a missing group gave no error")
	}
	if _, err := applicationLayouts(channel, &peerpb.ApplicationPolicy{}, everyone); err == nil {
		t.Error("an empty policy gave no error")
	}
}

func TestAllTakesTheLargerCount(t *testing.T) {
	got := all([][]Layout{{{"A": 1}, {"B": 1}}, {{"A": 1, "C": 2}}})
	want := []Layout{{"A": 1, "C": 2}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("all (-want +got):\n%s", diff)
	}
}

func TestChooseIsBounded(t *testing.T) {
	var rules []*commonpb.SignaturePolicy
	var ids []*commonpb.MSPPrincipal
	for i := range int32(24) {
		rules = append(rules, signedBy(i))
		ids = append(ids, principal(t, string(rune('A'+i)), commonpb.MSPRole_PEER))
	}
	got, err := signatureLayouts(&commonpb.SignaturePolicyEnvelope{Rule: nOutOf(12, rules...), Identities: ids}, everyone)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) == 0 || len(got) > maxLayouts {
		t.Errorf("12 of 24 gave %d layouts, want 1 to %d", len(got), maxLayouts)
	}
	for _, l := range got {
		if l.size() != 12 {
			t.Fatalf("layout %v has %d endorsements, want 12", l, l.size())
		}
	}
}
