package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"strongroom/msp"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// roles is a set of identities with known roles: a small stand-in for *msp.Set,
// which needs a token.
type roles struct {
	of    map[*msp.Identity][]commonpb.MSPRole_MSPRoleType
	asked atomic.Int64
}

func (r *roles) Satisfies(id *msp.Identity, p *commonpb.MSPPrincipal) (bool, error) {
	r.asked.Add(1)
	role := new(commonpb.MSPRole)
	if err := proto.Unmarshal(p.GetPrincipal(), role); err != nil || p.GetPrincipalClassification() != commonpb.MSPPrincipal_ROLE {
		return false, errors.New("malformed principal")
	}
	return role.GetMspIdentifier() == string(id.MSPID) && slices.Contains(r.of[id], role.GetRole()), nil
}

func (r *roles) identity(mspID string, of ...commonpb.MSPRole_MSPRoleType) *msp.Identity {
	id := &msp.Identity{MSPID: msp.ID(mspID)}
	if r.of == nil {
		r.of = make(map[*msp.Identity][]commonpb.MSPRole_MSPRoleType)
	}
	r.of[id] = append(of, commonpb.MSPRole_MEMBER)
	return id
}

func rolePrincipal(mspID string, role commonpb.MSPRole_MSPRoleType) *commonpb.MSPPrincipal {
	b, err := proto.Marshal(&commonpb.MSPRole{MspIdentifier: mspID, Role: role})
	if err != nil {
		panic(err)
	}
	return &commonpb.MSPPrincipal{PrincipalClassification: commonpb.MSPPrincipal_ROLE, Principal: b}
}

func signedBy(i int32) *commonpb.SignaturePolicy {
	return &commonpb.SignaturePolicy{Type: &commonpb.SignaturePolicy_SignedBy{SignedBy: i}}
}

func outOf(n int32, rules ...*commonpb.SignaturePolicy) *commonpb.SignaturePolicy {
	return &commonpb.SignaturePolicy{Type: &commonpb.SignaturePolicy_NOutOf_{NOutOf: &commonpb.SignaturePolicy_NOutOf{N: n, Rules: rules}}}
}

// anyRole is the policy of an organisation: one signature by any of the roles.
func anyRole(mspID string, of ...commonpb.MSPRole_MSPRoleType) *commonpb.SignaturePolicyEnvelope {
	env := &commonpb.SignaturePolicyEnvelope{}
	var rules []*commonpb.SignaturePolicy
	for i, r := range of {
		env.Identities = append(env.Identities, rolePrincipal(mspID, r))
		rules = append(rules, signedBy(int32(i)))
	}
	env.Rule = outOf(1, rules...)
	return env
}

func sigPolicy(env *commonpb.SignaturePolicyEnvelope) *commonpb.ConfigPolicy {
	return configPolicy(commonpb.Policy_SIGNATURE, env)
}

func metaPolicy(rule commonpb.ImplicitMetaPolicy_Rule, sub string) *commonpb.ConfigPolicy {
	return configPolicy(commonpb.Policy_IMPLICIT_META, &commonpb.ImplicitMetaPolicy{Rule: rule, SubPolicy: sub})
}

func configPolicy(t commonpb.Policy_PolicyType, m proto.Message) *commonpb.ConfigPolicy {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return &commonpb.ConfigPolicy{Policy: &commonpb.Policy{Type: int32(t), Value: b}}
}

const (
	member = commonpb.MSPRole_MEMBER
	admin  = commonpb.MSPRole_ADMIN
	client = commonpb.MSPRole_CLIENT
	peer   = commonpb.MSPRole_PEER
	anyOf  = commonpb.ImplicitMetaPolicy_ANY
	allOf  = commonpb.ImplicitMetaPolicy_ALL
	most   = commonpb.ImplicitMetaPolicy_MAJORITY
)

