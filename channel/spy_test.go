package channel

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/bccsp/bccsptest"
	"strongroom/channel/configtx"
	"strongroom/wire/commonpb"
)

// spiedBlock is the block whose checks are counted: twenty transactions with two
// endorsements each.
const spiedBlock = 4

// spyLog names the spy's log for the child process of TestOneVerifyForEachSignature.
const spyLog = "STRONGROOM_TEST_SPY_LOG"

// TestOneVerifyForEachSignature validates a real block under pkcs11-spy, which records
// every call to the token: there is one C_Verify for each signature that the block
// holds, no more and no fewer, and no key is searched for.
func TestOneVerifyForEachSignature(t *testing.T) {
	if log := os.Getenv(spyLog); log != "" {
		spied(t, log)
		return
	}
	spies, err := filepath.Glob("/usr/lib/*/pkcs11-spy.so")
	if more, _ := filepath.Glob("/usr/lib/*/pkcs11/pkcs11-spy.so"); err == nil {
		spies = append(spies, more...)
	}
	if len(spies) == 0 {
		t.Fatal("pkcs11-spy is not installed: run `apt-get install opensc-pkcs11`")
	}
	log := filepath.Join(t.TempDir(), "log") // it shows PINs: it goes with the test
	// The spy is a module of its own, and a process loads one: this binary again.
	cmd := exec.Command(os.Args[0], "-test.run=^TestOneVerifyForEachSignature$", "-test.v")
	cmd.Env = append(os.Environ(), spyLog+"="+log, "SOFTHSM2_MODULE="+spies[0],
		"PKCS11SPY="+bccsptest.Module(t), "PKCS11SPY_OUTPUT="+log)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "counted") {
		t.Fatalf("%v\n%s", err, out)
	}
}

var spiedCall = regexp.MustCompile(`(?m)^\d+: (C_\w+)$`)

func spied(t *testing.T, log string) {
	calls := func() map[string]int {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for _, m := range spiedCall.FindAllStringSubmatch(string(text), -1) {
			count[m[1]]++
		}
		return count
	}
	c := newNode(t, nil).open(t, nil)
	replayTo(t, c, spiedBlock)
	block := readBlock(t, spiedBlock)
	// Certificate chains are checked once in the life of a configuration: not here.
	if _, err := c.validator.Facts(t.Context(), c.Config(), block); err != nil {
		t.Fatal(err)
	}
	before := calls()
	if err := configtx.VerifyBlock(t.Context(), c.Config(), block); err != nil {
		t.Fatal(err)
	}
	facts, err := c.validator.Facts(t.Context(), c.Config(), block)
	if err != nil {
		t.Fatal(err)
	}
	after := calls()

	orderers := &commonpb.Metadata{}
	if err := proto.Unmarshal(block.Metadata.Metadata[commonpb.BlockMetadataIndex_SIGNATURES], orderers); err != nil {
		t.Fatal(err)
	}
	signatures := len(orderers.Signatures)
	for _, tx := range facts.Block.Txs {
		signatures += 1 + len(tx.Endorsed.Endorsements)
	}
	for call, want := range map[string]int{"C_Verify": signatures, "C_VerifyInit": signatures, "C_FindObjects": 0, "C_Sign": 0, "C_CreateObject": 0} {
		if got := after[call] - before[call]; got != want {
			t.Errorf("%d calls of %s for a block with %d signatures, want %d", got, call, signatures, want)
		}
	}
	if signatures < 61 {
		t.Errorf("the block holds only %d signatures", signatures)
	}
	fmt.Printf("counted %d calls of C_Verify for %d signatures\n", after["C_Verify"]-before["C_Verify"], signatures)
}
