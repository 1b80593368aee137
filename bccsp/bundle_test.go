package bccsp_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
)

func TestSignBundle(t *testing.T) {
	token := bccsptest.Open(t)
	ca := bccsptest.NewCA(t, token, "Org1MSP")
	signer := ca.Issue(t, "security", "client").Signer
	claims := bccsp.BundleClaims{Files: []bccsp.BundleFile{{Name: "a.rego", Hash: strings.Repeat("0", 64), Algorithm: "SHA-256"}}, KeyID: "k", Scope: "s"}
	for range 4 {
		jws, err := signer.SignBundle(t.Context(), claims)
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(jws, ".")
		if len(parts) != 3 {
			t.Fatalf("%d parts in %s", len(parts), jws)
		}
		raw, err := base64.RawURLEncoding.DecodeString(parts[2])
		if err != nil || len(raw) != 64 {
			t.Fatalf("signature of %d bytes, %v", len(raw), err)
		}
		digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
		if !ecdsa.Verify(signer.PublicKey().ECDSA(), digest[:], new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])) {
			t.Error("the signature does not verify")
		}
		header, err := base64.RawURLEncoding.DecodeString(parts[0])
		if err != nil || string(header) != `{"alg":"ES256","kid":"k","typ":"JWT"}` {
			t.Errorf("header %s, %v", header, err)
		}
		payload, err := base64.RawURLEncoding.DecodeString(parts[1])
		if want := `{"files":[{"name":"a.rego","hash":"` + strings.Repeat("0", 64) + `","algorithm":"SHA-256"}],"keyid":"k","scope":"s"}`; err != nil || string(payload) != want {
			t.Errorf("payload %s, %v", payload, err)
		}
	}
	if _, err := signer.SignBundle(t.Context(), bccsp.BundleClaims{KeyID: "k"}); err == nil {
		t.Error("claims without files are signed")
	}
	if _, err := signer.SignBundle(t.Context(), bccsp.BundleClaims{Files: claims.Files}); err == nil {
		t.Error("claims without a key id are signed")
	}
	large := ca.Issue(t, "large", "client", bccsptest.OnCurve(elliptic.P384())).Signer
	if _, err := large.SignBundle(t.Context(), claims); err == nil || !strings.Contains(err.Error(), "P-256") {
		t.Errorf("a key on P-384: %v", err)
	}
}