// channelGroup is a channel configuration of application organisations Org1MSP… and
// one ordering organisation, as configtxgen lays it out.
func channelGroup(orgs int) *commonpb.ConfigGroup {
	meta := func() map[string]*commonpb.ConfigPolicy {
		return map[string]*commonpb.ConfigPolicy{
			"Readers": metaPolicy(anyOf, "Readers"), "Writers": metaPolicy(anyOf, "Writers"), "Admins": metaPolicy(most, "Admins"),
		}
	}
	app := &commonpb.ConfigGroup{Groups: map[string]*commonpb.ConfigGroup{}, Policies: meta()}
	app.Policies["Endorsement"] = metaPolicy(most, "Endorsement")
	app.Policies["LifecycleEndorsement"] = metaPolicy(most, "Endorsement")
	for i := range orgs {
		id := fmt.Sprintf("Org%dMSP", i+1)
		app.Groups[id] = &commonpb.ConfigGroup{Policies: map[string]*commonpb.ConfigPolicy{
			"Readers":     sigPolicy(anyRole(id, admin, peer, client)),
			"Writers":     sigPolicy(anyRole(id, admin, client)),
			"Admins":      sigPolicy(anyRole(id, admin)),
			"Endorsement": sigPolicy(anyRole(id, peer)),
		}}
	}
	orderer := &commonpb.ConfigGroup{Groups: map[string]*commonpb.ConfigGroup{
		"OrdererMSP": {Policies: map[string]*commonpb.ConfigPolicy{
			"Readers": sigPolicy(anyRole("OrdererMSP", member)), "Writers": sigPolicy(anyRole("OrdererMSP", member)),
			"Admins": sigPolicy(anyRole("OrdererMSP", admin)),
		}},
	}, Policies: meta()}
	orderer.Policies["BlockValidation"] = metaPolicy(anyOf, "Writers")
	return &commonpb.ConfigGroup{
		Groups: map[string]*commonpb.ConfigGroup{"Application": app, "Orderer": orderer}, Policies: meta(),
	}
}

func decide(t *testing.T, p *Policy, signers ...*msp.Identity) Decision {
	t.Helper()
	d, err := p.Evaluate(context.Background(), signers)
	if err != nil {
		t.Fatal(err)
	}
	want, err := p.Reference(signers)
	if err != nil || want != d.Allowed {
		t.Fatalf("%s: Rego says %t, the reference %t, %v", p.Path(), d.Allowed, want, err)
	}
	return d
}

func TestTree(t *testing.T) {
	e, set := newTestEngine(t), new(roles)
	tree, err := e.Tree(set, channelGroup(3))
	if err != nil {
		t.Fatal(err)
	}
	client1, admin1, admin2 := set.identity("Org1MSP", client), set.identity("Org1MSP", admin), set.identity("Org2MSP", admin)
	peer1, peer2, peer3 := set.identity("Org1MSP", peer), set.identity("Org2MSP", peer), set.identity("Org3MSP", peer)
	orderer, stranger := set.identity("OrdererMSP"), set.identity("Org9MSP", admin)
	for _, c := range []struct {
		path    string
		signers []*msp.Identity
		allow   bool
		reason  string
	}{
		{"/Channel/Application/Writers", []*msp.Identity{client1}, true, "policy /Channel/Application/Writers (ANY Writers) needs 1 of 3; satisfied by Org1MSP; missing Org2MSP, Org3MSP"},
		{"/Channel/Application/Writers", []*msp.Identity{peer1}, false, "needs 1 of 3; satisfied by none; missing Org1MSP, Org2MSP, Org3MSP"},
		{"/Channel/Application/Readers", []*msp.Identity{peer1}, true, ""},
		{"/Channel/Application/Readers", []*msp.Identity{stranger}, false, ""},
		{"/Channel/Application/Readers", nil, false, ""},
		{"/Channel/Application/Endorsement", []*msp.Identity{peer1}, false, "policy /Channel/Application/Endorsement (MAJORITY Endorsement) needs 2 of 3; satisfied by Org1MSP; missing Org2MSP, Org3MSP"},
		{"/Channel/Application/Endorsement", []*msp.Identity{peer1, peer3}, true, ""},
		{"/Channel/Application/Endorsement", []*msp.Identity{peer3, stranger, client1, peer2}, true, ""},
		{"/Channel/Application/Admins", []*msp.Identity{admin1}, false, ""},
		{"/Channel/Application/Admins", []*msp.Identity{admin1, admin2}, true, ""},
		{"/Channel/Admins", []*msp.Identity{admin1, admin2}, false, "needs 2 of 2; satisfied by Application; missing Orderer"},
		{"/Channel/Writers", []*msp.Identity{client1}, true, "satisfied by Application"},
		{"/Channel/Orderer/BlockValidation", []*msp.Identity{orderer}, true, ""},
		{"/Channel/Orderer/BlockValidation", []*msp.Identity{peer1}, false, ""},
		{"/Channel/Application/Org2MSP/Admins", []*msp.Identity{admin2}, true, "policy /Channel/Application/Org2MSP/Admins (AND('Org2MSP.admin')) needs 1 of 1"},
		{"Application/Org2MSP/Admins", []*msp.Identity{admin1}, false, ""}, // relative to the root group
	} {
		p, err := tree.Policy(c.path)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time from memory
			d := decide(t, p, c.signers...)
			if d.Allowed != c.allow || !strings.Contains(d.Reason, c.reason) {
				t.Errorf("%s: %+v", c.path, d)
			}
			if d.Policy != p.Digest() {
				t.Errorf("%s: decision names policy %s", c.path, d.Policy)
			}
		}
	}
	for _, path := range []string{"", "/", "/Channel", "/Channel/", "/Channel/Nobody", "Writers/", "Channel/Application/Writers", "/Application/Writers", "/ChannelX/Writers"} {
		if p, err := tree.Policy(path); !errors.Is(err, ErrNoPolicy) {
			t.Errorf("%q: %v, %v", path, p, err)
		}
	}
	if got := len(tree.Paths()); got != 3+5+4*3+4+3 || !slices.IsSorted(tree.Paths()) {
		t.Errorf("%d paths: %v", got, tree.Paths())
	}
}

