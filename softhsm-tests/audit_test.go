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

// export submits a few transactions and exports the channel as a pack.
func (n network) export(t *testing.T) string {
	t.Helper()
	u := n.dialUser(t, "org1")
	for range 3 {
		if _, err := u.Submit(t.Context(), call("CreateAsset", "audit-"+t.Name()+fmt.Sprint(n.height(t)), "blue", "3", "Ada", "9")); err != nil {
			t.Fatal(err)
		}
	}
	pack := filepath.Join(t.TempDir(), "pack.tar.zst")
	n.admin(t, "org1", "audit", "export", "main", "--out", pack)
	return pack
}

// unpack unpacks a pack with the system's tar.
func unpack(t *testing.T, pack string) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := command(exec.Command("tar", "--zstd", "-xf", pack, "-C", dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (n network) audit(args ...string) (string, error) {
	return command(exec.Command(filepath.Join(n.bin, "strongroom-audit"), append([]string{"verify"}, args...)...))
}

// TestAudit verifies a pack, unpacked and not, a later part of the channel, and
// refuses every kind of tampering with the right words.
func TestAudit(t *testing.T) {
	n := start(t)
	pack := n.export(t)
	page := filepath.Join(t.TempDir(), "report.html")
	out, err := n.audit(pack, "--html", page)
	if err != nil || !strings.Contains(out, "VERIFIED") {
		t.Fatalf("%s\n%v", out, err)
	}
	if text, err := os.ReadFile(page); err != nil || !strings.Contains(string(text), "<b>Verified.</b>") || !strings.Contains(string(text), "Org1MSP") {
		t.Errorf("the page says\n%s\n%v", text, err)
	}
	dir := unpack(t, pack)
	var report struct {
		From, To, Transactions uint64
		ConfigHash             string
		Log                    struct{ Size, Statements uint64 }
		Replay                 struct {
			Blocks uint64
			Reason string
		}
		Devices []string
		Members []struct {
			MSPID               string
			Submitted, Endorsed int
		}
	}
	out, err = n.audit(dir, "--output", "json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	if report.To+1 != n.height(t) || report.Transactions < report.To || report.Log.Statements != report.To+1 || report.Log.Size < report.To+1 {
		t.Errorf("the report counts %+v at height %d", report, n.height(t))
	}
	if report.Replay.Blocks != report.To+1 || report.Replay.Reason != "" {
		t.Errorf("verdicts were computed again on %+v, not on all %d blocks", report.Replay, report.To+1)
	}
	build, err := command(exec.Command("sha256sum", filepath.Join(n.bin, "strongroom")))
	if err != nil {
		t.Fatal(err)
	}
	if digest, _, _ := strings.Cut(build, " "); len(report.Devices) != 1 || !strings.Contains(report.Devices[0], digest) {
		t.Errorf("the statements were made by %q, sha256sum says %s", report.Devices, build)
	}
	endorsed := map[string]int{}
	for _, m := range report.Members {
		endorsed[m.MSPID] += m.Endorsed
	}
	if endorsed["Org1MSP"] < 3 || endorsed["Org2MSP"] < 3 {
		t.Errorf("the report's members are %+v", report.Members)
	}
	if _, err := n.audit(pack, "--config-hash", report.ConfigHash); err != nil {
		t.Error(err)
	}
	if _, err := n.audit(pack, "--config-hash", strings.Repeat("0", 64)); err == nil || !strings.Contains(err.Error(), "not the channel you know") {
		t.Errorf("another channel's hash: %v", err)
	}
	part := filepath.Join(t.TempDir(), "part.tar.gz")
	n.admin(t, "org2", "audit", "export", "main", "--from", "3", "--to", fmt.Sprint(report.To), "--out", part)
	if out, err := n.audit(part); err != nil || !strings.Contains(out, "does not begin with block 0") {
		t.Errorf("%s\n%v", out, err)
	}

	name := func(kind string, number uint64, suffix string) string {
		return filepath.Join(kind, fmt.Sprintf("%020d%s", number, suffix))
	}
	last, before := report.To, report.To-1
	for title, tc := range map[string]struct {
		tamper func(t *testing.T, dir string)
		want   string
	}{
		"a byte of a transaction":     {flip(name("blocks", last, ".block"), 0.5), fmt.Sprintf("block %d", last)},
		"a byte of the header":        {flip(name("headers", last, ".der"), 0.9), "header"},
		"a byte of a proof":           {flip(name("proofs", last, ".tlog-proof"), 0.3), "transparency log"},
		"a byte of the checkpoint":    {flip("checkpoint", 0.9), "checkpoint"},
		"a byte of the sums":          {flip("SHA256SUMS", 0.5), "pack's statement is not about this SHA256SUMS"},
		"a byte of their signature":   {replaceSignature("SHA256SUMS.sigstore.json"), "SHA256SUMS.sigstore.json"},
		"a byte of the text":          {flip("VERIFY.md", 0.5), "VERIFY.md was changed"},
		"a byte of a root":            {flip("msp/Org1MSP/root-0.pem", 0.5), "is not what config.block says"},
		"a byte of the configuration": {flip("config.block", 0.5), "config.block"},
		"a byte of the signer":        {flip("signer.pem", 0.5), "signer.pem"},
		"another channel's name":      {replaceText("pack.json", "\"main\"", "\"mein\""), "config.block is of channel"},
		"a statement's signature":     {replaceSignature(name("statements", last, ".sigstore.json")), "statement"},
		"statements swapped": {swap(name("statements", last, ".sigstore.json"), name("statements", before, ".sigstore.json")),
			"statement"},
		"proofs swapped":          {swap(name("proofs", last, ".tlog-proof"), name("proofs", before, ".tlog-proof")), "transparency log"},
		"blocks swapped":          {swap(name("blocks", last, ".block"), name("blocks", before, ".block")), "holds block"},
		"a block dropped":         {remove(name("blocks", before, ".block")), ".block is missing"},
		"a statement dropped":     {remove(name("statements", before, ".sigstore.json")), "sigstore.json is missing"},
		"a proof dropped":         {remove(name("proofs", before, ".tlog-proof")), "tlog-proof is missing"},
		"the sums dropped":        {remove("SHA256SUMS"), "SHA256SUMS is missing"},
		"their signature dropped": {remove("SHA256SUMS.sigstore.json"), "the pack is not signed"},
		"an extra block":          {add(name("blocks", last+1, ".block")), "outside the pack's range"},
		"an extra file":           {add("notes.txt"), "notes.txt is not listed"},
		"an older checkpoint": {func(t *testing.T, dir string) {
			other := unpack(t, part)
			data, err := os.ReadFile(filepath.Join(other, "checkpoint"))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "checkpoint"), data) // of org2's log
		}, "checkpoint"},
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
	t.Run("every file", func(t *testing.T) { n.flipEach(t, dir, last) })
	t.Run("archive", func(t *testing.T) { n.tamperArchive(t, pack, dir) })
	t.Run("VERIFY.md", func(t *testing.T) { followVerify(t, dir, last) })
}

// flipEach flips a byte at three places of every file that stands once and of every
// file of the last block.
func (n network) flipEach(t *testing.T, dir string, last uint64) {
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if strings.Count(name, string(filepath.Separator)) == 1 && !strings.Contains(name, fmt.Sprintf("%020d", last)) {
			return nil
		}
		original, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, at := range []float64{0, 0.4, 0.999999} {
			flip(name, at)(t, dir)
			if out, err := n.audit(dir); err == nil {
				t.Errorf("%s with a byte changed at %v of it is accepted:\n%s", name, at, out)
			}
			write(t, path, original)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tamperArchive cuts the archive, changes a byte of it and puts its files into another
// order.
func (n network) tamperArchive(t *testing.T, pack, dir string) {
	data, err := os.ReadFile(pack)
	if err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(t.TempDir(), "changed.tar.zst")
	write(t, changed, data[:len(data)/2])
	if _, err := n.audit(changed); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("half an archive: %v", err)
	}
	data[len(data)/2] ^= 1
	write(t, changed, data)
	if _, err := n.audit(changed); err == nil {
		t.Error("an archive with a byte changed is accepted")
	}
	reordered := filepath.Join(t.TempDir(), "reordered.tar.gz")
	if _, err := command(exec.Command("tar", "-C", dir, "-czf", reordered, "pack.json", "VERIFY.md", "signer.pem", "config.block", "checkpoint")); err != nil {
		t.Fatal(err)
	}
	if _, err := n.audit(reordered); err == nil || !strings.Contains(err.Error(), "reordered") {
		t.Errorf("an archive in another order: %v", err)
	}
}

// followVerify runs the commands of VERIFY.md, which hold for the pack and fail for a
// changed one.
func followVerify(t *testing.T, dir string, last uint64) {
	run := func() (string, error) { return withoutOurSoftware(t, dir) }
	out, err := run()
	if err != nil || strings.Count(out, "Verified OK") != 2 || !strings.Contains(out, "signer.pem: OK") || !strings.Contains(out, "statements chained to") {
		t.Fatalf("%s\n%v", out, err)
	}
	for _, name := range []string{"blocks", "statements"} {
		suffix := map[string]string{"blocks": ".block", "statements": ".sigstore.json"}[name]
		file := filepath.Join(name, fmt.Sprintf("%020d%s", last, suffix))
		original, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		flip(file, 0.5)(t, dir)
		if out, err := run(); err == nil {
			t.Errorf("VERIFY.md's commands accept a changed %s:\n%s", file, out)
		}
		write(t, filepath.Join(dir, file), original)
	}
}

// TestStatementWithOpenSSL checks a statement's signature and subject with nothing
// of ours.
func TestStatementWithOpenSSL(t *testing.T) {
	n := start(t)
	dir := unpack(t, n.export(t))
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

func replaceText(file, old, replacement string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(data), old, replacement, 1)
		if changed == string(data) {
			t.Fatalf("%s has no %s", file, old)
		}
		write(t, filepath.Join(dir, file), []byte(changed))
	}
}

// withoutOurSoftware runs the commands of a pack's VERIFY.md.
func withoutOurSoftware(t *testing.T, dir string) (string, error) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "VERIFY.md"))
	if err != nil {
		t.Fatal(err)
	}
	script := "set -eu\n"
	for i, part := range strings.Split(string(text), "```") {
		if i%2 == 1 {
			script += strings.TrimPrefix(part, "sh\n")
		}
	}
	cmd := exec.Command("sh", "-c", strings.ReplaceAll(script, "/tmp/", t.TempDir()+"/"))
	cmd.Dir = dir
	return command(cmd)
}
