package softhsmtests

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"strongroom/appliance/client"
	"strongroom/softhsm-tests/faulty"
	"strongroom/wire/commonpb"
	"strongroom/wire/gatewaypb"
	"strongroom/wire/peerpb"
)

var updateFaultTable = flag.Bool("update-fault-table", false, "write docs/fault-table.md")

// deviceFault is a column of the table.
type deviceFault struct {
	name   string
	action faulty.Action
	arg    uint64
}

// deviceFaults are one of each class that the driver tells apart, and what no return value says.
var deviceFaults = []deviceFault{
	{"session invalid (0xB3)", faulty.Return, 0xB3},
	{"object invalid (0x82)", faulty.Return, 0x82},
	{"not logged in (0x101)", faulty.Return, 0x101},
	{"device error (0x30)", faulty.Return, 0x30},
	{"function failed (0x6)", faulty.Return, 0x6},
	{"device memory (0x31)", faulty.Return, 0x31},
	{"vendor's code", faulty.Return, 0x80000123},
	{"all ones", faulty.Return, math.MaxUint64},
	{"slow", faulty.Sleep, 30},
	{"hang", faulty.Hang, 0},
	{"sessions dropped", faulty.Drop, 0},
	{"logged out", faulty.Logout, 0},
	{"objects renumbered", faulty.Renumber, 0},
	{"token lost", faulty.Lose, 100},
}

// Functions that operations call, and that recovery calls.
var (
	hotFunctions  = []string{"C_SignInit", "C_Sign", "C_VerifyInit", "C_Verify"}
	coldFunctions = []string{"C_OpenSession", "C_Login", "C_FindObjects"}
)

// stops tells of the one case in which the token waits for its operator, as it must.
func stops(function string, f deviceFault) bool { return function == "C_Login" && f.arg == 0x6 }

const (
	// backAfter is how soon after a fault everything must work again.
	backAfter = 20 * time.Second
	// oneAttempt bounds one request, as a client's deadline does.
	oneAttempt = 4 * time.Second
)

// faultyPeer is a live peer and ordering node on a module that errs.
type faultyPeer struct {
	*appliance
	module          *faulty.Module
	user            *user
	number          atomic.Int64 // of the next asset
	repeated        atomic.Int64 // requests that failed with a device's error and were made again
	submittedSpoilt atomic.Int64
	committedSpoilt atomic.Int64
}

func startFaultyPeer(t *testing.T, channel string) *faultyPeer {
	t.Helper()
	n := start(t)
	p := &faultyPeer{}
	p.appliance = startApplianceWith(t, n, channel, func(text string) string {
		re := regexp.MustCompile(`(?m)^  module: (.*)$`)
		m := re.FindStringSubmatch(text)
		if m == nil {
			t.Fatal("peer.yaml names no module")
		}
		var err error
		if p.module, err = faulty.Build(t.TempDir(), m[1]); err != nil {
			t.Fatal(err)
		}
		return re.ReplaceAllLiteralString(text, "  module: "+p.module.Path+"\n  callTimeout: 500ms")
	})
	p.user = n.dialUser(t, "org1").at(t, p.listen(t), filepath.Join(n.dir, "org1", "msp", "tlscacerts", "tlsca.pem"))

	address := freeAddress(t)
	archive := filepath.Join(t.TempDir(), "asset.tar.gz")
	n.run(t, "chaincode", "package", "--label", "asset_1.0", "--address", address, "--out", archive)
	id := n.run(t, "chaincode", "install", archive, "--config", p.admin)
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
	definition := []string{"--channel", channel, "--name", "asset", "--config", p.admin}
	n.run(t, append([]string{"chaincode", "approve", "--package-id", id}, definition...)...)
	n.run(t, append([]string{"chaincode", "commit"}, definition...)...)
	return p
}

// submitted endorses and submits a new asset, spoilt with a changed endorsement, and
// returns the verdict on it. A false signature is an error that wraps errWrong.
func (p *faultyPeer) submitted(ctx context.Context, channel string, spoilt bool) (peerpb.TxValidationCode, error) {
	inv := call("CreateAsset", fmt.Sprintf("asset-%d", p.number.Add(1)), "blue", "1", "Ada", "5")
	inv.Channel = channel
	attempt, cancel := context.WithTimeout(ctx, oneAttempt)
	defer cancel()
	proposal, txID, err := client.Propose(attempt, p.user.identity, inv)
	if err != nil {
		return 0, err
	}
	gateway := gatewaypb.NewGatewayClient(p.user.conn)
	response, err := gateway.Endorse(attempt, &gatewaypb.EndorseRequest{TransactionId: txID, ChannelId: channel, ProposedTransaction: proposal})
	if err != nil {
		return 0, err
	}
	envelope := response.GetPreparedTransaction()
	if spoilt {
		if err := spoil(envelope); err != nil {
			return 0, err
		}
		p.submittedSpoilt.Add(1)
	}
	if envelope.Signature, err = p.user.identity.SignPayload(attempt, envelope.GetPayload()); err != nil {
		return 0, err
	}
	if _, err := gateway.Submit(attempt, &gatewaypb.SubmitRequest{TransactionId: txID, ChannelId: channel, PreparedTransaction: envelope}); err != nil {
		return 0, err
	}
	for { // it is ordered: its verdict comes, however often one must ask
		attempt, cancel := context.WithTimeout(ctx, oneAttempt)
		code, _, err := p.user.CommitStatus(attempt, channel, txID)
		cancel()
		if err == nil || ctx.Err() != nil {
			return code, err
		}
		p.repeated.Add(1)
	}
}

