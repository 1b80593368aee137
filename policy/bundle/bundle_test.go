package bundle

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	opa "github.com/open-policy-agent/opa/v1/bundle"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
)

const rule = "package strongroom.acl.channel\n\ndefault allow := false\n\nallow if input.channel in data.channels\n"

// softwareKey is a key outside of the token: the team's that signs with opa.
type softwareKey struct {
	*ecdsa.PrivateKey
	private, public string // PEM
}

func newSoftwareKey(t testing.TB) *softwareKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &softwareKey{key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))}
}

func (k *softwareKey) trusted(t testing.TB) Key {
	t.Helper()
	key, err := ParseKey([]byte(k.public), "team", "fabric")
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// SignBundle signs as the token does, in software.
func (k *softwareKey) SignBundle(_ context.Context, claims bccsp.BundleClaims) (string, error) {
	return k.token(map[string]string{"alg": "ES256", "kid": claims.KeyID}, claims)
}

func (k *softwareKey) token(header, claims any) (string, error) {
	h, err := json.Marshal(header)
	if err != nil {
		return "", err
	}
	c, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	input := base64.RawURLEncoding.EncodeToString(h) + "." + base64.RawURLEncoding.EncodeToString(c)
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, k.PrivateKey, digest[:])
	if err != nil {
		return "", err
	}
	raw := make([]byte, 64)
	r.FillBytes(raw[:32])
	s.FillBytes(raw[32:])
	return input + "." + base64.RawURLEncoding.EncodeToString(raw), nil
}

func contents(t testing.TB, revision uint64) Contents {
	t.Helper()
	manifest, err := Manifest(revision)
	if err != nil {
		t.Fatal(err)
	}
	return Contents{".manifest": manifest, "acl/channel.rego": []byte(rule), "data.json": []byte(`{"channels": ["main"], "limits": {"a": 10.0, "b": [1e2, "<é>"]}}`)}
}

