package provenance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// PackPredicateType names the predicate of the statement about an evidence pack.
const PackPredicateType = "https://strongroom.dev/provenance/pack/v1"

// PackSubject is the file of a pack that its statement is about: the SHA-256 of every
// other file.
const PackSubject = "SHA256SUMS"

// PackStatement is an in-toto Statement v1 about an evidence pack.
type PackStatement struct {
	Type          string        `json:"_type"`
	Subject       []Subject     `json:"subject"` // exactly one: PackSubject
	PredicateType string        `json:"predicateType"`
	Predicate     PackPredicate `json:"predicate"`
}

// PackPredicate says whose export a pack is. The peer did not see the pack: it says
// that this member asked it to sign this digest for this range.
type PackPredicate struct {
	Channel   string   `json:"channel"`
	From      uint64   `json:"from"`
	To        uint64   `json:"to"`
	Requester Identity `json:"requester"`
	Signer    Identity `json:"signer"`
	HSM       HSM      `json:"hsm"`
	Time      Time     `json:"time"`
}

// SignPack signs a statement about the pack whose SHA256SUMS has this SHA-256, and
// returns it as a Sigstore bundle. All blocks of the range must have statements.
func (r *Recorder) SignPack(ctx context.Context, sums [sha256.Size]byte, from, to uint64, requester Identity) ([]byte, error) {
	if next, _ := r.Next(); from > to || from < r.first() || to >= next {
		return nil, fmt.Errorf("blocks %d to %d: %w", from, to, ErrNotFound)
	}
	by := r.signer()
	payload, err := json.Marshal(&PackStatement{
		Type:          StatementType,
		Subject:       []Subject{{Name: PackSubject, Digest: map[string]string{"sha256": hex.EncodeToString(sums[:])}}},
		PredicateType: PackPredicateType,
		Predicate: PackPredicate{Channel: r.cfg.Channel, From: from, To: to, Requester: requester,
			Signer: by.peer.Signer, HSM: by.peer.HSM,
			Time: Time{Value: r.cfg.Now().UTC().Truncate(time.Millisecond), Source: ClockSource}},
	})
	if err != nil {
		return nil, err
	}
	sig, err := by.SignStatement(ctx, PayloadType, payload)
	if err != nil {
		return nil, fmt.Errorf("sign pack of channel %q: %w", r.cfg.Channel, err)
	}
	return json.Marshal(&Bundle{
		MediaType:            BundleMediaType,
		VerificationMaterial: VerificationMaterial{PublicKey: PublicKeyHint{Hint: by.peer.HSM.KeyID}},
		Envelope:             Envelope{Payload: payload, PayloadType: PayloadType, Signatures: []Signature{{Sig: sig}}},
	})
}

// VerifyPack checks the statement about a pack: that it is in its one form, to the
// byte, its signature by way of check, and that its subject has the digest. It
// performs no I/O.
func VerifyPack(bundle []byte, sums [sha256.Size]byte, check func(pae, sig []byte) error) (*PackStatement, error) {
	b, err := ParseBundle(bundle)
	if err != nil {
		return nil, err
	}
	if err := check(PAE(b.Envelope.PayloadType, b.Envelope.Payload), b.Envelope.Signatures[0].Sig); err != nil {
		return nil, fmt.Errorf("pack's signature: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(b.Envelope.Payload))
	dec.DisallowUnknownFields()
	var s PackStatement
	if err := dec.Decode(&s); err != nil {
		return nil, fmt.Errorf("pack's statement: %w", err)
	}
	if s.Type != StatementType || s.PredicateType != PackPredicateType {
		return nil, fmt.Errorf("pack's statement has predicate type %q, not %q", s.PredicateType, PackPredicateType)
	}
	again, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, bundle) || b.VerificationMaterial.PublicKey.Hint != s.Predicate.HSM.KeyID {
		return nil, errors.New("pack's statement is not in its one form")
	}
	if len(s.Subject) != 1 || s.Subject[0].Name != PackSubject || s.Subject[0].Digest["sha256"] != hex.EncodeToString(sums[:]) {
		return nil, fmt.Errorf("pack's statement is not about this SHA256SUMS, whose SHA-256 is %x", sums)
	}
	return &s, nil
}
