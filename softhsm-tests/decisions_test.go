package softhsmtests

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/acl/decisions"
	"strongroom/ledger/auditlog"
)

// TestDecisionLog reads the audit logs of a running peer and of the ordering node.
func TestDecisionLog(t *testing.T) {
	n := start(t)
	user := n.dialUser(t, "org1")
	if _, err := user.Submit(t.Context(), call("CreateAsset", "logged-1", "grey", "1", "Kay", "1")); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string][]string{
		"org1/peer.yaml": {"node.start", "policy.in-force", "channel.join", "chaincode.install", "chaincode.approve", "chaincode.commit",
			"peer/Propose", "gateway/CommitStatus", "cscc/JoinChain"},
		"orderer/orderer.yaml": {"node.start", "orderer/Broadcast", "orderer/Deliver"},
	} {
		out := n.run(t, "policy", "log", "export", "--format", "records", "--config", filepath.Join(n.dir, file))
		seen := map[string]int{}
		var chain auditlog.Chain
		for line := range strings.Lines(out) {
			r, err := chain.Add([]byte(strings.TrimSuffix(line, "\n")))
			if err != nil {
				t.Fatal(err)
			}
			if r.Act != nil {
				seen[r.Act.Name]++
				continue
			}
			var e struct {
				Path   string
				Input  struct{ Resource string }
				Result decisions.Result
			}
			if err := json.Unmarshal(r.Decision, &e); err != nil {
				t.Fatalf("%v in %s", err, line)
			}
			seen[e.Input.Resource]++
			if e.Path != decisions.AccessPath || len(e.Result.Layers) == 0 {
				t.Errorf("%s", line)
			}
		}
		for _, name := range want {
			if seen[name] == 0 {
				t.Errorf("%s: the log has no %s, but %v", file, name, seen)
			}
		}
	}
}
