package faulty_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
	"strongroom/softhsm-tests/faulty"
)

// importKey puts a key that was made outside into a token, under a label and a CKA_ID, as
// a vendor's tools put one key into several devices.
func importKey(t *testing.T, token, label, id string, key *ecdsa.PrivateKey) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("softhsm2-util", "--import", file, "--token", token, "--label", label, "--id", id, "--pin", bccsptest.PIN).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestReplicatedKeyFailsOver has one key in two tokens of two devices: signing and TLS go on
// while either of them is gone, found by label and by CKA_ID.
func TestReplicatedKeyFailsOver(t *testing.T) {
	set(t, module)
	set(t, second)
	ctx := context.Background()
	one, two := bccsptest.Config(t), bccsptest.Config(t)
	two.Module = second.Path
	ids := map[string]string{"replica": "0a01", "replica-tls": "0a02"}
	keys := make(map[string]*ecdsa.PrivateKey)
	for label, id := range ids {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[label] = key
		importKey(t, one.TokenLabel, label, id, key)
		importKey(t, two.TokenLabel, label, id, key)
	}
	var tokens []*pkcs11.Token
	for _, cfg := range []pkcs11.Config{one, two} {
		cfg.CallTimeout = 2 * time.Second
		token, err := pkcs11.Open(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			set(t, module)
			set(t, second)
			if err := token.Close(); err != nil {
				t.Error(err)
			}
		})
		tokens = append(tokens, token)
	}
	group, err := pkcs11.NewGroup(tokens...)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := group.Signer(ctx, "replica")
	if err != nil {
		t.Fatal(err)
	}
	byID, err := group.TLSKey(ctx, "id:"+ids["replica-tls"])
	if err != nil {
		t.Fatal(err)
	}
	gone := faulty.Rule{Function: "*", From: 1, Count: 0, Action: faulty.Return, Arg: 0x32}
	for i, m := range []*faulty.Module{nil, module, second} {
		if m != nil {
			set(t, m, gone)
		}
		began := time.Now()
		for range 20 {
			message := []byte("m")
			digest := sha256.Sum256(message)
			sig, err := signer.SignProposal(ctx, message)
			if err != nil || !ecdsa.VerifyASN1(&keys["replica"].PublicKey, digest[:], sig) {
				t.Fatalf("round %d: %v", i, err)
			}
			sig, err = byID.Sign(nil, digest[:], crypto.SHA256)
			if err != nil || !ecdsa.VerifyASN1(&keys["replica-tls"].PublicKey, digest[:], sig) {
				t.Fatalf("round %d, TLS: %v", i, err)
			}
		}
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("round %d: 40 signatures took %s: they waited for the token that is gone", i, d)
		}
		if m != nil {
			short, cancel := context.WithTimeout(ctx, time.Second)
			if err := group.Healthy(short); err == nil || !strings.Contains(err.Error(), tokens[i-1].Info().Label) {
				t.Errorf("round %d: health says %v", i, err)
			}
			cancel()
			set(t, m)
			waitHealthy(t, group)
		}
	}

	// A key of another value under the same label is not a replica.
	stray, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	importKey(t, one.TokenLabel, "stray", "0a03", keys["replica"])
	importKey(t, two.TokenLabel, "stray", "0a04", stray)
	fresh := func(cfg pkcs11.Config) *pkcs11.Token {
		token, err := pkcs11.Open(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { token.Close() })
		return token
	}
	pair, err := pkcs11.NewGroup(fresh(one), fresh(two))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pair.Signer(ctx, "stray"); err == nil || !strings.Contains(err.Error(), "is not that of token") {
		t.Errorf("got %v, want the keys to be refused as different", err)
	}
}
