package provenance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// BundleMediaType is the media type of a Sigstore bundle v0.3.
const BundleMediaType = "application/vnd.dev.sigstore.bundle.v0.3+json"

// Bundle is a Sigstore bundle v0.3 with a DSSE envelope, verified with a public key
// that the verifier brings along.
type Bundle struct {
	MediaType            string               `json:"mediaType"`
	VerificationMaterial VerificationMaterial `json:"verificationMaterial"`
	Envelope             Envelope             `json:"dsseEnvelope"`
}

// VerificationMaterial names the key and, if somebody added it, third parties'
// evidence, which this package carries but does not judge.
type VerificationMaterial struct {
	PublicKey   PublicKeyHint   `json:"publicKey"`
	TlogEntries json.RawMessage `json:"tlogEntries,omitempty"`
	Timestamps  json.RawMessage `json:"timestampVerificationData,omitempty"`
}

// PublicKeyHint names the public key to verify with: the SHA-256 of its
// SubjectPublicKeyInfo in hex. It is not signed.
type PublicKeyHint struct {
	Hint string `json:"hint"`
}

// Envelope is a DSSE envelope.
type Envelope struct {
	Payload     []byte      `json:"payload"` // the statement's bytes, which are what is signed
	PayloadType string      `json:"payloadType"`
	Signatures  []Signature `json:"signatures"` // exactly one
}

// Signature is a DSSE signature: ECDSA in ASN.1 DER.
type Signature struct {
	Sig []byte `json:"sig"`
}

// PAE is DSSE's pre-authentication encoding: the bytes that are signed.
func PAE(payloadType string, payload []byte) []byte {
	b := make([]byte, 0, len("DSSEv1")+len(payloadType)+len(payload)+4+2*20)
	b = append(b, "DSSEv1 "...)
	b = strconv.AppendInt(b, int64(len(payloadType)), 10)
	b = append(b, ' ')
	b = append(b, payloadType...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(len(payload)), 10)
	b = append(b, ' ')
	return append(b, payload...)
}

// ParseBundle reads a bundle strictly: unknown and doubled fields are errors.
func ParseBundle(raw []byte) (*Bundle, error) {
	if err := checkKeys(raw); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	var b Bundle
	if err := dec.Decode(&b); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	switch {
	case b.MediaType != BundleMediaType:
		return nil, fmt.Errorf("bundle has media type %q, not %q", b.MediaType, BundleMediaType)
	case b.Envelope.PayloadType != PayloadType:
		return nil, fmt.Errorf("bundle has payload type %q, not %q", b.Envelope.PayloadType, PayloadType)
	case len(b.Envelope.Signatures) != 1:
		return nil, fmt.Errorf("bundle has %d signatures, exactly one is needed", len(b.Envelope.Signatures))
	}
	return &b, nil
}

// checkKeys refuses JSON with a key twice in one object, on which readers differ,
// and anything after the first value.
func checkKeys(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if err := checkValue(dec); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

func checkValue(dec *json.Decoder) error {
	t, err := dec.Token()
	if err != nil {
		return err
	}
	switch t {
	case json.Delim('{'):
		seen := make(map[string]bool)
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return err
			}
			name, _ := key.(string)
			if seen[name] {
				return fmt.Errorf("field %q stands twice", name)
			}
			seen[name] = true
			if err := checkValue(dec); err != nil {
				return err
			}
		}
		_, err = dec.Token()
		return err
	case json.Delim('['):
		for dec.More() {
			if err := checkValue(dec); err != nil {
				return err
			}
		}
		_, err = dec.Token()
		return err
	}
	return nil
}
