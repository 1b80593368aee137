package provenance

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/bccsp/bccsptest"
	"strongroom/ledger/translog"
)

// checkpoint signs one and verifies it in the token.
func (f *fixture) checkpoint(t *testing.T, r *Recorder) *translog.Checkpoint {
	t.Helper()
	note, err := r.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, sig, err := translog.ParseNote(note, f.key.SPKI())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(c.Text())
	if err := f.token.Verify(t.Context(), f.key, sum[:], sig); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestLog grows a log over restarts: each checkpoint continues the one before, and
// every statement is in it.
func TestLog(t *testing.T) {
	f := newFixture(t)
	r := f.open(t)
	if _, err := r.Checkpoint(t.Context()); err == nil {
		t.Fatal("a checkpoint over nothing")
	}
	record(t, r, facts(t, 0, 1)...)
	old := f.checkpoint(t, r)
	first, err := r.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.Checkpoint(t.Context()); err != nil || !bytes.Equal(first, again) {
		t.Errorf("the same size was signed twice: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = f.open(t)
	record(t, r, facts(t, 2, 3)...)
	now := f.checkpoint(t, r)
	if old.Size != 2 || now.Size != 4 || now.Origin != translog.Origin("mychannel", f.key.ID().String()) {
		t.Errorf("checkpoints %+v and %+v", old, now)
	}
	proof, err := r.ConsistencyProof(old.Size, now.Size)
	if err != nil {
		t.Fatal(err)
	}
	if err := translog.VerifyConsistency(proof, old.Size, now.Size, old.Root, now.Root); err != nil {
		t.Error(err)
	}
	for n := range uint64(4) {
		index, proof, err := r.InclusionProof(n, now.Size)
		if err != nil {
			t.Fatal(err)
		}
		b, err := ParseBundle(get(t, r, n))
		if err != nil {
			t.Fatal(err)
		}
		if err := translog.VerifyInclusion(proof, index, now.Size, translog.LeafHash(b.Envelope.Payload), now.Root); err != nil {
			t.Errorf("block %d: %v", n, err)
		}
	}
	for _, size := range []uint64{3, 5} {
		if _, _, err := r.InclusionProof(3, size); err == nil {
			t.Errorf("a proof for block 3 in a log of %d", size)
		}
	}
}

// TestLogFindsLoss refuses statements that are fewer, or others, than the token's
// checkpoint covers.
func TestLogFindsLoss(t *testing.T) {
	for title, tc := range map[string]struct {
		harm func(lines [][]byte) [][]byte
		want string
	}{
		"fewer": {func(lines [][]byte) [][]byte { return lines[:2] }, "signed over 3"},
		"changed": {func(lines [][]byte) [][]byte {
			b, _ := ParseBundle(lines[0])
			changed := bytes.Replace(b.Envelope.Payload, []byte("SoftHSM v2"), []byte("SoftHSM v3"), 1)
			return [][]byte{bytes.Replace(lines[0], encode(b.Envelope.Payload), encode(changed), 1), lines[1], lines[2]}
		}, "were changed"},
	} {
		t.Run(title, func(t *testing.T) {
			f := newFixture(t)
			r, err := Open(f.cfg)
			if err != nil {
				t.Fatal(err)
			}
			record(t, r, facts(t, 0, 1, 2)...)
			f.checkpoint(t, r)
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(f.cfg.Dir, fileName(0))
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			lines := bytes.SplitAfter(data, []byte("\n"))[:3]
			if err := os.WriteFile(path, bytes.Join(tc.harm(lines), nil), 0o600); err != nil {
				t.Fatal(err)
			}
			if r, err := Open(f.cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
				if err == nil {
					_ = r.Close()
				}
			}
		})
	}
}

// TestLogRebuilds computes the same tree from the statements when tiles are lost or
// damaged, over more than one file of statements.
func TestLogRebuilds(t *testing.T) {
	f := newFixture(t)
	f.cfg.Signer = fastSigner{f.cfg.Signer}
	r, err := Open(f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	const count = fileBlocks + 300
	block := readBlock(t, 1)
	all := make([]Facts, count)
	for i := range all {
		b := proto.CloneOf(block)
		b.Header.Number = uint64(i)
		all[i] = Facts{Block: b}
	}
	record(t, r, all...)
	want := f.checkpoint(t, r)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	tile := filepath.Join(f.cfg.Dir, "tile", "0", "002")
	damaged, err := os.ReadFile(tile)
	if err != nil {
		t.Fatal(err)
	}
	damaged[99] ^= 1
	for title, harm := range map[string]func() error{
		"a tile lost":    func() error { return os.Remove(tile) },
		"all tiles lost": func() error { return os.RemoveAll(filepath.Join(f.cfg.Dir, "tile")) },
		"a tile damaged": func() error { return os.WriteFile(tile, damaged, 0o600) },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		r, err := Open(f.cfg)
		if err != nil {
			t.Fatalf("%s: %v", title, err)
		}
		if err := os.Remove(filepath.Join(f.cfg.Dir, checkpointName)); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if r, err = Open(f.cfg); err != nil {
			t.Fatal(err)
		}
		if got := f.checkpoint(t, r); *got != *want {
			t.Errorf("%s: %+v, want %+v", title, got, want)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func encode(payload []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(payload)) }

// TestRotatedSigner changes the key while the recorder is open: statements go on in one
// chain, each signed by the key in force and saying so, and the log's checkpoint is at
// once of the new key, over all that there is.
func TestRotatedSigner(t *testing.T) {
	f := newFixture(t)
	ca := bccsptest.NewCA(t, bccsptest.OpenShared(t), "Org1MSP")
	first, second := ca.Issue(t, "peer0", "peer"), ca.Issue(t, "peer0", "peer")
	current := first
	f.cfg.Signer = nil
	f.cfg.Current = func() (StatementSigner, *x509.Certificate) { return current.Signer, current.Certificate }
	f.key = first.Signer.PublicKey()
	r := f.open(t)
	record(t, r, facts(t, 0, 1)...)
	f.checkpoint(t, r)

	current, f.key = second, second.Signer.PublicKey()
	if c := f.checkpoint(t, r); c.Size != 2 || c.Origin != translog.Origin("mychannel", f.key.ID().String()) {
		t.Errorf("checkpoint after the rotation: %+v", c)
	}
	record(t, r, facts(t, 2, 3)...)
	if c := f.checkpoint(t, r); c.Size != 4 {
		t.Errorf("checkpoint after new statements: %+v", c)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = f.open(t)
	want := append(encodePEM(second.Certificate), encodePEM(first.Certificate)...)
	if got, err := r.Signers(); err != nil || !bytes.Equal(got, want) {
		t.Errorf("signers, the one in force first: %s, %v", got, err)
	}
	var chain Chain
	for n := range uint64(4) {
		by := first
		if n >= 2 {
			by = second
		}
		raw, err := r.Get(n)
		if err != nil {
			t.Fatal(err)
		}
		f.key = by.Signer.PublicKey()
		checked, err := Verify(raw, facts(t, n)[0].Block.GetHeader(), f.check)
		if err != nil {
			t.Fatalf("block %d: %v", n, err)
		}
		if err := chain.Add(checked); err != nil {
			t.Error(err)
		}
		if p := checked.Statement.Predicate; p.Signer != IdentityOf("Org1MSP", by.Certificate) || p.HSM.KeyID != f.key.ID().String() {
			t.Errorf("block %d: it says it is signed by %+v with key %s", n, p.Signer, p.HSM.KeyID)
		}
	}
}
