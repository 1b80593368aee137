package profiles_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/rego"
	"go.yaml.in/yaml/v3"

	profiles "strongroom/firmware-profiles"
)

func load(t *testing.T, id string) *profiles.Profile {
	t.Helper()
	p, err := profiles.Load(id)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// conforms holds a profile against the JSON Schema.
func conforms(t *testing.T, data []byte) bool {
	t.Helper()
	var doc any
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	results, err := rego.New(rego.Query("json.match_schema(input.doc, input.schema)[0]"),
		rego.Input(map[string]any{"doc": doc, "schema": json.RawMessage(profiles.Schema)})).Eval(context.Background())
	if err != nil || len(results) != 1 {
		t.Fatalf("schema: %v, %v", results, err)
	}
	return results[0].Expressions[0].Value.(bool)
}

func TestEveryProfileLoads(t *testing.T) {
	ids, err := profiles.IDs()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if _, err := profiles.Load(id); err != nil {
			t.Error(err)
			continue
		}
		data, err := os.ReadFile(id + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		if !conforms(t, data) {
			t.Errorf("%s is not as schema.json says", id)
		}
	}
	for _, want := range []string{"softhsm-2.6", "softhsm-2.7", "nss-softokn-3.87", "tpm2-pkcs11-1.9", "opencryptoki-soft-3.8", "kryoptic-1.5",
		"thales-luna-7", "thales-luna-7-fips", "thales-protectserver-3", "entrust-nshield", "utimaco-securityserver", "aws-cloudhsm-sdk5",
		"google-cloud-kms", "yubihsm-2", "smartcard-hsm", "ibm-crypto-express-ep11", "securosys-primus", "fortanix-dsm", "marvell-liquidsecurity"} {
		load(t, want)
	}
}

const minimal = `id: x
vendor: v
model: m
firmware: "1"
token: hardware
modules: [/x.so]
verify: {location: device}
publicKeys: {import: yes}
aes: {gcm: {iv: none}, wrap: {mechanism: none}}
`

func TestLoadingIsStrict(t *testing.T) {
	if _, err := profiles.Parse([]byte(minimal)); err != nil || !conforms(t, []byte(minimal)) {
		t.Fatalf("the plain profile: %v", err)
	}
	for want, change := range map[string][2]string{
		"not found in type":          {"id: x", "id: x\ncolour: red"},
		"verify.location":            {"location: device", "location: moon"},
		"token is":                   {"token: hardware", "token: paper"},
		"publicKeys.import":          {"import: yes", "import: perhaps"},
		"vendor, model":              {"vendor: v", "vendor: \"\""},
		"modules is empty":           {"[/x.so]", "[]"},
		"no code":                    {"id: x", "id: x\nerrors: {\"48\": stop}"},
		"errors.0x30":                {"id: x", "id: x\nerrors: {\"0x30\": shrug}"},
		"unconfirmed names \"fips\"": {"id: x", "id: x\nunconfirmed: [fips]"},
		"has no reason":              {"id: x", "id: x\ngaps: {gcm: \"\"}"},
		"rate is":                    {"id: x", "id: x\nrate: [9, 1]"},
	} {
		text := strings.Replace(minimal, change[0], change[1], 1)
		if _, err := profiles.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	if conforms(t, []byte(strings.Replace(minimal, "id: x", "id: x\ncolour: red", 1))) {
		t.Error("the schema takes an unknown field")
	}
}

func TestLoadFromAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "own.yaml")
	if err := os.WriteFile(path, []byte(minimal), 0o600); err != nil {
		t.Fatal(err)
	}
	if p := load(t, path); p.ID != "x" || p.MayVerify() != nil {
		t.Errorf("got %+v", p)
	}
	if _, err := profiles.Load(filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestWhoMayVerify(t *testing.T) {
	for id, want := range map[string]string{
		"softhsm-2.6":            "",
		"softhsm-2.7":            "",
		"thales-luna-7":          "",
		"entrust-nshield":        "",
		"yubihsm-2":              "takes no public keys",
		"tpm2-pkcs11-1.9":        "takes no public keys",
		"google-cloud-kms":       "takes no public keys",
		"smartcard-hsm":          "takes no public keys",
		"opencryptoki-soft-3.8":  "does not verify",
		"aws-cloudhsm-sdk5":      "is not known",
		"marvell-liquidsecurity": "is not known",
	} {
		err := load(t, id).MayVerify()
		if want == "" && err != nil || want != "" && (!errors.Is(err, profiles.ErrRefused) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", id, err, want)
		}
	}
	p := load(t, "softhsm-2.6")
	p.Token = "hardware" // a device whose library verifies on the host
	if err := p.MayVerify(); err == nil || !strings.Contains(err.Error(), "on the host") {
		t.Errorf("got %v", err)
	}
}

func TestWhoMayWrap(t *testing.T) {
	if err := load(t, "softhsm-2.6").MayWrap(); err != nil {
		t.Error(err)
	}
	for id, want := range map[string]string{
		"softhsm-2.6-p11kit-0.24": "drops CKM_AES_KEY_WRAP",
		"nss-softokn-3.87":        "hands out keys",
		"yubihsm-2":               "no CKM_AES_KEY_WRAP",
		"thales-luna-7":           "CKM_AES_KW",
	} {
		if err := load(t, id).MayWrap(); !errors.Is(err, profiles.ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", id, err, want)
		}
	}
	if err := load(t, "yubihsm-2").MaySessions(17); err == nil || !strings.Contains(err.Error(), "takes 16") {
		t.Errorf("got %v", err)
	}
	if err := load(t, "softhsm-2.6").MaySessions(1025); err != nil {
		t.Error(err)
	}
}

func TestUnconfirmedValuesAreMarked(t *testing.T) {
	p := load(t, "thales-luna-7")
	for field, want := range map[string]bool{"verify.location": false, "aes.wrap.number": false, "aes.wrap.valueLen": true, "pin.tries": true} {
		if got := p.Confirmed(field); got != want {
			t.Errorf("%s: confirmed %t, want %t", field, got, want)
		}
	}
}

func TestUnknownProfileNamesTheKnown(t *testing.T) {
	if _, err := profiles.Load("enigma"); err == nil || !strings.Contains(err.Error(), "softhsm-2.6") {
		t.Fatalf("got %v", err)
	}
}

func TestFindModule(t *testing.T) {
	p := load(t, "softhsm-2.6")
	if m, err := p.FindModule(); err != nil || !strings.Contains(m, "softhsm") {
		t.Fatalf("SoftHSM must be installed for the tests: %q, %v", m, err)
	}
	p.Modules = []string{"/nowhere/lib.so"}
	if _, err := p.FindModule(); err == nil || !strings.Contains(err.Error(), "/nowhere/lib.so") {
		t.Fatalf("got %v", err)
	}
}
