package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"google.golang.org/protobuf/proto"

	"strongroom/msp"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// Config is what an Engine may be given. The zero value is useful.
type Config struct {
	Logger *slog.Logger // nil means silence
}

// Bounds of what an Engine remembers.
const (
	programEntries   = 1024 // compiled shapes, in each of two generations
	signatureEntries = 2048 // policies by set and digest, in each of two generations
	appEntries       = 2048 // application policies of a tree by their bytes
)

// Engine compiles and evaluates policies. It is safe for concurrent use.
type Engine struct {
	log  *slog.Logger
	ids  *ids
	data *data

	compiling  sync.Mutex // held while shapes are compiled, so that one shape is compiled once
	programs   *memo[string, *program]
	signatures *memo[signatureKey, *Policy]
}

type signatureKey struct {
	set    Principals
	digest Digest
}

// NewEngine makes an engine and tests it on policies with known answers. An error
// says that this build decides differently and must not be used.
func NewEngine(cfg Config) (*Engine, error) {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	d, err := newData(nil)
	if err != nil {
		return nil, fmt.Errorf("policy engine: %w", err)
	}
	e := &Engine{
		log: log, ids: newIDs(), data: d,
		programs:   newMemo[string, *program](programEntries),
		signatures: newMemo[signatureKey, *Policy](signatureEntries),
	}
	err = e.selfTest()
	if err == nil {
		err = ledgerSelfTest()
	}
	if err != nil {
		return nil, fmt.Errorf("policy engine self-test with OPA %s: %w: do not use this build", OPAVersion, err)
	}
	return e, nil
}

// DecisionID makes an id for a decision: unique in this process and, but for chance,
// among processes.
func (e *Engine) DecisionID() string { return e.ids.take() }

// Signature compiles a signature policy, or finds it compiled. An error that wraps
// ErrInvalid says that the policy's content is at fault, on every peer alike.
func (e *Engine) Signature(set Principals, env *commonpb.SignaturePolicyEnvelope) (*Policy, error) {
	if set == nil {
		return nil, errors.New("signature policy: no set of principals is given")
	}
	if env == nil {
		return nil, fmt.Errorf("%w: there is no signature policy", ErrInvalid)
	}
	d, err := envelopeDefinition(env)
	if err != nil {
		return nil, fmt.Errorf("signature policy: %w", err)
	}
	key := signatureKey{set, d.digest()}
	if p, ok := e.signatures.get(key); ok {
		return p, nil
	}
	ps, err := e.policies(set, []*definition{d})
	if err != nil {
		return nil, err
	}
	e.signatures.put(key, ps[0])
	return ps[0], nil
}

// Tree compiles all policies of a channel configuration; root is its channel group
// (common.Config.channel_group). It refuses what Fabric refuses, with errors that
// wrap ErrInvalid and name the policy's path.
func (e *Engine) Tree(set Principals, root *commonpb.ConfigGroup) (*Tree, error) {
	if set == nil {
		return nil, errors.New("policies of a channel: no set of principals is given")
	}
	found, err := group(rootPath, root)
	if err != nil {
		return nil, err
	}
	rels := make([]string, 0, len(found))
	defs := make([]*definition, 0, len(found))
	for rel, d := range found {
		rels, defs = append(rels, rel), append(defs, d)
	}
	ps, err := e.policies(set, defs)
	if err != nil {
		return nil, err
	}
	t := &Tree{policies: make(map[string]*Policy, len(ps)), apps: newMemo[string, *Policy](appEntries)}
	for i, rel := range rels {
		t.policies[rel] = ps[i]
	}
	return t, nil
}

// ApplicationPolicy compiles the bytes of a protos.ApplicationPolicy, as they stand
// in a chaincode definition's validation parameter and in a key's VALIDATION_PARAMETER
// metadata. A reference is looked up in tree as Tree.Policy does. Errors that wrap
// ErrInvalid or ErrNoPolicy are the bytes' fault, on every peer alike: Fabric then
// calls the transaction an endorsement policy failure.
func (e *Engine) ApplicationPolicy(set Principals, tree *Tree, b []byte) (*Policy, error) {
	if set == nil || tree == nil {
		return nil, errors.New("application policy: the channel's set of principals or its policies are not given")
	}
	if p, ok := tree.apps.get(string(b)); ok && p.set == set {
		return p, nil
	}
	ap := new(peerpb.ApplicationPolicy)
	if err := proto.Unmarshal(b, ap); err != nil {
		return nil, fmt.Errorf("%w: ApplicationPolicy does not parse: %v", ErrInvalid, err)
	}
	var p *Policy
	var err error
	switch t := ap.GetType().(type) {
	case *peerpb.ApplicationPolicy_SignaturePolicy:
		p, err = e.Signature(set, t.SignaturePolicy)
	case *peerpb.ApplicationPolicy_ChannelConfigPolicyReference:
		p, err = tree.Policy(t.ChannelConfigPolicyReference)
	default:
		err = fmt.Errorf("%w: ApplicationPolicy has neither signature_policy nor channel_config_policy_reference", ErrInvalid)
	}
	if err != nil {
		return nil, err
	}
	tree.apps.put(string(b), p)
	return p, nil
}

// policies binds definitions to a set, compiling the shapes that are new together.
func (e *Engine) policies(set Principals, defs []*definition) ([]*Policy, error) {
	programs, err := e.compiled(defs)
	if err != nil {
		return nil, err
	}
	ps := make([]*Policy, len(defs))
	for i, d := range defs {
		ps[i] = &Policy{
			engine: e, set: set, path: d.path, rule: d.rule, digest: d.digest(), root: d.root, labels: d.labels,
			principals: d.principals, words: wordsFor(len(d.principals)), program: programs[i],
			rows: newMemo[*msp.Identity, row](identityEntries), verdicts: newMemo[memoKey, verdict](memoEntries),
		}
	}
	return ps, nil
}

func (e *Engine) compiled(defs []*definition) ([]*program, error) {
	e.compiling.Lock()
	defer e.compiling.Unlock()
	programs := make([]*program, len(defs))
	batch := make(map[string]*program)
	var fresh []*node
	for i, d := range defs {
		shape := d.root.String()
		if p, ok := e.programs.get(shape); ok {
			programs[i] = p
		} else if _, ok := batch[shape]; !ok {
			batch[shape] = nil
			fresh = append(fresh, d.root)
		}
	}
	if len(fresh) == 0 {
		return programs, nil
	}
	made, err := compile(fresh)
	if err != nil {
		return nil, err
	}
	for i, n := range fresh {
		shape := n.String()
		batch[shape] = made[i]
		e.programs.put(shape, made[i])
	}
	for i, d := range defs {
		if programs[i] == nil {
			programs[i] = batch[d.root.String()]
		}
	}
	return programs, nil
}

// digest names the policy by its shape and principals.
func (d *definition) digest() Digest {
	h := sha256.New()
	field := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	field([]byte("strongroom policy 1"))
	field([]byte(d.root.String()))
	for _, p := range d.principals {
		field([]byte{byte(p.GetPrincipalClassification())})
		field(p.GetPrincipal())
	}
	return Digest(h.Sum(nil))
}
