package softhsmtests

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"strongroom/cmd/strongroom/devnet"
)

// functionLayer is a security team's own Rego: nobody but administrators deletes.
const functionLayer = `package strongroom.acl.function

default allow := false

allow if count(deny) == 0

deny contains "only administrators delete assets" if {
	input.chaincode == "asset"
	input.function == "DeleteAsset"
	input.caller.role != "admin"
}
`

// appliance is one process that is peer and ordering node at once.
type appliance struct {
	network
	process *devnet.Process
	admin   string // configuration of an administrator
}

// startAppliance starts one on a token and with an MSP of the shared network.
func startAppliance(t *testing.T, n network, channel string) *appliance {
	t.Helper()
	return startApplianceWith(t, n, channel, func(configuration string) string { return configuration })
}

// startApplianceWith is startAppliance with a change of the configuration's text.
func startApplianceWith(t *testing.T, n network, channel string, change func(string) string) *appliance {
	t.Helper()
	dir := t.TempDir()
	org1 := filepath.Join(n.dir, "org1")
	port, ops := freeAddress(t), freeAddress(t)

	// The token remembers the height of each channel's ledger: a name for each test.
	description := fmt.Sprintf(`channel: %s
organizations:
  - name: Org1MSP
    mspID: Org1MSP
    mspDir: %s
    policies:
      Readers: "OR('Org1MSP.member')"
      Writers: "OR('Org1MSP.member')"
      Admins: "OR('Org1MSP.admin')"
      Endorsement: "OR('Org1MSP.peer')"
    ordererEndpoints: [%q]
orderer:
  batchTimeout: 100ms
  organizations: [Org1MSP]
application:
  organizations: [Org1MSP]
`, channel, filepath.Join(org1, "msp"), port)
	write(t, filepath.Join(dir, "solo.yaml"), []byte(description))
	genesis := filepath.Join(dir, "solo.block")
	n.run(t, "channel", "genesis", "--description", filepath.Join(dir, "solo.yaml"), "--out", genesis)
	write(t, filepath.Join(dir, "function.rego"), []byte(functionLayer))

	original, err := os.ReadFile(filepath.Join(org1, "peer.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := absolute(org1, string(original))
	text = regexp.MustCompile(`listen:\n  address: .*`).ReplaceAllString(text, "listen:\n  address: "+port)
	text = operationsAddress.ReplaceAllString(text, "operations:\n  address: "+ops+"\n")
	text = strings.Replace(text, "data: data", "data: "+filepath.Join(dir, "data"), 1)
	text += fmt.Sprintf("ordering: {embedded: true, genesis: [%s]}\npolicy: {layers: {function: %s}}\nlog: {format: json}\n",
		genesis, filepath.Join(dir, "function.rego"))
	write(t, filepath.Join(dir, "peer.yaml"), []byte(change(text)))

	admin, err := os.ReadFile(filepath.Join(org1, "admin.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text = absolute(org1, string(admin))
	text = regexp.MustCompile(`peer:\n  address: .*`).ReplaceAllString(text, "peer:\n  address: "+port)
	a := &appliance{network: n, admin: filepath.Join(dir, "admin.yaml")}
	write(t, a.admin, []byte(text))

	log := filepath.Join(dir, "log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(n.bin, "strongroom"), "peer", "--config", filepath.Join(dir, "peer.yaml"))
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a.process = &devnet.Process{Name: "appliance", PID: cmd.Process.Pid, Log: log, Health: "http://" + ops + "/healthz"}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the appliance does not stop gracefully: %v", err)
		}
		if t.Failed() {
			text, _ := os.ReadFile(log)
			t.Logf("its log:\n%s", text)
		}
	})
	a.waitReady(t)
	n.run(t, "channel", "join", "--config", a.admin, "--genesis", genesis)
	a.waitReady(t)
	return a
}

// absolute makes the relative paths of a development configuration absolute.
func absolute(dir, text string) string {
	text = strings.ReplaceAll(text, "{file: ", "{file: "+dir+"/")
	for _, field := range []string{"msp: ", "certificate: ", "tlsCertificate: ", "tlsCACert: "} {
		text = regexp.MustCompile(`(?m)^(  `+field+`)([^/\n])`).ReplaceAllString(text, "${1}"+dir+"/$2")
	}
	return text
}

func (a *appliance) waitReady(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		err := a.process.Ready(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(a.process.Log)
			t.Fatalf("not ready: %v\n%s", err, log)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// TestOneProcess runs peer and ordering service in one process, does business in it
// under a team's own Rego, and finds the reason of a denial in the log alone.
func TestOneProcess(t *testing.T) {
	n := start(t)
	a := startAppliance(t, n, "solo")

	asset := a.deployAsset(t, "solo")
	if _, err := asset("invoke", `["CreateAsset","one","blue","1","Ada","5"]`); err != nil {
		t.Fatal(err)
	}
	if out, err := asset("query", `["ReadAsset","one"]`); err != nil || !strings.Contains(out, "Ada") {
		t.Fatalf("%s %v", out, err)
	}

	// The application user may read but not delete; the administrator may.
	u := n.dialUser(t, "org1")
	inv := call("DeleteAsset", "one")
	inv.Channel = "solo"
	elsewhere := u.at(t, a.listen(t), filepath.Join(n.dir, "org1", "msp", "tlscacerts", "tlsca.pem"))
	_, err := elsewhere.Submit(t.Context(), inv)
	if err == nil || !strings.Contains(err.Error(), "access denied") {
		t.Errorf("a user deletes: %v", err)
	}
	if err != nil && strings.Contains(err.Error(), "only administrators") {
		t.Errorf("the caller reads the reason: %v", err)
	}
	log, readErr := os.ReadFile(a.process.Log)
	if readErr != nil {
		t.Fatal(readErr)
	}
	if !strings.Contains(string(log), "only administrators delete assets") {
		t.Error("the log does not say why")
	}
	if _, err := asset("invoke", `["DeleteAsset","one"]`); err != nil {
		t.Errorf("the administrator deletes: %v", err)
	}
}

// deployAsset runs the example chaincode on a channel of the appliance, and returns how
// to invoke and query it.
func (a *appliance) deployAsset(t *testing.T, channel string) func(verb, args string) (string, error) {
	t.Helper()
	n := a.network
	address := freeAddress(t)
	archive := filepath.Join(t.TempDir(), "asset.tar.gz")
	n.run(t, "chaincode", "package", "--label", "asset_1.0", "--address", address, "--out", archive)
	id := n.run(t, "chaincode", "install", archive, "--config", a.admin)
	chaincode := exec.Command(filepath.Join(n.bin, "asset-go"))
	chaincode.Env = append(os.Environ(), "CHAINCODE_SERVER_ADDRESS="+address, "CORE_CHAINCODE_ID_NAME="+id)
	if err := chaincode.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		chaincode.Process.Kill()
		chaincode.Wait()
	})
	waitFor(t, address)
	definition := []string{"--channel", channel, "--name", "asset", "--config", a.admin}
	n.run(t, append([]string{"chaincode", "approve", "--package-id", id}, definition...)...)
	n.run(t, append([]string{"chaincode", "commit"}, definition...)...)
	return func(verb, args string) (string, error) {
		return n.try("chaincode", verb, "--channel", channel, "--name", "asset", "--config", a.admin, "--args", args)
	}
}

// TestHealthNamesTheOrderer stops the ordering node: a peer's health says so and
// comes back with it.
func TestHealthNamesTheOrderer(t *testing.T) {
	n := start(t)
	net := n.load(t)
	orderer, err := net.Find("orderer0.orderer")
	if err != nil {
		t.Fatal(err)
	}
	peer, err := net.Find("peer0.org1")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(orderer.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	defer n.run(t, "dev", "up", "--dir", n.dir)
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := peer.Ready(t.Context())
		if err != nil && strings.Contains(err.Error(), "channel main") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the orderer is gone, and the peer's health says %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	n.run(t, "dev", "up", "--dir", n.dir)
	for peer.Ready(t.Context()) != nil {
		if time.Now().After(deadline) {
			t.Fatalf("the orderer is back, and the peer's health says %v", peer.Ready(t.Context()))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestHealthNamesTheHSM takes the token's files away from a running node: its health
// names the HSM, and comes back with them.
func TestHealthNamesTheHSM(t *testing.T) {
	n := start(t)
	a := startAppliance(t, n, "watched")
	tokens := filepath.Join(n.dir, "org1", "tokens")
	if err := os.Rename(tokens, tokens+".gone"); err != nil {
		t.Fatal(err)
	}
	restored := false
	restore := func() {
		if !restored {
			restored = true
			if err := os.Rename(tokens+".gone", tokens); err != nil {
				t.Error(err)
			}
		}
	}
	defer restore()
	err := a.process.Ready(t.Context())
	restore()
	if err == nil || !strings.Contains(err.Error(), `"hsm"`) {
		t.Errorf("the token is gone, and health says %v", err)
	}
}

// listen is the appliance's gRPC address.
func (a *appliance) listen(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(a.admin)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`peer:\n  address: (.*)`).FindSubmatch(text)
	if _, _, err := net.SplitHostPort(string(m[1])); err != nil {
		t.Fatal(err)
	}
	return string(m[1])
}
