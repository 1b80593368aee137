package softhsmtests

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	composition "strongroom/appliance"
	"strongroom/bccsp"
	"strongroom/bccsp/pkcs11"
	profiles "strongroom/firmware-profiles"
)

// nss is NSS's softokn with a fresh key database.
func nss(t *testing.T) device {
	t.Helper()
	dir := t.TempDir()
	pin := privateFile(t, dir, "pin", devicePIN)
	if _, err := command(exec.Command("certutil", "-N", "-d", "sql:"+dir, "-f", pin)); err != nil {
		t.Fatalf("run scripts/setup: %v", err)
	}
	return device{
		module: library(t, "nss-softokn-3.87"), label: "NSS Certificate DB", pin: pin, profile: "nss-softokn-3.87",
		reserved: fmt.Sprintf("configdir='sql:%s' certPrefix='' keyPrefix='' secmod='secmod.db' flags=", dir),
	}
}

// refusesNSS: a device that hands out keys that must not leave holds no wrapping key, by
// the profile and without; and it does not start without its string.
func refusesNSS(t *testing.T, d device) {
	d.refused(t, "kek", "can be wrapped out")
	bare := d
	bare.reserved = ""
	bare.refused(t, "", "does not start without a string")
	_, err := pkcs11.Open(t.Context(), pkcs11.Config{Module: d.module, TokenLabel: d.label, PIN: pkcs11.PINSource{File: d.pin}})
	if err == nil || !strings.Contains(err.Error(), "CKR_ARGUMENTS_BAD") {
		t.Errorf("got %v, want CKR_ARGUMENTS_BAD", err)
	}
	servesAndRecovers(t, d)
}

// servesAndRecovers opens a device as a peer does, signs and verifies, and does so again
// after its module was finalized behind the driver's back.
func servesAndRecovers(t *testing.T, d device) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	token, err := composition.OpenToken(ctx, d.config(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	}()
	pub, err := token.GenerateKey(ctx, "pool", elliptic.P256())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := token.Signer(ctx, "pool")
	if err != nil {
		t.Fatal(err)
	}
	works := func() {
		t.Helper()
		message := []byte("message")
		digest := sha256.Sum256(message)
		sig, err := signer.SignProposal(ctx, message)
		if err != nil {
			t.Fatal(err)
		}
		if !ecdsa.VerifyASN1(pub.ECDSA(), digest[:], sig) {
			t.Error("the signature is false")
		}
		if err := token.Verify(ctx, pub, digest[:], sig); err != nil {
			t.Error(err)
		}
		digest[0] ^= 1
		if err := token.Verify(ctx, pub, digest[:], sig); !errors.Is(err, bccsp.ErrBadSignature) {
			t.Errorf("another digest: got %v, want ErrBadSignature", err)
		}
		if err := token.Healthy(ctx); err != nil {
			t.Error(err)
		}
	}
	works()
	// Without a profile too, a device that hands keys out is found.
	if p, err := profiles.Load(d.profile); err != nil {
		t.Fatal(err)
	} else if p.Gaps["wrap-refused"] != "" {
		if err := token.GenerateWrappingKey(ctx, "kek"); err == nil || !strings.Contains(err.Error(), "the token wraps it") {
			t.Errorf("got %v, want the wrapping key to be refused", err)
		}
	}
	stranger := p11.New(d.module) // a second handle of the same library
	if stranger == nil {
		t.Fatal("the module does not load")
	}
	if err := stranger.Finalize(); err != nil {
		t.Fatal(err)
	}
	works()
}

// background starts a program that ends with the test, by its process number.
func background(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatalf("run scripts/setup: %v", err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", name, log.String())
		}
	})
}

// twoPorts finds a free port whose next is free too, as swtpm's clients want them.
func twoPorts(t *testing.T) int {
	t.Helper()
	for range 100 {
		one, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := one.Addr().(*net.TCPAddr).Port
		two, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+1))
		one.Close()
		if err == nil {
			two.Close()
			return port
		}
	}
	t.Fatal("no two free ports side by side")
	return 0
}

// awaitBusName waits for a service to take its name on the session's bus.
func awaitBusName(t *testing.T, name string) {
	t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for range 200 {
		out, err := command(exec.Command("dbus-send", "--session", "--print-reply", "--dest=org.freedesktop.DBus", "/",
			"org.freedesktop.DBus.NameHasOwner", "string:"+name))
		if err == nil && strings.Contains(out, "boolean true") {
			return
		}
		<-ticker.C
	}
	t.Fatalf("%s does not appear on the bus", name)
}

// tpm is tpm2-pkcs11 on a TPM in software. The resource manager between them is needed:
// a TPM holds three keys at a time.
func tpm(t *testing.T) device {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	port, bus := twoPorts(t), filepath.Join(dir, "bus")
	background(t, "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--flags", "not-need-init,startup-clear", "--pid", "file="+filepath.Join(dir, "pid"),
		"--server", fmt.Sprintf("type=tcp,port=%d", port), "--ctrl", fmt.Sprintf("type=tcp,port=%d", port+1))
	await(t, filepath.Join(dir, "pid"))
	background(t, "dbus-daemon", "--session", "--nofork", "--address=unix:path="+bus)
	await(t, bus)
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path="+bus)
	background(t, "/usr/sbin/tpm2-abrmd", "--session", "--allow-root", fmt.Sprintf("--tcti=swtpm:port=%d", port))
	awaitBusName(t, "com.intel.tss2.Tabrmd")
	t.Setenv("TPM2_PKCS11_TCTI", "tabrmd:bus_type=session")
	t.Setenv("TPM2_PKCS11_STORE", dir)
	t.Setenv("TPM2_PKCS11_LOG_LEVEL", "0")
	d := device{module: library(t, "tpm2-pkcs11-1.9"), label: "tpm", pin: privateFile(t, dir, "pin.txt", devicePIN), profile: "tpm2-pkcs11-1.9"}
	d.initialise(t)
	return d
}

// refusesTPM: a device that takes no public keys does not judge signatures.
func refusesTPM(t *testing.T, d device) {
	d.refused(t, "", "takes no public keys")
	_, err := pkcs11.Open(t.Context(), pkcs11.Config{Module: d.module, TokenLabel: d.label, PIN: pkcs11.PINSource{File: d.pin}})
	if err == nil || !strings.Contains(err.Error(), "self-test") || !strings.Contains(err.Error(), "C_CreateObject") {
		t.Errorf("got %v, want the self-test to fail at C_CreateObject", err)
	}
}
