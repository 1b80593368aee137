package policy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// conditionsOf evaluates a program that sets one condition, written as Rego.
func conditionsOf(t *testing.T, condition string) ([]Condition, error) {
	t.Helper()
	p, err := ParseProgram(t.Context(), ProgramConfig{Package: "team", Conditions: true},
		map[string][]byte{"team.rego": []byte("package team\n\ndefault allow := false\n\nallow if input.x\n\nconditions contains " + condition + "\n")})
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.Verdict(context.Background(), map[string]any{"x": true})
	return v.Conditions, err
}

func TestConditionsOnTime(t *testing.T) {
	const office = `{"open": [{"zone": "Europe/Zurich", "days": ["mon", "tue", "wed", "thu", "fri"], "from": "08:00", "to": "18:00"}, {"zone": "UTC", "days": ["sun"], "from": "22:00", "to": "02:00"}]}`
	for _, c := range []struct {
		condition, now string
		why            string
	}{
		{`{"not_before": "2026-03-01T00:00:00Z"}`, "2026-02-28T23:59:59Z", "not before 2026-03-01T00:00:00Z"},
		{`{"not_before": "2026-03-01T00:00:00Z"}`, "2026-03-01T00:00:00Z", ""},
		{`{"not_after": "2026-03-01T01:00:00+01:00"}`, "2026-03-01T00:00:00Z", ""},
		{`{"not_after": "2026-03-01T01:00:00+01:00", "reason": "the mandate ended"}`, "2026-03-01T00:00:01Z", "the mandate ended (not after"},
		{office, "2026-11-23T07:00:00Z", ""},                     // Monday, 08:00 in Zurich
		{office, "2026-11-23T06:59:59Z", "outside of its hours"}, // 07:59:59
		{office, "2026-11-23T16:59:59Z", ""},                     // 17:59:59
		{office, "2026-11-23T17:00:00Z", "outside of its hours"}, // 18:00
		{office, "2026-07-06T06:00:00Z", ""},                     // Monday, 08:00 in summer time
		{office, "2026-11-21T12:00:00Z", "outside of its hours"}, // Saturday
		{office, "2026-11-22T22:00:00Z", ""},                     // Sunday night
		{office, "2026-11-23T01:59:00Z", ""},                     // Monday morning of that night
		{office, "2026-11-22T01:59:00Z", "outside of its hours"}, // Sunday morning: Saturday has no night
	} {
		conditions, err := conditionsOf(t, c.condition)
		if err != nil || len(conditions) != 1 {
			t.Fatalf("%s: %v, %v", c.condition, conditions, err)
		}
		now, err := time.Parse(time.RFC3339, c.now)
		if err != nil {
			t.Fatal(err)
		}
		why := NewLimiter(func() time.Time { return now }).Admit("test", conditions, Subject{})
		if why != c.why && (c.why == "" || !strings.Contains(why, c.why)) {
			t.Errorf("%s at %s: %q, want %q", c.condition, c.now, why, c.why)
		}
	}
}

func TestRates(t *testing.T) {
	conditions, err := conditionsOf(t, `{"rate": {"name": "pay", "per": "caller", "calls": 3, "seconds": 60}, "reason": "slow down"}`)
	if err != nil {
		t.Fatal(err)
	}
	if !conditions[0].PerCaller() {
		t.Error("a rate per caller does not say so")
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := NewLimiter(func() time.Time { return now })
	take := func(scope, caller string) bool {
		return l.Admit(scope, conditions, Subject{Caller: caller, Address: "1.2.3.4"}) == ""
	}
	for i := range 4 {
		if got := take("a", "alice"); got != (i < 3) {
			t.Fatalf("call %d: %t", i+1, got)
		}
	}
	if !take("a", "bob") || !take("b", "alice") {
		t.Error("another caller or another scope is counted together")
	}
	now = now.Add(20 * time.Second)
	if !take("a", "alice") || take("a", "alice") {
		t.Error("a third of the period gives one call of three")
	}
	now = now.Add(time.Hour)
	for i := range 4 {
		if got := take("a", "alice"); got != (i < 3) {
			t.Fatalf("after an hour, call %d: %t", i+1, got)
		}
	}
	now = now.Add(-time.Hour) // a clock that is put back gives nothing and takes nothing
	if take("a", "alice") {
		t.Error("a clock that was put back gave a call")
	}
	for i := range limiterEntries + 10 {
		take("c", fmt.Sprint(i))
	}
	if n := l.buckets.Len(); n != limiterEntries {
		t.Errorf("%d counts are kept", n)
	}
}

// TestRateIsTakenOnlyInTime: what the time forbids does not use up the rate.
func TestRateIsTakenOnlyInTime(t *testing.T) {
	conditions, err := conditionsOf(t, `{"rate": {"name": "pay", "per": "everyone", "calls": 1, "seconds": 60}, "not_before": "2026-03-01T00:00:00Z"}`)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 2, 28, 23, 59, 50, 0, time.UTC)
	l := NewLimiter(func() time.Time { return now })
	if l.Admit("a", conditions, Subject{}) == "" {
		t.Fatal("allowed too early")
	}
	if now = now.Add(10 * time.Second); l.Admit("a", conditions, Subject{}) != "" {
		t.Error("a call that the time refused was counted")
	}
}

