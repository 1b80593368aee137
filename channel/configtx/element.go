package configtx

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
)

// element is one group, value or policy of a configuration tree. Exactly one of
// its three pointers is set.
type element struct {
	group  *commonpb.ConfigGroup
	value  *commonpb.ConfigValue
	policy *commonpb.ConfigPolicy
	path   string // of the group that it is in: "/Channel/Orderer", "" for the root
	name   string
}

// kinds prefix an element's key, since a group may hold a value and a policy of
// the same name.
const (
	groupKind  = "group "
	valueKind  = "value "
	policyKind = "policy "
)

func (e element) version() uint64 {
	switch {
	case e.group != nil:
		return e.group.GetVersion()
	case e.value != nil:
		return e.value.GetVersion()
	}
	return e.policy.GetVersion()
}

func (e element) modPolicy() string {
	switch {
	case e.group != nil:
		return e.group.GetModPolicy()
	case e.value != nil:
		return e.value.GetModPolicy()
	}
	return e.policy.GetModPolicy()
}

// modPolicyPath is where the element's mod_policy stands in the configuration: an
// absolute path as it is, a relative one below the element's group, where a group
// counts as its own. The root's is left relative, which means to the root.
func (e element) modPolicyPath() string {
	m := e.modPolicy()
	if strings.HasPrefix(m, "/") || e.path == "" {
		return m
	}
	if e.group != nil {
		return e.path + "/" + e.name + "/" + m
	}
	return e.path + "/" + m
}

// mapGroup lists the elements of a configuration tree by kind and path. A nil tree
// has none.
func mapGroup(root *commonpb.ConfigGroup) (map[string]element, error) {
	all := make(map[string]element)
	if root == nil {
		return all, nil
	}
	return all, addGroup(all, "", rootKey, root)
}

func addGroup(all map[string]element, path, name string, g *commonpb.ConfigGroup) error {
	if g == nil {
		return fmt.Errorf("group %s/%s is missing its content", path, name)
	}
	if err := add(all, groupKind, element{group: g, path: path, name: name}); err != nil {
		return err
	}
	own := path + "/" + name
	for sub, s := range g.GetGroups() {
		if err := addGroup(all, own, sub, s); err != nil {
			return err
		}
	}
	for n, v := range g.GetValues() {
		if v == nil {
			return fmt.Errorf("value %s/%s is missing its content", own, n)
		}
		if err := add(all, valueKind, element{value: v, path: own, name: n}); err != nil {
			return err
		}
	}
	for n, p := range g.GetPolicies() {
		if p == nil {
			return fmt.Errorf("policy %s/%s is missing its content", own, n)
		}
		if err := add(all, policyKind, element{policy: p, path: own, name: n}); err != nil {
			return err
		}
	}
	return nil
}

func add(all map[string]element, kind string, e element) error {
	if err := validateElementName(e.name); err != nil {
		return fmt.Errorf("%sin %q: %w", kind, e.path, err)
	}
	all[kind+e.path+"/"+e.name] = e
	return nil
}

// join makes a tree of elements again: of each group the members that it names,
// each as it stands in the map. A mod_policy that is not set becomes Admins when
// the orderer group has capabilities, as Fabric repairs channels of version 1.0.
func join(all map[string]element) (*commonpb.ConfigGroup, error) {
	_, repair := all[valueKind+ordererPath+"/"+capabilitiesKey]
	return joinGroup(all, "/"+rootKey, repair)
}

const repairedModPolicy = "Admins"

func joinGroup(all map[string]element, path string, repair bool) (*commonpb.ConfigGroup, error) {
	e, ok := all[groupKind+path]
	if !ok {
		return nil, fmt.Errorf("group %s is named by its parent and is not there", path)
	}
	g := &commonpb.ConfigGroup{
		Version: e.group.GetVersion(), ModPolicy: e.group.GetModPolicy(),
		Groups: map[string]*commonpb.ConfigGroup{}, Values: map[string]*commonpb.ConfigValue{}, Policies: map[string]*commonpb.ConfigPolicy{},
	}
	g.ProtoReflect().SetUnknown(e.group.ProtoReflect().GetUnknown())
	if repair && g.ModPolicy == "" {
		g.ModPolicy = repairedModPolicy
	}
	for name := range e.group.GetGroups() {
		sub, err := joinGroup(all, path+"/"+name, repair)
		if err != nil {
			return nil, err
		}
		g.Groups[name] = sub
	}
	for name := range e.group.GetValues() {
		v, ok := all[valueKind+path+"/"+name]
		if !ok {
			return nil, fmt.Errorf("value %s/%s is named by its group and is not there", path, name)
		}
		c := proto.CloneOf(v.value)
		if repair && c.ModPolicy == "" {
			c.ModPolicy = repairedModPolicy
		}
		g.Values[name] = c
	}
	for name := range e.group.GetPolicies() {
		p, ok := all[policyKind+path+"/"+name]
		if !ok {
			return nil, fmt.Errorf("policy %s/%s is named by its group and is not there", path, name)
		}
		c := proto.CloneOf(p.policy)
		if repair && c.ModPolicy == "" {
			c.ModPolicy = repairedModPolicy
		}
		g.Policies[name] = c
	}
	return g, nil
}
