package channel

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"

	"strongroom/bccsp/bccsptest"
	"strongroom/softhsm-tests/faulty"
)

// faultyModule names the module's path for the child process of TestCommitUnderFaults.
const faultyModule = "STRONGROOM_TEST_FAULTY_MODULE"

// TestCommitUnderFaults commits the whole chain of testdata/interop once for each fault of
// the device, which befalls every function that committing calls. The codes and commit
// hashes must be Fabric's, as without a fault: no transaction is invalid because a device
// failed.
func TestCommitUnderFaults(t *testing.T) {
	if path := os.Getenv(faultyModule); path != "" {
		commitUnderFaults(t, &faulty.Module{Path: path})
		return
	}
	module, err := faulty.Build(t.TempDir(), bccsptest.Module(t))
	if err != nil {
		t.Fatal(err)
	}
	// A process loads one module: this binary again.
	cmd := exec.Command(os.Args[0], "-test.run=^TestCommitUnderFaults$", "-test.v")
	cmd.Env = append(os.Environ(), faultyModule+"="+module.Path, "SOFTHSM2_MODULE="+module.Path)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "faults met in") {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

func commitUnderFaults(t *testing.T, module *faulty.Module) {
	set := func(rules ...faulty.Rule) {
		if err := module.Set(rules...); err != nil {
			t.Fatal(err)
		}
	}
	chains, met := 0, 0
	for _, f := range []struct {
		action faulty.Action
		arg    uint64
	}{
		{faulty.Return, 0xB3}, {faulty.Return, 0x91}, {faulty.Return, 0x82}, {faulty.Return, 0x101},
		{faulty.Return, 0x30}, {faulty.Return, 0xE1}, {faulty.Return, 0x190}, {faulty.Return, 0x5},
		{faulty.Return, 0x6}, {faulty.Return, 0x31}, {faulty.Return, 0x80000123}, {faulty.Return, math.MaxUint64},
		{faulty.Drop, 0}, {faulty.Logout, 0}, {faulty.Renumber, 0}, {faulty.Lose, 50},
	} {
		t.Run(fmt.Sprintf("%s %#x", f.action, f.arg), func(t *testing.T) {
			set()
			n := newNode(t, nil)
			c := n.open(t, func(cfg *Config) { cfg.Source = &orderer{t: t} })
			var rules []faulty.Rule
			for i, function := range []string{"C_VerifyInit", "C_Verify", "C_CreateObject", "C_WrapKey", "C_UnwrapKey", "C_GenerateRandom"} {
				for _, from := range []uint{2, 30, 90, 150} {
					rules = append(rules, faulty.Rule{Function: function, From: from + 5*uint(i), Count: 1, Action: f.action, Arg: f.arg})
				}
			}
			set(rules...)
			follow(t, c, lastBlock+1)
			fired, err := module.Fired()
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range fired {
				met += n
			}
			if fired["C_Verify"] == 0 || fired["C_VerifyInit"] == 0 {
				t.Errorf("faults met: %v", fired)
			}
			set()
			checkLedger(t, n.ledger)
			chains++
		})
	}
	fmt.Printf("%d faults met in %d chains\n", met, chains)
}
