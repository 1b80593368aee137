package softhsmtests

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	composition "strongroom/appliance"
	"strongroom/appliance/config"
	"strongroom/bccsp"
	"strongroom/bccsp/pkcs11"
	"strongroom/bccsp/probe"
	profiles "strongroom/firmware-profiles"
)

// device is a token of some module, ready for the suite.
type device struct {
	module, label, pin string // pin is a file
	profile            string // an id, or a file
	reserved           string
}

const devicePIN = "1234567a"

// TestModules runs the one suite over each module that Debian has, and sees that each
// gap that a profile declares is refused by Strongroom itself.
func TestModules(t *testing.T) {
	strongroomBinary = filepath.Join(t.TempDir(), "strongroom")
	if _, err := command(exec.Command("go", "build", "-o", strongroomBinary, "strongroom/cmd/strongroom")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		open    func(t *testing.T) device
		refuses func(t *testing.T, d device)
	}{
		{"SoftHSM", softHSM, refusesLaxity},
		{"SoftHSM remoted by p11-kit", remotedSoftHSM, refusesToWrap},
		{"SoftHSM made weaker", weakSoftHSM, refusesToWrap},
		{"NSS softokn", nss, refusesNSS},
		{"TPM", tpm, refusesTPM},
		{"openCryptoki", openCryptoki, refusesOpenCryptoki},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := tt.open(t)
			probed(t, d)
			tt.refuses(t, d)
			closesGaps(t, d)
		})
	}
}

// probed runs `strongroom token probe` and holds each line against the profile.
func probed(t *testing.T, d device) {
	t.Helper()
	p, err := profiles.Load(d.profile)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "report")
	args := []string{"token", "probe", "--quick", "--output", "json", "--module", d.module, "--token", d.label, "--pin-file", d.pin,
		"--profile", d.profile}
	signs := p.Gaps["sign-p256"] == "" // who does not sign cannot sign the report
	if signs {
		args = append(args, "--report", folder)
	}
	if d.reserved != "" {
		args = append(args, "--reserved", d.reserved)
	}
	out, err := command(exec.Command(strongroomBinary, args...))
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Report probe.Report }
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	for _, r := range got.Report.Results {
		want := probe.Pass
		if p.Gaps[r.Check] != "" {
			want = probe.Declared
		}
		if r.Status != want {
			t.Errorf("%s: %s, want %s: %s", r.Check, r.Status, want, r.Detail)
		}
	}
	if len(got.Report.Results) != len(probe.Suite()) || (got.Report.Sessions > 0) != signs {
		t.Errorf("%d results, %d sessions recommended", len(got.Report.Results), got.Report.Sessions)
	}
	if !signs {
		return
	}
	checkReport(t, folder)
}

