package endorsement

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"strongroom/msp"
	"strongroom/policy"
)

// Package is the Rego package that decides.
const Package = "strongroom.endorse"

// Layer is the name under which decisions are observed, beside those of the access layers.
const Layer = "endorsement"

// resource is what decisions are observed about.
const resource = "peer/Endorse"

// ErrRefused is what errors.Is finds in the error of every refused endorsement.
var ErrRefused = errors.New("endorsement refused")

// RefusedError is a refusal.
type RefusedError struct {
	Decision string   // the id under which the log has the reasons
	Public   []string // what the rules say to the client; often nothing
	Reasons  []string // for logs alone
}

// Error is what the client may read. The reasons are not part of it.
func (e *RefusedError) Error() string {
	if len(e.Public) == 0 {
		return "endorsement refused: decision " + e.Decision
	}
	return "endorsement refused: " + strings.Join(e.Public, "; ") + " (decision " + e.Decision + ")"
}

// Is makes errors.Is find ErrRefused.
func (e *RefusedError) Is(target error) bool { return target == ErrRefused }

// Config is what a Guard needs.
type Config struct {
	Engine   *policy.Engine // gives the decisions their ids
	Deadline time.Duration  // of one decision; 0 means policy's default
	Logger   *slog.Logger   // nil means silence
	// Observe, if set, is told of each decision. It must be quick and safe for
	// concurrent use.
	Observe func(resource, layer string, allowed bool, d time.Duration)
	// Now is the clock of conditions; nil means the host's.
	Now func() time.Time
}

// Guard decides about endorsements. It is safe for concurrent use.
type Guard struct {
	cfg     Config
	limits  *policy.Limiter
	current atomic.Pointer[policy.Program]
}

// New makes a guard that has no rules yet: it refuses nothing until Load or Replace
// gives it some.
func New(cfg Config) (*Guard, error) {
	if cfg.Engine == nil {
		return nil, errors.New("endorsement guard: Engine is nil: give the policy engine")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Guard{cfg: cfg, limits: policy.NewLimiter(cfg.Now)}, nil
}

// Program is what to give to package policy for rules of a guard, besides their source.
func Program(deadline time.Duration) policy.ProgramConfig {
	return policy.ProgramConfig{Package: Package, Schema: InputSchema, Deadline: deadline, PublicReasons: true, Conditions: true}
}

// Load reads the rules of a file or folder. On an error the rules in force stay.
func (g *Guard) Load(ctx context.Context, path string) error {
	c := Program(g.cfg.Deadline)
	c.Path = path
	p, err := policy.LoadProgram(ctx, c)
	if err != nil {
		return fmt.Errorf("endorsement guard: %w", err)
	}
	g.Replace(p)
	g.cfg.Logger.InfoContext(ctx, "endorsement guard loaded", "file", path, "digest", p.Digest())
	return nil
}

// Replace puts a program in force; nil takes the guard away, so that nothing is
// refused. Decisions that are under way finish with the rules they began with.
func (g *Guard) Replace(p *policy.Program) { g.current.Store(p) }

// Check decides whether a proposal's result may be signed. The error is nil or a
// *RefusedError.
func (g *Guard) Check(ctx context.Context, p *Proposal) error {
	program := g.current.Load()
	if program == nil {
		return nil
	}
	start := time.Now()
	v, err := decide(ctx, program, p)
	if err != nil {
		v = policy.Verdict{Reasons: []string{err.Error()}}
	} else if !v.Allowed && len(v.Reasons) == 0 {
		v.Reasons = []string{"no rule of " + Package + " allows it"}
	}
	if v.Allowed {
		if why := g.limits.Admit(Layer, v.Conditions, subjectOf(p.Caller)); why != "" {
			v.Allowed, v.Reasons = false, []string{why}
		}
	}
	if g.cfg.Observe != nil {
		took := time.Since(start)
		g.cfg.Observe(resource, Layer, v.Allowed, took)
		if errors.Is(err, context.DeadlineExceeded) {
			g.cfg.Observe(resource, policy.Cut, false, took)
		}
	}
	if v.Allowed {
		return nil
	}
	refused := &RefusedError{Decision: g.cfg.Engine.DecisionID(), Public: v.Public, Reasons: v.Reasons}
	g.cfg.Logger.WarnContext(ctx, "endorsement refused", "decision", refused.Decision, "channel", p.ChannelID, "chaincode", p.Chaincode,
		"tx", p.TxID, "policy", program.Digest(), "reason", strings.Join(refused.Reasons, "; "))
	return refused
}

// subjectOf is who asks, for rates: of the connection nothing is known here.
func subjectOf(caller *msp.Identity) policy.Subject {
	id := caller.CertificateID()
	return policy.Subject{Caller: string(caller.MSPID) + "\x00" + string(id[:])}
}

func decide(ctx context.Context, program *policy.Program, p *Proposal) (policy.Verdict, error) {
	in, err := Document(p)
	if err != nil {
		return policy.Verdict{}, err
	}
	return program.Verdict(ctx, in)
}
