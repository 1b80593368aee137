package evidence

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
)

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// configBlock has one organisation with a root and a CRL, in two groups.
func configBlock(t *testing.T) []byte {
	value := &commonpb.ConfigValue{Value: marshal(t, &msppb.MSPConfig{Config: marshal(t, &msppb.FabricMSPConfig{
		Name: "Org1MSP", RootCerts: [][]byte{[]byte("root")}, RevocationList: [][]byte{[]byte("crl")},
	})})}
	org := &commonpb.ConfigGroup{Values: map[string]*commonpb.ConfigValue{"MSP": value}}
	channel := &commonpb.ConfigGroup{Groups: map[string]*commonpb.ConfigGroup{
		"Application": {Groups: map[string]*commonpb.ConfigGroup{"Org1": org}},
		"Orderer":     {Groups: map[string]*commonpb.ConfigGroup{"Org1": org}},
	}}
	envelope := marshal(t, &commonpb.Envelope{Payload: marshal(t, &commonpb.Payload{
		Data: marshal(t, &commonpb.ConfigEnvelope{Config: &commonpb.Config{ChannelGroup: channel}}),
	})})
	return marshal(t, &commonpb.Block{Header: &commonpb.BlockHeader{}, Data: &commonpb.BlockData{Data: [][]byte{envelope}}})
}

func writePack(t *testing.T, path string) {
	t.Helper()
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Begin(Info{Channel: "main", From: 9, To: 11, MSPID: "Org1MSP"}, []byte("pem"), []byte("note"), configBlock(t)); err != nil {
		t.Fatal(err)
	}
	for n := uint64(9); n <= 11; n++ {
		if err := w.Block([]byte("block"), &commonpb.BlockHeader{Number: n}, []byte("statement"), []byte("proof")); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(func(sums [sha256.Size]byte) ([]byte, error) { return sums[:], nil }); err != nil {
		t.Fatal(err)
	}
}

func readPack(t *testing.T, path string) ([]File, error) {
	t.Helper()
	r, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var files []File
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return files, err
		}
		files = append(files, *f)
	}
}

// TestPack reads what was written, in its order, from both archives and from the
// folder.
func TestPack(t *testing.T) {
	want := "pack.json VERIFY.md signer.pem checkpoint config.block msp/Org1MSP/crl-0.pem msp/Org1MSP/root-0.pem"
	for n := 9; n <= 11; n++ {
		for _, f := range folders {
			want += fmt.Sprintf(" %s/%020d%s", f.folder, n, f.suffix)
		}
	}
	want += " SHA256SUMS SHA256SUMS.sigstore.json"
	dir := t.TempDir()
	for _, name := range []string{"pack.tar.zst", "pack.tar.gz", "folder"} {
		path := filepath.Join(dir, name)
		if name != "folder" {
			writePack(t, path)
		}
		files, err := readPack(t, path)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range files {
			names = append(names, f.Name)
			unpacked := filepath.Join(dir, "folder", f.Name)
			if err := os.MkdirAll(filepath.Dir(unpacked), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(unpacked, f.Data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s has\n%s\nwant\n%s", name, got, want)
		}
		sums := sha256.Sum256(files[len(files)-2].Data)
		if string(files[len(files)-1].Data) != string(sums[:]) {
			t.Errorf("%s: something else than SHA256SUMS was signed", name)
		}
		if entries, err := filepath.Glob(filepath.Join(dir, "*.part")); err != nil || len(entries) > 0 {
			t.Errorf("left behind: %v %v", entries, err)
		}
	}
	if _, err := Create(filepath.Join(dir, "pack.tar.gz")); err == nil {
		t.Error("a pack was overwritten")
	}
	if _, err := Create(filepath.Join(dir, "pack.zip")); err == nil {
		t.Error("a pack of unknown form was begun")
	}
}

// TestReaderRefuses names what is wrong with an archive.
func TestReaderRefuses(t *testing.T) {
	for title, tc := range map[string]struct {
		headers []tar.Header
		want    string
	}{
		"reordered": {[]tar.Header{{Name: "checkpoint"}, {Name: "pack.json"}}, "reordered"},
		"twice":     {[]tar.Header{{Name: "checkpoint"}, {Name: "checkpoint"}}, "reordered"},
		"a link":    {[]tar.Header{{Name: "checkpoint", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}}, "not a file"},
	} {
		path := filepath.Join(t.TempDir(), "pack.tar.gz")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		z := gzip.NewWriter(f)
		w := tar.NewWriter(z)
		for _, h := range tc.headers {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(w.Close(), z.Close(), f.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := readPack(t, path); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", title, err, tc.want)
		}
	}
	path := filepath.Join(t.TempDir(), "x.tar.gz")
	if err := os.WriteFile(path, []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readPack(t, path); err == nil || !strings.Contains(err.Error(), "neither zstd nor gzip") {
		t.Errorf("no archive: %v", err)
	}
}

func TestParseInfoRefuses(t *testing.T) {
	for raw, want := range map[string]string{
		`{`: "pack.json", `{"format":"x"}`: "format", `{"format":"strongroom-evidence/2"}`: "channel",
		`{"format":"strongroom-evidence/2","channel":"a","from":2,"to":1}`: "after",
		`{"format":"strongroom-evidence/2","channel":"a","more":1}`:        "more",
	} {
		if _, err := ParseInfo([]byte(raw)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", raw, err, want)
		}
	}
}

func TestParseName(t *testing.T) {
	k, n, ok := ParseName("proofs/00000000000000000042.tlog-proof")
	if !ok || k != Proof || n != 42 {
		t.Errorf("%v %d %t", k, n, ok)
	}
	for _, name := range []string{"proofs/42.tlog-proof", "proofs/00000000000000000042.der", "x/headers/00000000000000000042.der", "pack.json"} {
		if _, _, ok := ParseName(name); ok {
			t.Errorf("%q is taken for a block's file", name)
		}
	}
}
