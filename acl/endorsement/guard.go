package endorsement

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"strongroom/acl/decisions"
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
	// Decisions, if set, keeps every decision. What it cannot keep is refused.
	Decisions decisions.Sink
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

// Program is the rules in force, nil without any.
func (g *Guard) Program() *policy.Program { return g.current.Load() }

// Check decides whether a proposal's result may be signed. The error is nil, a
// *RefusedError, or wraps decisions.ErrNotKept.
func (g *Guard) Check(ctx context.Context, p *Proposal) error {
	program := g.current.Load()
	if program == nil {
		return nil
	}
	start := time.Now()
	in, v, err := decide(ctx, program, p)
	if err != nil {
		v = policy.Verdict{Reasons: []string{err.Error()}}
	} else if !v.Allowed && len(v.Reasons) == 0 {
		v.Reasons = []string{"no rule of " + Package + " allows it"}
	}
	limited := false
	if v.Allowed {
		if why := g.limits.Admit(Layer, v.Conditions, subjectOf(p.Caller)); why != "" {
			v.Allowed, v.Reasons, limited = false, []string{why}, true
		}
	}
	took := time.Since(start)
	if g.cfg.Observe != nil {
		g.cfg.Observe(resource, Layer, v.Allowed, took)
		if errors.Is(err, context.DeadlineExceeded) {
			g.cfg.Observe(resource, policy.Cut, false, took)
		}
	}
	id := g.cfg.Engine.DecisionID()
	if g.cfg.Decisions != nil {
		kept := g.cfg.Decisions.Decided(ctx, &decisions.Event{
			ID: id, Path: decisions.EndorsementPath, Time: start, Took: took, RequestedBy: p.RemoteAddr, Size: sizeOf(p), Bundle: program.Bundle(),
			About: &judged{in, v, program.Digest(), err != nil, limited},
		})
		if kept != nil && v.Allowed {
			return kept
		}
	}
	if v.Allowed {
		return nil
	}
	refused := &RefusedError{Decision: id, Public: v.Public, Reasons: v.Reasons}
	g.cfg.Logger.WarnContext(ctx, "endorsement refused", "decision", refused.Decision, "channel", p.ChannelID, "chaincode", p.Chaincode,
		"tx", p.TxID, "policy", program.Digest(), "reason", strings.Join(refused.Reasons, "; "))
	return refused
}

// subjectOf is who asks, for rates: of the connection nothing is known here.
func subjectOf(caller *msp.Identity) policy.Subject {
	id := caller.CertificateID()
	return policy.Subject{Caller: string(caller.MSPID) + "\x00" + string(id[:])}
}

// judged is a decision for its record.
type judged struct {
	input   ast.Value
	verdict policy.Verdict
	policy  policy.Digest
	failed  bool
	limited bool
}

func (j *judged) Input() (ast.Value, error) { return j.input, nil }

func (j *judged) Result() decisions.Result {
	return decisions.Result{Allow: j.verdict.Allowed, Deny: j.verdict.Reasons, Public: j.verdict.Public, Policy: j.policy.String(), Limited: j.limited, Failed: j.failed}
}

// Same is nil: no two proposals are equal.
func (j *judged) Same() any { return nil }

// decide also returns the input that the rules saw, nil if it could not be made.
func decide(ctx context.Context, program *policy.Program, p *Proposal) (ast.Value, policy.Verdict, error) {
	in, err := Document(p)
	if err != nil {
		return nil, policy.Verdict{}, err
	}
	v, err := program.Verdict(ctx, in)
	return in, v, err
}

// sizeOf is about what the input of a proposal holds, in bytes: as terms, several times
// what it was.
func sizeOf(p *Proposal) int {
	n := 4096
	for _, a := range p.Args {
		n += len(a)
	}
	if p.Set != nil {
		for _, ns := range p.Set.Namespaces {
			for _, w := range ns.KV.GetWrites() {
				n += len(w.GetKey()) + len(w.GetValue())
			}
			n += 64 * len(ns.KV.GetReads())
		}
	}
	return 4 * n
}
