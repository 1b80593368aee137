package softhsmtests

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/wire/peerpb"
)

// TestGatewayClient runs the unmodified @hyperledger/fabric-gateway client against
// the network and its Go chaincode.
func TestGatewayClient(t *testing.T) {
	n := start(t)
	steps := node(t, "gateway-client", "scenario.mjs", n.gateway, filepath.Join(n.dir, "gateway-org2.json"))
	judge(t, steps)
}

// judge checks what the scenario saw.
func judge(t *testing.T, steps map[string][]json.RawMessage) {
	t.Helper()
	id := decode[struct{ ID string }](t, steps, "submit").ID
	asset := decode[struct{ Asset map[string]any }](t, steps, "evaluate").Asset
	if asset["ID"] != id || asset["Owner"] != "Ada" {
		t.Errorf("evaluate read %v", asset)
	}
	async := decode[struct {
		Successful bool
		Code       int
		Block      uint64
		TxID       string
	}](t, steps, "async")
	if !async.Successful || async.Code != 0 || async.Block == 0 || len(async.TxID) != 64 {
		t.Errorf("asynchronous submit: %+v", async)
	}
	if h := decode[struct{ Entries int }](t, steps, "history"); h.Entries != 2 {
		t.Errorf("history has %d entries, want 2", h.Entries)
	}
	if r := string(steps["range"][0]); !strings.Contains(r, id) {
		t.Errorf("range query does not find %s: %s", id, r)
	}
	if q := decode[struct{ Found []string }](t, steps, "query"); !slices.Equal(q.Found, []string{id}) {
		t.Errorf("rich query found %q, want %s", q.Found, id)
	}
	if d := decode[struct{ Digest int }](t, steps, "offline"); d.Digest != 64 {
		t.Errorf("digest for offline signing has %d hex digits", d.Digest)
	}
	failure := decode[struct {
		Refused, Endorse, Gateway bool
		Code                      int
		Message                   string
		Details                   []struct{ Address, MspID, Message string }
	}](t, steps, "failure")
	if !failure.Refused || !failure.Endorse || failure.Code != 10 || len(failure.Details) == 0 ||
		!strings.Contains(failure.Details[0].Message, "already exists") {
		t.Errorf("a refused transaction does not tell its developer why: %+v", failure)
	}
	conflict := decode[struct{ Codes []int32 }](t, steps, "conflict")
	want := []int32{int32(peerpb.TxValidationCode_VALID), int32(peerpb.TxValidationCode_MVCC_READ_CONFLICT)}
	if fmt.Sprint(conflict.Codes) != fmt.Sprint(want) {
		t.Errorf("two transactions on one version have codes %v, want %v", conflict.Codes, want)
	}
	if len(steps["event"]) != 2 || !strings.Contains(string(steps["event"][0]), id) || !strings.Contains(string(steps["event"][1]), async.TxID) {
		t.Errorf("chaincode events: %s", steps["event"])
	}
	if b := decode[struct{ Transactions int }](t, steps, "block"); b.Transactions == 0 {
		t.Error("block event without transactions")
	}
	filtered := decode[struct {
		Channel string
		Code    int
		HasTxID bool
	}](t, steps, "filtered")
	if filtered.Channel != "main" || filtered.Code != 0 || !filtered.HasTxID {
		t.Errorf("filtered block event: %+v", filtered)
	}
}

// TestNodeContract runs an unmodified fabric-contract-api contract as a chaincode
// service, and the same scenario on it.
func TestNodeContract(t *testing.T) {
	n := start(t)
	folder := npm(t, "../examples/asset-node")
	address := freeAddress(t)

	archive := filepath.Join(t.TempDir(), "nodeasset.tar.gz")
	n.run(t, "chaincode", "package", "--label", "nodeasset_1.0", "--address", address, "--out", archive)
	var id string
	for _, org := range []string{"org1", "org2"} {
		id = n.admin(t, org, "chaincode", "install", archive)
	}
	service := exec.Command("node", filepath.Join(folder, "node_modules", ".bin", "fabric-chaincode-node"), "server",
		"--chaincode-address", address, "--chaincode-id", id)
	service.Dir = folder
	log, err := os.Create(filepath.Join(t.TempDir(), "node.log"))
	if err != nil {
		t.Fatal(err)
	}
	service.Stdout, service.Stderr = log, log
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		service.Process.Kill()
		service.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("the chaincode's log:\n%s", text)
		}
	})
	waitFor(t, address)

	definition := []string{"--channel", "main", "--name", "nodeasset", "--version", "1.0", "--sequence", "1",
		"--endorsement", "AND('Org1MSP.peer','Org2MSP.peer')"}
	for _, org := range []string{"org1", "org2"} {
		n.admin(t, org, append([]string{"chaincode", "approve", "--package-id", id}, definition...)...)
	}
	n.admin(t, "org1", append([]string{"chaincode", "commit", "--organizations", "Org1MSP,Org2MSP"}, definition...)...)

	judge(t, node(t, "gateway-client", "scenario.mjs", forChaincode(t, n, "org1", "nodeasset"), forChaincode(t, n, "org2", "nodeasset")))
}

// forChaincode writes a copy of a gateway file that names another chaincode.
func forChaincode(t *testing.T, n network, org, chaincode string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(n.dir, "gateway-"+org+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]string
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	c["chaincode"] = chaincode
	if data, err = json.Marshal(c); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), org+".json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// waitFor returns once something answers at the address.
func waitFor(t *testing.T, address string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing answers at %s: %v", address, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
