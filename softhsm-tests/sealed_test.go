package softhsmtests

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestNothingReadableOnDisk submits transactions with arguments that stand out and
// looks in every file of every node's data folder for each string of eight bytes of
// them, plainly and in hex: keys, values, the owner in a composite key, and the
// transactions' chaincode and certificates. Provenance statements and the
// certificates of their signers are left out: they are public by design.
func TestNothingReadableOnDisk(t *testing.T) {
	n := start(t)
	secret := make([]byte, 12)
	if _, err := rand.Read(secret); err != nil {
		t.Fatal(err)
	}
	unique := hex.EncodeToString(secret)
	user := n.dialUser(t, "org1")
	id, color, owner := "asset-"+unique[:8], "color-"+unique[8:16], "owner-"+unique[16:]
	for _, inv := range [][2]string{{"CreateAsset", color}, {"UpdateAsset", color + "-changed"}} {
		if _, err := user.Submit(t.Context(), call(inv[0], id, inv[1], "9", owner, "77")); err != nil {
			t.Fatal(err)
		}
	}
	strings := map[string]bool{}
	for _, s := range []string{id, color, owner, "UpdateAsset", "CreateAsset", "-----BEGIN CERTIFICATE-----", "owner~id", "_lifecycle"} {
		for _, form := range []string{s, hex.EncodeToString([]byte(s))} {
			for i := 0; i+8 <= len(form); i++ {
				strings[form[i:i+8]] = true
			}
		}
	}
	files, hits := 0, 0
	for _, org := range []string{"org1", "org2", "orderer"} {
		err := filepath.WalkDir(filepath.Join(n.dir, org, "data"), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() && entry.Name() == "provenance" {
				return fs.SkipDir
			}
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil // a file of a store that was replaced by another meanwhile
			}
			if err != nil {
				return err
			}
			files++
			for i := 0; i+8 <= len(data); i++ {
				if strings[string(data[i:i+8])] {
					hits++
					t.Errorf("%s holds %q of a transaction", path, data[i:i+8])
					break
				}
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
