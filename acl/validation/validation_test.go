package validation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"strongroom/bccsp/bccsptest"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/wire"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/msppb"
	"strongroom/wire/peerpb"
)

func endorsementPolicy(t testing.TB) []byte {
	t.Helper()
	b, err := proto.Marshal(&peerpb.ApplicationPolicy{Type: &peerpb.ApplicationPolicy_ChannelConfigPolicyReference{ChannelConfigPolicyReference: "/Channel/Application/Endorsement"}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func exampleFiles(t testing.TB) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob("../../examples/policy/validate/*.rego")
	if err != nil || len(names) < 2 {
		t.Fatal(names, err)
	}
	files := map[string][]byte{}
	for _, name := range names {
		if files[filepath.Base(name)], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func compose(t testing.TB) []byte {
	t.Helper()
	b, err := Compose(context.Background(), endorsementPolicy(t), exampleFiles(t))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestParameter: what Compose makes, Parse reads, and one who knows nothing of rules
// finds the endorsement policy in it.
func TestParameter(t *testing.T) {
	b := compose(t)
	r, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.ParseProgram(t.Context(), Program(), exampleFiles(t))
	if err != nil || r.Digest() != p.Digest() {
		t.Errorf("%s, %v", r.Digest(), err)
	}
	known := new(peerpb.ApplicationPolicy)
	if err := proto.Unmarshal(b, known); err != nil || known.GetChannelConfigPolicyReference() != "/Channel/Application/Endorsement" {
		t.Errorf("%v, %v", known, err)
	}
	if !bytes.Equal(b, compose(t)) {
		t.Error("the same rules make another parameter: organisations could not agree on it")
	}
	if bytes.Contains(b, []byte("test_")) {
		t.Error("tests are in the parameter")
	}
}

func TestComposeErrors(t *testing.T) {
	for name, c := range map[string]struct {
		endorsement []byte
		files       map[string][]byte
		want        string
	}{
		"not Rego":        {endorsementPolicy(t), map[string][]byte{"a.rego": []byte("x")}, "a.rego:1"},
		"another package": {endorsementPolicy(t), map[string][]byte{"a.rego": []byte("package other\n\ndefault allow := false\n")}, "has no rule allow"},
		"a clock":         {endorsementPolicy(t), map[string][]byte{"a.rego": []byte("package strongroom.validate\n\ndefault allow := false\n\nallow if time.now_ns() > 0\n")}, "a.rego:5"},
		"a field of none": {endorsementPolicy(t), map[string][]byte{"a.rego": []byte("package strongroom.validate\n\ndefault allow := false\n\nallow if input.transient\n")}, "a.rego:5"},
		"conditions":      {endorsementPolicy(t), map[string][]byte{"a.rego": []byte("package strongroom.validate\n\ndefault allow := false\n\nconditions contains {\"not_after\": \"2026-01-01T00:00:00Z\"}\n")}, "nothing checks conditions"},
		"a failing test": {endorsementPolicy(t), map[string][]byte{"a.rego": []byte("package strongroom.validate\n\ndefault allow := false\n"),
			"a_test.rego": []byte("package strongroom.validate_test\n\nimport data.strongroom.validate\n\ntest_a if validate.allow\n")}, "a_test.rego"},
		"no endorsement policy": {nil, exampleFiles(t), "not a protos.ApplicationPolicy"},
		"too large":             {endorsementPolicy(t), map[string][]byte{"a.rego": append([]byte("package strongroom.validate\n\ndefault allow := false\n"), bytes.Repeat([]byte("# long\n"), 40000)...)}, "at most 262144"},
	} {
		if _, err := Compose(t.Context(), c.endorsement, c.files); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestParseErrors: a parameter is read as it was made, or refused by every peer alike.
func TestParseErrors(t *testing.T) {
	good, plain := compose(t), endorsementPolicy(t)
	rules := func(change func(*[]byte)) []byte {
		unknown := good[len(plain):]
		_, _, n := protowire.ConsumeTag(unknown)
		message, _ := protowire.ConsumeBytes(unknown[n:])
		message = bytes.Clone(message)
		change(&message)
		return protowire.AppendBytes(protowire.AppendTag(bytes.Clone(plain), rulesField, protowire.BytesType), message)
	}
	replaced := func(from, to string) []byte {
		return rules(func(m *[]byte) { *m = bytes.Replace(*m, []byte(from), []byte(to), 1) })
	}
	other := "strongroom-1/opa-" + strings.Repeat("9", len(policy.OPAVersion))
	for name, b := range map[string][]byte{
		"empty": nil, "no rules": plain, "not a message": {0xff}, "too large": make([]byte, MaxParameter+1),
		"twice":            append(bytes.Clone(good), good[len(plain):]...),
		"another field":    append(bytes.Clone(good), 0x18, 1),
		"changed text":     replaced("limit := 10000", "limit := 99999"),
		"changed name":     replaced("payments.rego", "paymentz.rego"),
		"a field too many": rules(func(m *[]byte) { *m = append(*m, 0x22, 0) }),
		"a number":         rules(func(m *[]byte) { *m = append(*m, 0x18, 0) }),
		"cut":              rules(func(m *[]byte) { *m = (*m)[:len(*m)-1] }),
		"no files":         rules(func(m *[]byte) { *m = (*m)[:bytes.IndexByte(*m, 0x1a)] }),
	} {
		if _, err := Parse(b); !errors.Is(err, ErrInvalid) || errors.Is(err, ErrOtherRules) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Parse(replaced(policy.LedgerRules(), other)); !errors.Is(err, ErrOtherRules) || errors.Is(err, ErrInvalid) {
		t.Errorf("rules for another OPA: %v", err)
	}
}

func transaction(t testing.TB) *Transaction {
	t.Helper()
	token := bccsptest.Open(t)
	ca := bccsptest.NewCA(t, token, "Org1MSP")
	set, err := msp.NewSet(context.Background(), token, []*msppb.MSPConfig{ca.MSPConfig()})
	if err != nil {
		t.Fatal(err)
	}
	identity := func(name, unit string) *msp.Identity {
		id, err := set.Identity(context.Background(), ca.Issue(t, name, unit).Serialized())
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	marshal := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	spec := &peerpb.ChaincodeInvocationSpec{ChaincodeSpec: &peerpb.ChaincodeSpec{Input: &peerpb.ChaincodeInput{Args: [][]byte{[]byte("Pay"), []byte("p1"), {0xff}}}}}
	return &Transaction{
		ChannelID: "main", Namespace: "payments", TxID: "t1", Creator: identity("alice", "client"), Endorsers: []*msp.Identity{identity("peer0", "peer"), identity("peer1", "peer")},
		Endorsed: &wire.Endorsed{
			ChaincodeID: &peerpb.ChaincodeID{Name: "payments"}, ProposalPayload: marshal(&peerpb.ChaincodeProposalPayload{Input: marshal(spec)}),
			Action: &peerpb.ChaincodeAction{Response: &peerpb.Response{Status: 200}, ChaincodeId: &peerpb.ChaincodeID{Name: "payments", Version: "1"}},
			ReadWriteSet: &wire.ReadWriteSet{Namespaces: []wire.NamespaceSet{{Namespace: "payments", KV: &kvrwsetpb.KVRWSet{
				Writes: []*kvrwsetpb.KVWrite{{Key: "p1", Value: []byte(`{"amount": 10001}`)}},
			}}}},
		},
	}
}

// TestJudge asks the example's rules about a transaction of one organisation.
func TestJudge(t *testing.T) {
	r, err := Parse(compose(t))
	if err != nil {
		t.Fatal(err)
	}
	tx := transaction(t)
	v, err := r.Judge(t.Context(), tx)
	if err != nil || v.Allowed || len(v.Reasons) != 1 || !strings.Contains(v.Reasons[0], "two organisations") {
		t.Errorf("%+v, %v", v, err)
	}
	tx.Endorsed.ReadWriteSet.Namespaces[0].KV.Writes[0].Value = []byte(`{"amount": 10000}`)
	if v, err = r.Judge(t.Context(), tx); err != nil || !v.Allowed {
		t.Errorf("%+v, %v", v, err)
	}
	tx.Endorsed.ReadWriteSet.Namespaces[0].KV.Writes[0].Value = []byte(`{"amount": 1, "amount": 99999}`)
	if v, err = r.Judge(t.Context(), tx); err != nil || v.Allowed {
		t.Errorf("an ambiguous value: %+v, %v", v, err)
	}
	tx.Endorsed.ProposalPayload = []byte{0xff}
	if v, err = r.Judge(t.Context(), tx); err != nil || v.Allowed || !strings.Contains(v.Reasons[0], "does not parse") {
		t.Errorf("a proposal that does not parse: %+v, %v", v, err)
	}
	tx.Creator = nil
	if _, err = r.Judge(t.Context(), tx); err == nil {
		t.Error("a verdict without a creator")
	}
}

// TestSchema: the input has the schema's fields, all of them and no other.
func TestSchema(t *testing.T) {
	in, err := input(transaction(t))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	var schema struct {
		Properties map[string]any
		Required   []string
	}
	if err := errors.Join(json.Unmarshal([]byte(in.String()), &got), json.Unmarshal(InputSchema, &schema)); err != nil {
		t.Fatal(err)
	}
	if len(schema.Properties) != len(schema.Required) || len(got) != len(schema.Required) {
		t.Errorf("%d fields, %d properties, %d required", len(got), len(schema.Properties), len(schema.Required))
	}
	for _, name := range schema.Required {
		if _, ok := got[name]; !ok || schema.Properties[name] == nil {
			t.Errorf("%s is not in the input, or not a property", name)
		}
	}
	if e := got["endorsers"].([]any); len(e) != 2 || e[1].(map[string]any)["name"] != "peer1" || got["function"] != "Pay" {
		t.Errorf("%v", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(compose(f))
	f.Add(endorsementPolicy(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if (err == nil) != (r != nil) || err != nil && !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrOtherRules) {
			t.Fatalf("%v, %v", r, err)
		}
	})
}
