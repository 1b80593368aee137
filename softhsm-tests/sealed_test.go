package softhsmtests

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestNothingReadableOnDisk writes a value and looks for it in every file of every
// node's data folder, plainly and in hex. (The value is the asset's colour: its owner
// is part of a composite key, and keys of the state are not sealed yet.)
func TestNothingReadableOnDisk(t *testing.T) {
	n := start(t)
	secret := make([]byte, 12)
	if _, err := rand.Read(secret); err != nil {
		t.Fatal(err)
	}
	color := "color" + hex.EncodeToString(secret)
	user := n.dialUser(t, "org1")
	id := "sealed-" + hex.EncodeToString(secret[:4])
	for _, inv := range [][2]string{{"CreateAsset", color}, {"UpdateAsset", color + "x"}} {
		if _, err := user.Submit(t.Context(), call(inv[0], id, inv[1], "9", "Vera", "77")); err != nil {
			t.Fatal(err)
		}
	}
	files, hits := 0, 0
	for _, org := range []string{"org1", "org2", "orderer"} {
		err := filepath.WalkDir(filepath.Join(n.dir, org, "data"), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files++
			if bytes.Contains(data, []byte(color)) || bytes.Contains(data, []byte(hex.EncodeToString([]byte(color)))) {
				hits++
				t.Errorf("%s holds the value that chaincode wrote", path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 10 {
		t.Fatalf("only %d files were searched", files)
	}
	t.Logf("searched %d files, %d hits", files, hits)
}
