package appliance

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"strongroom/acl/endorsement"
	"strongroom/appliance/endorser"
	net "strongroom/appliance/endorser/endorsertest"
	"strongroom/policy"
	"strongroom/wire/peerpb"
)

// TestVeto has a peer of a network endorse under a team's Rego.
func TestVeto(t *testing.T) {
	var log bytes.Buffer
	engine, err := policy.NewEngine(policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	guard, err := endorsement.New(endorsement.Config{Engine: engine, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	n := net.Start(t, func(_ *net.Peer, cfg *endorser.Config) { cfg.Guard = vetoes{guard} }, "Org1MSP")
	n.Deploy(t, "kv")
	if err := guard.Load(t.Context(), "testdata/guard.rego"); err != nil {
		t.Fatal(err)
	}
	p := n.Peers[0]
	client := peerpb.NewEndorserClient(p.Conn)
	propose := func(args ...string) *peerpb.ProposalResponse {
		t.Helper()
		call := net.Call{Channel: net.ChannelID, Chaincode: "kv", Args: net.Args(args...)}
		resp, err := client.ProcessProposal(t.Context(), net.Propose(t, p.Client, call))
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	if resp := propose("put", "p1", `{"amount":100}`); resp.GetEndorsement() == nil {
		t.Errorf("a payment below the limit is not endorsed: %v", resp.GetResponse())
	}
	refused := propose("put", "p1", `{"amount":101}`)
	if m := refused.GetResponse().GetMessage(); refused.GetEndorsement() != nil || !strings.HasPrefix(m, "endorsement refused: above the limit (decision ") {
		t.Errorf("above the limit: %v", refused)
	}
	if !strings.Contains(log.String(), "kv writes 101 under p1") {
		t.Errorf("the log has no reason: %s", log.String())
	}
	log.Reset()
	silent := propose("put", "frozen", `{"amount":1}`)
	if m := silent.GetResponse().GetMessage(); silent.GetEndorsement() != nil || !strings.HasPrefix(m, "endorsement refused: decision ") || strings.Contains(m, "frozen") {
		t.Errorf("a frozen key: %v", silent)
	} else if id := strings.TrimPrefix(m, "endorsement refused: decision "); !strings.Contains(log.String(), "decision="+id) {
		t.Errorf("the log has nothing about %s: %s", id, log.String())
	}
	if resp := propose("put", "p1", "no JSON"); resp.GetEndorsement() != nil {
		t.Error("a value that the rules cannot read is endorsed")
	}
}
