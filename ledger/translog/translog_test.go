package translog

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/tlog"

	"strongroom/bccsp"
)

func leaf(i uint64) ([]byte, error) { return fmt.Appendf(nil, "leaf %d", i), nil }

func open(t testing.TB, dir string, size uint64) *Log {
	t.Helper()
	l, err := Open(dir, size, leaf)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func fill(t testing.TB, l *Log, to uint64) {
	t.Helper()
	for i := l.Size(); i < to; i++ {
		content, err := leaf(i)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Append(content); err != nil {
			t.Fatal(err)
		}
	}
}

func root(t testing.TB, l *Log, size uint64) Hash {
	t.Helper()
	h, err := Root(l, size)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// reference is the same tree by golang.org/x/mod/sumdb/tlog.
func reference(t testing.TB, size uint64) tlog.HashReaderFunc {
	t.Helper()
	var stored []tlog.Hash
	read := func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, at := range indexes {
			out[i] = stored[at]
		}
		return out, nil
	}
	for i := range size {
		content, _ := leaf(i)
		hashes, err := tlog.StoredHashes(int64(i), content, tlog.HashReaderFunc(read))
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hashes...)
	}
	return read
}

// TestAgainstOthers holds roots and proofs against x/mod's tlog and
// transparency-dev's merkle, over sizes on both sides of a tile's edge.
func TestAgainstOthers(t *testing.T) {
	const most = 600
	l := open(t, t.TempDir(), 0)
	fill(t, l, most)
	ref := reference(t, most)
	for _, size := range []uint64{1, 2, 3, 7, 8, 255, 256, 257, 511, 512, 513, most} {
		h := root(t, l, size)
		want, err := tlog.TreeHash(int64(size), ref)
		if err != nil || h != Hash(want) {
			t.Fatalf("size %d: root %x, x/mod says %x, %v", size, h, want, err)
		}
		for n := uint64(0); n < size; n += 1 + size/40 {
			p, err := InclusionProof(l, n, size)
			if err != nil {
				t.Fatal(err)
			}
			content, _ := leaf(n)
			if err := tlog.CheckRecord(records(p), int64(size), want, int64(n), tlog.RecordHash(content)); err != nil {
				t.Errorf("leaf %d of %d: x/mod: %v", n, size, err)
			}
			if err := proof.VerifyInclusion(rfc6962.DefaultHasher, n, size, rfc6962.DefaultHasher.HashLeaf(content), bytesOf(p), h[:]); err != nil {
				t.Errorf("leaf %d of %d: merkle: %v", n, size, err)
			}
			if err := VerifyInclusion(p, n, size, LeafHash(content), h); err != nil {
				t.Errorf("leaf %d of %d: %v", n, size, err)
			}
			for i := range p {
				bad := slices.Clone(p)
				bad[i][3] ^= 1
				if err := VerifyInclusion(bad, n, size, LeafHash(content), h); !errors.Is(err, ErrBadProof) {
					t.Errorf("leaf %d of %d: proof with hash %d changed: %v", n, size, i, err)
				}
			}
			if err := VerifyInclusion(append(slices.Clone(p), h), n, size, LeafHash(content), h); !errors.Is(err, ErrBadProof) {
				t.Errorf("leaf %d of %d: longer proof: %v", n, size, err)
			}
		}
		for old := uint64(1); old <= size; old += 1 + size/40 {
			p, err := ConsistencyProof(l, old, size)
			if err != nil {
				t.Fatal(err)
			}
			before := root(t, l, old)
			if err := tlog.CheckTree(tlog.TreeProof(records(p)), int64(size), want, int64(old), tlog.Hash(before)); err != nil {
				t.Errorf("%d to %d: x/mod: %v", old, size, err)
			}
			if err := proof.VerifyConsistency(rfc6962.DefaultHasher, old, size, bytesOf(p), before[:], h[:]); err != nil {
				t.Errorf("%d to %d: merkle: %v", old, size, err)
			}
			if err := VerifyConsistency(p, old, size, before, h); err != nil {
				t.Errorf("%d to %d: %v", old, size, err)
			}
			before[0] ^= 1
			if err := VerifyConsistency(p, old, size, before, h); !errors.Is(err, ErrBadProof) {
				t.Errorf("%d to %d: another old root: %v", old, size, err)
			}
		}
	}
	if _, err := InclusionProof(l, 5, 5); err == nil {
		t.Error("a proof for a leaf outside the tree")
	}
	if _, err := ConsistencyProof(l, 0, 5); err == nil {
		t.Error("a proof from the empty tree")
	}
}

func records(p []Hash) tlog.RecordProof {
	out := make(tlog.RecordProof, len(p))
	for i := range p {
		out[i] = tlog.Hash(p[i])
	}
	return out
}

func bytesOf(p []Hash) [][]byte {
	out := make([][]byte, len(p))
	for i := range p {
		out[i] = p[i][:]
	}
	return out
}

