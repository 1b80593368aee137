package lifecycle_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/acl/validation"
	net "strongroom/appliance/endorser/endorsertest"
	"strongroom/channel/configtx"
	"strongroom/wire/lifecyclepb"
	"strongroom/wire/peerpb"
)

const regoRules = `package strongroom.validate

default allow := false

allow if {
	every w in written {
		w.json
	}
}

written contains w if {
	some w in input.writes
	w.namespace == input.namespace
}

deny contains "two organisations above 100" if {
	some w in written
	w.value.amount > 100
	count({e.mspid | some e in input.endorsers}) < 2
}

deny contains "the creator is no client" if input.caller.role != "client"

deny contains "the arguments are others than the writes" if {
	input.function == "put"
	not input.args[0] in {w.key | some w in written}
}

deny contains "slow" if {
	input.args[0] == "slow"
	count([1 | some a in digits; some b in digits; some c in digits; some d in digits; some e in digits; a + b + c + d + e > 44]) > 0
}

digits := [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
`

func anyOrganisation(t *testing.T) []byte {
	t.Helper()
	policy, err := configtx.ParsePolicy("OR('Org1MSP.peer','Org2MSP.peer')")
	if err != nil {
		t.Fatal(err)
	}
	b, err := proto.Marshal(&peerpb.ApplicationPolicy{Type: &peerpb.ApplicationPolicy_SignaturePolicy{SignaturePolicy: policy}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestValidationRules runs a channel whose chaincode carries Rego: both peers judge by it,
// and agree with each other.
func TestValidationRules(t *testing.T) {
	n := net.StartDescribed(t, func(d *configtx.Description) { d.Capabilities.Rego = true }, nil, "Org1MSP", "Org2MSP")
	parameter, err := validation.Compose(context.Background(), anyOrganisation(t), map[string][]byte{"rules.rego": []byte(regoRules)})
	if err != nil {
		t.Fatal(err)
	}
	n.DeployValidated(t, "kv", validation.Plugin, parameter)
	one, both := n.Peers[:1], n.Peers
	const refused = peerpb.TxValidationCode_ENDORSEMENT_POLICY_FAILURE
	for _, c := range []struct {
		name       string
		key, value string
		peers      []*net.Peer
		admin      bool
		want       peerpb.TxValidationCode
	}{
		{"small, one organisation", "a", `{"amount": 100}`, one, false, peerpb.TxValidationCode_VALID},
		{"large, one organisation", "b", `{"amount": 101}`, one, false, refused},
		{"large, two organisations", "b", `{"amount": 101}`, both, false, peerpb.TxValidationCode_VALID},
		{"not JSON", "c", `amount`, both, false, refused},
		{"an administrator", "d", `{"amount": 1}`, both, true, refused},
		{"more steps than the budget", "slow", `{"amount": 1}`, both, false, refused},
		{"small again", "a", `{"amount": 7}`, one, false, peerpb.TxValidationCode_VALID},
	} {
		by := n.Peers[0].Client
		if c.admin {
			by = n.Peers[0].Admin
		}
		if got := n.Submit(t, by, net.Call{Channel: net.ChannelID, Chaincode: "kv", Args: net.Args("put", c.key, c.value)}, c.peers...); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	for _, p := range n.Peers {
		got := p.Query(t, p.Client, net.Call{Channel: net.ChannelID, Chaincode: "kv", Args: net.Args("get", "b")})
		if string(got.GetPayload()) != `{"amount": 101}` {
			t.Errorf("%s: %v", p.MSPID, got)
		}
		first, err := n.Peers[0].Channel.Ledger().Block(p.Channel.Height() - 1)
		if err != nil {
			t.Fatal(err)
		}
		same, err := p.Channel.Ledger().Block(p.Channel.Height() - 1)
		if err != nil || !proto.Equal(first.GetMetadata(), same.GetMetadata()) {
			t.Errorf("%s: metadata %v, %v", p.MSPID, same.GetMetadata(), err)
		}
	}
}

// TestValidationRulesAreChecked: nobody agrees on rules that would deny everything, or
// that the channel has not opted into.
func TestValidationRulesAreChecked(t *testing.T) {
	good, err := validation.Compose(context.Background(), anyOrganisation(t), map[string][]byte{"rules.rego": []byte(regoRules)})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		rego      bool
		parameter []byte
		want      string
	}{
		{false, good, "needs the application capability STRONGROOM_REGO_1, which channel testchannel does not have"},
		{true, anyOrganisation(t), "the parameter carries no rules"},
		{true, []byte(strings.Replace(string(good), "amount > 100", "amount > 999", 1)), "the digest of the files is"},
	} {
		n := net.StartDescribed(t, func(d *configtx.Description) { d.Capabilities.Rego = c.rego }, nil, "Org1MSP")
		p := n.Peers[0]
		resp := p.Query(t, p.Admin, net.Lifecycle(t, net.ChannelID, "ApproveChaincodeDefinitionForMyOrg", &lifecyclepb.ApproveChaincodeDefinitionForMyOrgArgs{
			Sequence: 1, Name: "kv", Version: "1.0", ValidationPlugin: validation.Plugin, ValidationParameter: c.parameter,
			Source: &lifecyclepb.ChaincodeSource{Type: &lifecyclepb.ChaincodeSource_Unavailable_{Unavailable: &lifecyclepb.ChaincodeSource_Unavailable{}}},
		}))
		if resp.GetStatus() == 200 || !strings.Contains(resp.GetMessage(), c.want) {
			t.Errorf("%d %s, want %q", resp.GetStatus(), resp.GetMessage(), c.want)
		}
	}
}
