package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"

	"strongroom/appliance/config"
	"strongroom/appliance/operations"
	"strongroom/bccsp/pkcs11"
	profiles "strongroom/firmware-profiles"
)

// Tokens are the open tokens of a configuration: its token and its verifiers. The group
// verifies on all that verify, and finds signing keys wherever they are.
type Tokens struct {
	*pkcs11.Group
	Own *pkcs11.Token // of the section token
	// Profile is the id of Own's firmware profile, "" if the configuration names none.
	Profile string
	// Keeper has the wrapping key and keeps the checkpoints; Own, unless a verifier's
	// section names the wrapping key.
	Keeper *pkcs11.Token

	open []*pkcs11.Token // in the order in which they were opened
	told atomic.Pointer[func(token string, e pkcs11.Event, err error)]
}

// OpenTokens opens a configuration's tokens. A token that must not verify, by its
// firmware profile, only signs when there are verifiers, and is refused when there are
// none. log may be nil. The caller closes them.
func OpenTokens(ctx context.Context, own config.Token, verifiers []config.Token, metrics *operations.Metrics, log *slog.Logger) (_ *Tokens, err error) {
	t := &Tokens{}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var why error
	t.Profile, why, err = onlySigns(own)
	if err != nil {
		return nil, err
	}
	if why != nil && len(verifiers) > 0 {
		return t, t.openBehind(ctx, own, verifiers, metrics, log, why)
	}
	if t.Own, err = t.openOne(ctx, "token", own, metrics, log, nil); err != nil {
		return nil, err
	}
	others, err := t.openVerifiers(ctx, verifiers, metrics, log)
	if err != nil {
		return nil, err
	}
	return t, t.join(others, own, verifiers)
}

// openBehind opens the verifiers, and then the token that only signs.
func (t *Tokens) openBehind(ctx context.Context, own config.Token, verifiers []config.Token, metrics *operations.Metrics, log *slog.Logger, why error) error {
	others, err := t.openVerifiers(ctx, verifiers, metrics, log)
	if err != nil {
		return err
	}
	judges, err := pkcs11.NewGroup(others...)
	if err != nil {
		return err
	}
	if t.Own, err = t.openOne(ctx, "token", own, metrics, log, judges); err != nil {
		return err
	}
	log.Info("token only signs: the verifiers verify", "token", own.Label+own.Serial, "reason", why)
	return t.join(others, own, verifiers)
}

func (t *Tokens) openVerifiers(ctx context.Context, verifiers []config.Token, metrics *operations.Metrics, log *slog.Logger) (others []*pkcs11.Token, err error) {
	for i, c := range verifiers {
		other, err := t.openOne(ctx, fmt.Sprintf("verifiers[%d]", i), c, metrics, log, nil)
		if err != nil {
			return nil, err
		}
		others = append(others, other)
	}
	return others, nil
}

// Tell has alarms told to a function, besides the log; nil ends it. It must be quick.
func (t *Tokens) Tell(alarm func(token string, e pkcs11.Event, err error)) {
	if alarm == nil {
		t.told.Store(nil)
		return
	}
	t.told.Store(&alarm)
}

func (t *Tokens) openOne(ctx context.Context, at string, c config.Token, metrics *operations.Metrics, log *slog.Logger, judges *pkcs11.Group) (*pkcs11.Token, error) {
	label := c.Label + c.Serial
	alarm := alarms(log, metrics, label)
	token, err := openToken(ctx, c, metrics, func(e pkcs11.Event, err error) {
		alarm(e, err)
		if told := t.told.Load(); told != nil {
			(*told)(label, e, err)
		}
	}, judges)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	if metrics != nil {
		metrics.TokenUp(c.Label+c.Serial, true)
	}
	t.open = append(t.open, token)
	return token, nil
}

// join makes one group of all, and finds who keeps the wrapping key.
func (t *Tokens) join(others []*pkcs11.Token, own config.Token, verifiers []config.Token) (err error) {
	t.Keeper = t.Own
	keeper := slices.IndexFunc(verifiers, func(c config.Token) bool { return c.WrappingKey != "" })
	switch {
	case keeper >= 0 && own.WrappingKey != "":
		return errors.New("token.wrappingKey and that of a verifier: one token wraps")
	case keeper >= 0:
		t.Keeper = others[keeper]
	}
	t.Group, err = pkcs11.NewGroup(append([]*pkcs11.Token{t.Own}, others...)...)
	return err
}

// Close closes the tokens: who is verified for before who verifies.
func (t *Tokens) Close() error {
	var errs []error
	for _, token := range slices.Backward(t.open) {
		errs = append(errs, token.Close())
	}
	t.open = nil
	return errors.Join(errs...)
}

// onlySigns gives the id of a token's profile, and says why the token must not verify:
// nil when it may or has no profile.
func onlySigns(c config.Token) (id string, why, err error) {
	if c.Profile == "" {
		return "", nil, nil
	}
	p, err := profiles.Load(c.Profile)
	if err != nil {
		return "", nil, fmt.Errorf("token.profile: %w", err)
	}
	return p.ID, p.MayVerify(), nil
}
