package softhsmtests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestShred destroys the keys of a chaincode's namespace on one peer: its values are
// gone there, commits go on, a copy of its data from before is
// refused, and the network goes on.
func TestShred(t *testing.T) {
	n := start(t)
	const peer = "peer0.org2"
	user := n.dialUser(t, "org1")
	create := func(id string) {
		t.Helper()
		if _, err := user.Submit(t.Context(), call("CreateAsset", id, "grey", "1", "Kay", "1")); err != nil {
			t.Fatal(err)
		}
	}
	create("shred-1")
	config := filepath.Join(n.dir, "org2", "peer.yaml")
	data := filepath.Join(n.dir, "org2", "data")
	shred := []string{"ledger", "shred", "main", "asset", "--config", config, "--output", "json"}
	if _, err := n.try(shred...); err == nil || !strings.Contains(err.Error(), "stop the peer first") {
		t.Errorf("beside a running peer: %v", err)
	}
	n.stop(t, peer)
	older := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(older, os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	if _, err := n.try(shred...); err == nil || !strings.Contains(err.Error(), "nothing was destroyed") || !strings.Contains(err.Error(), "--confirm main/asset") {
		t.Errorf("without confirmation: %v", err)
	}
	if _, err := n.try("ledger", "shred", "main", "_lifecycle", "--config", config, "--confirm", "main/_lifecycle"); err == nil || !strings.Contains(err.Error(), "belongs to the system") {
		t.Errorf("the system's namespace: %v", err)
	}
	if _, err := n.try("ledger", "shred", "main", "nothing", "--config", config); err == nil || !strings.Contains(err.Error(), "correct the name") {
		t.Errorf("a namespace that is not there: %v", err)
	}
	var done struct {
		Keys      uint64
		Record    struct{ Keys int }
		Statement string
	}
	if err := json.Unmarshal([]byte(n.run(t, append(shred, "--confirm", "main/asset")...)), &done); err != nil || done.Keys == 0 || done.Record.Keys == 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	if b, err := os.ReadFile(done.Statement); err != nil || !strings.Contains(string(b), "dsseEnvelope") {
		t.Errorf("statement is %q, %v", b, err)
	}
	if out := n.run(t, "policy", "log", "export", "--config", config, "--format", "records"); !strings.Contains(out, `"namespace.shred"`) {
		t.Error("the audit log does not have it")
	}
	if out := n.run(t, "ledger", "stats", "main", "--config", config, "--output", "json"); !strings.Contains(out, `"shredded"`) {
		t.Errorf("stats are %s", out)
	}
	// A copy of the data folder from before is refused: it has the keys.
	newer := filepath.Join(t.TempDir(), "data")
	if err := os.Rename(data, newer); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(data, os.DirFS(older)); err != nil {
		t.Fatal(err)
	}
	if _, err := n.try("dev", "up", "--dir", n.dir); err == nil || !strings.Contains(err.Error(), "from before a namespace was shredded") {
		t.Fatalf("an older copy: %v", err)
	}
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(newer, data); err != nil {
		t.Fatal(err)
	}
	// The peer starts again and follows the channel.
	n.run(t, "dev", "up", "--dir", n.dir)
	org2 := n.dialUser(t, "org2")
	if got, err := org2.Evaluate(t.Context(), call("ReadAsset", "shred-1")); err == nil || !strings.Contains(err.Error(), "shredded") {
		t.Errorf("a value that is gone: %s, %v", got, err)
	}
	if _, err := user.Evaluate(t.Context(), call("ReadAsset", "shred-1")); err != nil {
		t.Errorf("the value on the other peer: %v", err)
	}
	create("shred-2")
	var info struct{ Height uint64 }
	if err := json.Unmarshal([]byte(n.admin(t, "org1", "ledger", "info", "main", "--output", "json")), &info); err != nil {
		t.Fatal(err)
	}
	n.waitHeight(t, "org2", info.Height)
	if got, err := org2.Evaluate(t.Context(), call("ReadAsset", "shred-2")); err != nil || !strings.Contains(string(got), "shred-2") {
		t.Errorf("a value that came later: %s, %v", got, err)
	}
}

// TestRewrap puts a peer's data keys under a new wrapping key of its token: with the old
// label the peer refuses to start, with the new one it reads everything.
func TestRewrap(t *testing.T) {
	n := start(t)
	const peer = "peer0.org2"
	if _, err := n.dialUser(t, "org1").Submit(t.Context(), call("CreateAsset", "rewrap-1", "grey", "1", "Kay", "1")); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(n.dir, "org2", "peer.yaml")
	rewrap := []string{"token", "rewrap", "--config", config, "--to", "second-kek"}
	if _, err := n.try(rewrap...); err == nil || !strings.Contains(err.Error(), "stop the node first") {
		t.Errorf("beside a running peer: %v", err)
	}
	n.stop(t, peer)
	if out := n.run(t, rewrap...); !strings.Contains(out, "data keys") {
		t.Errorf("rewrapping: %s", out)
	}
	if out := n.run(t, rewrap...); !strings.Contains(out, "nothing to wrap") {
		t.Errorf("a second time: %s", out)
	}
	if _, err := n.try("dev", "up", "--dir", n.dir); err == nil || !strings.Contains(err.Error(), "data key is wrapped by another wrapping key") {
		t.Errorf("with the old wrapping key: %v", err)
	}
	change := func(from, to string) {
		t.Helper()
		b, err := os.ReadFile(config)
		if err != nil || !strings.Contains(string(b), "wrappingKey: "+from+"\n") {
			t.Fatalf("%s, %v", b, err)
		}
		if err := os.WriteFile(config, []byte(strings.Replace(string(b), "wrappingKey: "+from+"\n", "wrappingKey: "+to+"\n", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	change("strongroom-kek", "second-kek")
	n.run(t, "dev", "up", "--dir", n.dir)
	if got, err := n.dialUser(t, "org2").Evaluate(t.Context(), call("ReadAsset", "rewrap-1")); err != nil || !strings.Contains(string(got), "rewrap-1") {
		t.Errorf("%s, %v", got, err)
	}
	// The other tests find the wrapping key under its first label.
	n.stop(t, peer)
	n.run(t, "token", "rewrap", "--config", config, "--to", "strongroom-kek")
	change("second-kek", "strongroom-kek")
	n.run(t, "dev", "up", "--dir", n.dir)
}
