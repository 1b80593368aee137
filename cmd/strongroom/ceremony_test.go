package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/ceremony"
	"strongroom/bccsp/pkcs11"
)

func TestCeremonyRecord(t *testing.T) {
	token := bccsptest.OpenShared(t)
	flags := &ceremonyFlags{keys: []string{"ceremony-a", "ceremony-b"}, curve: "P-384", operator: "Ada", witnesses: []string{"Grace", "Barbara"}, purpose: "peer0"}
	now := time.Date(2030, 5, 6, 7, 8, 9, 10, time.FixedZone("", 7200))
	made, record, err := holdCeremony(t.Context(), token, flags, []ceremony.Attachment{ceremony.NewAttachment("a.bin", []byte{1, 2})}, now)
	if err != nil {
		t.Fatal(err)
	}
	signed := 0
	read, err := ceremony.Verify(record, func(key *bccsp.PublicKey, payloadType string, payload, sig []byte) error {
		signed++
		digest := sha256.Sum256(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload))
		return token.Verify(t.Context(), key, digest[:], sig)
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(made, read); diff != "" {
		t.Errorf("the record says other than what was made (-made +read):\n%s", diff)
	}
	if signed != 2 || read.Time.Format(time.RFC3339) != "2030-05-06T05:08:09Z" || read.Device.Serial != token.Info().Serial {
		t.Errorf("%d signatures; %+v", signed, read)
	}
	for i, k := range read.Keys {
		signer, err := token.Signer(t.Context(), flags.keys[i])
		if err != nil {
			t.Fatal(err)
		}
		if k.Digest != signer.PublicKey().ID().String() {
			t.Errorf("key %q has fingerprint %s, in the token %s", k.Label, k.Digest, signer.PublicKey().ID())
		}
		for name, want := range map[string]bool{"CKA_LOCAL": true, "CKA_SENSITIVE": true, "CKA_ALWAYS_SENSITIVE": true,
			"CKA_EXTRACTABLE": false, "CKA_NEVER_EXTRACTABLE": true, "CKA_SIGN": true, "CKA_DERIVE": false} {
			if got, ok := k.Attributes[name]; !ok || got != want {
				t.Errorf("key %q: %s is %t (%t), want %t", k.Label, name, got, ok, want)
			}
		}
	}
	var e ceremony.Envelope
	if err := json.Unmarshal(record, &e); err != nil || e.PayloadType != ceremony.PayloadType {
		t.Errorf("envelope: %q, %v", e.PayloadType, err)
	}
}

// TestCeremonyThatFails leaves no record, and says which keys it leaves.
func TestCeremonyThatFails(t *testing.T) {
	token := bccsptest.OpenShared(t)
	flags := &ceremonyFlags{keys: []string{"fails-a", "fails-a"}, curve: "P-256", operator: "Ada"}
	_, record, err := holdCeremony(t.Context(), token, flags, nil, time.Now())
	if !errors.Is(err, pkcs11.ErrKeyExists) || !strings.Contains(err.Error(), `["fails-a"] are in the token without a record`) || record != nil {
		t.Errorf("one label twice: %v", err)
	}
	for want, change := range map[string]func(*ceremonyFlags){
		"--curve":    func(f *ceremonyFlags) { f.curve = "P-521" },
		"--operator": func(f *ceremonyFlags) { f.operator = "" },
	} {
		f := ceremonyFlags{keys: []string{"fails-" + want}, curve: "P-256", operator: "Ada"}
		change(&f)
		if _, _, err := holdCeremony(t.Context(), token, &f, nil, time.Now()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		if _, err := token.KeyAttributes(t.Context(), "fails-"+want); !errors.Is(err, pkcs11.ErrKeyNotFound) {
			t.Errorf("%s was wrong, and the key is made: %v", want, err)
		}
	}
}
