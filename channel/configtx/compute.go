package configtx

import (
	"bytes"
	"errors"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
)

// ComputeUpdate finds the update that makes updated of original, as Fabric's
// configtxlator does: the versions in updated are not looked at. The caller sets
// the result's channel_id. Two configurations without a difference are an error.
func ComputeUpdate(original, updated *commonpb.Config) (*commonpb.ConfigUpdate, error) {
	if original.GetChannelGroup() == nil {
		return nil, errors.New("compute update: the original configuration has no channel group")
	}
	if updated.GetChannelGroup() == nil {
		return nil, errors.New("compute update: the updated configuration has no channel group")
	}
	read, write, changed := diffGroup(original.GetChannelGroup(), updated.GetChannelGroup())
	if !changed {
		return nil, errors.New("compute update: the two configurations do not differ")
	}
	return &commonpb.ConfigUpdate{ReadSet: read, WriteSet: write}, nil
}

// diffGroup returns the read set and the write set of a group. A group whose own
// members or mod_policy change gets the next version, and then both sets name all
// of its members; else only what changes below it is named.
func diffGroup(original, updated *commonpb.ConfigGroup) (read, write *commonpb.ConfigGroup, changed bool) {
	policies := diffMembers(original.GetPolicies(), updated.GetPolicies(), func(o, u *commonpb.ConfigPolicy) (r, w *commonpb.ConfigPolicy, changed bool) {
		if o.GetModPolicy() == u.GetModPolicy() && proto.Equal(o.GetPolicy(), u.GetPolicy()) {
			return &commonpb.ConfigPolicy{Version: o.GetVersion()}, nil, false
		}
		return nil, &commonpb.ConfigPolicy{Version: o.GetVersion() + 1, ModPolicy: u.GetModPolicy(), Policy: u.GetPolicy()}, true
	}, func(u *commonpb.ConfigPolicy) *commonpb.ConfigPolicy {
		return &commonpb.ConfigPolicy{ModPolicy: u.GetModPolicy(), Policy: u.GetPolicy()}
	})
	values := diffMembers(original.GetValues(), updated.GetValues(), func(o, u *commonpb.ConfigValue) (r, w *commonpb.ConfigValue, changed bool) {
		if o.GetModPolicy() == u.GetModPolicy() && bytes.Equal(o.GetValue(), u.GetValue()) {
			return &commonpb.ConfigValue{Version: o.GetVersion()}, nil, false
		}
		return nil, &commonpb.ConfigValue{Version: o.GetVersion() + 1, ModPolicy: u.GetModPolicy(), Value: u.GetValue()}, true
	}, func(u *commonpb.ConfigValue) *commonpb.ConfigValue {
		return &commonpb.ConfigValue{ModPolicy: u.GetModPolicy(), Value: u.GetValue()}
	})
	groups := diffMembers(original.GetGroups(), updated.GetGroups(), diffGroup, func(u *commonpb.ConfigGroup) *commonpb.ConfigGroup {
		_, w, _ := diffGroup(&commonpb.ConfigGroup{}, u)
		w.Version, w.ModPolicy = 0, u.GetModPolicy()
		return w
	})

	read = &commonpb.ConfigGroup{Version: original.GetVersion()}
	write = &commonpb.ConfigGroup{Version: original.GetVersion()}
	own := policies.members || values.members || groups.members || original.GetModPolicy() != updated.GetModPolicy()
	if own {
		policies.nameAll()
		values.nameAll()
		groups.nameAll()
		write.Version++
		write.ModPolicy = updated.GetModPolicy()
	} else if len(policies.write)+len(values.write)+len(groups.write) == 0 {
		return read, write, false
	}
	read.Policies, read.Values, read.Groups = policies.read, values.read, groups.read
	write.Policies, write.Values, write.Groups = policies.write, values.write, groups.write
	return read, write, true
}

// difference is what changed among a group's members of one kind.
type difference[T any] struct {
	read, write, same map[string]T
	members           bool // one was added or removed
}

func (d *difference[T]) nameAll() {
	for name, m := range d.same {
		d.read[name], d.write[name] = m, m
	}
}

func diffMembers[T any](original, updated map[string]T, diff func(o, u T) (read, write T, changed bool), added func(u T) T) *difference[T] {
	d := &difference[T]{read: map[string]T{}, write: map[string]T{}, same: map[string]T{}}
	for name, o := range original {
		u, ok := updated[name]
		if !ok {
			d.members = true
			continue
		}
		r, w, changed := diff(o, u)
		if !changed {
			d.same[name] = r
			continue
		}
		if any(r) != any(*new(T)) {
			d.read[name] = r
		}
		d.write[name] = w
	}
	for name, u := range updated {
		if _, ok := original[name]; !ok {
			d.members = true
			d.write[name] = added(u)
		}
	}
	return d
}
