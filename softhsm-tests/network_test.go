// Package softhsmtests runs whole Strongroom networks on SoftHSM: real processes,
// real tokens, Fabric's own Node SDK and chaincode library. Nothing in here can
// skip itself; what a machine lacks is an error that names it.
package softhsmtests

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"strongroom/cmd/strongroom/devnet"
)

// network is one development network, shared by the tests of this package.
type network struct {
	dir     string // the network's folder
	bin     string // the folder of the binaries
	gateway string // gateway-org1.json
}

var (
	shared     network
	sharedErr  error
	sharedOnce sync.Once
)

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.dir != "" {
		if n, err := devnet.Load(shared.dir); err == nil {
			if err := n.Down(context.Background()); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}
		os.RemoveAll(filepath.Dir(shared.dir))
	}
	os.Exit(code)
}

// start brings the shared network up, once.
func start(t *testing.T) network {
	t.Helper()
	sharedOnce.Do(func() {
		root, err := os.MkdirTemp("", "strongroom-test-")
		if err != nil {
			sharedErr = err
			return
		}
		shared = network{dir: filepath.Join(root, "net"), bin: filepath.Join(root, "bin")}
		shared.gateway = filepath.Join(shared.dir, "gateway-org1.json")
		if out, err := exec.Command("go", "build", "-o", shared.bin+"/", "strongroom/cmd/strongroom", "strongroom/cmd/strongroom-audit", "strongroom/examples/asset-go").CombinedOutput(); err != nil {
			sharedErr = fmt.Errorf("build: %w\n%s", err, out)
			return
		}
		_, sharedErr = shared.try("dev", "up", "--dir", shared.dir, "--base-port", "0")
	})
	if sharedErr != nil {
		t.Fatal(sharedErr)
	}
	return shared
}

// try runs a strongroom command and returns its output.
func (n network) try(args ...string) (string, error) {
	return command(exec.Command(filepath.Join(n.bin, "strongroom"), args...))
}

// run is try for a command that must succeed.
func (n network) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := n.try(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// admin runs a command as an organisation's administrator.
func (n network) admin(t *testing.T, org string, args ...string) string {
	t.Helper()
	return n.run(t, append(args, "--config", filepath.Join(n.dir, org, "admin.yaml"))...)
}

func command(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(cmd.Args, " "), err, stdout.String(), stderr.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}

// load reads the network's description.
func (n network) load(t *testing.T) *devnet.Network {
	t.Helper()
	net, err := devnet.Load(n.dir)
	if err != nil {
		t.Fatal(err)
	}
	return net
}

// npm installs a folder's locked packages, if they are not there, and returns the
// folder's absolute path.
func npm(t *testing.T, folder string) string {
	t.Helper()
	dir, err := filepath.Abs(folder)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", ".package-lock.json")); err == nil {
		return dir
	}
	cmd := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = dir
	if _, err := command(cmd); err != nil {
		t.Fatalf("Node and npm are needed for the tests with Fabric's own client (apt-get install nodejs npm): %v", err)
	}
	return dir
}

// node runs a script of a folder and returns the JSON objects it printed, by step.
func node(t *testing.T, folder, script string, args ...string) map[string][]json.RawMessage {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", append([]string{script}, args...)...)
	cmd.Dir = npm(t, folder)
	out, err := command(cmd)
	if err != nil {
		t.Fatal(err)
	}
	steps := map[string][]json.RawMessage{}
	for _, line := range strings.Split(out, "\n") {
		var step struct{ Step string }
		if err := json.Unmarshal([]byte(line), &step); err != nil {
			t.Fatalf("%s printed %q: %v", script, line, err)
		}
		steps[step.Step] = append(steps[step.Step], json.RawMessage(line))
	}
	return steps
}

// decode reads the one object of a step.
func decode[T any](t *testing.T, steps map[string][]json.RawMessage, step string) T {
	t.Helper()
	var into T
	if len(steps[step]) != 1 {
		t.Fatalf("step %q happened %d times, want once; steps: %v", step, len(steps[step]), steps)
	}
	if err := json.Unmarshal(steps[step][0], &into); err != nil {
		t.Fatal(err)
	}
	return into
}
