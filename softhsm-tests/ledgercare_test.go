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
	for _, command := range []string{"verify", "rebuild"} {
		if out, err := n.try(on(command)...); err == nil || !strings.Contains(err.Error(), "stop the peer first") {
			t.Errorf("%s beside a running peer: %s, %v", command, out, err)
		}
	}
	var live ledger.Stats
	parseJSON(t, n.run(t, on("stats")...), &live)
	if live.Height < info.Height || live.Transactions == 0 {
		t.Errorf("%+v", live)
	}
	backup := filepath.Join(t.TempDir(), "backup")
	var made composed.Backup
	parseJSON(t, n.run(t, "ledger", "backup", backup, "--config", filepath.Join(org, "peer.yaml"), "--output", "json"), &made)
	if len(made.Channels) != 1 || made.Channels[0].Height < info.Height || made.Target != backup {
		t.Errorf("%+v", made)
	}
	for _, bad := range []string{backup, filepath.Join(org, "data", "copy")} {
		if out, err := n.try("ledger", "backup", bad, "--config", filepath.Join(org, "peer.yaml")); err == nil {
			t.Errorf("a backup to %s: %s", bad, out)
		}
	}
	// Blocks that the backup lacks, so that restoring it is a rollback.
	if _, err := user.Submit(t.Context(), call("CreateAsset", "care-4", "grey", "1", "Kay", "1")); err != nil {
		t.Fatal(err)
	}
	n.waitHeight(t, "org2", made.Channels[0].Height+1)

	n.stop(t, "peer0.org2")
	if out, err := n.try("ledger", "backup", backup+"2", "--config", filepath.Join(org, "peer.yaml")); err == nil || !strings.Contains(err.Error(), "copy the folder") {
		t.Errorf("a backup of a stopped peer: %s, %v", out, err)
	}
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

	var copied composed.LedgerVerification
	parseJSON(t, n.run(t, on("verify", "--data", backup)...), &copied)
	if copied.Height != made.Channels[0].Height || copied.Signed != copied.Height-1 {
		t.Errorf("%+v, %+v", copied, copied.Verification)
	}

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

	// Restored, the backup is older than the token remembers; accepted, the peer catches up.
	if err := os.RemoveAll(whole); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(whole, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	if _, err := n.try("dev", "up", "--dir", n.dir); err == nil || !strings.Contains(err.Error(), "the data folder is an older copy") {
		t.Errorf("the backup is taken for the newest: %v", err)
	}
	if out := n.run(t, "ledger", "accept-rollback", "main", "--config", filepath.Join(org, "peer.yaml")); !strings.Contains(out, "accepted") {
		t.Error(out)
	}
	n.run(t, "dev", "up", "--dir", n.dir)
	n.waitHeight(t, "org2", s.Height)
}

func parseJSON(t *testing.T, s string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), into); err != nil {
		t.Fatalf("%v: %s", err, s)
	}
}