// TestOPASigns takes bundles that OPA's own package wrote and signed, as opa build
// --signing-key does. Its signatures have any S, so it is done a few times.
func TestOPASigns(t *testing.T) {
	token, key := bccsptest.Open(t), newSoftwareKey(t)
	dir := t.TempDir()
	claims := filepath.Join(dir, "claims.json")
	if err := os.WriteFile(claims, []byte(`{"scope":"fabric"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		module, err := ast.ParseModuleWithOpts("/acl/channel.rego", rule, ast.ParserOptions{RegoVersion: ast.RegoV1})
		if err != nil {
			t.Fatal(err)
		}
		version := 1
		b := opa.Bundle{
			Manifest: opa.Manifest{Revision: "7", RegoVersion: &version},
			Modules:  []opa.ModuleFile{{URL: "/acl/channel.rego", Path: "/acl/channel.rego", Raw: []byte(rule), Parsed: module}},
			Data:     map[string]any{"channels": []any{"main"}, "n": json.Number("1e2"), "html": "<&>"},
		}
		b.Manifest.Init()
		if err := b.GenerateSignature(opa.NewSigningConfig(key.private, "ES256", claims), "team", false); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := opa.NewWriter(&out).DisableFormat(true).Write(b); err != nil {
			t.Fatal(err)
		}
		got, err := Open(t.Context(), token, key.trusted(t), out.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if got.Revision != 7 || string(got.Rego["acl/channel.rego"]) != rule || got.Data["html"] != "<&>" || got.Digest != sha256.Sum256(out.Bytes()) {
			t.Errorf("bundle = %+v", got)
		}
	}
}

// TestOPAVerifies has OPA's own verifier read what a token signed here.
func TestOPAVerifies(t *testing.T) {
	token := bccsptest.Open(t)
	id := bccsptest.NewCA(t, token, "Org1MSP").Issue(t, "security", "client")
	public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: id.Signer.PublicKey().SPKI()}))
	files := contents(t, 12)
	files["more/data.json"] = []byte(`{"x": true}`)
	archive, err := Sign(t.Context(), id.Signer, "team", "fabric", files)
	if err != nil {
		t.Fatal(err)
	}
	read := func(public, scope string) (opa.Bundle, error) {
		keys := map[string]*opa.KeyConfig{"team": {Key: public, Algorithm: "ES256"}}
		return opa.NewReader(bytes.NewReader(archive)).WithBundleVerificationConfig(opa.NewVerificationConfig(keys, "team", scope, nil)).Read()
	}
	b, err := read(public, "fabric")
	if err != nil {
		t.Fatalf("OPA refuses it: %v", err)
	}
	if b.Manifest.Revision != "12" || len(b.Modules) != 1 || b.Signatures.Plugin != "" {
		t.Errorf("OPA reads %+v", b)
	}
	if _, err := read(newSoftwareKey(t).public, "fabric"); err == nil {
		t.Error("OPA takes it as signed by another key")
	}
	if _, err := read(public, "other"); err == nil {
		t.Error("OPA takes it for another scope")
	}
	key, err := ParseKey(id.CertPEM, "team", "fabric")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Open(t.Context(), token, key, archive)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"channels": []any{"main"}, "limits": map[string]any{"a": json.Number("10.0"), "b": []any{json.Number("1e2"), "<é>"}}, "more": map[string]any{"x": true}}
	if diff := cmp.Diff(want, got.Data); diff != "" {
		t.Error(diff)
	}
	again, err := Unpack(archive)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := Pack(again)
	if err != nil || !bytes.Equal(packed, archive) {
		t.Errorf("the same files packed twice differ: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	token, key := bccsptest.Open(t), newSoftwareKey(t)
	trusted := key.trusted(t)
	signed := func(change func(Contents)) []byte {
		files := contents(t, 1)
		archive, err := Sign(t.Context(), key, "team", "fabric", files)
		if err != nil {
			t.Fatal(err)
		}
		if files, err = Unpack(archive); err != nil {
			t.Fatal(err)
		}
		change(files)
		if archive, err = Pack(files); err != nil {
			t.Fatal(err)
		}
		return archive
	}
	// forged signs whatever files are given, by claims that change may alter.
	forged := func(files Contents, change func(header map[string]any, claims map[string]any)) []byte {
		var list []any
		for name, content := range files {
			sum, err := hashFile(name, content)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, map[string]any{"name": name, "hash": hexOf(sum), "algorithm": "SHA-256"})
		}
		header, claims := map[string]any{"alg": "ES256", "kid": "team"}, map[string]any{"files": list, "scope": "fabric"}
		if change != nil {
			change(header, claims)
		}
		jws, err := key.token(header, claims)
		if err != nil {
			t.Fatal(err)
		}
		files = maps.Clone(files)
		files[signaturesFile], _ = json.Marshal(signatures{Signatures: []string{jws}})
		archive, err := Pack(files)
		if err != nil {
			t.Fatal(err)
		}
		return archive
	}
	with := func(name, content string) Contents {
		files := contents(t, 1)
		files[name] = []byte(content)
		return files
	}
	without := func(name string) Contents {
		files := contents(t, 1)
		delete(files, name)
		return files
	}
	if _, err := Open(t.Context(), token, trusted, forged(contents(t, 1), nil)); err != nil {
		t.Fatalf("the bundle that the cases change: %v", err)
	}
	if _, err := Open(t.Context(), token, trusted, forged(contents(t, 1), func(h, _ map[string]any) { delete(h, "kid") })); err != nil {
		t.Errorf("a signature that names no key, as those of opa build with a claims file: %v", err)
	}
	claim := func(name string, value any) []byte {
		return forged(contents(t, 1), func(_, c map[string]any) { c[name] = value })
	}
	head := func(name string, value any) []byte {
		return forged(contents(t, 1), func(h, _ map[string]any) { h[name] = value })
	}
	tests := []struct {
		name    string
		archive []byte
		want    string
	}{
		{"no archive", []byte("x"), "not a gzip archive"},
		{"unsigned", signed(func(f Contents) { delete(f, signaturesFile) }), "not signed"},
		{"empty list", signed(func(f Contents) { f[signaturesFile] = []byte(`{"signatures":[]}`) }), "not signed"},
		{"two signatures", signed(func(f Contents) { f[signaturesFile] = []byte(`{"signatures":["a.b.c","a.b.c"]}`) }), "more than one"},
		{"plugin of its own choice", signed(func(f Contents) {
			f[signaturesFile] = append([]byte(`{"plugin":"mine",`), f[signaturesFile][1:]...)
		}), "asks for the verifier"},
		{"rule changed", signed(func(f Contents) { f["acl/channel.rego"] = []byte(rule + "allow := true\n") }), "acl/channel.rego is not the file that was signed"},
		{"data changed", signed(func(f Contents) { f["data.json"] = []byte(`{"channels":["main","other"]}`) }), "data.json is not the file"},
		{"manifest changed", signed(func(f Contents) { f[".manifest"] = bytes.Replace(f[".manifest"], []byte(`"1"`), []byte(`"2"`), 1) }), ".manifest is not the file"},
		{"file added", signed(func(f Contents) { f["b.rego"] = []byte(rule) }), "b.rego is not covered"},
		{"second signatures file", signed(func(f Contents) { f["x/.signatures.json"] = []byte(`{}`) }), "not covered"},
		{"file left out", signed(func(f Contents) { delete(f, "acl/channel.rego") }), "not in the archive"},
		{"signature of another", func() []byte {
			a, err := Sign(t.Context(), newSoftwareKey(t), "team", "fabric", contents(t, 1))
			if err != nil {
				t.Fatal(err)
			}
			return a
		}(), "the signature is false"},
		{"algorithm none", head("alg", "none"), "sign with ES256"},
		{"algorithm HS256", head("alg", "HS256"), "sign with ES256"},
		{"critical header", head("crit", []string{"b64"}), "only alg, kid and typ"},
		{"key id", head("kid", "other"), `key id is "other"`},
		{"key id of the payload", claim("keyid", "other"), `key id is "other"`},
		{"scope", claim("scope", "other"), `scope is "other"`},
		{"no scope", claim("scope", ""), `scope is ""`},
		{"hash algorithm", forged(contents(t, 1), func(_, c map[string]any) { c["files"].([]any)[0].(map[string]any)["algorithm"] = "MD5" }), "only SHA-256"},
		{"delta", forged(with("patch.json", "{}"), nil), "delta bundle"},
		{"WebAssembly", forged(with("policy.wasm", "x"), nil), "neither Rego nor data.json"},
		{"YAML", forged(with("data.yaml", "a: 1"), nil), "data.json"},
		{"no manifest", forged(without(".manifest"), nil), ".manifest is missing"},
		{"revision is no number", forged(with(".manifest", `{"revision":"v1"}`), nil), "whole number"},
		{"revision 0", forged(with(".manifest", `{"revision":"0"}`), nil), "whole number"},
		{"revision with a zero in front", forged(with(".manifest", `{"revision":"01"}`), nil), "whole number"},
		{"other version of Rego", forged(with(".manifest", `{"revision":"1","rego_version":0}`), nil), "only Rego version 1"},
		{"other version of a file", forged(with(".manifest", `{"revision":"1","file_rego_versions":{"/a.rego":0}}`), nil), "only Rego version 1"},
		{"no Rego", forged(without("acl/channel.rego"), nil), "no .rego file"},
		{"data where rules are", forged(with("strongroom/data.json", `{"x":1}`), nil), "where the rules are"},
		{"data twice", forged(with("channels/data.json", `{"x":1}`), nil), "another data.json has channels"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b, err := Open(t.Context(), token, trusted, test.archive)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("bundle %v, error %v: want %q", b, err, test.want)
			}
			if errors.Is(err, ErrNotAnswered) {
				t.Error("taken for a failure of the token")
			}
		})
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	out := make([]byte, 0, 2*len(b))
	for _, c := range b {
		out = append(out, digits[c>>4], digits[c&15])
	}
	return string(out)
}

type brokenToken struct{ bccsp.Verifier }

func (brokenToken) VerifyX509(context.Context, *bccsp.PublicKey, []byte, []byte) error {
	return errors.New("CKR_DEVICE_ERROR")
}

func TestTokenFailureIsNoVerdict(t *testing.T) {
	key := newSoftwareKey(t)
	archive, err := Sign(t.Context(), key, "team", "fabric", contents(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), brokenToken{}, key.trusted(t), archive); !errors.Is(err, ErrNotAnswered) || errors.Is(err, bccsp.ErrBadSignature) {
		t.Errorf("error = %v", err)
	}
}

func TestBounds(t *testing.T) {
	bomb, err := Pack(Contents{"a.rego": make([]byte, maxContent+1)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unpack(bomb); err == nil || !strings.Contains(err.Error(), "unpacked") {
		t.Errorf("a bomb of %d bytes: %v", len(bomb), err)
	}
	if _, err := unpack(make([]byte, MaxArchive+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("a large archive: %v", err)
	}
	many := Contents{}
	for i := range maxFiles + 1 {
		many[string(rune('a'+i%26))+"/"+strings.Repeat("x", i/26+1)] = nil
	}
	archive, err := Pack(many)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unpack(archive); err == nil || !strings.Contains(err.Error(), "files") {
		t.Errorf("many files: %v", err)
	}
	for _, name := range []string{"../a.rego", "a/../../b.rego", "a\\b.rego", "a//b.rego", strings.Repeat("n", 300)} {
		archive, err := Pack(Contents{name: nil})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unpack(archive); err == nil {
			t.Errorf("a file named %q is taken", name)
		}
	}
}

func FuzzOpen(f *testing.F) {
	token, key := bccsptest.Open(f), newSoftwareKey(f)
	trusted := key.trusted(f)
	archive, err := Sign(f.Context(), key, "team", "fabric", contents(f, 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(archive)
	f.Add(archive[:len(archive)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := Open(t.Context(), token, trusted, b); err == nil && len(got.Rego) == 0 {
			t.Error("a bundle without rules")
		}
	})
}
