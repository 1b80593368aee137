// Package ceremony is the record of a key ceremony: who made which keys in which
// device, when, before which witnesses, signed by the keys themselves. It performs no
// I/O and checks no signature itself.
//
// The record is one DSSE envelope. Its payload is a Document; it has one signature of
// each of the document's keys, in their order.
package ceremony

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"time"

	"strongroom/bccsp"
)

const (
	// DocumentType is a Document's _type.
	DocumentType = "https://strongroom.dev/key-ceremony/v1"
	// PayloadType is the envelope's payloadType.
	PayloadType = "application/vnd.strongroom.key-ceremony+json"
	// ClockSource is what a document's time was read from.
	ClockSource = "host clock"
	// MaxBytes bounds a record.
	MaxBytes = 16 << 20
)

// Document says what happened. Digests are SHA-256 in lower-case hex.
type Document struct {
	Type        string       `json:"_type"`
	Time        time.Time    `json:"time"` // UTC
	ClockSource string       `json:"clock_source"`
	Operator    string       `json:"operator"`  // who ran the command, as they say
	Witnesses   []string     `json:"witnesses"` // who watched, as the operator says
	Purpose     string       `json:"purpose"`   // what the keys are for; may be ""
	Device      Device       `json:"device"`
	Library     Library      `json:"library"`
	Software    Software     `json:"software"`
	Keys        []Key        `json:"keys"`        // at least one
	Attachments []Attachment `json:"attachments"` // as the device's attestation of the keys
}

