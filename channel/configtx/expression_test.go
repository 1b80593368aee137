package configtx_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/channel/configtx"
	"strongroom/policy"
	"strongroom/wire/commonpb"
)

// render writes a policy with its identities' numbers: what the order of a policy's
// identities is, and which rule means which.
func render(t *testing.T, env *commonpb.SignaturePolicyEnvelope) string {
	t.Helper()
	var rule func(*commonpb.SignaturePolicy) string
	rule = func(r *commonpb.SignaturePolicy) string {
		if n := r.GetNOutOf(); n != nil {
			parts := []string{string(rune('0' + n.GetN()))}
			for _, sub := range n.GetRules() {
				parts = append(parts, rule(sub))
			}
			return "(" + strings.Join(parts, " ") + ")"
		}
		return "#" + string(rune('0'+r.GetSignedBy()))
	}
	var ids []string
	for _, p := range env.GetIdentities() {
		role := &commonpb.MSPRole{}
		if err := proto.Unmarshal(p.GetPrincipal(), role); err != nil || p.GetPrincipalClassification() != commonpb.MSPPrincipal_ROLE {
			t.Fatalf("principal %v: %v", p, err)
		}
		ids = append(ids, role.GetMspIdentifier()+"."+strings.ToLower(role.GetRole().String()))
	}
	return rule(env.GetRule()) + " " + strings.Join(ids, " ")
}

// TestParsePolicy: the order of rules and identities is that of Fabric's policydsl,
// where a nested gate's principals come before the outer gate's own.
func TestParsePolicy(t *testing.T) {
	for expr, want := range map[string]string{
		"AND('A.member', 'B.member')":                                   "(2 #0 #1) A.member B.member",
		"OR('A.admin','B.peer')":                                        "(1 #0 #1) A.admin B.peer",
		"OutOf(2, 'A.member', 'B.client', 'C.orderer')":                 "(2 #0 #1 #2) A.member B.client C.orderer",
		"OutOf('2', 'A.member', 'B.member')":                            "(2 #0 #1) A.member B.member",
		"OutOf(0, 'A.member')":                                          "(0 #0) A.member",
		"OutOf(2, 'A.member')":                                          "(2 #0) A.member",
		"OR('A.member', AND('B.member', 'C.member'))":                   "(1 #2 (2 #0 #1)) B.member C.member A.member",
		"OR(AND('A.member','B.member'), OR('C.admin', 'D.member'))":     "(1 (2 #0 #1) (1 #2 #3)) A.member B.member C.admin D.member",
		"and('A.b.C-1.member', or('A.member', outof(1, \"B.member\")))": "(2 #2 (1 #1 (1 #0))) B.member A.member A.b.C-1.member",
		"  And ( 'A.member' ,\n\t'A.member' )  ":                        "(2 #0 #1) A.member A.member",
		"OR('A.member')":                                                "(1 #0) A.member",
	} {
		env, err := configtx.ParsePolicy(expr)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		if got := render(t, env); got != want {
			t.Errorf("%s\n gives %s\n  want %s", expr, got, want)
		}
	}
}

func TestParsePolicyErrors(t *testing.T) {
	for expr, want := range map[string]string{
		"":                             "a gate is needed",
		"'A.member'":                   "a gate is needed",
		"AND":                          "( is needed",
		"AND()":                        "a gate is needed",
		"AND('A.member'":               ", or ) is needed",
		"AND('A.member',":              "the text ends",
		"AND('A.member' 'B.member')":   ", or ) is needed",
		"AND('A.member'))":             "follows the end",
		"XOR('A.member')":              `gate "XOR" is unknown`,
		"aNd('A.member')":              `gate "aNd" is unknown`,
		"AND('A.gardener')":            "is not MSPID.role",
		"AND('member')":                "is not MSPID.role",
		"AND('A.Member')":              "is not MSPID.role",
		"AND('A member')":              "is not MSPID.role",
		"AND('A.member)":               "does not end",
		"OutOf('A.member')":            "whole number",
		"OutOf('1, 'A.member')":        "whole number",
		"OutOf(-1, 'A.member')":        "whole number",
		"OutOf(1)":                     "is needed here",
		"OutOf(3, 'A.member')":         "cannot be satisfied",
		"OutOf(99999999999, 'A.peer')": "whole number",
		strings.Repeat("AND(", 200):    "nested",
		strings.Repeat(" ", 70000):     "at most",
	} {
		if _, err := configtx.ParsePolicy(expr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", expr, err, want)
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	for _, s := range []string{"AND('A.member', OR('B.peer', \"C.admin\"))", "OutOf(1, 'A.client')", "OutOf('0','A.orderer')", "((("} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		env, err := configtx.ParsePolicy(expr)
		if err != nil {
			return
		}
		// What is rendered for people means the same again.
		again, err := configtx.ParsePolicy(policy.Describe(env))
		if err == nil && !proto.Equal(env, again) {
			t.Errorf("%q is described as %q", expr, policy.Describe(env))
		}
	})
}

func FuzzLoadDescription(f *testing.F) {
	f.Add([]byte("channel: main\norderer: {batchTimeout: 2s, batchSize: {absoluteMaxBytes: 99 MB}}\n"))
	f.Add([]byte("organizations: [{mspID: A, msp: {rootCerts: [x]}, anchorPeers: ['a:1']}]\n"))
	f.Add([]byte("orderer: {raft: {consenters: [{host: a, port: 1}], tickInterval: 1s}}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := configtx.LoadDescription(text)
		if err != nil {
			return
		}
		configtx.BuildGenesis(d)
	})
}
