package softhsmtests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stop ends a process of the network in good order.
func (n network) stop(t *testing.T, name string) {
	t.Helper()
	p, err := n.load(t).Find(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(p.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); p.Running(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not stop", name)
		}
	}
}

// TestRollbackRefused puts an older copy of a peer's ledger back: the peer refuses to
// start and names both heights, until the rollback is accepted; then it catches up.
func TestRollbackRefused(t *testing.T) {
	n := start(t)
	const peer = "peer0.org2"
	user := n.dialUser(t, "org1")
	create := func(id string) {
		t.Helper()
		if _, err := user.Submit(t.Context(), call("CreateAsset", id, "grey", "1", "Kay", "1")); err != nil {
			t.Fatal(err)
		}
	}
	create("rollback-1")
	n.stop(t, peer)
	data := filepath.Join(n.dir, "org2", "data", "channels", "main", "ledger")
	old := filepath.Join(t.TempDir(), "ledger")
	if err := os.CopyFS(old, os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	n.run(t, "dev", "up", "--dir", n.dir)
	create("rollback-2")
	create("rollback-3")
	var info struct{ Height uint64 }
	if err := json.Unmarshal([]byte(n.admin(t, "org1", "ledger", "info", "main", "--output", "json")), &info); err != nil {
		t.Fatal(err)
	}
	n.waitHeight(t, "org2", info.Height)
	accept := []string{"ledger", "accept-rollback", "main", "--config", filepath.Join(n.dir, "org2", "peer.yaml")}
	if out, err := n.try(accept...); err == nil || !strings.Contains(err.Error(), "stop the peer first") {
		t.Errorf("accepting beside a running peer: %s, %v", out, err)
	}
	n.stop(t, peer)
	if out := n.run(t, accept...); !strings.Contains(out, "nothing to accept") {
		t.Errorf("accepting what is not behind: %s", out)
	}
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(data, os.DirFS(old)); err != nil {
		t.Fatal(err)
	}
	_, err := n.try("dev", "up", "--dir", n.dir)
	if err == nil || !strings.Contains(err.Error(), "the data folder is an older copy: the ledger has ") ||
		!strings.Contains(err.Error(), "the token remembers ") || !strings.Contains(err.Error(), "accept-rollback main") {
		t.Fatalf("an older copy: %v", err)
	}
	if out := n.run(t, accept...); !strings.Contains(out, "accepted") || !strings.Contains(out, "remembered, found, time") {
		t.Errorf("accepting: %s", out)
	}
	n.run(t, "dev", "up", "--dir", n.dir)
	n.waitHeight(t, "org2", info.Height)
}

// waitHeight waits until an organisation's peer has so many blocks.
func (n network) waitHeight(t *testing.T, org string, height uint64) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		var info struct{ Height uint64 }
		if err := json.Unmarshal([]byte(n.admin(t, org, "ledger", "info", "main", "--output", "json")), &info); err != nil {
			t.Fatal(err)
		}
		if info.Height >= height {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s has %d blocks, want %d", org, info.Height, height)
		}
	}
}

// TestOrderingRollbackRefused does the same to the ordering node, which would fork the
// channel: it refuses to start on an older copy of its log.
func TestOrderingRollbackRefused(t *testing.T) {
	n := start(t)
	const orderer = "orderer0.orderer"
	user := n.dialUser(t, "org1")
	create := func(id string) {
		t.Helper()
		if _, err := user.Submit(t.Context(), call("CreateAsset", id, "grey", "1", "Kay", "1")); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(n.dir, "orderer", "orderer.yaml")
	accept := []string{"ledger", "accept-rollback", "main", "--ordering", "--config", config}
	if out, err := n.try(accept...); err == nil || !strings.Contains(err.Error(), "stop the peer first") {
		t.Errorf("accepting beside a running node: %s, %v", out, err)
	}
	create("fork-1")
	n.stop(t, orderer)
	data := filepath.Join(n.dir, "orderer", "data", "ordering")
	kept := t.TempDir()
	move := func(to, from string) {
		t.Helper()
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	move(filepath.Join(kept, "old"), data)
	n.run(t, "dev", "up", "--dir", n.dir)
	create("fork-2")
	n.stop(t, orderer)
	move(filepath.Join(kept, "new"), data)
	if out := n.run(t, accept...); !strings.Contains(out, "nothing to accept") {
		t.Errorf("accepting what is not behind: %s", out)
	}
	move(data, filepath.Join(kept, "old"))
	_, err := n.try("dev", "up", "--dir", n.dir)
	if err == nil || !strings.Contains(err.Error(), "the data folder is an older copy: the log has ") || !strings.Contains(err.Error(), "accept-rollback main --ordering") {
		t.Fatalf("an older copy: %v", err)
	}
	move(data, filepath.Join(kept, "new"))
	n.run(t, "dev", "up", "--dir", n.dir)
	create("fork-3")
}
