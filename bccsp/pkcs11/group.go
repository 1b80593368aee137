package pkcs11

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"strongroom/bccsp"
)

// Group is several tokens that serve as one: verification is spread over those that
// verify, and goes on with the others when one is down, as does signing with a key that
// several of them have. It owns no token, and is safe for concurrent use.
type Group struct {
	members []*member
	judges  []*member // those that verify
	next    atomic.Uint64
}

type member struct {
	token *Token
	busy  atomic.Int64 // operations on their way through this group
}

var _ bccsp.Verifier = (*Group)(nil)

// maxGroup bounds the tokens of a group.
const maxGroup = 64

// NewGroup joins open tokens; the first is asked first where all are alike.
func NewGroup(tokens ...*Token) (*Group, error) {
	if len(tokens) == 0 || len(tokens) > maxGroup {
		return nil, fmt.Errorf("group has %d tokens: name 1 to %d", len(tokens), maxGroup)
	}
	g := &Group{}
	for i, t := range tokens {
		for _, other := range tokens[:i] {
			if t == other {
				return nil, fmt.Errorf("group has token %q twice: name each once", t.info.Label)
			}
		}
		m := &member{token: t}
		g.members = append(g.members, m)
		if !t.onlySigns() {
			g.judges = append(g.judges, m)
		}
	}
	if len(g.judges) == 0 {
		return nil, errors.New("no token of the group verifies: add one that does")
	}
	return g, nil
}

// Verify is Token.Verify on the token with the most room.
func (g *Group) Verify(ctx context.Context, key *bccsp.PublicKey, digest, sig []byte) error {
	return g.each(ctx, g.judges, func(ctx context.Context, m *member) error {
		return m.token.Verify(ctx, key, digest, sig)
	})
}

// VerifyX509 is Token.VerifyX509 on the token with the most room.
func (g *Group) VerifyX509(ctx context.Context, key *bccsp.PublicKey, digest, sig []byte) error {
	return g.each(ctx, g.judges, func(ctx context.Context, m *member) error {
		return m.token.VerifyX509(ctx, key, digest, sig)
	})
}

