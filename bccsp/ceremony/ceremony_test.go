package ceremony

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"strongroom/bccsp"
)

// maker is a software key that stands for a device's.
type maker struct {
	private *ecdsa.PrivateKey
	public  *bccsp.PublicKey
}

func newMaker(t testing.TB) maker {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := bccsp.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return maker{key, public}
}

func check(key *bccsp.PublicKey, payloadType string, payload, sig []byte) error {
	sum := sha256.Sum256(append([]byte(payloadType), payload...))
	if !ecdsa.VerifyASN1(key.ECDSA(), sum[:], sig) {
		return bccsp.ErrBadSignature
	}
	return nil
}

func document(keys ...maker) *Document {
	d := &Document{
		Type: DocumentType, Time: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), ClockSource: ClockSource,
		Operator: "Ada", Witnesses: []string{"Grace"}, Device: Device{Serial: "7"},
		Attachments: []Attachment{NewAttachment("a", []byte("attest"))},
	}
	for _, k := range keys {
		d.Keys = append(d.Keys, NewKey("peer0", k.public, map[string]bool{"CKA_SENSITIVE": true, "CKA_EXTRACTABLE": false, "CKA_LOCAL": true}))
	}
	return d
}

// record signs a document as it is, right or wrong.
func record(t testing.TB, d *Document, signers ...maker) []byte {
	t.Helper()
	payload, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return envelope(t, payload, signers...)
}

func envelope(t testing.TB, payload []byte, signers ...maker) []byte {
	t.Helper()
	e := Envelope{Payload: payload, PayloadType: PayloadType}
	for _, k := range signers {
		sum := sha256.Sum256(append([]byte(PayloadType), payload...))
		sig, err := ecdsa.SignASN1(rand.Reader, k.private, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		e.Signatures = append(e.Signatures, Signature{KeyID: k.public.ID().String(), Sig: sig})
	}
	raw, err := json.Marshal(&e)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestVerifyRefusals(t *testing.T) {
	a, b := newMaker(t), newMaker(t)
	if _, err := Verify(record(t, document(a, b), a, b), check); err != nil {
		t.Fatalf("good record: %v", err)
	}
	for want, change := range map[string]func(*Document){
		"_type":                 func(d *Document) { d.Type = "x" },
		"time is missing":       func(d *Document) { d.Time = time.Time{} },
		"operator is empty":     func(d *Document) { d.Operator = "" },
		"witnesses[0]":          func(d *Document) { d.Witnesses[0] = "" },
		"device.serial":         func(d *Document) { d.Device.Serial = "" },
		"keys is empty":         func(d *Document) { d.Keys = nil },
		"keys[0]: label":        func(d *Document) { d.Keys[0].Label = "" },
		"keys[0]: fingerprint":  func(d *Document) { d.Keys[0].Digest = b.public.ID().String() },
		"keys[0]: curve":        func(d *Document) { d.Keys[0].Curve = "P-384" },
		"keys[0]: public_key":   func(d *Document) { d.Keys[0].PublicKey += "\n" },
		"keys[1] stands twice":  func(d *Document) { d.Keys[1] = d.Keys[0] },
		"CKA_EXTRACTABLE false": func(d *Document) { d.Keys[1].Attributes["CKA_EXTRACTABLE"] = true },
		"CKA_SENSITIVE true":    func(d *Document) { d.Keys[1].Attributes["CKA_SENSITIVE"] = false },
		"CKA_LOCAL true":        func(d *Document) { delete(d.Keys[1].Attributes, "CKA_LOCAL") },
		"attachments[0]":        func(d *Document) { d.Attachments[0].Content = []byte("other") },
	} {
		d := document(a, b)
		change(d)
		if _, err := Verify(record(t, d, a, b), check); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
		if _, err := d.Marshal(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Marshal: want an error with %q, got %v", want, err)
		}
	}
	payload, err := document(a, b).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	other := []byte(strings.Replace(string(payload), "Ada", "Eve", 1))
	good := string(envelope(t, payload, a, b))
	for want, raw := range map[string][]byte{
		"1 signatures":        envelope(t, payload, a),
		"3 signatures":        envelope(t, payload, a, b, b),
		"signatures[0] is of": envelope(t, payload, b, a),
		"payload type":        []byte(strings.Replace(good, "key-ceremony", "key-ceremonies", 1)),
		"something follows":   []byte(good + "{}"),
		"unknown field":       []byte(strings.Replace(good, `{"payload"`, `{"x":1,"payload"`, 1)),
		"not in its one form": envelope(t, []byte(strings.Replace(string(payload), `"operator"`, `"operator":"Eve","operator"`, 1)), a, b),
		"signature of key":    tampered(t, envelope(t, payload, a, b), other),
	} {
		if _, err := Verify(raw, check); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
}

// tampered puts another payload under the signatures of a record.
func tampered(t testing.TB, raw, payload []byte) []byte {
	t.Helper()
	var e Envelope
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatal(err)
	}
	e.Payload = payload
	out, err := json.Marshal(&e)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func FuzzVerify(f *testing.F) {
	a := newMaker(f)
	good := record(f, document(a), a)
	f.Add(good)
	f.Add([]byte(`{"payload":"e30=","payloadType":"application/vnd.strongroom.key-ceremony+json","signatures":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := Verify(raw, check)
		if err != nil {
			return
		}
		if _, err := d.Marshal(); err != nil {
			t.Errorf("a document that verified is not complete: %v", err)
		}
	})
}
