package softhsmtests

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/secure-systems-lab/go-securesystemslib/signerverifier"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
)

// evidenceFiles are an exported pack, unpacked, with the key that signed it.
type evidenceFiles struct {
	dir    string
	last   uint64
	public crypto.PublicKey
	pem    string // file of the public key
}

func (n network) evidence(t *testing.T) evidenceFiles {
	t.Helper()
	f := evidenceFiles{dir: unpack(t, n.export(t)), pem: filepath.Join(t.TempDir(), "pub.pem")}
	var info struct{ To uint64 }
	read(t, filepath.Join(f.dir, "pack.json"), &info)
	f.last = info.To
	block, _ := pem.Decode(f.read(t, "signer.pem"))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	f.public = cert.PublicKey
	write(t, f.pem, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: cert.RawSubjectPublicKeyInfo}))
	return f
}

func (f evidenceFiles) read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (f evidenceFiles) of(block uint64, folder, suffix string) string {
	return fmt.Sprintf("%s/%020d%s", folder, block, suffix)
}

// TestStatementsWithSigstore has every statement verified by Sigstore's own library from
// npm, and a changed one refused.
func TestStatementsWithSigstore(t *testing.T) {
	f := start(t).evidence(t)
	folder := npm(t, "sigstore-client")
	verify := func(files ...string) (string, error) {
		cmd := exec.Command("node", append([]string{"verify.mjs", f.pem}, files...)...)
		cmd.Dir = folder
		return command(cmd)
	}
	var files []string
	for n := range f.last + 1 {
		files = append(files, filepath.Join(f.dir, f.of(n, "statements", ".sigstore.json")), filepath.Join(f.dir, f.of(n, "headers", ".der")))
	}
	out, err := verify(files...)
	if err != nil || !strings.Contains(out, fmt.Sprintf("verified %d statements", f.last+1)) {
		t.Fatalf("%s\n%v", out, err)
	}
	if _, err := verify(files[0], files[3]); err == nil || !strings.Contains(err.Error(), "is not about") {
		t.Errorf("a statement with another block's header: %v", err)
	}
	var bundle map[string]any
	read(t, files[0], &bundle)
	envelope := bundle["dsseEnvelope"].(map[string]any)
	payload, err := base64.StdEncoding.DecodeString(envelope["payload"].(string))
	if err != nil {
		t.Fatal(err)
	}
	envelope["payload"] = base64.StdEncoding.EncodeToString(bytes.Replace(payload, []byte("main"), []byte("mein"), 1))
	changed, err := json.Marshal(bundle)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "changed.sigstore.json")
	write(t, file, changed)
	if _, err := verify(file, files[1]); err == nil || !strings.Contains(err.Error(), "signature verification failed") {
		t.Errorf("a changed statement: %v", err)
	}
}

// TestStatementsWithDSSE has every statement's envelope verified by the DSSE library of
// in-toto and TUF.
func TestStatementsWithDSSE(t *testing.T) {
	f := start(t).evidence(t)
	pemData, err := os.ReadFile(f.pem)
	if err != nil {
		t.Fatal(err)
	}
	key, err := signerverifier.LoadKey(pemData)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := signerverifier.NewECDSASignerVerifierFromSSLibKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ev, err := dsse.NewEnvelopeVerifier(verifier)
	if err != nil {
		t.Fatal(err)
	}
	for n := range f.last + 1 {
		var bundle struct{ DSSEEnvelope dsse.Envelope }
		read(t, filepath.Join(f.dir, f.of(n, "statements", ".sigstore.json")), &bundle)
		accepted, err := ev.Verify(context.Background(), &bundle.DSSEEnvelope)
		if err != nil || len(accepted) != 1 {
			t.Fatalf("block %d: %v, accepted %d", n, err, len(accepted))
		}
		bundle.DSSEEnvelope.PayloadType += "x"
		if _, err := ev.Verify(context.Background(), &bundle.DSSEEnvelope); err == nil {
			t.Fatalf("block %d: another payload type is accepted", n)
		}
	}
}

