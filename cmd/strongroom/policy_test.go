package main

import (
	"bytes"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	opa "github.com/open-policy-agent/opa/v1/bundle"

	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
)

// execute runs the command line as main does.
func execute(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := root()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// TestPolicyFromInitToSign walks the way of a security team, and has OPA verify the
// bundle at its end.
func TestPolicyFromInitToSign(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policy")
	for _, args := range [][]string{{"init", dir}, {"check", dir}, {"fmt", dir}, {"test", "--coverage", dir}} {
		if out, err := execute(t, append([]string{"policy"}, args...)...); err != nil {
			t.Fatalf("policy %v: %v\n%s", args, err, out)
		}
	}
	if _, err := execute(t, "policy", "init", dir); err == nil {
		t.Error("init writes into a folder that is not empty")
	}

	config := bccsptest.Config(t)
	token, err := pkcs11.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	_, err = token.GenerateKey(t.Context(), "security", elliptic.P256())
	if err := errors.Join(err, token.Close()); err != nil {
		t.Fatal(err)
	}
	archive, public := filepath.Join(t.TempDir(), "b.tar.gz"), filepath.Join(t.TempDir(), "team.pem")
	sign := []string{"policy", "sign", "--output", "json", "--module", config.Module, "--token", config.TokenLabel, "--pin-file", config.PIN.File,
		"--key", "security", "--key-id", "team", "--scope", "fabric", "--out", archive, "--public-key-out", public, dir}
	if out, err := execute(t, sign...); err == nil || !strings.Contains(err.Error(), "revision") {
		t.Errorf("signed without a revision: %v\n%s", err, out)
	}
	out, err := execute(t, append(sign, "--revision", "12")...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var result signedBundle
	if err := json.Unmarshal([]byte(out), &result); err != nil || result.Revision != 12 || result.Tests == 0 || !result.Endorsement {
		t.Errorf("result %s: %v", out, err)
	}
	key, err := os.ReadFile(public)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	verification := opa.NewVerificationConfig(map[string]*opa.KeyConfig{"team": {Key: string(key), Algorithm: "ES256"}}, "team", "fabric", nil)
	if _, err := opa.NewReader(bytes.NewReader(signed)).WithBundleVerificationConfig(verification).Read(); err != nil {
		t.Errorf("OPA refuses the bundle: %v", err)
	}
	if out, err := execute(t, "policy", "check", archive); err != nil {
		t.Errorf("check of the archive: %v\n%s", err, out)
	}

	push(t, config, public, archive, sign)

	// A fault stops every step.
	rule := filepath.Join(dir, "function.rego")
	source, err := os.ReadFile(rule)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(rule, append(source, "\nallow   if input.functio == \"x\"\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"policy", "check", dir}, append(sign, "--revision", "13")} {
		if _, err := execute(t, args...); err == nil || !strings.Contains(err.Error(), "function.rego:") {
			t.Errorf("%s: a misspelt field: %v", args[1], err)
		}
	}
	if _, err := execute(t, "policy", "fmt", dir); err == nil {
		t.Error("fmt does not find the file that is not in form")
	}
	if _, err := execute(t, "policy", "fmt", "--write", dir); err != nil {
		t.Error(err)
	}
	if _, err := execute(t, "policy", "fmt", dir); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x_test.rego"), []byte("package x_test\n\ntest_never if 1 == 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := execute(t, "policy", "test", dir); err == nil || !strings.Contains(out, "x_test.rego:3") {
		t.Errorf("a test that fails: %v\n%s", err, out)
	}
}

// push puts bundles where a node takes them from, a file or a folder, if the node would
// take them.
func push(t *testing.T, token pkcs11.Config, public, archive string, sign []string) {
	t.Helper()
	dir := t.TempDir()
	write := func(source string) string {
		file := filepath.Join(dir, "orderer.yaml")
		conf := fmt.Sprintf("node: {mspId: A, certificate: c, key: k}\ntoken: {module: %s, label: %s, pin: {file: %s}}\nlisten: {address: ':1', tlsCertificate: c, tlsKey: k}\n"+
			"data: data\npolicy: {bundle: {%s, publicKey: %s, keyId: team, scope: fabric}}\n", token.Module, token.TokenLabel, token.PIN.File, source, public)
		if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	file := write("file: taken.tar.gz")
	if out, err := execute(t, "policy", "push", archive, "--config", file); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "taken.tar.gz")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what was pushed is not there: %v", err)
	}
	kept := filepath.Join(dir, "data", "policy")
	if err := os.MkdirAll(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(kept, "bundle.tar.gz"), want, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := execute(t, "policy", "push", archive, "--config", file); err == nil || !strings.Contains(err.Error(), "12 is in force") {
		t.Errorf("the revision in force: %v", err)
	}
	if out, err := execute(t, append(sign, "--revision", "13")...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	file = write("folder: folder")
	if out, err := execute(t, "policy", "push", archive, "--config", file, "--output", "json"); err != nil || !strings.Contains(out, "bundle-00000000000000000013.tar.gz") {
		t.Errorf("into a folder: %v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "folder", "later.tar.gz"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := execute(t, "policy", "push", archive, "--config", file); err == nil || !strings.Contains(err.Error(), "comes after") {
		t.Errorf("a folder whose last file is another: %v", err)
	}
	broken := filepath.Join(dir, "broken.tar.gz")
	if err := os.WriteFile(broken, append(want, 'x'), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := execute(t, "policy", "push", broken, "--config", file); err == nil {
		t.Error("a broken archive was pushed")
	}
}
