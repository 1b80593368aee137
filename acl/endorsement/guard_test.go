package endorsement_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"strongroom/acl/endorsement"
	"strongroom/bccsp/bccsptest"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/wire"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/msppb"
	"strongroom/wire/peerpb"
)

var engine = sync.OnceValue(func() *policy.Engine {
	e, err := policy.NewEngine(policy.Config{})
	if err != nil {
		panic(err)
	}
	return e
})

// TestExamples loads the examples as a peer does, which runs their tests.
func TestExamples(t *testing.T) {
	g := newGuard(t, nil, 0)
	if err := g.Load(t.Context(), "../../examples/policy/endorse"); err != nil {
		t.Fatal(err)
	}
	c := endorsement.Program(0)
	c.Path = "../../examples/policy/endorse"
	results, err := policy.TestProgram(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) < 10 {
		t.Errorf("only %d tests ran", len(results))
	}
}

func newGuard(t testing.TB, log *bytes.Buffer, deadline time.Duration) *endorsement.Guard {
	t.Helper()
	c := endorsement.Config{Engine: engine(), Deadline: deadline}
	if log != nil {
		c.Logger = slog.New(slog.NewTextHandler(log, nil))
	}
	g, err := endorsement.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func replace(t testing.TB, g *endorsement.Guard, deadline time.Duration, rego string) {
	t.Helper()
	p, err := policy.ParseProgram(t.Context(), endorsement.Program(deadline), map[string][]byte{"guard.rego": []byte(rego)})
	if err != nil {
		t.Fatal(err)
	}
	g.Replace(p)
}

func caller(t testing.TB) *msp.Identity {
	t.Helper()
	token := bccsptest.Open(t)
	ca := bccsptest.NewCA(t, token, "Org1MSP")
	set, err := msp.NewSet(t.Context(), token, []*msppb.MSPConfig{ca.MSPConfig()})
	if err != nil {
		t.Fatal(err)
	}
	id, err := set.Identity(t.Context(), ca.Issue(t, "ann", "client").Serialized())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func write(key, value string) *kvrwsetpb.KVWrite {
	return &kvrwsetpb.KVWrite{Key: key, Value: []byte(value)}
}

func proposal(id *msp.Identity, writes ...*kvrwsetpb.KVWrite) *endorsement.Proposal {
	return &endorsement.Proposal{
		ChannelID: "main", TxID: "t1", Chaincode: "kv", Version: "1",
		Args: [][]byte{[]byte("put"), []byte("a"), {0xff, 0}}, Transient: []string{"key", "price"}, Caller: id,
		Response: &peerpb.Response{Status: 200, Payload: []byte(`{"ok":true}`)},
		Event:    &peerpb.ChaincodeEvent{EventName: "moved", Payload: []byte("x")},
		Set: &wire.ReadWriteSet{Namespaces: []wire.NamespaceSet{{Namespace: "kv", KV: &kvrwsetpb.KVRWSet{
			Reads:          []*kvrwsetpb.KVRead{{Key: "a"}, {Key: "b", Version: &kvrwsetpb.Version{BlockNum: 3, TxNum: 1}}},
			Writes:         writes,
			MetadataWrites: []*kvrwsetpb.KVMetadataWrite{{Key: "a", Entries: []*kvrwsetpb.KVMetadataEntry{{Name: "VALIDATION_PARAMETER", Value: []byte("p")}}}},
		}}}},
	}
}

const header = "package strongroom.endorse\n\ndefault allow := false\n\n"

func TestRulesSeeTheProposal(t *testing.T) {
	id := caller(t)
	conditions := []string{
		`input.channel == "main"`, `input.tx_id == "t1"`, `input.chaincode == {"name": "kv", "version": "1"}`,
		`input.function == "put"`, `input.args == ["a", "/wA="]`, `input.binary_args == [1]`, `input.transient == ["key", "price"]`,
		`input.caller.mspid == "Org1MSP"`, `input.caller.name == "ann"`, `input.caller.role == "client"`,
		`input.response.status == 200`, `input.response.value.ok`, `input.event.name == "moved"`, `not input.event.json`, `input.event.size == 1`,
		`input.reads[0] == {"namespace": "kv", "key": "a", "version": null}`, `input.reads[1].version == {"block": 3, "tx": 1}`,
		`input.writes[0].value.amount == 12345678901234567890`, `input.writes[1].size == 5`, `not input.writes[1].json`,
		`input.writes[1].sha256 == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"`,
		`not input.writes[2].json`, `not input.writes[3].json`, `not input.writes[4].json`, `input.writes[5].is_delete`,
		`input.metadata_writes == [{"namespace": "kv", "key": "a", "names": ["VALIDATION_PARAMETER"], "endorsement": {"rule": "", "named": [], "needed": []}}]`,
		`count(input.private_writes) == 0`, `count(input.private_reads) == 0`, `count(input.range_reads) == 0`,
	}
	g := newGuard(t, nil, 0)
	p := proposal(id, write("a", `{"amount":12345678901234567890}`), write("b", "hello"), write("c", `{"amount":1,"amount":2}`),
		write("d", `{"amount":1} x`), write("e", `1e9999999`), &kvrwsetpb.KVWrite{Key: "f", IsDelete: true})
	for _, c := range conditions {
		replace(t, g, 0, header+"allow if {\n\t"+c+"\n}\n")
		if err := g.Check(t.Context(), p); err != nil {
			t.Errorf("%s does not hold: %v", c, err.(*endorsement.RefusedError).Reasons)
		}
	}
}

func TestSchemaKnowsEveryField(t *testing.T) {
	var schema struct {
		Properties map[string]json.RawMessage
		Required   []string
	}
	if err := json.Unmarshal(endorsement.InputSchema, &schema); err != nil {
		t.Fatal(err)
	}
	if len(schema.Properties) != len(schema.Required) {
		t.Errorf("%d properties, %d of them required", len(schema.Properties), len(schema.Required))
	}
	_, err := policy.ParseProgram(t.Context(), endorsement.Program(0), map[string][]byte{"guard.rego": []byte(header + "allow if input.write == []\n")})
	if err == nil || !strings.Contains(err.Error(), "guard.rego:5") {
		t.Errorf("a misspelt field: %v, want an error with its line", err)
	}
}

func TestRefusals(t *testing.T) {
	id := caller(t)
	tests := []struct {
		name, rego, client, log string
	}{
		{"nothing allows", header + "allow if input.channel == \"other\"\n", "endorsement refused: decision ", "no rule of strongroom.endorse allows it"},
		{"denied", header + "allow := true if input.channel == \"main\"\n\ndeny contains \"the secret limit\" if input.function == \"put\"\n", "endorsement refused: decision ", "the secret limit"},
		{"public", header + "deny contains \"the secret limit\" if input.function == \"put\"\n\npublic_reason contains \"ask your desk\" if input.function == \"put\"\n", "endorsement refused: ask your desk (decision ", "the secret limit"},
		{"error", header + "allow if to_number(input.function) > 3\n", "endorsement refused: decision ", "to_number"},
		{"contradiction", header + "allow if input.channel == \"main\"\n\nallow := false if input.function == \"put\"\n", "endorsement refused: decision ", "eval_conflict_error"},
		{"negated error", header + "allow if not bad\n\nbad if to_number(input.function) > 3\n", "endorsement refused: decision ", "to_number"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var log bytes.Buffer
			g := newGuard(t, &log, 0)
			replace(t, g, 0, test.rego)
			err := g.Check(t.Context(), proposal(id, write("a", "1")))
			var refused *endorsement.RefusedError
			if !errors.As(err, &refused) || !errors.Is(err, endorsement.ErrRefused) {
				t.Fatalf("error = %v", err)
			}
			if !strings.HasPrefix(err.Error(), test.client) || strings.Contains(err.Error(), "secret") {
				t.Errorf("the client reads %q, want %q", err, test.client)
			}
			if !strings.Contains(log.String(), test.log) || !strings.Contains(log.String(), refused.Decision) {
				t.Errorf("log = %s, want %q under %s", log.String(), test.log, refused.Decision)
			}
		})
	}
}

// TestRunaway gives rules that run for minutes: they are cut and refuse.
func TestRunaway(t *testing.T) {
	var cut int
	g, err := endorsement.New(endorsement.Config{Engine: engine(), Deadline: 50 * time.Millisecond, Observe: func(_, layer string, allowed bool, _ time.Duration) {
		if layer == policy.Cut && !allowed {
			cut++
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	replace(t, g, 50*time.Millisecond, header+`many := {sprintf("%d%s", [i, w.key]) | some w in input.writes; some i in [1, 2, 3, 4, 5, 6, 7, 8]}

allow if {
	count({[a, b, c, d] | some a in many; some b in many; some c in many; some d in many}) > 0
}
`)
	writes := make([]*kvrwsetpb.KVWrite, 50)
	for i := range writes {
		writes[i] = write(strings.Repeat("k", i+1), "1")
	}
	start := time.Now()
	if err := g.Check(t.Context(), proposal(caller(t), writes...)); !errors.Is(err, endorsement.ErrRefused) {
		t.Errorf("error = %v", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("cut after %s", took)
	}
	if cut != 1 {
		t.Errorf("%d decisions counted as cut", cut)
	}
}

func TestTooLarge(t *testing.T) {
	var log bytes.Buffer
	g := newGuard(t, &log, 0)
	replace(t, g, 0, header+"allow if input.channel == \"main\"\n")
	id := caller(t)
	if err := g.Check(t.Context(), proposal(id, write("a", strings.Repeat("x", 9<<20)))); !errors.Is(err, endorsement.ErrRefused) || !strings.Contains(log.String(), "too much to judge") {
		t.Errorf("error = %v, log %s", err, log.String())
	}
	if err := g.Check(t.Context(), proposal(nil)); !errors.Is(err, endorsement.ErrRefused) {
		t.Errorf("a proposal without caller: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Check(ctx, proposal(id)); !errors.Is(err, endorsement.ErrRefused) {
		t.Errorf("a context that ended: %v", err)
	}
}

func TestPublicReasonIsASet(t *testing.T) {
	_, err := policy.ParseProgram(t.Context(), endorsement.Program(0), map[string][]byte{"guard.rego": []byte(header + "public_reason := \"x\" if input.channel == \"main\"\n")})
	if err == nil || !strings.Contains(err.Error(), "public_reason must be a set") {
		t.Errorf("error = %v", err)
	}
}
