package softhsmtests

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// export submits a few transactions and exports the channel.
func (n network) export(t *testing.T) string {
	t.Helper()
	u := n.dialUser(t, "org1")
	for range 3 {
		if _, err := u.Submit(t.Context(), call("CreateAsset", "audit-"+t.Name()+fmt.Sprint(n.height(t)), "blue", "3", "Ada", "9")); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(t.TempDir(), "export")
	n.admin(t, "org1", "ledger", "export", "main", "--out", dir)
	return dir
}

func (n network) audit(args ...string) (string, error) {
	return command(exec.Command(filepath.Join(n.bin, "strongroom-audit"), append([]string{"verify"}, args...)...))
}

// TestAudit verifies an export, a later part of the channel, and refuses every kind
// of tampering with the right words.
func TestAudit(t *testing.T) {
	n := start(t)
	dir := n.export(t)
	out, err := n.audit(dir)
	if err != nil || !strings.Contains(out, "VERIFIED") {
		t.Fatalf("%s\n%v", out, err)
	}
	var report struct {
		To, Transactions uint64
		ConfigHash       string
	}
	out, err = n.audit(dir, "--output", "json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	if report.To+1 != n.height(t) || report.Transactions < report.To {
		t.Errorf("the report counts %+v at height %d", report, n.height(t))
	}
	if _, err := n.audit(dir, "--config-hash", report.ConfigHash); err != nil {
		t.Error(err)
	}
	if _, err := n.audit(dir, "--config-hash", strings.Repeat("0", 64)); err == nil || !strings.Contains(err.Error(), "not the channel you know") {
		t.Errorf("another channel's hash: %v", err)
	}
	part := filepath.Join(t.TempDir(), "part")
	n.admin(t, "org2", "ledger", "export", "main", "--from", "3", "--to", fmt.Sprint(report.To), "--out", part)
	if _, err := n.audit(part); err != nil {
		t.Error(err)
	}

	name := func(kind string, number uint64, suffix string) string {
		return filepath.Join(kind, fmt.Sprintf("%020d%s", number, suffix))
	}
	last, before := report.To, report.To-1
	for title, tc := range map[string]struct {
		tamper func(t *testing.T, dir string)
		want   string
	}{
		"a byte of a transaction": {flip(name("blocks", last, ".block"), 0.5), fmt.Sprintf("block %d", last)},
		"a byte of the header":    {flip(name("headers", last, ".der"), 0.9), "header"},
		"a statement's signature": {replaceSignature(name("statements", last, ".sigstore.json")), "statement"},
		"statements swapped": {swap(name("statements", last, ".sigstore.json"), name("statements", before, ".sigstore.json")),
			"statement"},
		"blocks swapped":      {swap(name("blocks", last, ".block"), name("blocks", before, ".block")), "holds block"},
		"a block dropped":     {remove(name("blocks", before, ".block")), "cannot be read"},
		"a statement dropped": {remove(name("statements", before, ".sigstore.json")), "statement"},
		"an extra block":      {add(name("blocks", last+1, ".block")), "outside the manifest's range"},
		"another signer": {func(t *testing.T, dir string) {
			pem, err := os.ReadFile(filepath.Join(n.dir, "org1", "identities", "admin.pem"))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "signer.pem"), pem)
		}, "statement"},
	} {
		t.Run(title, func(t *testing.T) {
			copied := filepath.Join(t.TempDir(), "export")
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			tc.tamper(t, copied)
			if _, err := n.audit(copied); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want a finding with %q", err, tc.want)
			}
		})
	}
}

// TestStatementWithOpenSSL checks a statement's signature and subject with nothing
// of ours.
func TestStatementWithOpenSSL(t *testing.T) {
	n := start(t)
	dir := n.export(t)
	var bundle struct {
		DSSEEnvelope struct {
			Payload, PayloadType string
			Signatures           []struct{ Sig string }
		} `json:"dsseEnvelope"`
	}
	number := fmt.Sprintf("%020d", 4)
	read(t, filepath.Join(dir, "statements", number+".sigstore.json"), &bundle)
	e := bundle.DSSEEnvelope
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := base64.StdEncoding.DecodeString(e.Signatures[0].Sig)
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	pae := fmt.Sprintf("DSSEv1 %d %s %d %s", len(e.PayloadType), e.PayloadType, len(payload), payload)
	write(t, filepath.Join(work, "pae"), []byte(pae))
	write(t, filepath.Join(work, "sig"), sig)
	public, err := command(exec.Command("openssl", "x509", "-in", filepath.Join(dir, "signer.pem"), "-pubkey", "-noout"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(work, "pub"), []byte(public+"\n"))
	verify := func() (string, error) {
		return command(exec.Command("openssl", "dgst", "-sha256", "-verify", filepath.Join(work, "pub"),
			"-signature", filepath.Join(work, "sig"), filepath.Join(work, "pae")))
	}
	if out, err := verify(); err != nil || out != "Verified OK" {
		t.Fatalf("%s %v", out, err)
	}
	write(t, filepath.Join(work, "pae"), []byte(strings.Replace(pae, "main", "mein", 1)))
	if _, err := verify(); err == nil {
		t.Error("openssl accepts a changed statement")
	}
	var statement struct {
		Subject []struct{ Digest struct{ SHA256 string } }
	}
	if err := json.Unmarshal(payload, &statement); err != nil {
		t.Fatal(err)
	}
	sum, err := command(exec.Command("sha256sum", filepath.Join(dir, "headers", number+".der")))
	if err != nil {
		t.Fatal(err)
	}
	if len(statement.Subject) != 1 || !strings.HasPrefix(sum, statement.Subject[0].Digest.SHA256) {
		t.Errorf("sha256sum says %s, the statement's subject is %+v", sum, statement.Subject)
	}
}

func read(t *testing.T, file string, into any) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func flip(file string, at float64) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		data[int(at*float64(len(data)))] ^= 1
		write(t, filepath.Join(dir, file), data)
	}
}

func replaceSignature(file string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		var bundle map[string]any
		read(t, filepath.Join(dir, file), &bundle)
		signatures := bundle["dsseEnvelope"].(map[string]any)["signatures"].([]any)
		sig := signatures[0].(map[string]any)
		raw, err := base64.StdEncoding.DecodeString(sig["sig"].(string))
		if err != nil {
			t.Fatal(err)
		}
		raw[len(raw)-1] ^= 1
		sig["sig"] = base64.StdEncoding.EncodeToString(raw)
		data, err := json.Marshal(bundle)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, file), data)
	}
}

func swap(a, b string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		a, b, aside := filepath.Join(dir, a), filepath.Join(dir, b), filepath.Join(dir, "aside")
		for _, step := range [][2]string{{a, aside}, {b, a}, {aside, b}} {
			if err := os.Rename(step[0], step[1]); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func remove(file string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.Remove(filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
}

func add(file string) func(*testing.T, string) {
	return func(t *testing.T, dir string) { write(t, filepath.Join(dir, file), []byte("extra")) }
}
