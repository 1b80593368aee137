package acl

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"
	"weak"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/open-policy-agent/opa/v1/ast"
	"google.golang.org/protobuf/proto"

	"strongroom/acl/decisions"
	"strongroom/channel/configtx"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/wire/commonpb"
)

// Config is what a Guard needs.
type Config struct {
	Engine *policy.Engine
	// Local is the node's own MSP, and LocalMSPID its name: they decide about the
	// node's own resources. Without them such resources are denied.
	Local      *msp.Set
	LocalMSPID msp.ID
	// Layers are the Rego files (or folders of them) of the layers that have one.
	Layers   map[Layer]string
	Deadline time.Duration // of one evaluation of a layer; 0 means policy's default
	Logger   *slog.Logger  // nil means silence
	// Observe, if set, is told of each layer that was asked and, with the layer
	// "decision", of each check as a whole. It must be quick and safe for concurrent use.
	Observe func(resource, layer string, allowed bool, d time.Duration)
	// Now is the clock of conditions; nil means the host's.
	Now func() time.Time
	// Decisions, if set, keeps every decision. What it cannot keep is not allowed.
	Decisions decisions.Sink
}

// Bounds of what is remembered.
const (
	decisionEntries = 16384
	longestKey      = 256 // bytes of resource, chaincode and function together: longer ones are asked anew
)

// Guard decides about requests. It is safe for concurrent use.
type Guard struct {
	cfg     Config
	log     *slog.Logger
	members *policy.Policy // of the local MSP; nil without one
	admins  *policy.Policy
	limits  *policy.Limiter
	current atomic.Pointer[rules]
}

// rules are the layers' programs of one load, and the decisions made with them.
// They are replaced as a whole.
type rules struct {
	programs    [layerCount]*policy.Program // in the order of Layers; nil for a layer without a file
	any         bool                        // of those that are asked about requests
	args        bool                        // one of them looks at the arguments
	bundle      policy.BundleRef            // where they came from
	decisions   *lru.Cache[key, *outcome]
	connections *lru.Cache[connectionKey, *outcome]
}

// key holds everything that a decision depends on besides the rules. The
// configuration and the identity are immutable, so their addresses stand for them;
// the weak one lets go of a configuration that another has followed.
type key struct {
	config              weak.Pointer[configtx.Config]
	caller              *msp.Identity
	resource            Resource
	chaincode, function string
	host                string
	hasTLS              bool
	tls                 [32]byte
	args                [32]byte // hash of the arguments, if a layer looks at them
}

type outcome struct {
	allowed     bool
	conditional bool // one of layers has conditions
	layers      []Verdict
	bundle      policy.BundleRef // of the rules that were asked
	args        bool             // they looked at the arguments
	limited     bool             // a condition did not hold
}

// New makes a guard and loads its layers. The error names the layer, the file, the
// line and what to do.
func New(cfg Config) (*Guard, error) {
	if cfg.Engine == nil {
		return nil, errors.New("access control: Engine is nil: give the policy engine")
	}
	g := &Guard{cfg: cfg, log: cfg.Logger, limits: policy.NewLimiter(cfg.Now)}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	for l := range cfg.Layers {
		if layerIndex(l) < 0 {
			return nil, fmt.Errorf("access control: there is no layer %q: the layers are %v", string(l), Layers())
		}
	}
	if (cfg.Local == nil) != (cfg.LocalMSPID == "") {
		return nil, errors.New("access control: Local and LocalMSPID belong together: give both or neither")
	}
	if cfg.Local != nil {
		var err error
		if g.members, err = g.role(commonpb.MSPRole_MEMBER); err != nil {
			return nil, fmt.Errorf("access control: %w", err)
		}
		if g.admins, err = g.role(commonpb.MSPRole_ADMIN); err != nil {
			return nil, fmt.Errorf("access control: %w", err)
		}
	}
	if err := g.Reload(context.Background()); err != nil {
		return nil, err
	}
	return g, nil
}

// role compiles the policy that one identity of the local MSP with a role satisfies.
func (g *Guard) role(role commonpb.MSPRole_MSPRoleType) (*policy.Policy, error) {
	principal, err := proto.Marshal(&commonpb.MSPRole{MspIdentifier: string(g.cfg.LocalMSPID), Role: role})
	if err != nil {
		return nil, err
	}
	return g.cfg.Engine.Signature(g.cfg.Local, &commonpb.SignaturePolicyEnvelope{
		Rule:       &commonpb.SignaturePolicy{Type: &commonpb.SignaturePolicy_SignedBy{SignedBy: 0}},
		Identities: []*commonpb.MSPPrincipal{{PrincipalClassification: commonpb.MSPPrincipal_ROLE, Principal: principal}},
	})
}

