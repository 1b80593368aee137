package softhsmtests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	composed "strongroom/appliance"
	"strongroom/ledger"
)

// TestLedgerCare runs stats, verify and rebuild on a real peer's ledger: untouched it has
// no problem, and a flipped bit in each kind of file is named.
func TestLedgerCare(t *testing.T) {
	n := start(t)
	user := n.dialUser(t, "org1")
	for _, id := range []string{"care-1", "care-2", "care-3"} {
		if _, err := user.Submit(t.Context(), call("CreateAsset", id, "grey", "1", "Kay", "1")); err != nil {
			t.Fatal(err)
		}
	}
	var info struct{ Height uint64 }
	if err := json.Unmarshal([]byte(n.admin(t, "org1", "ledger", "info", "main", "--output", "json")), &info); err != nil {
		t.Fatal(err)
	}
	n.waitHeight(t, "org2", info.Height)
	org := filepath.Join(n.dir, "org2")
	on := func(command string, args ...string) []string {
		return append([]string{"ledger", command, "main", "--config", filepath.Join(org, "peer.yaml"), "--output", "json"}, args...)
	}
	for _, command := range []string{"stats", "verify", "rebuild"} {
		if out, err := n.try(on(command)...); err == nil || !strings.Contains(err.Error(), "stop the peer first") {
			t.Errorf("%s beside a running peer: %s, %v", command, out, err)
		}
	}
	n.stop(t, "peer0.org2")
	t.Cleanup(func() { n.run(t, "dev", "up", "--dir", n.dir) })

	var s ledger.Stats
	parseJSON(t, n.run(t, on("stats")...), &s)
	if s.Height < info.Height || s.Compressed != s.Height || s.Namespaces["asset"].Keys == 0 || s.Bytes == 0 {
		t.Errorf("%+v", s)
	}
	if out, err := n.try("ledger", "stats", "no-such-channel", "--config", filepath.Join(org, "peer.yaml")); err == nil {
		t.Errorf("stats of no channel: %s", out)
	}
	check := func() {
		t.Helper()
		var v composed.LedgerVerification
		parseJSON(t, n.run(t, on("verify")...), &v)
		if v.Height != s.Height || v.Signed != s.Height-1 || v.Statements != s.Height || v.Rows == 0 || len(v.Notes) > 0 {
			t.Errorf("%+v, %+v", v, v.Verification)
		}
	}
	check()
	if out := n.run(t, on("rebuild")...); !strings.Contains(out, `"height"`) {
		t.Error(out)
	}
	check()

	whole := filepath.Join(org, "data")
	for _, file := range []string{"channels/main/ledger/blocks/*.blocks", "channels/main/ledger/state/*.ldb", "channels/main/ledger/index/*.log",
		"channels/main/ledger/FORMAT", "channels/main/provenance/*.jsonl", "keyring/term-*1"} {
		copied := filepath.Join(t.TempDir(), "data")
		if err := os.CopyFS(copied, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		names, err := filepath.Glob(filepath.Join(copied, file))
		if err == nil && len(names) == 0 && strings.HasSuffix(file, ".ldb") {
			names, err = filepath.Glob(filepath.Join(copied, "channels/main/ledger/state/*.log"))
		}
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: %v", file, err)
		}
		raw, err := os.ReadFile(names[0])
		if err != nil {
			t.Fatal(err)
		}
		raw[len(raw)/2] ^= 1
		if err := os.WriteFile(names[0], raw, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := n.try(on("verify", "--data", copied)...)
		if err == nil || !strings.Contains(out+err.Error(), names[0]) {
			t.Errorf("%s: %s, %v", file, out, err)
		}
	}
}

func parseJSON(t *testing.T, s string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), into); err != nil {
		t.Fatalf("%v: %s", err, s)
	}
}