// spoil changes a bit of the transaction's endorsement.
func spoil(envelope *commonpb.Envelope) error {
	payload, tx, action := &commonpb.Payload{}, &peerpb.Transaction{}, &peerpb.ChaincodeActionPayload{}
	err := errors.Join(proto.Unmarshal(envelope.GetPayload(), payload))
	if err == nil {
		err = proto.Unmarshal(payload.GetData(), tx)
	}
	if err == nil {
		err = proto.Unmarshal(tx.GetActions()[0].GetPayload(), action)
	}
	if err != nil {
		return err
	}
	signature := action.GetAction().GetEndorsements()[0].GetSignature()
	signature[len(signature)-1] ^= 1
	if tx.Actions[0].Payload, err = proto.Marshal(action); err != nil {
		return err
	}
	if payload.Data, err = proto.Marshal(tx); err != nil {
		return err
	}
	envelope.Payload, err = proto.Marshal(payload)
	return err
}

// business endorses, and commits a good and a spoilt transaction, at the same time; each is
// repeated until the device lets it through. It fails the test for a false signature or a
// verdict that is not the transaction's own.
func (p *faultyPeer) business(t *testing.T, channel string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), backAfter)
	defer cancel()
	query := client.Invocation{Channel: channel, Chaincode: "qscc", Args: [][]byte{[]byte("GetChainInfo"), []byte(channel)}}
	until := func(what string, f func() error) {
		for {
			err := f()
			if err == nil || strings.Contains(err.Error(), "not by the key") {
				if err != nil {
					t.Errorf("%s: %v", what, err)
				}
				return
			}
			if ctx.Err() != nil {
				t.Errorf("%s: not within %s: %v", what, backAfter, err)
				return
			}
			p.repeated.Add(1)
			time.Sleep(10 * time.Millisecond)
		}
	}
	verdict := func(spoilt bool, want peerpb.TxValidationCode) func() error {
		return func() error {
			code, err := p.submitted(ctx, channel, spoilt)
			if err == nil && code != want {
				t.Errorf("a transaction (spoilt: %t) has the verdict %s, want %s", spoilt, code, want)
			}
			if err == nil && spoilt {
				p.committedSpoilt.Add(1)
			}
			return err
		}
	}
	var running sync.WaitGroup
	running.Go(func() {
		until("endorsement", func() error {
			attempt, cancel := context.WithTimeout(ctx, oneAttempt)
			defer cancel()
			_, err := endorsed(attempt, p.user, query)
			return err
		})
	})
	running.Go(func() { until("good transaction", verdict(false, peerpb.TxValidationCode_VALID)) })
	running.Go(func() {
		until("spoilt transaction", verdict(true, peerpb.TxValidationCode_ENDORSEMENT_POLICY_FAILURE))
	})
	running.Wait()
}

// set puts rules in force; a peer on a module without rules has no fault.
func (p *faultyPeer) set(t *testing.T, rules ...faulty.Rule) {
	t.Helper()
	if err := p.module.Set(rules...); err != nil {
		t.Fatal(err)
	}
}