// checkReport has openssl accept the signed report, and refuse it when it is changed.
func checkReport(t *testing.T, folder string) {
	t.Helper()
	verify := func() error {
		_, err := command(exec.Command("openssl", "dgst", "-sha256", "-verify", filepath.Join(folder, "report.pub"),
			"-signature", filepath.Join(folder, "report.sig"), filepath.Join(folder, "report.pae")))
		return err
	}
	if err := verify(); err != nil {
		t.Error(err)
	}
	pae, err := os.ReadFile(filepath.Join(folder, "report.pae"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "report.pae"), bytes.Replace(pae, []byte(`"pass"`), []byte(`"fail"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if verify() == nil {
		t.Error("openssl accepts a report that was changed")
	}
}

// config is the device as a peer's configuration has it.
func (d device) config() config.Token {
	return config.Token{Module: d.module, Label: d.label, Profile: d.profile, Reserved: d.reserved, PIN: config.PIN{File: d.pin}}
}

// open opens a device as the peer's driver does.
func (d device) open(t *testing.T) *pkcs11.Token {
	t.Helper()
	token, err := pkcs11.Open(t.Context(), pkcs11.Config{Module: d.module, TokenLabel: d.label, PIN: pkcs11.PINSource{File: d.pin}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	})
	return token
}

// refused wants the configuration to be refused for its profile, before the device is
// asked anything.
func (d device) refused(t *testing.T, wrappingKey, want string) {
	t.Helper()
	c := d.config()
	c.WrappingKey = wrappingKey
	_, err := composition.OpenToken(t.Context(), c, nil)
	if !errors.Is(err, profiles.ErrRefused) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want a refusal with %q", err, want)
	}
}

// refusesLaxity: what SoftHSM lets pass, Strongroom refuses before it asks.
func refusesLaxity(t *testing.T, d device) {
	ctx, token := context.Background(), d.open(t)
	pub, err := token.GenerateKey(ctx, "k", elliptic.P256())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := token.Signer(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := signer.SignProposal(ctx, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := token.Verify(ctx, pub, make([]byte, 65), sig); err == nil || errors.Is(err, bccsp.ErrBadSignature) {
		t.Errorf("overlong-digest: got %v, want an error that is no verdict", err)
	}
	spki := bytes.Clone(pub.SPKI()) // ends with the point's y
	spki[len(spki)-1] ^= 1
	key, err := x509.ParsePKIXPublicKey(spki)
	if err == nil {
		_, err = bccsp.NewPublicKey(key)
	}
	if err == nil {
		t.Error("off-curve-point: taken")
	}
}

// refusesToWrap: without key wrap there is no wrapping key, by the profile and without.
func refusesToWrap(t *testing.T, d device) {
	token := d.open(t)
	err := token.GenerateWrappingKey(t.Context(), "kek")
	var e *pkcs11.Error
	if !errors.As(err, &e) || e.Name != "CKR_MECHANISM_INVALID" {
		t.Errorf("key-wrap: got %v, want CKR_MECHANISM_INVALID", err)
	}
	d.refused(t, "kek", "no AES key wrap")
}

// strongroomBinary is built by TestModules for its parts.
var strongroomBinary string

// privateFile puts a file of mode 0600 into a folder.
func privateFile(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// library is a profile's module, which scripts/setup installs.
func library(t *testing.T, profile string) string {
	t.Helper()
	p, err := profiles.Load(profile)
	if err != nil {
		t.Fatal(err)
	}
	path, err := p.FindModule()
	if err != nil {
		t.Fatalf("run scripts/setup: %v", err)
	}
	return path
}

// softHSM is a fresh SoftHSM token.
func softHSM(t *testing.T) device {
	t.Helper()
	dir := t.TempDir()
	tokens := filepath.Join(dir, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", privateFile(t, dir, "softhsm2.conf", "directories.tokendir = "+tokens+"\nobjectstore.backend = file\nlog.level = ERROR\n"))
	d := device{module: library(t, "softhsm-2.6"), label: "lab", profile: "softhsm-2.6", pin: privateFile(t, dir, "pin", devicePIN)}
	d.initialise(t)
	return d
}

// initialise makes the token with Strongroom's own command.
func (d device) initialise(t *testing.T) {
	t.Helper()
	so := privateFile(t, t.TempDir(), "so", "so-"+devicePIN)
	if _, err := command(exec.Command(strongroomBinary, "token", "init", "--module", d.module, "--token", d.label, "--pin-file", d.pin, "--so-pin-file", so)); err != nil {
		t.Fatal(err)
	}
}

// weakSoftHSM is one without AES-GCM and key wrap. SoftHSM 2.6.1 does not take the first
// name of a list away, so that it is one that does not matter.
func weakSoftHSM(t *testing.T) device {
	t.Helper()
	d := softHSM(t)
	conf, err := os.OpenFile(os.Getenv("SOFTHSM2_CONF"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = conf.WriteString("slots.mechanisms = -CKM_DES_ECB,CKM_AES_GCM,CKM_AES_KEY_WRAP,CKM_AES_KEY_WRAP_PAD\n")
	if err := errors.Join(err, conf.Close()); err != nil {
		t.Fatal(err)
	}
	d.profile = "testdata/softhsm-2.6-weak.yaml"
	return d
}

// remotedSoftHSM is one in a process of its own, behind p11-kit's server.
func remotedSoftHSM(t *testing.T) device {
	t.Helper()
	d := softHSM(t)
	dir, err := os.MkdirTemp("", "p11") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	server := exec.Command("p11-kit", "server", "--foreground", "--name", socket, "--provider", d.module, "pkcs11:token="+d.label)
	server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var log bytes.Buffer
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatalf("run scripts/setup: %v", err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-server.Process.Pid, syscall.SIGKILL) // with the processes of its clients
		_ = server.Wait()
	})
	await(t, socket)
	t.Setenv("P11_KIT_SERVER_ADDRESS", "unix:path="+socket)
	d.profile = "softhsm-2.6-p11kit-0.24"
	d.module = library(t, d.profile)
	return d
}

// await waits for a file.
func await(t *testing.T, path string) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for range 500 {
		if _, err := os.Stat(path); err == nil {
			return
		}
		<-ticker.C
	}
	t.Fatalf("%s does not appear", path)
}