// Device is the token as it describes itself.
type Device struct {
	Label        string `json:"label"`
	Serial       string `json:"serial"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	Firmware     string `json:"firmware"`
	Hardware     string `json:"hardware"`
}

// Library is the PKCS #11 library by which the device was reached.
type Library struct {
	Description string `json:"description"`
	Version     string `json:"version"`
	Cryptoki    string `json:"cryptoki"`
	File        string `json:"file"`
	Digest      string `json:"sha256"` // of the file
}

// Software is the program that made the document.
type Software struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Key is a key pair that was made. The device itself said the attributes, after it had
// made the key.
type Key struct {
	Label      string          `json:"label"`
	Curve      string          `json:"curve"`       // P-256 or P-384
	PublicKey  string          `json:"public_key"`  // SubjectPublicKeyInfo in PEM
	Digest     string          `json:"fingerprint"` // of the SubjectPublicKeyInfo in DER
	Attributes map[string]bool `json:"attributes"`  // of the private half, by their PKCS #11 names
}

// Attachment is a file that belongs to the record. Nothing in it is judged here.
type Attachment struct {
	Name    string `json:"name"`
	Digest  string `json:"sha256"`
	Content []byte `json:"content"`
}

// Envelope is a DSSE envelope with several signatures.
type Envelope struct {
	Payload     []byte      `json:"payload"`
	PayloadType string      `json:"payloadType"`
	Signatures  []Signature `json:"signatures"`
}

// Signature is a DSSE signature: ECDSA with SHA-256 in ASN.1 DER.
type Signature struct {
	KeyID string `json:"keyid"` // the key's fingerprint
	Sig   []byte `json:"sig"`
}

// protection is what a device must say of a private key: it was made there, nobody
// knows it elsewhere, and it stays.
var protection = map[string]bool{"CKA_SENSITIVE": true, "CKA_EXTRACTABLE": false, "CKA_LOCAL": true}

// NewKey describes a key for a document.
func NewKey(label string, public *bccsp.PublicKey, attributes map[string]bool) Key {
	return Key{
		Label: label, Curve: public.Curve().Params().Name, Digest: public.ID().String(), Attributes: attributes,
		PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public.SPKI()})),
	}
}

// NewAttachment makes a file part of a document.
func NewAttachment(name string, content []byte) Attachment {
	sum := sha256.Sum256(content)
	return Attachment{Name: name, Digest: hex.EncodeToString(sum[:]), Content: content}
}

// Marshal is the payload of a document, which must be complete.
func (d *Document) Marshal() ([]byte, error) {
	if _, err := d.check(); err != nil {
		return nil, err
	}
	return json.Marshal(d)
}

// Verify reads a record and has each key's signature checked by way of check, which
// gets the key, the payload's type, the payload and the DER signature. A document that
// contradicts itself, lacks a signature, or whose device did not call a key protected,
// is an error. What it cannot show is that the people were there, and, without the
// maker's attestation, that the device is one.
func Verify(raw []byte, check func(key *bccsp.PublicKey, payloadType string, payload, sig []byte) error) (*Document, error) {
	if len(raw) > MaxBytes {
		return nil, fmt.Errorf("record has %d bytes, more than %d", len(raw), MaxBytes)
	}
	var e Envelope
	if err := decode(raw, &e); err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	if e.PayloadType != PayloadType {
		return nil, fmt.Errorf("envelope has payload type %q, not %q", e.PayloadType, PayloadType)
	}
	var d Document
	if err := decode(e.Payload, &d); err != nil {
		return nil, fmt.Errorf("document: %w", err)
	}
	again, err := json.Marshal(&d)
	if err != nil {
		return nil, fmt.Errorf("document: %w", err)
	}
	if !bytes.Equal(again, e.Payload) {
		return nil, errors.New("document is not in its one form: a field is doubled, missing or spelled otherwise")
	}
	keys, err := d.check()
	if err != nil {
		return nil, fmt.Errorf("document: %w", err)
	}
	if len(e.Signatures) != len(keys) {
		return nil, fmt.Errorf("record has %d signatures, its document has %d keys: each key signs once", len(e.Signatures), len(keys))
	}
	for i, key := range keys {
		if e.Signatures[i].KeyID != key.ID().String() {
			return nil, fmt.Errorf("signatures[%d] is of key %q, keys[%d] is %s", i, e.Signatures[i].KeyID, i, key.ID())
		}
		if err := check(key, e.PayloadType, e.Payload, e.Signatures[i].Sig); err != nil {
			return nil, fmt.Errorf("signature of key %q: %w", d.Keys[i].Label, err)
		}
	}
	return &d, nil
}

// decode reads one JSON value without unknown fields and with nothing after it.
func decode(raw []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

// check finds what is missing from a document or contradicts itself, and parses its keys.
func (d *Document) check() ([]*bccsp.PublicKey, error) {
	switch {
	case d.Type != DocumentType:
		return nil, fmt.Errorf("_type is %q, not %q", d.Type, DocumentType)
	case d.Time.IsZero() || d.Time.Location() != time.UTC:
		return nil, errors.New("time is missing or not in UTC")
	case d.Operator == "":
		return nil, errors.New("operator is empty: name who ran the ceremony")
	case d.Device.Serial == "":
		return nil, errors.New("device.serial is empty")
	case len(d.Keys) == 0:
		return nil, errors.New("keys is empty")
	}
	for i, w := range d.Witnesses {
		if w == "" {
			return nil, fmt.Errorf("witnesses[%d] is empty", i)
		}
	}
	for i, a := range d.Attachments {
		if NewAttachment(a.Name, a.Content).Digest != a.Digest {
			return nil, fmt.Errorf("attachments[%d] %q: its content does not have its sha256", i, a.Name)
		}
	}
	keys := make([]*bccsp.PublicKey, len(d.Keys))
	seen := map[string]bool{}
	for i := range d.Keys {
		key, err := d.Keys[i].check()
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		if seen[d.Keys[i].Digest] {
			return nil, fmt.Errorf("keys[%d] stands twice", i)
		}
		seen[d.Keys[i].Digest] = true
		keys[i] = key
	}
	return keys, nil
}

func (k *Key) check() (*bccsp.PublicKey, error) {
	block, rest := pem.Decode([]byte(k.PublicKey))
	if block == nil || block.Type != "PUBLIC KEY" || len(rest) > 0 {
		return nil, errors.New("public_key is not one PEM block PUBLIC KEY")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("public_key: %w", err)
	}
	key, err := bccsp.NewPublicKey(parsed)
	if err != nil {
		return nil, fmt.Errorf("public_key: %w", err)
	}
	switch {
	case k.Label == "":
		return nil, errors.New("label is empty")
	case k.Digest != key.ID().String():
		return nil, fmt.Errorf("fingerprint is %q, the public key's is %s", k.Digest, key.ID())
	case k.Curve != key.Curve().Params().Name:
		return nil, fmt.Errorf("curve is %q, the public key's is %s", k.Curve, key.Curve().Params().Name)
	}
	for name, want := range protection {
		if got, ok := k.Attributes[name]; !ok || got != want {
			return nil, fmt.Errorf("the device does not call %s %t: the key is not one that was made there to stay", name, want)
		}
	}
	return key, nil
}
