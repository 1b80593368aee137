package configtx

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"strongroom/policy"
	"strongroom/wire/commonpb"
)

// InvalidUpdateError is the verdict that a configuration update, or a CONFIG
// transaction, may not be applied: it is malformed, of another version, not
// signed by enough, or makes a configuration that the channel may not have.
type InvalidUpdateError struct {
	Channel string
	Reason  string
}

// Error names the channel and the reason.
func (e *InvalidUpdateError) Error() string {
	return fmt.Sprintf("configuration update of channel %q is not valid: %s", e.Channel, e.Reason)
}

func (c *Config) invalid(format string, args ...any) error {
	return &InvalidUpdateError{Channel: c.ID, Reason: fmt.Sprintf(format, args...)}
}

// ProposeUpdate validates a CONFIG_UPDATE envelope and returns what an orderer puts
// into a CONFIG transaction: the configuration that follows, with the envelope. The
// envelope's own signature and whether its creator may write to the channel are
// the caller's to check. An *InvalidUpdateError is a verdict; every other error is
// a failure of ours.
func (c *Config) ProposeUpdate(ctx context.Context, env *commonpb.Envelope) (*commonpb.ConfigEnvelope, error) {
	group, err := c.updated(ctx, env)
	if err != nil {
		return nil, err
	}
	next := &commonpb.Config{Sequence: c.Sequence + 1, ChannelGroup: group}
	if _, err := c.follow(ctx, c.deps, next); err != nil {
		return nil, err
	}
	return &commonpb.ConfigEnvelope{Config: next, LastUpdate: env}, nil
}

// Apply validates the content of a CONFIG transaction and returns the configuration
// that it brings: the update in it is computed again, and must give the
// configuration beside it. MSPs that did not change keep what they remember. An
// *InvalidUpdateError is a verdict; every other error is a failure of ours.
func (c *Config) Apply(ctx context.Context, deps Deps, ce *commonpb.ConfigEnvelope) (*Config, error) {
	if err := deps.validate(); err != nil {
		return nil, err
	}
	if ce.GetConfig() == nil {
		return nil, c.invalid("the transaction has no configuration")
	}
	if got := ce.GetConfig().GetSequence(); got != c.Sequence+1 {
		return nil, c.invalid("its configuration has sequence %d, but the channel is at %d", got, c.Sequence)
	}
	group, err := c.updated(ctx, ce.GetLastUpdate())
	if err != nil {
		return nil, err
	}
	if !proto.Equal(group, ce.GetConfig().GetChannelGroup()) {
		return nil, c.invalid("its last_update does not give its configuration")
	}
	return c.follow(ctx, deps, ce.GetConfig())
}

// follow reads the next configuration and checks what may not change between two.
func (c *Config) follow(ctx context.Context, deps Deps, next *commonpb.Config) (*Config, error) {
	n, err := build(ctx, deps, c.ID, next, c.MSPs)
	if err != nil {
		if isFailure(err) {
			return nil, err
		}
		return nil, c.invalid("%v", err)
	}
	for _, o := range c.OrdererOrganizations {
		i := slices.IndexFunc(n.OrdererOrganizations, func(x OrdererOrganization) bool { return x.Name == o.Name })
		if i >= 0 && n.OrdererOrganizations[i].MSPID != o.MSPID {
			return nil, c.invalid("%s/%s: the MSP id may not change from %q to %q", ordererPath, o.Name, string(o.MSPID), string(n.OrdererOrganizations[i].MSPID))
		}
	}
	for _, o := range c.Organizations {
		i := slices.IndexFunc(n.Organizations, func(x Organization) bool { return x.Name == o.Name })
		if i >= 0 && n.Organizations[i].MSPID != o.MSPID {
			return nil, c.invalid("%s/%s: the MSP id may not change from %q to %q", applicationPath, o.Name, string(o.MSPID), string(n.Organizations[i].MSPID))
		}
	}
	return n, nil
}

