package channel

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"strongroom/acl/validation"
	"strongroom/channel/lifecycle"
	"strongroom/policy"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/peerpb"
)

// TestRegoPlugin judges one transaction under definitions that carry Rego: rules that are at
// fault deny everybody alike, also a key with a policy of its own; rules for another
// evaluator are no verdict.
func TestRegoPlugin(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(1, 2)))
	w.renew()
	signer := w.people[0]
	anyone := mustMarshal(t, &peerpb.ApplicationPolicy{Type: &peerpb.ApplicationPolicy_SignaturePolicy{SignaturePolicy: members(1, w.set.IDs())}})
	good, err := validation.Compose(context.Background(), anyone, map[string][]byte{"r.rego": []byte("package strongroom.validate\n\ndefault allow := false\n\nallow if input.writes[0].value == 1\n\ndeny contains \"nobody endorsed it\" if count(input.endorsers) == 0\n")})
	if err != nil {
		t.Fatal(err)
	}
	other := []byte(strings.Replace(string(good), policy.LedgerRules(), "strongroom-1/opa-"+strings.Repeat("9", len(policy.OPAVersion)), 1))
	spec := mustMarshal(t, &peerpb.ChaincodeInvocationSpec{ChaincodeSpec: &peerpb.ChaincodeSpec{Input: &peerpb.ChaincodeInput{Args: [][]byte{[]byte("f")}}}})
	judge := func(capability bool, parameter []byte, value string, signed bool) (*Judgement, error) {
		t.Helper()
		d := &lifecycle.Definition{Name: "cc1", Sequence: 1, Version: "1", ValidationPlugin: validation.Plugin, ValidationParameter: parameter}
		if err := lifecycle.WriteDefinition(w, d); err != nil {
			t.Fatal(err)
		}
		w.keys[stateKey{"cc1", "", "own"}] = mustMarshal(t, members(1, w.set.IDs()))
		config := *w.config
		config.Capabilities.Rego = capability
		fact := txFacts{identity: w.people[3]}
		if signed {
			fact.signers = append(fact.signers, signer)
		}
		v := NewValidator(w.engine, 1)
		defer v.Close()
		return v.Judge(t.Context(), &Facts{Config: &config, txs: []txFacts{fact}, Block: &wire.Block{Txs: []*wire.Tx{{
			ChannelHeader: &commonpb.ChannelHeader{TxId: "t", ChannelId: "main"},
			Endorsed: &wire.Endorsed{
				ChaincodeID: &peerpb.ChaincodeID{Name: "cc1"}, Action: &peerpb.ChaincodeAction{},
				ProposalPayload: mustMarshal(t, &peerpb.ChaincodeProposalPayload{Input: spec}),
				ReadWriteSet: &wire.ReadWriteSet{Namespaces: []wire.NamespaceSet{{Namespace: "cc1", KV: &kvrwsetpb.KVRWSet{
					Writes: []*kvrwsetpb.KVWrite{{Key: "own", Value: []byte(value)}},
				}}}},
			},
		}}}}, w)
	}
	const denied = peerpb.TxValidationCode_ENDORSEMENT_POLICY_FAILURE
	for _, c := range []struct {
		name       string
		capability bool
		parameter  []byte
		value      string
		signed     bool
		want       code
		reason     string
	}{
		{"the rules allow", true, good, "1", true, valid, ""},
		{"the rules do not allow", true, good, "2", true, denied, "no rule of strongroom.validate allows it"},
		{"the endorsement policy comes first", true, good, "1", false, denied, "policy of key"},
		{"without the capability", false, good, "1", true, denied, "needs the application capability"},
		{"without rules", true, anyone, "1", true, denied, "the parameter carries no rules"},
		{"changed rules", true, []byte(strings.Replace(string(good), "value == 1", "value == 2", 1)), "1", true, denied, "the digest"},
	} {
		j, err := judge(c.capability, c.parameter, c.value, c.signed)
		if err != nil || j.Verdicts[0].Code != c.want || !strings.Contains(j.Verdicts[0].Reason, c.reason) {
			t.Errorf("%s: %+v, %v", c.name, j, err)
		}
	}
	if j, err := judge(true, other, "1", true); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "another version") || j != nil {
		t.Errorf("rules for another evaluator: %+v, %v", j, err)
	}
	j, err := judge(true, good, "1", true)
	if err != nil || j.Policies["cc1"] == (policy.Digest{}) || j.Policies["cc1#rego"] == (policy.Digest{}) {
		t.Errorf("the judgement names %v, %v", j.Policies, err)
	}
}