// TestOpen finds the same tree after a restart, after losing any tile, and after
// losing all of them; a tile of a tile needs more than 65,536 leaves.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	const size = 256*256 + 300
	l := open(t, dir, 0)
	fill(t, l, size)
	want := root(t, l, size)
	check := func(title string) {
		t.Helper()
		again := open(t, dir, size)
		if got := root(t, again, size); got != want {
			t.Errorf("%s: root %x, want %x", title, got, want)
		}
		fill(t, again, size+300)
		fill(t, l, size+300)
		if got, want := root(t, again, size+300), root(t, l, size+300); got != want {
			t.Errorf("%s: after appending root %x, want %x", title, got, want)
		}
	}
	for _, lost := range []string{"0/000", "0/255", "0/256", "1/000"} {
		if err := os.Remove(filepath.Join(dir, "tile", lost)); err != nil {
			t.Fatal(err)
		}
		check(lost)
	}
	if err := os.WriteFile(filepath.Join(dir, "tile", "0", "001"), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	check("a torn tile")
	if err := Discard(dir); err != nil {
		t.Fatal(err)
	}
	check("no tile")
}

func TestTilePath(t *testing.T) {
	l := &Log{dir: "d"}
	for n, want := range map[uint64]string{0: "d/tile/1/000", 67: "d/tile/1/067", 1234067: "d/tile/1/x001/x234/067"} {
		if got := l.path(1, n); got != want {
			t.Errorf("tile %d at %s, want %s", n, got, want)
		}
	}
}

// software is a DigestSigner in memory, for this test.
type software struct {
	key    *ecdsa.PrivateKey
	public *bccsp.PublicKey
}

func (s *software) SignDigest(_ context.Context, digest []byte) ([]byte, error) {
	return ecdsa.SignASN1(rand.Reader, s.key, digest)
}
func (s *software) PublicKey() *bccsp.PublicKey { return s.public }

// TestNote has other people's code verify a checkpoint, and ParseNote refuse every
// changed byte that the signature does not cover.
func TestNote(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := bccsp.NewPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	signer := bccsp.NewSigner(&software{key, public})
	c := &Checkpoint{Origin: Origin("main", public.ID().String()), Size: 42, Root: LeafHash([]byte("x"))}
	sig, err := signer.SignCheckpoint(t.Context(), c.Origin, c.Size, c.Root)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	raw := c.Note(spki, sig)
	digest := sha256.Sum256(c.Text())
	if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], sig) {
		t.Fatal("SignCheckpoint signed something else than the text")
	}
	vkey := fmt.Sprintf("%s+%08x+%s", c.Origin, keyHash(spki), base64.StdEncoding.EncodeToString(append([]byte{2}, spki...)))
	verifier, err := note.NewECDSAVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	theirs, _, n, err := log.ParseCheckpoint(raw, c.Origin, verifier)
	if err != nil {
		t.Fatal(err)
	}
	if theirs.Size != c.Size || string(theirs.Hash) != string(c.Root[:]) || len(n.Sigs) != 1 {
		t.Errorf("formats reads %+v with %d signatures", theirs, len(n.Sigs))
	}
	got, gotSig, err := ParseNote(raw, spki)
	if err != nil || *got != *c || string(gotSig) != string(sig) {
		t.Fatalf("%+v %v", got, err)
	}
	for i := range raw {
		bad := slices.Clone(raw)
		bad[i] ^= 1
		parsed, sig, err := ParseNote(bad, spki)
		if err != nil {
			continue
		}
		digest := sha256.Sum256(parsed.Text())
		if ecdsa.VerifyASN1(&key.PublicKey, digest[:], sig) {
			t.Errorf("byte %d changed, still good", i)
		}
	}
	if _, err := signer.SignCheckpoint(t.Context(), "strongroom/a\nb", 1, c.Root); err == nil {
		t.Error("an origin of two lines was signed")
	}
	p := []Hash{LeafHash(nil), c.Root}
	leaf, hashes, inner, err := ParseProof(FormatProof(7, p, raw))
	if err != nil || leaf != 7 || !slices.Equal(hashes, p) || string(inner) != string(raw) {
		t.Errorf("proof: %d %v %v", leaf, hashes, err)
	}
	if _, _, _, err := ParseProof([]byte(strings.Replace(string(FormatProof(7, p, raw)), "7", "07", 1))); err == nil {
		t.Error("a proof with another spelling of its index was read")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(FormatProof(3, []Hash{LeafHash(nil)}, (&Checkpoint{Origin: "a", Size: 5}).Note([]byte("spki"), []byte("sig"))))
	f.Fuzz(func(t *testing.T, raw []byte) {
		leaf, p, note, err := ParseProof(raw)
		if err != nil {
			return
		}
		if string(FormatProof(leaf, p, note)) != string(raw) {
			t.Fatal("two forms of one proof")
		}
		c, sig, err := ParseNote(note, []byte("spki"))
		if err == nil && string(c.Note([]byte("spki"), sig)) != string(note) {
			t.Fatal("two forms of one checkpoint")
		}
	})
}
