package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // the zones of windows must not depend on the host

	"github.com/open-policy-agent/opa/v1/ast"
)

// Condition is something that must hold besides a verdict, and that Rego does not see:
// the time, or how often somebody asked. A rule says which conditions apply, and they are
// part of its verdict, so that the verdict stays the same for as long as its input does
// and can be remembered and replayed; whoever acts on it asks the clock each time.
//
//	conditions contains {"not_before": "2026-01-01T00:00:00Z", "not_after": "2026-12-31T23:59:59Z"} if …
//	conditions contains {"open": [{"zone": "Europe/Zurich", "days": ["mon", "fri"], "from": "08:00", "to": "18:00"}]} if …
//	conditions contains {"rate": {"name": "payments", "per": "caller", "calls": 100, "seconds": 60}} if …
//
// Each may have a "reason" for the log. All must hold. A Condition is immutable.
type Condition struct {
	notBefore, notAfter time.Time
	open                []window
	rate                *rate
	reason              string
}

// window is a part of some days of the week; one whose end is not after its begin goes
// on into the next day.
type window struct {
	zone     *time.Location
	days     [7]bool // by time.Weekday, on which it begins
	from, to time.Duration
}

// rate allows so many calls in a period, for each of those whom it tells apart.
type rate struct {
	name, per string
	calls     int64
	period    time.Duration
}

// Whom a rate tells apart.
const (
	PerCaller      = "caller"      // the certificate of the identity that signed
	PerAddress     = "address"     // of the connection, without port
	PerCertificate = "certificate" // of the connection's TLS client
	PerEveryone    = "everyone"    // nobody: one count for all
)

// Bounds of conditions.
const (
	maxConditions = 32
	maxWindows    = 32
	maxCalls      = 1_000_000
	maxPeriod     = 24 * time.Hour
)

// parseConditions reads the set that a rule made. What is malformed is an error, so
// that nothing is allowed by a condition that nobody checks.
func parseConditions(set ast.Set) ([]Condition, error) {
	if set.Len() > maxConditions {
		return nil, fmt.Errorf("conditions: %d of them: at most %d are taken", set.Len(), maxConditions)
	}
	var out []Condition
	for _, t := range set.Slice() {
		c, err := parseCondition(t)
		if err != nil {
			return nil, fmt.Errorf("conditions: %w", err)
		}
		out = append(out, c)
	}
	return out, nil
}

// object reads the fields of an object, which must be known ones.
func object(t *ast.Term, what string, known ...string) (map[string]*ast.Term, error) {
	o, ok := t.Value.(ast.Object)
	if !ok {
		return nil, fmt.Errorf("%s is %s: write an object with %s", what, ast.ValueName(t.Value), strings.Join(known, ", "))
	}
	fields := map[string]*ast.Term{}
	err := o.Iter(func(k, v *ast.Term) error {
		name, ok := k.Value.(ast.String)
		if !ok || !slices.Contains(known, string(name)) {
			return fmt.Errorf("%s has the field %s: there are %s", what, k, strings.Join(known, ", "))
		}
		fields[string(name)] = v
		return nil
	})
	return fields, err
}

func parseCondition(t *ast.Term) (c Condition, err error) {
	fields, err := object(t, "a condition", "not_before", "not_after", "open", "rate", "reason")
	if err != nil {
		return c, err
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		v := fields[name]
		switch name {
		case "not_before":
			c.notBefore, err = instant(v)
		case "not_after":
			c.notAfter, err = instant(v)
		case "open":
			c.open, err = parseWindows(v)
		case "rate":
			c.rate, err = parseRate(v)
		case "reason":
			c.reason, err = text(v)
		}
		if err != nil {
			return c, fmt.Errorf("%s: %w", name, err)
		}
	}
	if c.notBefore.IsZero() && c.notAfter.IsZero() && c.open == nil && c.rate == nil {
		return c, errors.New("one says nothing: give it not_before, not_after, open or rate")
	}
	return c, nil
}

func text(t *ast.Term) (string, error) {
	s, ok := t.Value.(ast.String)
	if !ok || len(s) > maxReason {
		return "", fmt.Errorf("it must be a text of at most %d bytes", maxReason)
	}
	return string(s), nil
}

