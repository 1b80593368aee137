package endorsement_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"strongroom/acl/decisions"
	"strongroom/acl/endorsement"
)

// TestDecisionsAreRecorded records what is allowed, refused and cannot be judged, and
// refuses what cannot be recorded.
func TestDecisionsAreRecorded(t *testing.T) {
	var records [][]byte
	var full error
	store := decisions.StoreFunc(func(_ context.Context, e decisions.Entry, size int) error {
		if full != nil {
			return full
		}
		b, _, err := e.Render()
		records = append(records, b)
		if size < 1000 {
			t.Errorf("an event of %d bytes", size)
		}
		return err
	})
	log, err := decisions.New(decisions.Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	g, err := endorsement.New(endorsement.Config{Engine: engine(), Decisions: log})
	if err != nil {
		t.Fatal(err)
	}
	id := caller(t)
	if err := g.Check(t.Context(), proposal(id)); err != nil || len(records) > 0 {
		t.Errorf("without rules: %v, %d records", err, len(records))
	}
	replace(t, g, 0, header+"allow if true\n\ndeny contains \"b\" if input.writes[_].key == \"b\"\n\npublic_reason contains \"no b\" if true\n")
	small, large := proposal(id, write("a", "1")), proposal(id, write("a", string(make([]byte, 9<<20))))
	for i, tc := range []struct {
		p             *endorsement.Proposal
		allow, failed bool
		reasons       int
	}{{small, true, false, 0}, {proposal(id, write("b", "1")), false, false, 1}, {large, false, true, 1}} {
		err := g.Check(t.Context(), tc.p)
		var e struct {
			Path   string
			ID     string `json:"decision_id"`
			Result decisions.Result
			Input  map[string]any
		}
		if len(records) != i+1 {
			t.Fatalf("%d records of %d decisions", len(records), i+1)
		}
		if err := json.Unmarshal(records[i], &e); err != nil {
			t.Fatal(err)
		}
		if e.Path != decisions.EndorsementPath || e.Result.Allow != tc.allow || e.Result.Failed != tc.failed || len(e.Result.Deny) != tc.reasons || len(e.Result.Policy) != 64 {
			t.Errorf("%d: %+v", i, e)
		}
		if (e.Input == nil) != tc.failed {
			t.Errorf("%d: input %v", i, e.Input)
		}
		var refused *endorsement.RefusedError
		if errors.As(err, &refused) != !tc.allow || refused != nil && refused.Decision != e.ID {
			t.Errorf("%d: %v, recorded under %q", i, err, e.ID)
		}
	}
	full = errors.New("disk full")
	if err := g.Check(t.Context(), small); !errors.Is(err, decisions.ErrNotKept) || errors.Is(err, endorsement.ErrRefused) {
		t.Errorf("a decision that cannot be recorded: %v", err)
	}
}
