package replay

import (
	"archive/tar"
	"bytes"
	"crypto/elliptic"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"strongroom/bccsp/bccsptest"
	"strongroom/channel"
	"strongroom/wire/commonpb"
)

// interop is a small ledger of Fabric's, with Fabric's own codes and commit hashes.
const interop = "../../ledger/testdata/fabric"

func TestReplayOfFabricsLedger(t *testing.T) {
	token := bccsptest.OpenShared(t)
	if _, err := token.GenerateKey(t.Context(), t.Name(), elliptic.P256()); err != nil {
		t.Fatal(err)
	}
	signer, err := token.Signer(t.Context(), t.Name())
	if err != nil {
		t.Fatal(err)
	}
	turns := 0
	r, err := Run(t.Context(), Config{
		Token: token, Blocks: interop, Dir: t.TempDir(), Signer: signer, Turn: 40, Baseline: 20 * time.Millisecond,
		Progress: func(int, int, time.Duration) { turns++ },
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.DifferenceCount != 0 {
		t.Errorf("differences: %v", r.Differences)
	}
	if r.Channel == "" || r.Blocks != 11 || r.Transactions != 86 {
		t.Errorf("replayed %d blocks, %d transactions of %q: want 11 and 86", r.Blocks, r.Transactions, r.Channel)
	}
	if turns < 2 {
		t.Errorf("%d turns of 40 transactions over 86", turns)
	}
	// Each of them has a creator whose signature is checked.
	if r.Checks < 86 {
		t.Errorf("%d signatures checked", r.Checks)
	}
	for name, v := range map[string]float64{
		"tx/s": r.TransactionsPerSecond, "checks/s": r.ChecksPerSecond, "bare": r.BareChecksPerSecond, "pool": r.PoolChecksPerSecond,
		"ratio": r.OfBareRate, "memory": float64(r.PeakMemoryBytes), "disk": float64(r.DiskBytes),
	} {
		if v <= 0 {
			t.Errorf("%s is %v", name, v)
		}
	}
	if got := r.Stages[string(channel.StageCommit)]; got == nil || got.Count != 11 || got.Mean() <= 0 || got.Max < got.Mean() {
		t.Errorf("commit stage: %+v", got)
	}
}

// A code and a commit hash that the folder records otherwise must be told.
func TestReplayTellsDifferences(t *testing.T) {
	files, err := Files(interop)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	for i, file := range files {
		b, err := readBlock(file)
		if err != nil {
			t.Fatal(err)
		}
		if i == 4 {
			b.Metadata.Metadata[commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER][0] = 11
			b.Metadata.Metadata[commonpb.BlockMetadataIndex_COMMIT_HASH][5] ^= 1
		}
		raw, err := proto.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, filepath.Base(file)), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Run(t.Context(), Config{Token: bccsptest.OpenShared(t), Blocks: folder, Dir: t.TempDir(), Baseline: -1})
	if err != nil {
		t.Fatal(err)
	}
	if r.DifferenceCount != 2 || len(r.Differences) != 2 {
		t.Fatalf("differences: %v", r.Differences)
	}
	if d := r.Differences[0]; d.Block != 4 || d.Transaction != 0 || d.Ours != "VALID" {
		t.Errorf("first difference: %v", d)
	}
	if d := r.Differences[1]; d.Block != 4 || d.Transaction != -1 {
		t.Errorf("second difference: %v", d)
	}
	if r.BareChecksPerSecond != 0 || r.OfBareRate != 0 {
		t.Errorf("a baseline was reported that was not measured: %v", r.BareChecksPerSecond)
	}
}

func TestRefusedInput(t *testing.T) {
	token, files := bccsptest.OpenShared(t), func() []string {
		f, err := Files(interop)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}()
	headless, garbage := t.TempDir(), t.TempDir()
	raw, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(headless, "block-000001.pb"), raw)
	write(t, filepath.Join(garbage, "block-000000.pb"), []byte("no block"))
	for _, tt := range []struct{ blocks, want string }{
		{t.TempDir(), "holds no block"},
		{headless, "must begin with block 0"},
		{garbage, "is no block"},
		{filepath.Join(garbage, "none"), "no such file"},
	} {
		_, err := Run(t.Context(), Config{Token: token, Blocks: tt.blocks, Dir: t.TempDir()})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.blocks, err, tt.want)
		}
	}
}

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

type entry struct {
	name, data string
	kind       byte
}

func archive(t *testing.T, name string, entries ...entry) string {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Mode: 0o777, Size: int64(len(e.data))}
		if e.kind == tar.TypeSymlink {
			h.Linkname = "/etc/passwd"
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	data := out.Bytes()
	if strings.HasSuffix(name, ".zst") {
		z, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		data = z.EncodeAll(data, nil)
	}
	file := filepath.Join(t.TempDir(), name)
	write(t, file, data)
	return file
}

func TestUnpack(t *testing.T) {
	entries := []entry{
		{"pack/block-000002.pb", "two", tar.TypeReg},
		{"../../block-000001.pb", "one", tar.TypeReg},
		{"block-000003.pb", "", tar.TypeSymlink},
		{"README.md", "text", tar.TypeReg},
		{"block-000000.pb", "zero", tar.TypeReg},
	}
	for _, name := range []string{"blocks.tar", "blocks.tar.zst"} {
		folder := t.TempDir()
		if err := Unpack(archive(t, name, entries...), folder); err != nil {
			t.Fatal(err)
		}
		files, err := Files(folder)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, filepath.Base(f)+" "+string(data))
		}
		want := []string{"block-000000.pb zero", "block-000001.pb one", "block-000002.pb two"}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: -want +got\n%s", name, d)
		}
	}
	twice := archive(t, "twice.tar", entry{"a/block-000000.pb", "a", tar.TypeReg}, entry{"b/block-000000.pb", "b", tar.TypeReg})
	if err := Unpack(twice, t.TempDir()); err == nil || !strings.Contains(err.Error(), "two files are named block-000000.pb") {
		t.Errorf("two files of one name: %v", err)
	}
	broken := archive(t, "broken.tar.zst", entries...)
	write(t, broken, []byte("no zstd"))
	if err := Unpack(broken, t.TempDir()); err == nil {
		t.Error("an archive that is none was unpacked")
	}
}
