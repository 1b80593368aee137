package pkcs11_test

import (
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
)

// The spy records every PKCS #11 call. It is a module of its own, so that it runs in a
// child process: this test binary, with spyJob set.
const spyJob = "STRONGROOM_TEST_SPY_JOB"

func TestMain(m *testing.M) {
	if job := os.Getenv(spyJob); job != "" {
		if err := spied(job); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// spied is what the child does: "work N M" makes N signatures and checks M of them,
// half of them spoilt; "login" opens the token twice with a wrong PIN.
func spied(job string) error {
	ctx := context.Background()
	cfg := pkcs11.Config{Module: os.Getenv("SOFTHSM2_MODULE"), TokenLabel: "spied", PIN: pkcs11.PINSource{Env: "TEST_PIN"}, Sessions: 2}
	if _, err := pkcs11.InitToken(cfg.Module, "spied", []byte("so-pin"), []byte("user-pin")); err != nil {
		return err
	}
	var sign, verify int
	if job == "login" {
		for range 2 {
			if _, err := pkcs11.Open(ctx, cfg); !errors.Is(err, pkcs11.ErrPINRefused) {
				return fmt.Errorf("got %v, want ErrPINRefused", err)
			}
		}
		return nil
	}
	if _, err := fmt.Sscanf(job, "work %d %d", &sign, &verify); err != nil {
		return err
	}
	token, err := pkcs11.Open(ctx, cfg)
	if err != nil {
		return err
	}
	if _, err := token.GenerateKey(ctx, "k", elliptic.P256()); err != nil {
		return err
	}
	signer, err := token.Signer(ctx, "k")
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte("m"))
	sig, err := signer.SignProposal(ctx, []byte("m"))
	if err != nil {
		return err
	}
	for range sign {
		if _, err := signer.SignProposal(ctx, []byte("m")); err != nil {
			return err
		}
	}
	for i := range verify {
		d := digest
		if i%2 == 1 {
			d[0] ^= 1
		}
		if err := token.Verify(ctx, signer.PublicKey(), d[:], sig); errors.Is(err, bccsp.ErrBadSignature) != (i%2 == 1) {
			return fmt.Errorf("verification %d: %v", i, err)
		}
	}
	return token.Close()
}

var spyCall = regexp.MustCompile(`(?m)^\d+: (C_\w+)$`)

// spy runs a job in a child under the spy and counts the calls.
func spy(t *testing.T, job, pin string) map[string]int {
	t.Helper()
	var module string
	for _, path := range []string{
		"/usr/lib/x86_64-linux-gnu/pkcs11/pkcs11-spy.so", "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so",
		"/usr/lib/aarch64-linux-gnu/pkcs11-spy.so", "/usr/lib64/pkcs11/pkcs11-spy.so", "/usr/lib64/pkcs11-spy.so",
	} {
		if _, err := os.Stat(path); err == nil {
			module = path
			break
		}
	}
	if module == "" {
		t.Fatal("pkcs11-spy is not installed: run `apt-get install opensc-pkcs11`")
	}
	dir := t.TempDir() // the log shows PINs: it goes with the test
	tokens, log, conf := filepath.Join(dir, "tokens"), filepath.Join(dir, "log"), filepath.Join(dir, "softhsm2.conf")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+tokens+"\nobjectstore.backend = file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), spyJob+"="+job, "TEST_PIN="+pin, "SOFTHSM2_CONF="+conf,
		"SOFTHSM2_MODULE="+module, "PKCS11SPY="+bccsptest.Module(t), "PKCS11SPY_OUTPUT="+log)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", job, err, out)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	calls := make(map[string]int)
	for _, m := range spyCall.FindAllStringSubmatch(string(text), -1) {
		calls[m[1]]++
	}
	return calls
}

// TestSpyCounts sees what operations cost in calls: the difference between a child
// that works and one that only opens the token.
func TestSpyCounts(t *testing.T) {
	const signs, verifies = 12, 20
	idle, busy := spy(t, "work 0 0", "user-pin"), spy(t, "work "+strconv.Itoa(signs)+" "+strconv.Itoa(verifies), "user-pin")
	for call, want := range map[string]int{
		"C_VerifyInit":    verifies,
		"C_Verify":        verifies, // one for each verification, good or bad
		"C_SignInit":      signs,
		"C_Sign":          signs, // not asked for the length first
		"C_CreateObject":  0,     // the key was imported when its halves were matched
		"C_FindObjects":   0,
		"C_OpenSession":   0,
		"C_Login":         0,
		"C_DestroyObject": 0,
	} {
		if got := busy[call] - idle[call]; got != want {
			t.Errorf("%s: %d calls, want %d", call, got, want)
		}
	}
	if idle["C_Verify"] == 0 || idle["C_FindObjects"] == 0 {
		t.Errorf("the spy saw nothing: %v", idle)
	}
}

func TestSpySeesOneLoginWithAWrongPIN(t *testing.T) {
	// One login is the security officer's, who sets the user's PIN.
	if n := spy(t, "login", "wrong-pin")["C_Login"]; n != 2 {
		t.Errorf("%d logins, want the security officer's and one attempt of the user", n)
	}
}