// updated computes the channel group that an update makes of this configuration.
func (c *Config) updated(ctx context.Context, env *commonpb.Envelope) (*commonpb.ConfigGroup, error) {
	_, data, err := openEnvelope(env, commonpb.HeaderType_CONFIG_UPDATE)
	if err != nil {
		return nil, c.invalid("%v", err)
	}
	ue := &commonpb.ConfigUpdateEnvelope{}
	if err := proto.Unmarshal(data, ue); err != nil {
		return nil, c.invalid("ConfigUpdateEnvelope: %v", err)
	}
	update := &commonpb.ConfigUpdate{}
	if err := proto.Unmarshal(ue.GetConfigUpdate(), update); err != nil {
		return nil, c.invalid("ConfigUpdate: %v", err)
	}
	if update.GetChannelId() != c.ID {
		return nil, c.invalid("it is for channel %q", update.GetChannelId())
	}
	delta, written, err := c.delta(update)
	if err != nil {
		return nil, err
	}
	if err := c.authorize(ctx, ue, delta); err != nil {
		return nil, err
	}
	all := maps.Clone(c.elements)
	maps.Copy(all, delta)
	for _, key := range sortedKeys(written) {
		if _, ok := all[key]; !ok {
			return nil, c.invalid("its write set has %s, which the resulting configuration has not", key)
		}
	}
	group, err := join(all)
	if err != nil {
		return nil, c.invalid("%v", err)
	}
	return group, nil
}

// delta checks the read set against the configuration and returns what the update
// changes: the elements of the write set whose version is not the read set's.
func (c *Config) delta(update *commonpb.ConfigUpdate) (delta, written map[string]element, err error) {
	read, err := mapGroup(update.GetReadSet())
	if err != nil {
		return nil, nil, c.invalid("read set: %v", err)
	}
	for _, key := range sortedKeys(read) {
		now, ok := c.elements[key]
		if !ok {
			return nil, nil, c.invalid("its read set has %s, which the configuration has not", key)
		}
		if now.version() != read[key].version() {
			return nil, nil, c.invalid("it was made for version %d of %s, which is at version %d: make it again from the present configuration", read[key].version(), key, now.version())
		}
	}
	if written, err = mapGroup(update.GetWriteSet()); err != nil {
		return nil, nil, c.invalid("write set: %v", err)
	}
	delta = make(map[string]element)
	for key, e := range written {
		if r, ok := read[key]; ok && r.version() == e.version() {
			continue
		}
		delta[key] = e
	}
	if len(delta) == 0 {
		return nil, nil, c.invalid("it changes nothing")
	}
	return delta, written, nil
}

// authorize checks that each changed element has the next version and that the
// signatures satisfy the policy that the present configuration sets for it. A new
// element is authorised by the group that takes it up.
func (c *Config) authorize(ctx context.Context, ue *commonpb.ConfigUpdateEnvelope, delta map[string]element) error {
	type change struct {
		key    string
		policy *policy.Policy
	}
	var changes []change
	for _, key := range sortedKeys(delta) {
		e := delta[key]
		if err := validateModPolicy(e.modPolicy()); err != nil {
			return c.invalid("%s: %v", key, err)
		}
		now, ok := c.elements[key]
		if !ok {
			if e.version() != 0 {
				return c.invalid("%s is new and must have version 0, not %d", key, e.version())
			}
			continue
		}
		if e.version() != now.version()+1 {
			return c.invalid("%s is at version %d, so its next is %d and not %d", key, now.version(), now.version()+1, e.version())
		}
		p, err := c.Policies.Policy(now.modPolicyPath())
		if err != nil {
			return c.invalid("%s: mod_policy: %v", key, err)
		}
		changes = append(changes, change{key, p})
	}
	signed := make([]Signed, 0, len(ue.GetSignatures()))
	for i, s := range ue.GetSignatures() {
		sh := &commonpb.SignatureHeader{}
		if err := proto.Unmarshal(s.GetSignatureHeader(), sh); err != nil {
			return c.invalid("signature %d: signature_header: %v", i, err)
		}
		signed = append(signed, Signed{
			Message: slices.Concat(s.GetSignatureHeader(), ue.GetConfigUpdate()), Identity: sh.GetCreator(), Signature: s.GetSignature(),
		})
	}
	signers, err := c.Verified(ctx, signed)
	if err != nil {
		return fmt.Errorf("configuration update of channel %q: check its signatures: %w", c.ID, err)
	}
	for _, ch := range changes {
		decision, err := ch.policy.Evaluate(ctx, signers)
		if err != nil {
			return fmt.Errorf("configuration update of channel %q: %w", c.ID, err)
		}
		if !decision.Allowed {
			return c.invalid("policy of %s is not satisfied: %s", ch.key, decision.Reason)
		}
	}
	return nil
}

func validateModPolicy(m string) error {
	if m == "" {
		return errors.New("mod_policy is not set")
	}
	for part := range strings.SplitSeq(strings.TrimPrefix(m, "/"), "/") {
		if err := validateElementName(part); err != nil {
			return fmt.Errorf("mod_policy %q: %w", m, err)
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
