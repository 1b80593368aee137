package policy

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Subject is who asks, as rates tell callers apart. What is empty counts as one.
type Subject struct {
	Caller      string // any name that is the identity's alone
	Address     string
	Certificate string
}

// limiterEntries bounds how many counts are kept. When there are more, the one that was
// not asked for longest is forgotten: it begins anew, so that a limit per address slows
// down one who has few addresses and not one who has millions.
const limiterEntries = 1 << 16

// Limiter checks conditions: it knows the time, and how often somebody asked. It is safe
// for concurrent use. Rates are kept in memory, and begin anew with the process.
type Limiter struct {
	now func() time.Time

	mu      sync.Mutex // guards buckets and what they hold
	buckets *lru.Cache[bucketKey, *bucket]
}

type bucketKey struct {
	scope, subject string
	rate           rate
}

// bucket holds what may be taken now: up to the rate's calls, and as many more come in
// each period, evenly.
type bucket struct {
	tokens float64
	at     time.Time
}

// NewLimiter makes a limiter; now may be nil for the host's clock.
func NewLimiter(now func() time.Time) *Limiter {
	if now == nil {
		now = time.Now
	}
	buckets, err := lru.New[bucketKey, *bucket](limiterEntries)
	if err != nil {
		panic("policy: " + err.Error()) // the size is a constant
	}
	return &Limiter{now: now, buckets: buckets}
}

// Admit says why a condition does not hold, "" if all do. Rates are counted within a
// scope, such as a layer's name, and only if the time allows the call.
func (l *Limiter) Admit(scope string, conditions []Condition, s Subject) string {
	if len(conditions) == 0 {
		return ""
	}
	now := l.now()
	for i := range conditions {
		if why := conditions[i].timely(now); why != "" {
			return why
		}
	}
	for i := range conditions {
		if c := &conditions[i]; c.rate != nil && !l.take(scope, c.rate, s, now) {
			return c.say("more calls than the rate " + c.rate.name + " allows")
		}
	}
	return ""
}

func (l *Limiter) take(scope string, r *rate, s Subject, now time.Time) bool {
	key := bucketKey{scope: scope, rate: *r}
	switch r.per {
	case PerCaller:
		key.subject = s.Caller
	case PerAddress:
		key.subject = s.Address
	case PerCertificate:
		key.subject = s.Certificate
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.buckets.Get(key)
	if !ok {
		b = &bucket{tokens: float64(r.calls), at: now}
		l.buckets.Add(key, b)
	}
	if past := now.Sub(b.at); past > 0 {
		b.tokens = min(float64(r.calls), b.tokens+float64(r.calls)*past.Seconds()/r.period.Seconds())
		b.at = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
