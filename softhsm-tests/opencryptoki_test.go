package softhsmtests

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"strongroom/bccsp/pkcs11"
)

const (
	// openCryptokiLabel marks the machine's soft token as one of tests.
	openCryptokiLabel = "strongroom-test"
	openCryptokiSlot  = "3" // of its soft token in Debian's opencryptoki.conf
	openCryptokiSO    = "87654321"
)

// openCryptoki is openCryptoki's soft token. The module, its daemon and its tokens are
// the machine's, in folders fixed when it was built: one process at a time has them, and
// a token that somebody else has initialized is left alone.
func openCryptoki(t *testing.T) device {
	t.Helper()
	module := library(t, "opencryptoki-soft-3.8")
	if os.Geteuid() != 0 {
		t.Fatal("openCryptoki's daemon pkcsslotd needs root: run this test as root, in a container say")
	}
	lockMachine(t, filepath.Join(os.TempDir(), "strongroom-opencryptoki.lock"))
	slotDaemon(t)
	info := slotInfo(t)
	initialized := strings.Contains(info, "|TOKEN_INITIALIZED")
	if initialized && !strings.Contains(info, "Label: "+openCryptokiLabel+" ") {
		t.Fatalf("openCryptoki's soft token of this machine is in use, and is not touched: run this test in a container\n%s", info)
	}
	if !initialized {
		initializeOpenCryptoki(t)
	}
	return device{module: module, label: openCryptokiLabel, pin: privateFile(t, t.TempDir(), "pin", devicePIN), profile: "opencryptoki-soft-3.8"}
}

// lockMachine waits for other test processes, and keeps them out until the test ends.
func lockMachine(t *testing.T, path string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
}

// slotDaemon starts pkcsslotd, which ends with the test, unless the machine runs one.
// The folder for its locks is made by the system's start, which containers do not have.
func slotDaemon(t *testing.T) {
	t.Helper()
	if exec.Command("pkcsconf", "-s").Run() == nil {
		return
	}
	for _, dir := range []string{"", "swtok", "tpm", "lite", "icsf", "ccatok", "ep11tok"} {
		if err := os.MkdirAll(filepath.Join("/run/lock/opencryptoki", dir), 0o770); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("pkcsslotd", "-f")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatalf("run `scripts/setup test`: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it removes its shared memory
		_ = cmd.Wait()
	})
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	var out []byte
	var err error
	for range 200 {
		if out, err = exec.Command("pkcsconf", "-s").CombinedOutput(); err == nil {
			return
		}
		<-ticker.C
	}
	t.Fatalf("openCryptoki does not answer: it needs System V and POSIX shared memory (mount /dev/shm, in a container `--ipc`), and the group pkcs11: %v\n%s%s", err, out, log.String())
}

// slotInfo is what pkcsconf says of the soft token.
func slotInfo(t *testing.T) string {
	t.Helper()
	out, err := command(exec.Command("pkcsconf", "-t", "-c", openCryptokiSlot))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "SoftTok") {
		t.Fatalf("slot %s of openCryptoki is not its soft token: put Debian's /etc/opencryptoki/opencryptoki.conf back\n%s", openCryptokiSlot, out)
	}
	return out
}

// initializeOpenCryptoki sets label and PINs. Both first PINs must be changed before the
// token does anything. The tool's exit status does not tell, what the token says does.
func initializeOpenCryptoki(t *testing.T) {
	t.Helper()
	for _, step := range []struct {
		input string
		args  []string
	}{
		{openCryptokiLabel + "\n", []string{"-I", "-S", openCryptokiSO}},
		{"", []string{"-P", "-S", openCryptokiSO, "-n", "so345678"}},
		{"", []string{"-u", "-S", "so345678", "-n", "12345678"}},
		{"", []string{"-p", "-U", "12345678", "-n", devicePIN}},
	} {
		cmd := exec.Command("pkcsconf", append([]string{"-c", openCryptokiSlot}, step.args...)...)
		cmd.Stdin = strings.NewReader(step.input)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("pkcsconf %s: %v\n%s", step.args[0], err, out)
		}
	}
	if info := slotInfo(t); !strings.Contains(info, "Label: "+openCryptokiLabel+" ") || strings.Contains(info, "TO_BE_CHANGED") {
		t.Fatalf("the token is not initialized:\n%s", info)
	}
}

// refusesOpenCryptoki: a device without ECDSA judges nothing, and one without key wrap
// wraps nothing: by the profile, and without one when the device itself is asked.
func refusesOpenCryptoki(t *testing.T, d device) {
	d.refused(t, "", "does not verify")
	d.refused(t, "kek", "no AES key wrap")
	_, err := pkcs11.Open(t.Context(), pkcs11.Config{Module: d.module, TokenLabel: d.label, PIN: pkcs11.PINSource{File: d.pin}})
	if err == nil || !strings.Contains(err.Error(), "self-test") || !strings.Contains(err.Error(), "CKR_MECHANISM_INVALID") {
		t.Errorf("got %v, want the self-test to fail with CKR_MECHANISM_INVALID", err)
	}
}