// Healthy tells what is wrong with any of the tokens: the others do its work, but
// somebody must see to it.
func (g *Group) Healthy(ctx context.Context) error {
	errs := make(chan error, len(g.members))
	for _, m := range g.members {
		go func() {
			err := m.token.Healthy(ctx)
			if err != nil {
				err = fmt.Errorf("token %q: %w", m.token.info.Label, err)
			}
			errs <- err
		}()
	}
	var all []error
	for range g.members {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// Signer finds a signing key on every token of the group that has one with the label.
// They must be the same key, replicated by the devices' vendor. An error wraps
// ErrKeyNotFound when no token has it.
func (g *Group) Signer(ctx context.Context, label string) (*bccsp.Signer, error) {
	key, err := g.signingKey(ctx, label, forIdentity)
	if err != nil {
		return nil, err
	}
	return bccsp.NewSigner(key), nil
}

// TLSKey is as Signer, for TLS handshakes; see Token.TLSKey.
func (g *Group) TLSKey(ctx context.Context, label string) (*bccsp.TLSKey, error) {
	key, err := g.signingKey(ctx, label, forTLS)
	if err != nil {
		return nil, err
	}
	return bccsp.NewTLSKey(key), nil
}

func (g *Group) signingKey(ctx context.Context, label string, use purpose) (*groupKey, error) {
	return g.keyOf(label, func(t *Token) (*privateKey, error) { return t.signingKey(ctx, label, use) })
}

func (g *Group) keyOf(name string, find func(*Token) (*privateKey, error)) (*groupKey, error) {
	s := &groupKey{group: g, keys: make(map[*member]*privateKey)}
	var missing error
	for _, m := range g.members {
		key, err := find(m.token)
		if errors.Is(err, ErrKeyNotFound) {
			missing = cmp.Or(missing, err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("token %q: %w", m.token.info.Label, err)
		}
		if len(s.members) > 0 && !key.public.Equal(s.PublicKey()) {
			return nil, fmt.Errorf("signing key %q of token %q is not that of token %q: give each key a label of its own",
				name, m.token.info.Label, s.members[0].token.info.Label)
		}
		s.members = append(s.members, m)
		s.keys[m] = key
	}
	if len(s.members) == 0 {
		return nil, missing
	}
	return s, nil
}

// groupKey is one key on several tokens.
type groupKey struct {
	group   *Group
	members []*member
	keys    map[*member]*privateKey
}

func (k *groupKey) PublicKey() *bccsp.PublicKey { return k.keys[k.members[0]].public }

// SignDigest signs on the token with the most room.
func (k *groupKey) SignDigest(ctx context.Context, digest []byte) (sig []byte, err error) {
	err = k.group.each(ctx, k.members, func(ctx context.Context, m *member) error {
		s, err := k.keys[m].SignDigest(ctx, digest)
		if err == nil {
			sig = s
		}
		return err
	})
	return sig, err
}

// hurry marks the context of an operation that another token can do: it does not wait
// for recovery.
type hurry struct{}

func inHurry(ctx context.Context) bool { return ctx.Value(hurry{}) != nil }

// patient takes the mark off again, for what only one token can do.
func patient(ctx context.Context) context.Context {
	if !inHurry(ctx) {
		return ctx
	}
	return context.WithValue(ctx, hurry{}, nil)
}

// each asks members, the one with the most room first, until one answers; a verdict is
// an answer. When all are down it waits, as ctx allows, for the first that comes back.
func (g *Group) each(ctx context.Context, members []*member, f func(context.Context, *member) error) error {
	if len(members) == 1 {
		return members[0].do(ctx, f)
	}
	quick := context.WithValue(ctx, hurry{}, true)
	for n := 0; ; n++ {
		err := g.once(quick, members, f)
		if err == nil || errors.Is(err, bccsp.ErrBadSignature) || !errors.Is(err, errElsewhere) {
			return err
		}
		if e := pause(ctx, backoff(n)); e != nil {
			return fmt.Errorf("no token is up: %w; %w", err, e)
		}
	}
}

// once asks each member that is up.
func (g *Group) once(ctx context.Context, members []*member, f func(context.Context, *member) error) error {
	var tried uint64
	last := errElsewhere
	for {
		m, at := g.pick(members, tried)
		if m == nil {
			return last
		}
		tried |= 1 << at
		err := m.do(ctx, f)
		if err == nil || errors.Is(err, bccsp.ErrBadSignature) || ctx.Err() != nil || !passes(err) {
			return err
		}
		last = err
	}
}

func (m *member) do(ctx context.Context, f func(context.Context, *member) error) error {
	m.busy.Add(1)
	defer m.busy.Add(-1)
	return f(ctx, m)
}

// passes tells whether another token may do better.
func passes(err error) bool {
	c := classOf(err)
	return c.Retryable() || c == ClassStop || errors.Is(err, ErrTimeout) || errors.Is(err, ErrStopped) ||
		errors.Is(err, ErrClosed) || errors.Is(err, errElsewhere) || errors.Is(err, ErrFalseAnswer)
}

// pick is the member that is up, was not tried and has the fewest operations for each
// of its sessions; those that are alike take turns. It is nil when none is left. A
// stopped token is picked last, for its error.
func (g *Group) pick(members []*member, tried uint64) (best *member, at int) {
	start := int(g.next.Add(1) % uint64(len(members)))
	var least float64
	for i := range members {
		i = (start + i) % len(members)
		m := members[i]
		if tried&(1<<i) != 0 || m.token.mending.Load() != nil || m.token.down.Load() != nil {
			continue
		}
		load := float64(m.busy.Load()) / float64(m.token.cfg.Sessions)
		if m.token.stopped.Load() != nil {
			load = stoppedLoad
		}
		if best == nil || load < least {
			best, at, least = m, i, load
		}
	}
	return best, at
}

// stoppedLoad is above what any token bears.
const stoppedLoad = 1e9