func layerIndex(l Layer) int {
	for i, known := range Layers() {
		if l == known {
			return i
		}
	}
	return -1
}

// Reload reads the layers' files again. All of them must load for any of them to
// count: otherwise the rules in force stay, and the error says what is wrong.
// Checks that are under way finish with the rules they began with.
func (g *Guard) Reload(ctx context.Context) error {
	next := new(rules)
	var faults []error
	for i, l := range Layers() {
		path, ok := g.cfg.Layers[l]
		if !ok {
			continue
		}
		c := l.Program(g.cfg.Deadline)
		c.Path = path
		p, err := policy.LoadProgram(ctx, c)
		if err != nil {
			faults = append(faults, fmt.Errorf("access layer %s: %w", l, err))
			continue
		}
		next.programs[i] = p
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	return g.swap(ctx, next)
}

// Replace puts the programs of layers in force, such as a bundle's; a layer that has
// none is not asked. Checks that are under way finish with the rules they began with.
func (g *Guard) Replace(ctx context.Context, programs map[Layer]*policy.Program) error {
	next := new(rules)
	for l, p := range programs {
		i := layerIndex(l)
		if i < 0 || p == nil || p.Package() != l.Package() {
			return fmt.Errorf("access control: layer %q is given no program of package %s", string(l), l.Package())
		}
		next.programs[i], next.bundle = p, p.Bundle()
	}
	return g.swap(ctx, next)
}

// Programs are the layers' rules in force.
func (g *Guard) Programs() map[Layer]*policy.Program {
	programs := map[Layer]*policy.Program{}
	for i, p := range g.current.Load().programs {
		if p != nil {
			programs[Layers()[i]] = p
		}
	}
	return programs
}

func (g *Guard) swap(ctx context.Context, next *rules) error {
	var err error
	if next.decisions, err = lru.New[key, *outcome](decisionEntries); err != nil {
		return fmt.Errorf("access control: %w", err)
	}
	if next.connections, err = lru.New[connectionKey, *outcome](decisionEntries); err != nil {
		return fmt.Errorf("access control: %w", err)
	}
	for i, p := range next.programs {
		if p != nil && Layers()[i] != Connection {
			next.any = true
			next.args = next.args || p.Reads("args") || p.Reads("binary_args")
		}
	}
	g.current.Store(next)
	for i, l := range Layers() {
		if p := next.programs[i]; p != nil {
			g.log.InfoContext(ctx, "access layer loaded", "layer", l, "file", p.Path(), "digest", p.Digest())
		}
	}
	return nil
}

// Check decides about a request. config is the channel's configuration, or nil for a
// request without a channel. When the request is not allowed for whatever reason, an
// error is returned that errors.Is finds to be ErrDenied; its text may be told to the
// caller, while the reason is in the log under the decision's id and in the decision. A
// request that is allowed, but whose decision cannot be kept, gets an error that wraps
// decisions.ErrNotKept.
func (g *Guard) Check(ctx context.Context, config *configtx.Config, r Request) (Decision, error) {
	var start time.Time
	if g.cfg.Observe != nil || g.cfg.Decisions != nil {
		start = time.Now()
	}
	o := g.decide(ctx, config, &r)
	if o.allowed && o.conditional {
		o = g.conditioned(o, subjectOf(&r))
	}
	d := Decision{Allowed: o.allowed, ID: g.cfg.Engine.DecisionID(), Layers: o.layers}
	var kept error
	if g.cfg.Decisions != nil {
		if kept = g.keep(ctx, config, &r, o, d.ID, start); kept != nil {
			d.Allowed = false
		}
	}
	if g.cfg.Observe != nil {
		g.cfg.Observe(string(r.Resource), "decision", d.Allowed, time.Since(start))
	}
	if kept != nil && o.allowed {
		return d, kept
	}
	if d.Allowed {
		return d, nil
	}
	g.logDenied(ctx, config, &r, &d)
	return d, &deniedError{id: d.ID}
}

func (g *Guard) logDenied(ctx context.Context, config *configtx.Config, r *Request, d *Decision) {
	mspID, subject := "", ""
	if r.Caller != nil {
		mspID = string(r.Caller.MSPID)
		if r.Caller.Certificate != nil {
			subject = r.Caller.Certificate.Subject.String()
		}
	}
	layer := d.Layers[len(d.Layers)-1].Layer
	g.log.WarnContext(ctx, "access denied", "decision", d.ID, "resource", string(r.Resource), "channel", channelOf(config, r),
		"chaincode", shorten(r.Chaincode), "function", shorten(r.Function), "msp", mspID, "subject", subject,
		"remote", r.RemoteAddr, "layer", string(layer), "reason", d.Reason())
}

func shorten(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

func channelOf(config *configtx.Config, r *Request) string {
	if config != nil {
		return config.ID
	}
	return r.Channel
}

// decide finds a remembered outcome or makes one, and remembers it if it depends on
// nothing but its key: what an error denied is asked again.
func (g *Guard) decide(ctx context.Context, config *configtx.Config, r *Request) *outcome {
	if r.Caller == nil {
		return deny(nil, Fabric, "the request has no caller")
	}
	if config != nil && r.Channel != "" && r.Channel != config.ID {
		return deny(nil, Fabric, fmt.Sprintf("the request is for channel %q, the configuration of %q", r.Channel, config.ID))
	}
	if n := len(r.TLSCertHash); n != 0 && n != 32 {
		return deny(nil, Fabric, fmt.Sprintf("the TLS certificate's hash has %d bytes: SHA-256 has 32", n))
	}
	rs := g.current.Load()
	k := key{config: weak.Make(config), caller: r.Caller, resource: r.Resource}
	if rs.any { // else the decision depends on nothing more
		k.chaincode, k.function, k.host = r.Chaincode, r.Function, host(r.RemoteAddr)
		k.hasTLS = copy(k.tls[:], r.TLSCertHash) > 0
		if rs.args {
			k.args = hashArgs(r.Args)
		}
	}
	remember := len(k.chaincode)+len(k.function)+len(k.resource) <= longestKey && (config != nil || r.Channel == "")
	if remember {
		if o, ok := rs.decisions.Get(k); ok {
			return o
		}
	}
	o, stable := g.evaluate(ctx, rs, config, r)
	o.bundle, o.args = rs.bundle, rs.args
	if remember && stable {
		rs.decisions.Add(k, o)
	}
	return o
}

// evaluate asks Fabric's policy and then the layers, up to the first that denies.
// stable is false when an error denied.
func (g *Guard) evaluate(ctx context.Context, rs *rules, config *configtx.Config, r *Request) (o *outcome, stable bool) {
	verdict, stable := g.observed(r, Fabric, func() (Verdict, bool) { return g.fabric(ctx, config, r) })
	layers := []Verdict{verdict}
	if !verdict.Allowed || !rs.any {
		return &outcome{allowed: verdict.Allowed, layers: layers}, stable
	}
	in, err := input(r, channelOf(config, r), rs.args)
	if err != nil {
		return deny(layers, Appliance, err.Error()), true
	}
	conditional := false
	for i, l := range Layers() {
		p := rs.programs[i]
		if p == nil || !l.concerns(config, r) {
			continue
		}
		verdict, stable := g.observed(r, l, func() (Verdict, bool) { return g.ask(ctx, string(r.Resource), l, p, in) })
		layers = append(layers, verdict)
		if !verdict.Allowed {
			return &outcome{layers: layers}, stable
		}
		conditional = conditional || len(verdict.Conditions) > 0
	}
	return &outcome{allowed: true, conditional: conditional, layers: layers}, true
}

// ask asks the program of one layer. stable is false when an error denied.
func (g *Guard) ask(ctx context.Context, about string, l Layer, p *policy.Program, in ast.Value) (v Verdict, stable bool) {
	v = Verdict{Layer: l, Policy: p.Digest()}
	said, err := p.Verdict(ctx, in)
	if err != nil {
		v.Reasons = []string{err.Error()}
		if g.cfg.Observe != nil && errors.Is(err, context.DeadlineExceeded) {
			g.cfg.Observe(about, policy.Cut, false, g.cfg.Deadline)
		}
		return v, false
	}
	if l == Connection && slices.ContainsFunc(said.Conditions, func(c policy.Condition) bool { return c.PerCaller() }) {
		v.Reasons = []string{"a rate per caller: who calls is not known yet: count per certificate or address"}
		return v, true
	}
	v.Allowed, v.Reasons, v.Conditions = said.Allowed, said.Reasons, said.Conditions
	if !v.Allowed && len(v.Reasons) == 0 {
		v.Reasons = []string{"no rule of " + l.Package() + " allows it"}
	}
	return v, true
}

// conditioned is an outcome of now: the remembered one, or where a condition does not
// hold one that the layer denies which set it.
func (g *Guard) conditioned(o *outcome, s policy.Subject) *outcome {
	for i := range o.layers {
		v := &o.layers[i]
		if why := g.limits.Admit(string(v.Layer), v.Conditions, s); why != "" {
			layers := slices.Clone(o.layers[:i+1])
			layers[i].Allowed, layers[i].Reasons = false, []string{why}
			return &outcome{layers: layers, bundle: o.bundle, args: o.args, limited: true}
		}
	}
	return o
}

// Concerned are the layers in whose scope a request is, in order.
func Concerned(r *Request) []Layer {
	return slices.DeleteFunc(Layers(), func(l Layer) bool { return !l.concerns(nil, r) })
}

// concerns tells whether a request is in the layer's scope.
func (l Layer) concerns(config *configtx.Config, r *Request) bool {
	switch l {
	case Connection:
		return false // Connect asks it
	case Ordering:
		return r.Resource.ordering()
	case Channel:
		return config != nil || r.Channel != ""
	case Chaincode:
		return r.Chaincode != ""
	case Function:
		return r.Function != ""
	}
	return true
}

func (g *Guard) observed(r *Request, l Layer, ask func() (Verdict, bool)) (Verdict, bool) {
	if g.cfg.Observe == nil {
		return ask()
	}
	start := time.Now()
	v, stable := ask()
	g.cfg.Observe(string(r.Resource), string(l), v.Allowed, time.Since(start))
	return v, stable
}

// deny is an outcome that a layer refuses for one reason.
func deny(before []Verdict, l Layer, reason string) *outcome {
	return &outcome{layers: append(before, Verdict{Layer: l, Reasons: []string{reason}})}
}

// fabric asks Fabric's own policy for the resource (core/aclmgmt): the local MSP's
// for the node's resources, else the one that the channel's ACLs name, else the default.
func (g *Guard) fabric(ctx context.Context, config *configtx.Config, r *Request) (v Verdict, stable bool) {
	v = Verdict{Layer: Fabric}
	if local, ok := localDefaults[r.Resource]; ok {
		return g.local(ctx, local, r)
	}
	if config == nil {
		v.Reasons = []string{fmt.Sprintf("resource %q is a channel's, but the request has no channel that this node has joined", shorten(string(r.Resource)))}
		return v, true
	}
	ref, ok := config.PolicyRef(string(r.Resource))
	if !ok {
		ref = channelDefaults[r.Resource]
	}
	if ref == "" {
		v.Reasons = []string{fmt.Sprintf("resource %q has no default policy and none in the channel's ACLs", shorten(string(r.Resource)))}
		return v, true
	}
	p, err := config.Policies.Policy(ref)
	if err != nil {
		v.Reasons = []string{err.Error()}
		return v, errors.Is(err, policy.ErrNoPolicy)
	}
	return verdictOf(ctx, p, r.Caller)
}

// local asks whether the caller is a member or an administrator of the node's own
// MSP, as that MSP is configured here, whatever a channel says about it.
func (g *Guard) local(ctx context.Context, who localPolicy, r *Request) (v Verdict, stable bool) {
	v = Verdict{Layer: Fabric}
	p := g.members
	if who == localAdmins {
		p = g.admins
	}
	if p == nil {
		v.Reasons = []string{"the node has no MSP of its own configured: its resources are closed"}
		return v, true
	}
	caller, err := g.cfg.Local.Identity(ctx, r.Caller.Serialized)
	if err != nil {
		v.Reasons = []string{fmt.Sprintf("the caller is not of the node's own MSP %s: %v", g.cfg.LocalMSPID, err)}
		var invalid *msp.InvalidError
		return v, errors.As(err, &invalid)
	}
	return verdictOf(ctx, p, caller)
}

func verdictOf(ctx context.Context, p *policy.Policy, caller *msp.Identity) (v Verdict, stable bool) {
	v = Verdict{Layer: Fabric, Policy: p.Digest()}
	d, err := p.Evaluate(ctx, []*msp.Identity{caller})
	if err != nil {
		v.Reasons = []string{err.Error()}
		return v, false
	}
	v.Allowed, v.Reasons = d.Allowed, []string{d.Reason}
	return v, true
}