func instant(t *ast.Term) (time.Time, error) {
	s, err := text(t)
	if err != nil {
		return time.Time{}, err
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil || at.IsZero() {
		return time.Time{}, fmt.Errorf("%q is no time: write it as 2026-12-31T23:59:59Z", s)
	}
	return at, nil
}

func parseWindows(t *ast.Term) ([]window, error) {
	list, ok := t.Value.(*ast.Array)
	if !ok || list.Len() == 0 || list.Len() > maxWindows {
		return nil, fmt.Errorf("it must be an array of 1 to %d windows", maxWindows)
	}
	out := make([]window, list.Len())
	for i := range out {
		var err error
		if out[i], err = parseWindow(list.Elem(i)); err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
	}
	return out, nil
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func parseWindow(t *ast.Term) (w window, err error) {
	fields, err := object(t, "a window", "zone", "days", "from", "to")
	if err != nil {
		return w, err
	}
	if len(fields) != 4 {
		return w, errors.New("a window needs zone, days, from and to")
	}
	zone, err := text(fields["zone"])
	if err == nil && (zone == "" || zone == "Local") {
		err = errors.New("name it, as UTC or Europe/Zurich: a host's own zone is not taken")
	}
	if err == nil {
		w.zone, err = time.LoadLocation(zone)
	}
	if err != nil {
		return w, fmt.Errorf("zone: %w", err)
	}
	days, ok := fields["days"].Value.(*ast.Array)
	if !ok || days.Len() == 0 {
		return w, fmt.Errorf("days: it must be an array of %s", strings.Join(weekdays, ", "))
	}
	for i := range days.Len() {
		day, err := text(days.Elem(i))
		n := slices.Index(weekdays, day)
		if err != nil || n < 0 {
			return w, fmt.Errorf("days: %s is none: they are %s", days.Elem(i), strings.Join(weekdays, ", "))
		}
		w.days[n] = true
	}
	if w.from, err = clock(fields["from"]); err != nil {
		return w, fmt.Errorf("from: %w", err)
	}
	if w.to, err = clock(fields["to"]); err != nil {
		return w, fmt.Errorf("to: %w", err)
	}
	return w, nil
}

// clock is a time of day, 00:00 to 24:00.
func clock(t *ast.Term) (time.Duration, error) {
	s, err := text(t)
	if err != nil {
		return 0, err
	}
	if s == "24:00" {
		return 24 * time.Hour, nil
	}
	at, err := time.Parse("15:04", s)
	if err != nil || len(s) != 5 {
		return 0, fmt.Errorf("%q is no time of day: write it as 08:00", s)
	}
	return time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute, nil
}

func parseRate(t *ast.Term) (*rate, error) {
	fields, err := object(t, "a rate", "name", "per", "calls", "seconds")
	if err != nil {
		return nil, err
	}
	if len(fields) != 4 {
		return nil, errors.New("a rate needs name, per, calls and seconds")
	}
	r := &rate{}
	if r.name, err = text(fields["name"]); err != nil || r.name == "" {
		return nil, errors.New("name: give the count a name")
	}
	if r.per, err = text(fields["per"]); err != nil || !slices.Contains([]string{PerCaller, PerAddress, PerCertificate, PerEveryone}, r.per) {
		return nil, fmt.Errorf("per: use %s, %s, %s or %s", PerCaller, PerAddress, PerCertificate, PerEveryone)
	}
	number := func(name string, limit int64) (n int64, err error) {
		v, ok := fields[name].Value.(ast.Number)
		if ok {
			n, ok = v.Int64()
		}
		if !ok || n < 1 || n > limit {
			return 0, fmt.Errorf("%s: it must be a whole number from 1 to %d", name, limit)
		}
		return n, nil
	}
	seconds, err := number("seconds", int64(maxPeriod/time.Second))
	if err != nil {
		return nil, err
	}
	r.period = time.Duration(seconds) * time.Second
	r.calls, err = number("calls", maxCalls)
	return r, err
}

// timely says why a condition on the time does not hold, "" if it does.
func (c *Condition) timely(now time.Time) string {
	switch {
	case !c.notBefore.IsZero() && now.Before(c.notBefore):
		return c.say("not before " + c.notBefore.Format(time.RFC3339))
	case !c.notAfter.IsZero() && now.After(c.notAfter):
		return c.say("not after " + c.notAfter.Format(time.RFC3339))
	case c.open != nil && !slices.ContainsFunc(c.open, func(w window) bool { return w.contains(now) }):
		return c.say("outside of its hours")
	}
	return ""
}

// PerCaller tells whether the condition counts what each caller does, so that it means
// nothing where the caller is not known.
func (c *Condition) PerCaller() bool { return c.rate != nil && c.rate.per == PerCaller }

func (c *Condition) say(what string) string {
	if c.reason == "" {
		return what
	}
	return c.reason + " (" + what + ")"
}

func (w *window) contains(now time.Time) bool {
	now = now.In(w.zone)
	// The clock on the wall counts, also on the days on which it is put forward or back.
	at := time.Duration(now.Hour())*time.Hour + time.Duration(now.Minute())*time.Minute + time.Duration(now.Second())*time.Second
	today := now.Weekday()
	if w.from < w.to {
		return w.days[today] && at >= w.from && at < w.to
	}
	yesterday := (today + 6) % 7
	return w.days[today] && at >= w.from || w.days[yesterday] && at < w.to
}