// TestFaultsOfALivePeer runs a peer that endorses, orders and commits through every fault
// of the table. The auditor's tool then verifies the whole channel with its own software: what was signed
// and every verdict.
func TestFaultsOfALivePeer(t *testing.T) {
	const channel = "faults"
	p := startFaultyPeer(t, channel)
	p.business(t, channel)
	cases := 0
	var slowest time.Duration
	one := func(function string, f deviceFault, rules ...faulty.Rule) {
		cases++
		ok := t.Run(function+"/"+f.name, func(t *testing.T) {
			p.set(t, rules...)
			released := make(chan struct{})
			go func() { // what hangs goes on, while callers wait
				defer close(released)
				if f.action == faulty.Hang {
					time.Sleep(700 * time.Millisecond)
					if err := p.module.Set(); err != nil {
						t.Error(err)
					}
				}
			}()
			began := time.Now()
			p.business(t, channel)
			<-released
			if fired, err := p.module.Fired(); err != nil {
				t.Fatal(err)
			} else if fired[function] == 0 && f.action != faulty.Sleep && f.action != faulty.Hang {
				t.Errorf("%s met no fault", function)
			}
			p.set(t)
			p.waitReady(t)
			slowest = max(slowest, time.Since(began))
		})
		if !ok {
			t.FailNow()
		}
	}
	for _, f := range deviceFaults {
		for _, function := range hotFunctions {
			one(function, f, faulty.Rule{Function: function, From: 2, Count: 2, Action: f.action, Arg: f.arg})
		}
		for _, function := range coldFunctions { // two faults: one that calls for recovery, one that meets it
			if stops(function, f) {
				continue
			}
			one(function, f,
				faulty.Rule{Function: "C_VerifyInit", From: 2, Count: 1, Action: faulty.Return, Arg: 0x30},
				faulty.Rule{Function: function, From: 1, Count: 1, Action: f.action, Arg: f.arg})
		}
	}

	t.Run("health", func(t *testing.T) {
		p.set(t, faulty.Rule{Function: "*", From: 1, Action: faulty.Return, Arg: 0x30})
		deadline := time.Now().Add(backAfter)
		for {
			err := p.process.Ready(t.Context())
			if err != nil && strings.Contains(err.Error(), "hsm") {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the device is gone, and health says %v", err)
			}
			time.Sleep(20 * time.Millisecond)
		}
		p.set(t)
		p.business(t, channel)
		p.waitReady(t)
	})

	p.verify(t, channel)
	t.Logf("%d functions × %d faults: %d cases, %d requests were repeated, slowest case %s",
		len(hotFunctions)+len(coldFunctions), len(deviceFaults), cases, p.repeated.Load(), slowest.Round(time.Millisecond))
	checkFaultTable(t, cases)
}

// verify has the auditor's tool check the channel from its first block on.
func (p *faultyPeer) verify(t *testing.T, channel string) {
	t.Helper()
	pack := filepath.Join(t.TempDir(), "pack.tar.zst")
	p.run(t, "audit", "export", channel, "--config", p.admin, "--out", pack)
	out, err := p.audit(pack, "--output", "json")
	if err != nil {
		t.Fatalf("the channel does not verify: %v", err)
	}
	var report struct {
		Codes  map[string]int64
		Replay struct{ Reason string }
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	if report.Replay.Reason != "" {
		t.Errorf("the verdicts were not decided again: %s", report.Replay.Reason)
	}
	for code, count := range report.Codes {
		switch code {
		case "VALID":
		case "ENDORSEMENT_POLICY_FAILURE":
			if count < p.committedSpoilt.Load() || count > p.submittedSpoilt.Load() {
				t.Errorf("%d transactions are invalid, and %d to %d were spoilt", count, p.committedSpoilt.Load(), p.submittedSpoilt.Load())
			}
		default:
			t.Errorf("%d transactions have the verdict %s, which none was made for", count, code)
		}
	}
}

// checkFaultTable holds docs/fault-table.md against the cases that passed.
func checkFaultTable(t *testing.T, cases int) {
	t.Helper()
	file := filepath.Join("..", "docs", "fault-table.md")
	want := faultTable(cases)
	if *updateFaultTable {
		write(t, file, []byte(want))
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != want {
		t.Errorf("docs/fault-table.md is not what was tested: run `go test ./softhsm-tests -run TestFaultsOfALivePeer -update-fault-table` (%v)", err)
	}
}

func faultTable(cases int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Faults of the HSM under a live peer

Written by `+"`go test ./softhsm-tests -run TestFaultsOfALivePeer -update-fault-table`"+`, which checks it when run without the flag.
A peer that endorses, orders and commits, in one process over gRPC, has a module between it and SoftHSM that errs as told.
%d functions × %d faults: %d cases were run.

`, len(hotFunctions)+len(coldFunctions), len(deviceFaults), cases)
	b.WriteString("| fault |")
	for _, f := range append(append([]string{}, hotFunctions...), coldFunctions...) {
		b.WriteString(" " + f + " |")
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(hotFunctions)+len(coldFunctions)) + "\n")
	for _, f := range deviceFaults {
		b.WriteString("| " + f.name + " |")
		for _, function := range append(append([]string{}, hotFunctions...), coldFunctions...) {
			if stops(function, f) {
				b.WriteString(" stops |")
			} else {
				b.WriteString(" back |")
			}
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, `
"back": while the fault lasted and after it, an endorsement, a good transaction and one with a changed endorsement went through, repeated
where a request failed with the device's error, within %d s, and health was green again. The endorsement's signature was right, and
each transaction had its own verdict, VALID and ENDORSEMENT_POLICY_FAILURE. In the end `+"`strongroom-audit verify`"+` decided every verdict of
the channel again in software, and checked every signature: no finding. With all functions failing, health named the HSM,
and was green after it came back.

"stops": not run here. A login that fails for no known reason may have cost a try of the PIN: the token waits for its operator
(softhsm-tests/faulty has that case, and 377 others below the peer: operator-hsm.md).

Faults that meet the last three functions meet a recovery, which another fault has begun. Two calls of each of the first
four functions fail, one of the others.
`, int(backAfter.Seconds()))
	return b.String()
}
