package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"strongroom/bccsp"
	"strongroom/bccsp/ceremony"
)

// TestCeremonyOfARealToken verifies testdata/ceremony.json, which `strongroom token
// ceremony` wrote with SoftHSM 2.6.1, and no changed form of it.
func TestCeremonyOfARealToken(t *testing.T) {
	raw, err := readRecord("testdata/ceremony.json")
	if err != nil {
		t.Fatal(err)
	}
	d, err := verifyCeremony(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := printCeremony(&out, d, "text"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`operator      "Ada Byron"`, `witness       "Grace Hopper"`, `"peer0-tls" P-256`, "VERIFIED      2 keys"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, &out)
		}
	}
	change := func(f func(*ceremony.Envelope)) []byte {
		var e ceremony.Envelope
		if err := json.Unmarshal(raw, &e); err != nil {
			t.Fatal(err)
		}
		f(&e)
		changed, err := json.Marshal(&e)
		if err != nil {
			t.Fatal(err)
		}
		return changed
	}
	if _, err := verifyCeremony(t.Context(), change(func(*ceremony.Envelope) {})); err != nil {
		t.Errorf("the same record without blanks: %v", err)
	}
	for name, changed := range map[string][]byte{
		"another witness": change(func(e *ceremony.Envelope) {
			e.Payload = bytes.Replace(e.Payload, []byte("Grace Hopper"), []byte("Grace Hoppe_"), 1)
		}),
		"signatures changed places": change(func(e *ceremony.Envelope) {
			e.Signatures[0].Sig, e.Signatures[1].Sig = e.Signatures[1].Sig, e.Signatures[0].Sig
		}),
		"a signature cut short": change(func(e *ceremony.Envelope) { e.Signatures[1].Sig = e.Signatures[1].Sig[:8] }),
	} {
		if _, err := verifyCeremony(t.Context(), changed); !errors.Is(err, bccsp.ErrBadSignature) {
			t.Errorf("%s: %v, want a bad signature", name, err)
		}
	}
}

func TestRecordThatIsNotThere(t *testing.T) {
	if _, err := readRecord("testdata/none.json"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