// noteKey verifies a note that is signed with ECDSA (C2SP signed-note, type 0x02).
type noteKey struct {
	name   string
	public []byte // SubjectPublicKeyInfo
	check  func(digest, sig []byte) bool
}

func (k noteKey) Name() string { return k.name }

func (k noteKey) KeyHash() uint32 {
	h := sha256.Sum256(k.public)
	return uint32(h[0])<<24 | uint32(h[1])<<16 | uint32(h[2])<<8 | uint32(h[3])
}

func (k noteKey) Verify(msg, sig []byte) bool {
	digest := sha256.Sum256(msg)
	return k.check(digest[:], sig)
}

// TestCheckpointWithOtherLibraries opens the pack's checkpoint with Go's own note package
// and proves every statement in the log with transparency-dev's.
func TestCheckpointWithOtherLibraries(t *testing.T) {
	f := start(t).evidence(t)
	checkpoint := f.read(t, "checkpoint")
	spki, err := x509.MarshalPKIXPublicKey(f.public)
	if err != nil {
		t.Fatal(err)
	}
	name, _, _ := strings.Cut(string(checkpoint), "\n")
	key := noteKey{name, spki, ecdsaCheck(t, f.public)}
	opened, err := note.Open(checkpoint, note.VerifierList(key))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(opened.Text, "\n")
	var size uint64
	if _, err := fmt.Sscan(lines[1], &size); err != nil || size < f.last+1 {
		t.Fatalf("the checkpoint's size is %q, the pack ends with block %d", lines[1], f.last)
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil {
		t.Fatal(err)
	}
	for n := range f.last + 1 {
		var bundle struct{ DSSEEnvelope struct{ Payload []byte } }
		read(t, filepath.Join(f.dir, f.of(n, "statements", ".sigstore.json")), &bundle)
		index, hashes := logProof(t, f.read(t, f.of(n, "proofs", ".tlog-proof")))
		leaf := rfc6962.DefaultHasher.HashLeaf(bundle.DSSEEnvelope.Payload)
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, leaf, hashes, root); err != nil {
			t.Errorf("block %d: %v", n, err)
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, append([]byte{leaf[0] ^ 1}, leaf[1:]...), hashes, root); err == nil {
			t.Errorf("block %d: another statement is in the log too", n)
		}
	}
	if _, err := note.Open(bytes.Replace(checkpoint, []byte("\n"+lines[1]+"\n"), []byte("\n1\n"), 1), note.VerifierList(key)); err == nil {
		t.Error("a checkpoint of another size is accepted")
	}
}

// logProof reads a c2sp.org/tlog-proof file by its specification.
func logProof(t *testing.T, raw []byte) (index uint64, hashes [][]byte) {
	t.Helper()
	head, _, _ := strings.Cut(string(raw), "\n\n")
	for i, line := range strings.Split(head, "\n") {
		switch {
		case i == 0 && line == "c2sp.org/tlog-proof@v1":
		case strings.HasPrefix(line, "index "):
			if _, err := fmt.Sscanf(line, "index %d", &index); err != nil {
				t.Fatal(err)
			}
		default:
			h, err := base64.StdEncoding.DecodeString(line)
			if err != nil || len(h) != sha256.Size {
				t.Fatalf("line %q: %v %s", line, err, hex.EncodeToString(h))
			}
			hashes = append(hashes, h)
		}
	}
	return index, hashes
}

// ecdsaCheck checks a DER signature over a digest with Go's own library.
func ecdsaCheck(t *testing.T, public crypto.PublicKey) func(digest, sig []byte) bool {
	t.Helper()
	key, ok := public.(*ecdsa.PublicKey)
	if !ok {
		t.Fatalf("the signer's key is %T", public)
	}
	return func(digest, sig []byte) bool { return ecdsa.VerifyASN1(key, digest, sig) }
}
