package softhsmtests

import (
	"encoding/json"
	"os"
	"os/exec"
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

// TestDecisionTools verifies a slice of a running peer's log as an auditor does, explains
// one of its decisions, and shows what other rules would change.
func TestDecisionTools(t *testing.T) {
	n := start(t)
	user := n.dialUser(t, "org1")
	if _, err := user.Submit(t.Context(), call("CreateAsset", "logged-2", "grey", "1", "Kay", "1")); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(n.dir, "org1", "peer.yaml")
	dir := t.TempDir()
	slice := filepath.Join(dir, "slice.jsonl")
	n.run(t, "policy", "log", "export", "--salts", "--config", config, "--out", slice)
	audit := func(args ...string) (string, error) {
		return command(exec.Command(filepath.Join(n.bin, "strongroom-audit"), append([]string{"decisions"}, args...)...))
	}
	signer := filepath.Join(n.dir, "org1", "identities", "peer0.pem")
	out, err := audit(slice, "--signer", signer, "--output", "json")
	var report struct {
		Records, LogSize uint64
		Allowed          int
		InputHashes      int
		Acts             map[string]int
		Findings         []string
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), &report)
	}
	if err != nil || report.Records == 0 || report.Allowed == 0 || report.InputHashes < report.Allowed || report.Acts["channel.join"] != 1 {
		t.Fatalf("%s\n%v", out, err)
	}
	if _, err := audit(slice, "--signer", filepath.Join(n.dir, "org2", "identities", "peer0.pem")); err == nil || !strings.Contains(err.Error(), "not the log of the key") {
		t.Errorf("another signer: %v", err)
	}
	whole, err := os.ReadFile(slice)
	if err != nil {
		t.Fatal(err)
	}
	for title, tc := range map[string][3]string{
		"an actor":   {`"name":"channel.join"`, `"name":"channel.jump"`, "was changed or put elsewhere"},
		"a verdict":  {`"allow":true`, `"allow":false`, "was changed or put elsewhere"},
		"a salt":     {`"salt":"`, `"salt":"00`, "the hash of its input is not"},
		"the number": {`{"record":3,`, `{"record":4,`, "records are missing"},
	} {
		changed := filepath.Join(dir, "changed.jsonl")
		if err := os.WriteFile(changed, []byte(strings.Replace(string(whole), tc[0], tc[1], 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := audit(changed); err == nil || !strings.Contains(err.Error(), tc[2]) {
			t.Errorf("%s: %s\n%v", title, out, err)
		}
	}

	var id string
	for line := range strings.Lines(string(whole)) {
		if r, err := auditlog.ParseRecord([]byte(strings.TrimSpace(line))); err == nil && r.Kind() == auditlog.Decision {
			d, err := decisions.Parse(r.Decision)
			if err != nil {
				t.Fatal(err)
			}
			id = d.ID
		}
	}
	if out := n.run(t, "policy", "explain", id, "--config", config); !strings.Contains(out, "verdict") || !strings.Contains(out, `"resource"`) {
		t.Errorf("explain: %s", out)
	}
	if out, err := n.try("policy", "explain", "none", "--config", config); err == nil || !strings.Contains(err.Error(), "has no decision") {
		t.Errorf("explain of nothing: %s %v", out, err)
	}
	rules := filepath.Join(dir, "rules")
	if err := os.Mkdir(rules, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(source string) {
		if err := os.WriteFile(filepath.Join(rules, "function.rego"), []byte("package strongroom.acl.function\n\ndefault allow := false\n\n"+source), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var simulated struct {
		Decisions int
		Changes   []struct{ After struct{ Layer string } }
		Skipped   map[string]int
	}
	simulate := func() {
		simulated.Changes = nil
		if err := json.Unmarshal([]byte(n.run(t, "policy", "simulate", rules, "--config", config, "--output", "json")), &simulated); err != nil {
			t.Fatal(err)
		}
	}
	write("allow if true\n")
	if simulate(); simulated.Decisions == 0 || len(simulated.Changes) != 0 || len(simulated.Skipped) != 0 {
		t.Errorf("rules that allow all change %+v", simulated)
	}
	open := filepath.Join(dir, "open")
	if err := os.CopyFS(open, os.DirFS(rules)); err != nil {
		t.Fatal(err)
	}
	write("allow if input.function != \"CreateAsset\"\n")
	if simulate(); len(simulated.Changes) == 0 || simulated.Changes[0].After.Layer != "function" {
		t.Errorf("rules that refuse CreateAsset change %+v", simulated)
	}
	if out := n.run(t, "policy", "diff", open, rules, "--config", config); !strings.Contains(out, "- function.rego:5") || !strings.Contains(out, "+ function.rego:5") || !strings.Contains(out, "allowed → denied function") {
		t.Errorf("diff: %s", out)
	}
}
