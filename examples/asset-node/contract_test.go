// Package assetnode tests the JavaScript contract as it runs in production: the
// fabric-chaincode-node server of npm's fabric-shim, dialled by the peer's host.
package assetnode

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"strongroom/chaincode"
	"strongroom/chaincode/ccpackage"
	"strongroom/chaincode/chaincodetest"
)

func TestContract(t *testing.T) {
	install(t)
	chaincodetest.AssetContract(t, start(t))
}

// install gets the npm packages of package-lock.json unless they are there.
func install(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		t.Fatalf("node is needed (version 20 or later; Debian package nodejs): %v", err)
	}
	if _, err := os.Stat(filepath.Join("node_modules", "fabric-shim", "cli.js")); err == nil {
		return
	}
	if out, err := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts").CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
}

// start runs the contract and returns a peer that is connected to it.
func start(t *testing.T) *chaincodetest.Peer {
	t.Helper()
	address := freeAddress(t)
	cmd := exec.Command("node", filepath.Join("node_modules", "fabric-shim", "cli.js"), "server",
		"--chaincode-address", address, "--chaincode-id", chaincodetest.PackageID)
	var log lockedBuffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Env = append(os.Environ(), "CORE_CHAINCODE_LOGGING_LEVEL=WARN")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := chaincodetest.NewPeer(t, chaincode.Config{})
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Errorf("the contract ended by itself: %v", err)
		}
		_ = cmd.Wait() // killed: always an error
		if t.Failed() {
			t.Logf("the contract's log:\n%s", log.String())
		}
	})
	p.PackageID = chaincodetest.PackageID
	if err := p.Host.AddService(p.PackageID, chaincode.Connection{Address: address, DialTimeout: ccpackage.Duration(10 * time.Second)}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(60 * time.Second); ; {
		_, err := p.Evaluate("AssetExists", "x") // makes an attempt to connect
		if err == nil {
			return p
		}
		if time.Now().After(deadline) {
			t.Fatalf("the contract did not start: %v\n%s", err, log.String())
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return lis.Addr().String()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