// TestMalformedConditions: a condition that nobody could check gives no decision.
func TestMalformedConditions(t *testing.T) {
	for _, c := range []string{
		`{}`, `{"reason": "none"}`, `"text"`, `{"until": "2026-01-01T00:00:00Z"}`, `{"not_after": "tomorrow"}`, `{"not_after": 3}`,
		`{"open": []}`, `{"open": [{"zone": "UTC", "days": ["mon"], "from": "08:00"}]}`,
		`{"open": [{"zone": "Local", "days": ["mon"], "from": "08:00", "to": "09:00"}]}`,
		`{"open": [{"zone": "Mars/Base", "days": ["mon"], "from": "08:00", "to": "09:00"}]}`,
		`{"open": [{"zone": "UTC", "days": ["monday"], "from": "08:00", "to": "09:00"}]}`,
		`{"open": [{"zone": "UTC", "days": [], "from": "08:00", "to": "09:00"}]}`,
		`{"open": [{"zone": "UTC", "days": ["mon"], "from": "8:00", "to": "09:00"}]}`,
		`{"rate": {"name": "x", "per": "caller", "calls": 0, "seconds": 1}}`,
		`{"rate": {"name": "x", "per": "caller", "calls": 1.5, "seconds": 1}}`,
		`{"rate": {"name": "x", "per": "planet", "calls": 1, "seconds": 1}}`,
		`{"rate": {"name": "", "per": "caller", "calls": 1, "seconds": 1}}`,
		`{"rate": {"per": "caller", "calls": 1, "seconds": 1}}`,
		`{"rate": {"name": "x", "per": "caller", "calls": 1, "seconds": 100000}}`,
	} {
		if got, err := conditionsOf(t, c); err == nil {
			t.Errorf("%s: %+v", c, got)
		}
	}
	if _, err := ParseProgram(t.Context(), ProgramConfig{Package: "team"}, map[string][]byte{"team.rego": []byte("package team\n\ndefault allow := false\n\nconditions contains {\"not_after\": \"2026-01-01T00:00:00Z\"}\n")}); err == nil || !strings.Contains(err.Error(), "nothing checks conditions") {
		t.Errorf("conditions that nobody checks are taken: %v", err)
	}
}

func TestReads(t *testing.T) {
	for source, want := range map[string]bool{
		"allow if input.caller.mspid == \"a\"":                 false,
		"allow if input.args[0] == \"a\"":                      true,
		"allow if count(input.args) == 0":                      true,
		"allow if input[\"args\"][0] == \"a\"":                 true,
		"allow if { some k; input[k] == \"a\" }":               true,
		"allow if { x := input; x.args[0] == \"a\" }":          true,
		"limits := {\"a\": 1}\nallow if limits[input.args[0]]": true,
		"allow if { every a in input.args { a != \"\" } }":     true,
		"allow if input.caller.args == \"a\"":                  false,
		"f(x) if x.args\nallow if f(input)":                    true,
		"allow if input.caller[input.function] == \"a\"":       false,
		"allow if input.caller[input.args[1]] == \"a\"":        true,
	} {
		p, err := ParseProgram(t.Context(), ProgramConfig{Package: "team"}, map[string][]byte{"team.rego": []byte("package team\n\ndefault allow := false\n\n" + source + "\n")})
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Reads("args"); got != want {
			t.Errorf("%s: %t", source, got)
		}
	}
}
