package provenance

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// A statement about a shredded namespace verifies as it was signed, and in no other way.
func TestShreddingStatement(t *testing.T) {
	f := newFixture(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	digest := strings.Repeat("0f", 32)
	raw, err := SignShredding(t.Context(), f.cfg.Signer, f.cfg.Peer, digest, at,
		ShreddingPredicate{Channel: "main", Namespace: "asset", ThroughTerm: 31, Keys: 4, Height: 9})
	if err != nil {
		t.Fatal(err)
	}
	s, err := VerifyShredding(raw, f.check)
	if err != nil {
		t.Fatal(err)
	}
	p := s.Predicate
	if p.Channel != "main" || p.Namespace != "asset" || p.ThroughTerm != 31 || p.Keys != 4 || p.Height != 9 || p.Signer.MSPID != "Org1MSP" ||
		!p.Time.Value.Equal(at) || s.Subject[0].Digest["sha256"] != digest {
		t.Errorf("%+v", s)
	}
	refused := errors.New("refused")
	if _, err := VerifyShredding(raw, func(_, _ []byte) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	if _, err := VerifyShredding([]byte(strings.Replace(string(raw), "payloadType", "payloadTipe", 1)), f.check); err == nil {
		t.Error("another form is accepted")
	}
}
