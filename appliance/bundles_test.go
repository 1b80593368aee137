package appliance

import (
	"context"
	"crypto/sha256"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/acl"
	"strongroom/acl/endorsement"
	"strongroom/appliance/config"
	"strongroom/appliance/operations"
	"strongroom/bccsp/bccsptest"
	"strongroom/policy"
	"strongroom/policy/bundle"
)

// TestBundleOfTheConfiguration opens a bundle as a peer does: signed by a key of the
// token, kept below the data folder, named in statements.
func TestBundleOfTheConfiguration(t *testing.T) {
	token := bccsptest.Open(t)
	engine, err := policy.NewEngine(policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	signer := bccsptest.NewCA(t, token, "Org1MSP").Issue(t, "security", "client").Signer
	files, err := bundle.ReadFolder("testdata")
	if err != nil {
		t.Fatal(err)
	}
	if files[".manifest"], err = bundle.Manifest(3); err != nil {
		t.Fatal(err)
	}
	archive, err := bundle.Sign(t.Context(), signer, "team", "fabric", files)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := config.Bundle{File: filepath.Join(dir, "b.tar.gz"), PublicKey: filepath.Join(dir, "team.pem"), KeyID: "team", Scope: "fabric"}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: signer.PublicKey().SPKI()})
	for name, content := range map[string][]byte{c.File: archive, c.PublicKey: public} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	layers, err := acl.New(acl.Config{Engine: engine})
	if err != nil {
		t.Fatal(err)
	}
	vetoes, err := endorsement.New(endorsement.Config{Engine: engine})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{log: slog.New(slog.DiscardHandler), metrics: operations.NewMetrics(), tokens: alone(t, token), engine: engine}
	if n.policyBundles() != nil {
		t.Error("a statement would name a bundle that there is not")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer func() {
		cancel()
		n.polling.Wait()
	}()
	wrong := c
	wrong.KeyID = "other"
	if _, err := n.openBundle(ctx, dir, wrong, layers, vetoes, nil); err == nil || !strings.Contains(err.Error(), "policy.bundle") {
		t.Errorf("another key id: %v", err)
	}
	if _, err := n.openBundle(ctx, dir, c, layers, vetoes, nil); err != nil {
		t.Fatal(err)
	}
	named := n.policyBundles()
	if len(named) != 1 || named[0].Name != "policy" || named[0].Revision != "3" || named[0].Digest != policy.Digest(sha256.Sum256(archive)).String() {
		t.Errorf("statements name %+v", named)
	}
	if _, err := os.Stat(filepath.Join(dir, "policy", "bundle.tar.gz")); err != nil {
		t.Error(err)
	}
}