// TestMetaSubPolicies covers sub-policies that are missing, and Fabric's ways of
// naming one: relative with a path, or absolute, which only its own group matches.
func TestMetaSubPolicies(t *testing.T) {
	e, set := newTestEngine(t), new(roles)
	a, b := set.identity("A", admin), set.identity("B", admin)
	org := func(id, name string) *commonpb.ConfigGroup {
		return &commonpb.ConfigGroup{Policies: map[string]*commonpb.ConfigPolicy{name: sigPolicy(anyRole(id, admin))}}
	}
	root := func(rule commonpb.ImplicitMetaPolicy_Rule, sub string) *commonpb.ConfigGroup {
		return &commonpb.ConfigGroup{
			Groups:   map[string]*commonpb.ConfigGroup{"A": org("A", "Admins"), "B": org("B", "Other"), "C": {Groups: map[string]*commonpb.ConfigGroup{"D": org("A", "Admins")}}},
			Policies: map[string]*commonpb.ConfigPolicy{"P": metaPolicy(rule, sub), "Empty": metaPolicy(rule, "")},
		}
	}
	for _, c := range []struct {
		rule    commonpb.ImplicitMetaPolicy_Rule
		sub     string
		signers []*msp.Identity
		allow   bool
	}{
		{anyOf, "Admins", []*msp.Identity{a}, true},
		{anyOf, "Admins", []*msp.Identity{b}, false},
		{most, "Admins", []*msp.Identity{a, b}, false}, // B and C have none: they count against it
		{allOf, "Admins", []*msp.Identity{a, b}, false},
		{anyOf, "D/Admins", []*msp.Identity{a}, true},
		{anyOf, "/Channel/B/Other", []*msp.Identity{b}, true},
		{anyOf, "/Channel/B/Other", []*msp.Identity{a}, false},
		{anyOf, "/Channel/B", []*msp.Identity{a, b}, false},
		{anyOf, "Nothing", []*msp.Identity{a, b}, false},
		{7, "Admins", []*msp.Identity{b}, true}, // a rule that Fabric does not know
		{7, "Admins", []*msp.Identity{a}, false},
	} {
		tree, err := e.Tree(set, root(c.rule, c.sub))
		if err != nil {
			t.Fatal(err)
		}
		p, err := tree.Policy("/Channel/P")
		if err != nil {
			t.Fatal(err)
		}
		if d := decide(t, p, c.signers...); d.Allowed != c.allow {
			t.Errorf("%s %s: %+v", c.rule, c.sub, d)
		}
		if p, err = tree.Policy("/Channel/Empty"); err != nil {
			t.Fatal(err)
		}
		if d := decide(t, p, a, b); d.Allowed != (c.rule == 7) {
			t.Errorf("a sub-policy without a name: %+v", d)
		}
	}
	tree, err := e.Tree(set, &commonpb.ConfigGroup{Policies: map[string]*commonpb.ConfigPolicy{"P": metaPolicy(allOf, "Admins")}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := tree.Policy("P")
	if err != nil {
		t.Fatal(err)
	}
	if d := decide(t, p); !d.Allowed {
		t.Errorf("no sub-groups: %+v", d)
	}
}

func TestTreeErrors(t *testing.T) {
	e, set := newTestEngine(t), new(roles)
	one := func(p *commonpb.ConfigPolicy) *commonpb.ConfigGroup {
		return &commonpb.ConfigGroup{Groups: map[string]*commonpb.ConfigGroup{"Application": {Policies: map[string]*commonpb.ConfigPolicy{"P": p}}}}
	}
	raw := func(t commonpb.Policy_PolicyType, v string) *commonpb.ConfigPolicy {
		return &commonpb.ConfigPolicy{Policy: &commonpb.Policy{Type: int32(t), Value: []byte(v)}}
	}
	version := anyRole("A", admin)
	version.Version = 1
	deep := signedBy(0)
	for range MaxDepth {
		deep = outOf(1, deep)
	}
	wide := outOf(1)
	for range MaxRules {
		wide.GetNOutOf().Rules = append(wide.GetNOutOf().Rules, signedBy(0))
	}
	principals := anyRole("A", admin).Identities
	for name, c := range map[string]struct {
		policy *commonpb.ConfigPolicy
		want   string
	}{
		"nil":                {nil, "no content"},
		"no policy":          {&commonpb.ConfigPolicy{}, "no content"},
		"type":               {raw(commonpb.Policy_MSP, ""), "neither SIGNATURE"},
		"bytes":              {raw(commonpb.Policy_SIGNATURE, "\xff"), "does not parse"},
		"meta bytes":         {raw(commonpb.Policy_IMPLICIT_META, "\xff"), "does not parse"},
		"no rule":            {raw(commonpb.Policy_SIGNATURE, ""), "a rule is empty"},
		"version":            {sigPolicy(version), "version is 1"},
		"index":              {sigPolicy(&commonpb.SignaturePolicyEnvelope{Rule: outOf(1, signedBy(1)), Identities: principals}), "signed_by is 1, but there are 1"},
		"negative":           {sigPolicy(&commonpb.SignaturePolicyEnvelope{Rule: signedBy(-1), Identities: principals}), "signed_by is -1"},
		"empty rule in gate": {sigPolicy(&commonpb.SignaturePolicyEnvelope{Rule: outOf(1, &commonpb.SignaturePolicy{})}), "a rule is empty"},
		"deep":               {sigPolicy(&commonpb.SignaturePolicyEnvelope{Rule: deep, Identities: principals}), "deep"},
		"wide":               {sigPolicy(&commonpb.SignaturePolicyEnvelope{Rule: wide, Identities: principals}), "more than"},
	} {
		_, err := e.Tree(set, one(c.policy))
		class := ErrInvalid
		if name == "deep" || name == "wide" {
			class = ErrTooLarge
		}
		if !errors.Is(err, class) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "/Channel/Application/P") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := e.Tree(nil, channelGroup(1)); err == nil {
		t.Error("no set: no error")
	}
}

func TestApplicationPolicy(t *testing.T) {
	e, set := newTestEngine(t), new(roles)
	tree, err := e.Tree(set, channelGroup(2))
	if err != nil {
		t.Fatal(err)
	}
	ref := func(s string) []byte {
		b, err := proto.Marshal(&peerpb.ApplicationPolicy{Type: &peerpb.ApplicationPolicy_ChannelConfigPolicyReference{ChannelConfigPolicyReference: s}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	env := anyRole("Org1MSP", peer)
	env.Version = 3 // Fabric looks at the version in channel configurations alone
	sig, err := proto.Marshal(&peerpb.ApplicationPolicy{Type: &peerpb.ApplicationPolicy_SignaturePolicy{SignaturePolicy: env}})
	if err != nil {
		t.Fatal(err)
	}
	peer1, client1 := set.identity("Org1MSP", peer), set.identity("Org1MSP", client)
	p, err := e.ApplicationPolicy(set, tree, sig)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := e.ApplicationPolicy(set, tree, sig); err != nil || again != p {
		t.Errorf("the same bytes gave another policy, %v", err)
	}
	if same, err := e.Signature(set, env); err != nil || same != p {
		t.Errorf("the same envelope gave another policy, %v", err)
	}
	if d := decide(t, p, peer1); !d.Allowed || p.Path() != "" {
		t.Errorf("%+v", d)
	}
	if d := decide(t, p, client1); d.Allowed || d.Reason != "policy AND('Org1MSP.peer') needs 1 of 1; satisfied by none; missing 'Org1MSP.peer'" {
		t.Errorf("%+v", d)
	}
	for _, s := range []string{"/Channel/Application/Endorsement", "Application/Endorsement"} {
		p, err := e.ApplicationPolicy(set, tree, ref(s))
		if err != nil || p.Path() != "/Channel/Application/Endorsement" {
			t.Errorf("%q: %v, %v", s, p, err)
		}
	}
	for _, s := range []string{"", "Endorsement", "Channel/Application/Endorsement", "/Channel/Application/X"} {
		if _, err := e.ApplicationPolicy(set, tree, ref(s)); !errors.Is(err, ErrNoPolicy) {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, b := range []string{"", "\xff", "\x0a\x00"} {
		if _, err := e.ApplicationPolicy(set, tree, []byte(b)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", b, err)
		}
	}
	if _, err := e.Signature(set, nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("no envelope: %v", err)
	}
}

// TestDigest: the digest depends on rules and principals, not on how the identities
// are listed or where the policy stands.
func TestDigest(t *testing.T) {
	e, set := newTestEngine(t), new(roles)
	a, b := rolePrincipal("A", peer), rolePrincipal("B", peer)
	digest := func(env *commonpb.SignaturePolicyEnvelope) Digest {
		p, err := e.Signature(set, env)
		if err != nil {
			t.Fatal(err)
		}
		return p.Digest()
	}
	both := digest(&commonpb.SignaturePolicyEnvelope{Rule: outOf(2, signedBy(0), signedBy(1)), Identities: []*commonpb.MSPPrincipal{a, b}})
	if d := digest(&commonpb.SignaturePolicyEnvelope{Rule: outOf(2, signedBy(2), signedBy(1)), Identities: []*commonpb.MSPPrincipal{b, b, a}}); d != both {
		t.Error("a listing in another order has another digest")
	}
	for name, env := range map[string]*commonpb.SignaturePolicyEnvelope{
		"threshold":  {Rule: outOf(1, signedBy(0), signedBy(1)), Identities: []*commonpb.MSPPrincipal{a, b}},
		"order":      {Rule: outOf(2, signedBy(1), signedBy(0)), Identities: []*commonpb.MSPPrincipal{a, b}},
		"principals": {Rule: outOf(2, signedBy(0), signedBy(1)), Identities: []*commonpb.MSPPrincipal{a, rolePrincipal("C", peer)}},
		"repeated":   {Rule: outOf(2, signedBy(0), signedBy(0)), Identities: []*commonpb.MSPPrincipal{a}},
	} {
		if digest(env) == both {
			t.Errorf("%s: the same digest", name)
		}
	}
}

func TestEvaluate(t *testing.T) {
	e, set := newTestEngine(t), new(roles)
	p, err := e.Signature(set, anyRole("A", peer, admin))
	if err != nil {
		t.Fatal(err)
	}
	x, y := set.identity("A", peer), set.identity("A", client)
	seen := map[string]bool{}
	for range 100 {
		d := decide(t, p, y, x)
		if !d.Allowed || d.ID == "" || seen[d.ID] {
			t.Fatalf("%+v", d)
		}
		seen[d.ID] = true
	}
	if n := set.asked.Load(); n != 4 {
		t.Errorf("principals were asked for %d times", n)
	}
	if _, err := p.Evaluate(context.Background(), []*msp.Identity{nil}); err == nil {
		t.Error("a nil signer: no error")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if d, err := p.Evaluate(ctx, []*msp.Identity{x, y}); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrEvaluation) || d.Allowed {
		t.Errorf("a cancelled context: %+v, %v", d, err)
	}
	if d, err := p.Evaluate(ctx, []*msp.Identity{y, x}); err != nil || !d.Allowed {
		t.Errorf("a decision that is remembered: %+v, %v", d, err)
	}
	if got := p.Rego(); !strings.Contains(got, "signers that are 'A.peer'") || !strings.Contains(got, "package strongroom.policy.s") {
		t.Errorf("Rego:\n%s", got)
	}
}

// TestMalformedPrincipal: Fabric counts it as satisfied by nobody.
func TestMalformedPrincipal(t *testing.T) {
	e, set := newTestEngine(t), new(roles)
	bad := &commonpb.MSPPrincipal{PrincipalClassification: commonpb.MSPPrincipal_ROLE, Principal: []byte{0xff}}
	p, err := e.Signature(set, &commonpb.SignaturePolicyEnvelope{Rule: outOf(1, signedBy(0), signedBy(1)), Identities: []*commonpb.MSPPrincipal{bad, rolePrincipal("A", peer)}})
	if err != nil {
		t.Fatal(err)
	}
	if d := decide(t, p, set.identity("A", peer)); !d.Allowed || !strings.Contains(d.Reason, "missing <unreadable role principal>") {
		t.Errorf("%+v", d)
	}
	if d := decide(t, p, set.identity("B", peer)); d.Allowed {
		t.Errorf("%+v", d)
	}
}

// TestKeysDiffer: what a verdict is remembered under must tell matrices apart, in
// the words kept in place and beyond them.
func TestKeysDiffer(t *testing.T) {
	p := &Policy{words: 3}
	seen := map[memoKey]bool{}
	for signers := range 6 {
		for word := range max(1, signers*3) {
			rows := make([]row, signers)
			for i := range rows {
				rows[i] = make(row, 3)
			}
			if signers > 0 {
				rows[word/3][word%3] = 1 << 63
			}
			k := p.key(rows)
			if seen[k] {
				t.Errorf("%d signers, word %d: the key repeats", signers, word)
			}
			seen[k] = true
		}
	}
}

func TestMemoIsBounded(t *testing.T) {
	m := newMemo[int, int](10)
	for i := range 1000 {
		m.put(i, i)
		if v, ok := m.get(i); !ok || v != i {
			t.Fatalf("%d is forgotten at once", i)
		}
		m.get(0) // what is asked for stays
	}
	if len(m.young)+len(m.old) > 20 {
		t.Errorf("%d entries", len(m.young)+len(m.old))
	}
	if _, ok := m.get(0); !ok {
		t.Error("an entry in use was dropped")
	}
}

func TestDescribe(t *testing.T) {
	a, b := rolePrincipal("Org1MSP", peer), rolePrincipal("Org 2\n", admin)
	ou, err := proto.Marshal(&commonpb.OrganizationUnit{MspIdentifier: "Org1MSP", OrganizationalUnitIdentifier: "sales"})
	if err != nil {
		t.Fatal(err)
	}
	combined, err := proto.Marshal(&commonpb.CombinedPrincipal{Principals: []*commonpb.MSPPrincipal{a, b}})
	if err != nil {
		t.Fatal(err)
	}
	ids := []*commonpb.MSPPrincipal{a, b,
		{PrincipalClassification: commonpb.MSPPrincipal_ORGANIZATION_UNIT, Principal: ou},
		{PrincipalClassification: commonpb.MSPPrincipal_IDENTITY, Principal: []byte("\x0a\x04Org1")},
		{PrincipalClassification: commonpb.MSPPrincipal_ANONYMITY},
		{PrincipalClassification: commonpb.MSPPrincipal_COMBINED, Principal: combined},
		{PrincipalClassification: 77},
	}
	for _, c := range []struct {
		rule *commonpb.SignaturePolicy
		want string
	}{
		{signedBy(0), "'Org1MSP.peer'"},
		{signedBy(1), `'"Org 2\n".admin'`},
		{outOf(2, signedBy(0), signedBy(0)), "AND('Org1MSP.peer', 'Org1MSP.peer')"},
		{outOf(1, signedBy(0), outOf(2, signedBy(0), signedBy(2), signedBy(9))), "OR('Org1MSP.peer', OutOf(2, 'Org1MSP.peer', <Org1MSP unit sales>, <no identity 9>))"},
		{outOf(0), "OutOf(0)"},
		{outOf(3, signedBy(3), signedBy(4), signedBy(6)), "AND(<Org1 identity a2b2b6f906bbf70e>, <nominal identity>, <unreadable 77 principal>)"},
		{signedBy(5), `<all of 'Org1MSP.peer', '"Org 2\n".admin'>`},
		{nil, "<empty rule>"},
	} {
		got := Describe(&commonpb.SignaturePolicyEnvelope{Rule: c.rule, Identities: ids})
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// TestShapesAreShared: policies that differ in names alone are decided by the same
// Rego, compiled once.
func TestShapesAreShared(t *testing.T) {
	e, set := newTestEngine(t), new(roles)
	tree, err := e.Tree(set, channelGroup(10))
	if err != nil {
		t.Fatal(err)
	}
	programs := map[*program]bool{}
	for p := range maps.Values(tree.policies) {
		programs[p.program] = true
	}
	if len(programs) > 16 || len(tree.policies) < 50 {
		t.Errorf("%d policies have %d programs", len(tree.policies), len(programs))
	}
}

// TestConcurrent compiles and evaluates from many goroutines, for the race detector.
func TestConcurrent(t *testing.T) {
	e, set := newTestEngine(t), new(roles)
	signers := []*msp.Identity{set.identity("Org1MSP", peer), set.identity("Org2MSP", peer), set.identity("Org3MSP", client)}
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			tree, err := e.Tree(set, channelGroup(2+worker%2))
			if err != nil {
				t.Error(err)
				return
			}
			for i := range 200 {
				p, err := tree.Policy("/Channel/Application/Endorsement")
				if err != nil {
					t.Error(err)
					return
				}
				some := signers[:i%4]
				d, err := p.Evaluate(context.Background(), some)
				if err != nil || d.Allowed != (len(some) >= 2) {
					t.Errorf("%d signers: %+v, %v", len(some), d, err)
					return
				}
				if _, err := e.Signature(set, anyRole(fmt.Sprintf("Org%dMSP", i%7), peer)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// FuzzTree feeds any bytes as a channel's configuration.
func FuzzTree(f *testing.F) {
	e, set := newTestEngine(f), new(roles)
	signers := []*msp.Identity{set.identity("Org1MSP", peer), set.identity("Org2MSP", admin)}
	for _, g := range []*commonpb.ConfigGroup{channelGroup(1), {Policies: map[string]*commonpb.ConfigPolicy{"P": metaPolicy(7, "A/B")}}} {
		b, err := proto.Marshal(g)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		root := new(commonpb.ConfigGroup)
		if proto.Unmarshal(b, root) != nil {
			return
		}
		tree, err := e.Tree(set, root)
		if err != nil {
			if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrTooLarge) {
				t.Errorf("%v", err)
			}
			return
		}
		for _, path := range tree.Paths() {
			p, err := tree.Policy(path)
			if err != nil {
				t.Errorf("%v", err)
				continue
			}
			decide(t, p, signers...)
		}
	})
}

// FuzzSignaturePolicy feeds any bytes as a signature policy: they are refused, or
// Rego and the oracle agree on them.
func FuzzSignaturePolicy(f *testing.F) {
	e, set := newTestEngine(f), new(roles)
	signers := []*msp.Identity{set.identity("A", peer), set.identity("B", admin), set.identity("A", admin, peer)}
	for _, env := range []*commonpb.SignaturePolicyEnvelope{
		anyRole("A", peer, admin),
		{Rule: outOf(2, signedBy(0), outOf(1, signedBy(1), signedBy(0))), Identities: []*commonpb.MSPPrincipal{rolePrincipal("A", peer), rolePrincipal("B", admin)}},
	} {
		b, err := proto.Marshal(env)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		env, err := parseSignature(b)
		if err == nil {
			Describe(env)
			var p *Policy
			if p, err = e.Signature(set, env); err == nil {
				for i := range signers {
					decide(t, p, signers[i:]...)
				}
			}
		}
		if err != nil && !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%v", err)
		}
	})
}

func FuzzApplicationPolicy(f *testing.F) {
	e, set := newTestEngine(f), new(roles)
	tree, err := e.Tree(set, channelGroup(2))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("\x12\x20/Channel/Application/Endorsement"))
	f.Add([]byte("\x0a\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := e.ApplicationPolicy(set, tree, b)
		if err != nil && !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrNoPolicy) {
			t.Errorf("%v", err)
		}
		if (p == nil) != (err != nil) {
			t.Errorf("%v, %v", p, err)
		}
	})
}
