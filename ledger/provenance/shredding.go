package provenance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// ShreddingPredicateType names the predicate of the statement about a shredded namespace.
const ShreddingPredicateType = "https://strongroom.dev/provenance/shredding/v1"

// ShreddingSubject names what the statement is about: the keyring's record of shredded
// namespaces, up to and without its own digest.
const ShreddingSubject = "SHREDDED"

// ShreddingStatement is an in-toto Statement v1 about a namespace whose keys were destroyed.
type ShreddingStatement struct {
	Type          string             `json:"_type"`
	Subject       []Subject          `json:"subject"` // exactly one: ShreddingSubject
	PredicateType string             `json:"predicateType"`
	Predicate     ShreddingPredicate `json:"predicate"`
}

// ShreddingPredicate says what was destroyed. SignShredding fills in Signer, HSM and Time.
type ShreddingPredicate struct {
	Channel     string   `json:"channel"`
	Namespace   string   `json:"namespace"`
	ThroughTerm uint32   `json:"throughTerm"` // no key of the namespace up to this term is left
	Keys        int      `json:"keys"`        // how many were destroyed
	Height      uint64   `json:"height"`      // blocks of the channel's ledger then
	Signer      Identity `json:"signer"`
	HSM         HSM      `json:"hsm"`
	Time        Time     `json:"time"`
}

// SignShredding signs a statement about a shredded namespace and returns it as a
// Sigstore bundle. Digest is the record's, in hex.
func SignShredding(ctx context.Context, by StatementSigner, peer Peer, digest string, at time.Time, p ShreddingPredicate) ([]byte, error) {
	p.Signer, p.HSM = peer.Signer, peer.HSM
	if p.HSM.KeyID == "" {
		p.HSM.KeyID = by.PublicKey().ID().String()
	}
	p.Time = Time{Value: at.UTC().Truncate(time.Millisecond), Source: ClockSource}
	payload, err := json.Marshal(&ShreddingStatement{
		Type:          StatementType,
		Subject:       []Subject{{Name: ShreddingSubject, Digest: map[string]string{"sha256": digest}}},
		PredicateType: ShreddingPredicateType,
		Predicate:     p,
	})
	if err != nil {
		return nil, err
	}
	sig, err := by.SignStatement(ctx, PayloadType, payload)
	if err != nil {
		return nil, fmt.Errorf("sign the statement about the shredded namespace %q: %w", p.Namespace, err)
	}
	return json.Marshal(&Bundle{
		MediaType:            BundleMediaType,
		VerificationMaterial: VerificationMaterial{PublicKey: PublicKeyHint{Hint: p.HSM.KeyID}},
		Envelope:             Envelope{Payload: payload, PayloadType: PayloadType, Signatures: []Signature{{Sig: sig}}},
	})
}

// VerifyShredding checks the statement about a shredded namespace: its form and its
// signature by way of check. It performs no I/O.
func VerifyShredding(bundle []byte, check func(pae, sig []byte) error) (*ShreddingStatement, error) {
	b, err := ParseBundle(bundle)
	if err != nil {
		return nil, err
	}
	if err := check(PAE(b.Envelope.PayloadType, b.Envelope.Payload), b.Envelope.Signatures[0].Sig); err != nil {
		return nil, fmt.Errorf("statement's signature: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(b.Envelope.Payload))
	dec.DisallowUnknownFields()
	var s ShreddingStatement
	if err := dec.Decode(&s); err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	if s.Type != StatementType || s.PredicateType != ShreddingPredicateType {
		return nil, fmt.Errorf("statement has predicate type %q, not %q", s.PredicateType, ShreddingPredicateType)
	}
	if len(s.Subject) != 1 || s.Subject[0].Name != ShreddingSubject || len(s.Subject[0].Digest["sha256"]) != 64 {
		return nil, errors.New("statement is not about a record of shredded namespaces")
	}
	return &s, nil
}
