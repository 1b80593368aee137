package policy

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
)

// ErrNoPolicy is wrapped by the error of Tree.Policy for a path that names none.
// Fabric denies where a policy is missing; so must the caller.
var ErrNoPolicy = errors.New("no such policy")

// rootPath is the path of a channel's root group, without the leading slash.
const rootPath = "Channel"

// Tree holds all policies of one channel configuration, compiled. It is immutable
// and safe for concurrent use.
type Tree struct {
	policies map[string]*Policy // by path relative to the root: "Application/Writers"
	apps     *memo[string, *Policy]
}

// Policy finds a policy by its path: absolute ("/Channel/Application/Writers") or,
// as Fabric reads a path without leading slash, relative to the channel's root
// group ("Application/Writers"). The error wraps ErrNoPolicy and quotes the path.
func (t *Tree) Policy(path string) (*Policy, error) {
	if p, ok := lookup(rootPath, t.policies, path); ok {
		return p, nil
	}
	return nil, fmt.Errorf("%w: the channel configuration has no policy %q", ErrNoPolicy, path)
}

// Paths lists the absolute paths of all policies, sorted.
func (t *Tree) Paths() []string {
	paths := make([]string, 0, len(t.policies))
	for rel := range t.policies {
		paths = append(paths, "/"+rootPath+"/"+rel)
	}
	slices.Sort(paths)
	return paths
}

// lookup finds a policy as a Fabric policy manager at the group path base does
// (common/policies: an absolute id must begin with the manager's own path).
func lookup[P any](base string, policies map[string]P, id string) (P, bool) {
	var none P
	rel := id
	if strings.HasPrefix(id, "/") {
		if !strings.HasPrefix(id, "/"+base) || len(id) < len(base)+2 {
			return none, false
		}
		rel = id[len(base)+2:]
	}
	p, ok := policies[rel]
	return p, ok
}

// definition is a policy of a tree before it is compiled.
type definition struct {
	path       string
	rule       string
	root       *node
	labels     []string
	principals []*commonpb.MSPPrincipal
}

// group reads one configuration group: first its subgroups, whose policies its
// implicit meta policies refer to, then its own. The result holds the group's own
// policies by name and those below it by relative path.
func group(path string, g *commonpb.ConfigGroup) (map[string]*definition, error) {
	names := make([]string, 0, len(g.GetGroups()))
	for name := range g.GetGroups() {
		names = append(names, name)
	}
	sort.Strings(names)
	subs := make([]map[string]*definition, len(names))
	for i, name := range names {
		sub, err := group(path+"/"+name, g.GetGroups()[name])
		if err != nil {
			return nil, err
		}
		subs[i] = sub
	}

	all := make(map[string]*definition)
	for name, cp := range g.GetPolicies() {
		full := "/" + path + "/" + name
		pol := cp.GetPolicy()
		if pol == nil {
			return nil, fmt.Errorf("%w: policy %q has no content", ErrInvalid, full)
		}
		var d *definition
		var err error
		switch commonpb.Policy_PolicyType(pol.GetType()) {
		case commonpb.Policy_SIGNATURE:
			d, err = signatureDefinition(pol.GetValue())
		case commonpb.Policy_IMPLICIT_META:
			d, err = metaDefinition(path, pol.GetValue(), names, subs)
		default:
			err = fmt.Errorf("%w: type %d is neither SIGNATURE (1) nor IMPLICIT_META (3)", ErrInvalid, pol.GetType())
		}
		if err != nil {
			return nil, fmt.Errorf("policy %q: %w", full, err)
		}
		d.path = full
		all[name] = d
	}
	for i, name := range names {
		for rel, d := range subs[i] {
			all[name+"/"+rel] = d
		}
	}
	return all, nil
}

func signatureDefinition(value []byte) (*definition, error) {
	env, err := parseSignature(value)
	if err != nil {
		return nil, err
	}
	return envelopeDefinition(env)
}

func envelopeDefinition(env *commonpb.SignaturePolicyEnvelope) (*definition, error) {
	var cols columns
	root, err := signatureNode(env.GetRule(), env.GetIdentities(), &cols)
	if err != nil {
		return nil, err
	}
	d := &definition{rule: Describe(env), root: root, principals: cols.principals}
	if rules := env.GetRule().GetNOutOf().GetRules(); root.kind == gate {
		for _, r := range rules {
			d.labels = append(d.labels, describeRule(r, env.GetIdentities()))
		}
	} else {
		d.labels = []string{d.rule}
	}
	return d, nil
}

func metaDefinition(path string, value []byte, names []string, subs []map[string]*definition) (*definition, error) {
	m := new(commonpb.ImplicitMetaPolicy)
	if err := proto.Unmarshal(value, m); err != nil {
		return nil, fmt.Errorf("%w: ImplicitMetaPolicy does not parse: %v", ErrInvalid, err)
	}
	root := &node{kind: meta, children: make([]*node, len(names))}
	root.n, root.unknown = metaThreshold(m.GetRule(), len(names))
	var cols columns
	for i, name := range names {
		sub, ok := lookup(path+"/"+name, subs[i], m.GetSubPolicy())
		if !ok || m.GetSubPolicy() == "" {
			root.children[i] = &node{kind: reject}
			continue
		}
		to := make([]int, len(sub.principals))
		for c, p := range sub.principals {
			to[c] = cols.add(p)
		}
		root.children[i] = sub.root.remap(to)
	}
	if size := root.size(); size > MaxRules {
		return nil, fmt.Errorf("%w: %d rules with all sub-policies, more than %d", ErrTooLarge, size, MaxRules)
	}
	rule := fmt.Sprintf("%s %s", m.GetRule(), m.GetSubPolicy())
	return &definition{rule: rule, root: root, labels: names, principals: cols.principals}, nil
}
