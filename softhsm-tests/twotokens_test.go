package softhsmtests

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSigningTokenBesideVerifier runs a node whose keys are in a TPM, which takes no
// foreign public keys and has no AES, and whose verification, wrapping key and
// checkpoints are in a second token: it endorses, orders, commits and reads back.
func TestSigningTokenBesideVerifier(t *testing.T) {
	n := start(t)
	strongroomBinary = filepath.Join(n.bin, "strongroom")
	d := tpm(t)
	org1 := filepath.Join(n.dir, "org1")
	dir := t.TempDir()
	onTPM := []string{"--module", d.module, "--token", d.label, "--pin-file", d.pin}
	ca := []string{"--module", library(t, "softhsm-2.6"), "--softhsm-conf", filepath.Join(org1, "softhsm2.conf"),
		"--token", "org1-ca", "--pin-file", filepath.Join(org1, "org1-ca.pin")}
	for _, k := range []struct{ key, authority, certificate, profile string }{
		{"tpm-peer", "ca", "msp/cacerts/ca.pem", "peer"},
		{"tpm-tls", "tlsca", "msp/tlscacerts/tlsca.pem", "tls-server"},
	} {
		csr := filepath.Join(dir, k.key+".csr")
		n.run(t, append([]string{"identity", "new", "--key", k.key, "--name", k.key + ".org1", "--host", "localhost,127.0.0.1", "--out", csr}, onTPM...)...)
		n.run(t, append([]string{"ca", "issue", "--key", k.authority, "--certificate", filepath.Join(org1, k.certificate),
			"--csr", csr, "--profile", k.profile, "--out", filepath.Join(dir, k.key+".pem")}, ca...)...)
	}
	var configuration string
	a := startApplianceWith(t, n, "tpm", func(text string) string {
		own := regexp.MustCompile(`(?s)token:\n(.*?)\nlisten:`).FindStringSubmatch(text)[1]
		second := "verifiers:\n  - profile: softhsm-2.6\n" + regexp.MustCompile(`(?m)^`).ReplaceAllString(own, "  ")
		text = strings.Replace(text, "token:\n"+own, fmt.Sprintf("token:\n  module: %s\n  profile: %s\n  label: %s\n  pin: {file: %s}\n  sessions: 4\n%s",
			d.module, d.profile, d.label, d.pin, second), 1)
		for field, value := range map[string]string{
			"certificate": filepath.Join(dir, "tpm-peer.pem"), "key": "tpm-peer", "tlsCertificate": filepath.Join(dir, "tpm-tls.pem"), "tlsKey": "tpm-tls",
		} {
			text = regexp.MustCompile(`(?m)^  `+field+`: .*$`).ReplaceAllString(text, "  "+field+": "+value)
		}
		configuration = text
		return text
	})
	log, err := os.ReadFile(a.process.Log)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), "token only signs") || !strings.Contains(string(log), "takes no public keys") {
		t.Errorf("the log does not say who verifies, and why:\n%s", log)
	}
	asset := a.deployAsset(t, "tpm")
	if _, err := asset("invoke", `["CreateAsset","one","blue","1","Ada","5"]`); err != nil {
		t.Fatal(err)
	}
	if out, err := asset("query", `["ReadAsset","one"]`); err != nil || !strings.Contains(out, "Ada") {
		t.Fatalf("%s %v", out, err)
	}
	a.waitReady(t)

	// The operator's command sees the keys as the node does.
	file := filepath.Join(dir, "peer.yaml")
	write(t, file, []byte(configuration))
	var list []struct{ Matches bool }
	if err := json.Unmarshal([]byte(n.run(t, "identity", "list", "--config", file, "--output", "json")), &list); err != nil {
		t.Fatal(err)
	}
	for i, l := range list {
		if !l.Matches {
			t.Errorf("certificate %d is not of the TPM's key", i)
		}
	}

	// Without the second token the node does not start, and says why.
	alone := regexp.MustCompile(`(?s)verifiers:\n.*?\nlisten:`).ReplaceAllString(configuration, "listen:")
	write(t, file, []byte(alone))
	_, err = command(exec.Command(strongroomBinary, "peer", "--config", file))
	if err == nil || !strings.Contains(err.Error(), "takes no public keys") || !strings.Contains(err.Error(), "name it under verifiers") {
		t.Errorf("got %v, want a refusal", err)
	}
}
