package acl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"strongroom/acl/decisions"
)

// shelf is a store that renders at once, on the goroutine of the test.
type shelf struct {
	records, private [][]byte
	err              error
}

func (s *shelf) Put(_ context.Context, e decisions.Entry, _ int) error {
	if s.err != nil {
		return s.err
	}
	record, private, err := e.Render()
	s.records, s.private = append(s.records, record), append(s.private, private)
	return err
}

func newDecisions(t testing.TB, store decisions.Store) *decisions.Log {
	t.Helper()
	l, err := decisions.New(decisions.Config{Store: store, Labels: map[string]string{"id": "node"}})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// eventV1 has the members of Open Policy Agent's EventV1 that a decision has.
type eventV1 struct {
	Labels      map[string]string                    `json:"labels"`
	DecisionID  string                               `json:"decision_id"`
	Bundles     map[string]struct{ Revision string } `json:"bundles"`
	Path        string                               `json:"path"`
	Input       map[string]any                       `json:"input"`
	Result      decisions.Result                     `json:"result"`
	Erased      []string                             `json:"erased"`
	Masked      []string                             `json:"masked"`
	RequestedBy string                               `json:"requested_by"`
	Timestamp   string                               `json:"timestamp"`
	Metrics     map[string]int64                     `json:"metrics"`
	Custom      map[string]string                    `json:"custom"`
}

func (s *shelf) last(t *testing.T) eventV1 {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(s.records[len(s.records)-1]))
	dec.DisallowUnknownFields()
	var e eventV1
	if err := dec.Decode(&e); err != nil {
		t.Fatalf("%v in %s", err, s.records[len(s.records)-1])
	}
	return e
}

// TestEveryDecisionIsRecorded holds the record of each check against its decision, made
// anew and remembered.
func TestEveryDecisionIsRecorded(t *testing.T) {
	n := newNetwork(t)
	store := &shelf{}
	for name, layers := range map[string]map[Layer]string{"fabric": nil, "layers": benchmarkLayers()} {
		g, _ := n.newGuard(t, layers, func(c *Config) { c.Decisions = newDecisions(t, store) })
		for i, r := range []Request{
			{Resource: ResourceProposePropose, Channel: "main", Chaincode: "assets", Function: "Read", Caller: n.client, RemoteAddr: "10.0.0.1:4711"},
			{Resource: ResourceProposePropose, Channel: "main", Chaincode: "assets", Function: "Read", Caller: n.client, RemoteAddr: "10.0.0.1:4712"},
			{Resource: ResourceProposePropose, Channel: "main", Chaincode: "assets", Function: "Write", Caller: n.client, RemoteAddr: "10.0.0.2:4712"},
			{Resource: ResourceProposePropose, Channel: "main", Chaincode: "assets", Function: "Write", Caller: n.stranger},
			{Resource: ResourceProposePropose, Channel: "main"},
			{Resource: ResourceProposePropose, Channel: "other", Caller: n.client},
		} {
			before := len(store.records)
			d, err := g.Check(t.Context(), n.config, r)
			if len(store.records) != before+1 {
				t.Fatalf("%s %d: %d records of one decision", name, i, len(store.records)-before)
			}
			e := store.last(t)
			if e.DecisionID != d.ID || e.Result.Allow != d.Allowed || e.Result.Allow != (err == nil) || e.Path != decisions.AccessPath || e.RequestedBy != r.RemoteAddr {
				t.Errorf("%s %d: %+v, recorded %+v", name, i, d, e)
			}
			if len(e.Result.Layers) != len(d.Layers) || !d.Allowed && !strings.HasSuffix(d.Reason(), strings.Join(e.Result.Deny, "; ")) {
				t.Errorf("%s %d: layers %+v, recorded %+v", name, i, d.Layers, e.Result)
			}
			if r.Caller == nil {
				if e.Input != nil {
					t.Errorf("%s %d: input %v", name, i, e.Input)
				}
				continue
			}
			remote := e.Input["remote"].(map[string]any)["address"]
			if e.Input["function"] != r.Function || !strings.HasPrefix(r.RemoteAddr, remote.(string)) {
				t.Errorf("%s %d: input %v", name, i, e.Input)
			}
		}
	}
}

// TestUnrecordedDecision refuses what cannot be recorded, without calling it a denial.
func TestUnrecordedDecision(t *testing.T) {
	n := newNetwork(t)
	store := &shelf{err: errors.New("disk full")}
	g, _ := n.newGuard(t, nil, func(c *Config) { c.Decisions = newDecisions(t, store) })
	r := Request{Resource: ResourceProposePropose, Channel: "main", Caller: n.client}
	d, err := g.Check(t.Context(), n.config, r)
	if d.Allowed || !errors.Is(err, decisions.ErrNotKept) || errors.Is(err, ErrDenied) {
		t.Errorf("%+v, %v", d, err)
	}
	r.Caller = n.stranger
	if d, err := g.Check(t.Context(), n.config, r); d.Allowed || !errors.Is(err, ErrDenied) {
		t.Errorf("a denial that cannot be recorded: %+v, %v", d, err)
	}
	store.err = nil
	r.Caller = n.client
	if d, err := g.Check(t.Context(), n.config, r); !d.Allowed || err != nil {
		t.Errorf("after the disk is well again: %+v, %v", d, err)
	}
}

// BenchmarkRecorded is a remembered decision that is queued for the log; the queue is
// not rendered here.
func BenchmarkRecorded(b *testing.B) {
	n := newNetwork(b)
	store := decisions.StoreFunc(func(context.Context, decisions.Entry, int) error { return nil })
	g, _ := n.newGuard(b, benchmarkLayers(), func(c *Config) { c.Decisions = newDecisions(b, store) })
	r := Request{Resource: ResourceProposePropose, Channel: "main", Chaincode: "assets", Function: "Read", Caller: n.client, RemoteAddr: "10.0.0.1:4711", TLSCertHash: make([]byte, 32)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := g.Check(context.Background(), n.config, r); err != nil {
			b.Fatal(err)
		}
	}
}
