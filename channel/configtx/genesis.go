package configtx

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
	"strongroom/wire/peerpb"
)

// Names of policies that Fabric gives a meaning.
const (
	readers         = "Readers"
	writers         = "Writers"
	admins          = "Admins"
	endorsement     = "Endorsement"
	lifecycle       = "LifecycleEndorsement"
	blockValidation = "BlockValidation"

	ordererAdminsPath = "/Channel/Orderer/Admins"
)

// metadataSlots is the number of a block's metadata entries in Fabric 2 and 3.
const metadataSlots = 5

var canonical = proto.MarshalOptions{Deterministic: true}

// BuildGenesis makes the genesis block of a described channel: number 0, no
// previous hash, one CONFIG transaction of sequence 0 that nobody signs. Its
// configuration is what Fabric's configtxgen makes of the same content. The same
// description gives the same bytes.
func BuildGenesis(d *Description) (*commonpb.Block, error) {
	c, err := BuildConfig(d)
	if err != nil {
		return nil, err
	}
	data, err := canonical.Marshal(&commonpb.ConfigEnvelope{Config: c})
	if err != nil {
		return nil, fmt.Errorf("genesis block of channel %q: %w", d.Channel, err)
	}
	// The nonce makes the transaction id unique to the content.
	sum := sha256.Sum256(data)
	nonce := sum[:24]
	ch := &commonpb.ChannelHeader{
		Type: int32(commonpb.HeaderType_CONFIG), Version: 1, ChannelId: d.Channel, TxId: wire.TxID(nonce, nil),
	}
	if !d.Created.IsZero() {
		ch.Timestamp = timestamppb.New(d.Created.UTC().Truncate(time.Second))
	}
	env, err := envelope(ch, &commonpb.SignatureHeader{Nonce: nonce}, data)
	if err != nil {
		return nil, fmt.Errorf("genesis block of channel %q: %w", d.Channel, err)
	}
	raw, err := canonical.Marshal(env)
	if err != nil {
		return nil, fmt.Errorf("genesis block of channel %q: %w", d.Channel, err)
	}
	b := &commonpb.Block{
		Header:   &commonpb.BlockHeader{},
		Data:     &commonpb.BlockData{Data: [][]byte{raw}},
		Metadata: &commonpb.BlockMetadata{Metadata: make([][]byte, metadataSlots)},
	}
	b.Header.DataHash = wire.DataHash(b.Data)
	for i := range b.Metadata.Metadata {
		b.Metadata.Metadata[i] = []byte{}
	}
	for slot, value := range map[commonpb.BlockMetadataIndex]proto.Message{
		commonpb.BlockMetadataIndex_SIGNATURES:  &commonpb.OrdererBlockMetadata{LastConfig: &commonpb.LastConfig{}},
		commonpb.BlockMetadataIndex_LAST_CONFIG: &commonpb.LastConfig{},
	} {
		v, err := canonical.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("genesis block of channel %q: %w", d.Channel, err)
		}
		if b.Metadata.Metadata[slot], err = canonical.Marshal(&commonpb.Metadata{Value: v}); err != nil {
			return nil, fmt.Errorf("genesis block of channel %q: %w", d.Channel, err)
		}
	}
	return b, nil
}

func envelope(ch *commonpb.ChannelHeader, sh *commonpb.SignatureHeader, data []byte) (*commonpb.Envelope, error) {
	chb, err := canonical.Marshal(ch)
	if err != nil {
		return nil, err
	}
	shb, err := canonical.Marshal(sh)
	if err != nil {
		return nil, err
	}
	payload, err := canonical.Marshal(&commonpb.Payload{Header: &commonpb.Header{ChannelHeader: chb, SignatureHeader: shb}, Data: data})
	if err != nil {
		return nil, err
	}
	return &commonpb.Envelope{Payload: payload}, nil
}

// BuildConfig makes the configuration of a described channel, of sequence 0.
// Whether its certificates hang together is checked by New.
func BuildConfig(d *Description) (*commonpb.Config, error) {
	b := builder{d: d}
	root, err := b.channel()
	if err != nil {
		return nil, fmt.Errorf("channel description: %w", err)
	}
	return &commonpb.Config{ChannelGroup: root}, nil
}

type builder struct {
	d    *Description
	orgs map[string]*OrganizationDescription
}

func newGroup() *commonpb.ConfigGroup {
	return &commonpb.ConfigGroup{
		Groups: map[string]*commonpb.ConfigGroup{}, Values: map[string]*commonpb.ConfigValue{}, Policies: map[string]*commonpb.ConfigPolicy{},
		ModPolicy: admins,
	}
}

func addValue(g *commonpb.ConfigGroup, name string, m proto.Message) error {
	b, err := canonical.Marshal(m)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	g.Values[name] = &commonpb.ConfigValue{Value: b, ModPolicy: admins}
	return nil
}

// addPolicies sets a group's policies: the given ones, else the defaults. Those
// that Fabric needs must be among them.
func addPolicies(g *commonpb.ConfigGroup, field string, given, defaults map[string]string, needed ...string) error {
	if len(given) == 0 {
		given = defaults
	}
	for _, name := range needed {
		if given[name] == "" {
			return fmt.Errorf("%s: %s is missing: give all of %v, or leave policies out for the defaults", field, name, needed)
		}
	}
	for _, name := range sortedKeys(given) {
		p, err := parseRule(given[name])
		if err != nil {
			return fmt.Errorf("%s.%s: %w", field, name, err)
		}
		g.Policies[name] = &commonpb.ConfigPolicy{Policy: p, ModPolicy: admins}
	}
	return nil
}

func metaPolicies(more map[string]string) map[string]string {
	p := map[string]string{
		readers: implicitMetaPrefix + " ANY " + readers, writers: implicitMetaPrefix + " ANY " + writers, admins: implicitMetaPrefix + " MAJORITY " + admins,
	}
	for name, rule := range more {
		p[name] = rule
	}
	return p
}

func addCapability(g *commonpb.ConfigGroup, field, name, fallback string, known map[string]Level, more ...string) error {
	if name == "" {
		name = fallback
	}
	if known[name] == LevelNone {
		return fmt.Errorf("capabilities.%s: %q is not one that Strongroom serves: use one of %v", field, name, servedLevels(known))
	}
	all := map[string]*commonpb.Capability{name: {}}
	for _, m := range more {
		all[m] = &commonpb.Capability{}
	}
	return addValue(g, capabilitiesKey, &commonpb.Capabilities{Capabilities: all})
}

func servedLevels(known map[string]Level) []string {
	return slices.DeleteFunc(sortedKeys(known), func(name string) bool { return known[name] == LevelNone })
}

func (b *builder) channel() (*commonpb.ConfigGroup, error) {
	d := b.d
	if err := ValidateChannelID(d.Channel); err != nil {
		return nil, err
	}
	if err := b.indexOrganizations(); err != nil {
		return nil, err
	}
	root := newGroup()
	if err := addPolicies(root, "policies", d.Policies, metaPolicies(nil), readers, writers, admins); err != nil {
		return nil, err
	}
	if err := errors.Join(
		addValue(root, "HashingAlgorithm", &commonpb.HashingAlgorithm{Name: "SHA256"}),
		addValue(root, "BlockDataHashingStructure", &commonpb.BlockDataHashingStructure{Width: math.MaxUint32}),
		addCapability(root, "channel", d.Capabilities.Channel, "V2_0", channelCapabilities),
	); err != nil {
		return nil, err
	}
	if len(d.Orderer.Addresses) > 0 {
		if channelCapabilities[d.Capabilities.Channel] >= LevelV3_0 {
			return nil, errors.New("orderer.addresses: not allowed with channel capability V3_0: give each organisation its ordererEndpoints")
		}
		if err := addValue(root, "OrdererAddresses", &commonpb.OrdererAddresses{Addresses: d.Orderer.Addresses}); err != nil {
			return nil, err
		}
		root.Values["OrdererAddresses"].ModPolicy = ordererAdminsPath
	}
	if d.Consortium != "" {
		if err := addValue(root, "Consortium", &commonpb.Consortium{Name: d.Consortium}); err != nil {
			return nil, err
		}
	}
	var err error
	if root.Groups[ordererKey], err = b.orderer(); err != nil {
		return nil, err
	}
	if root.Groups[applicationKey], err = b.application(); err != nil {
		return nil, err
	}
	return root, nil
}

func (b *builder) indexOrganizations() error {
	b.orgs = make(map[string]*OrganizationDescription, len(b.d.Organizations))
	ids := map[msp.ID]bool{}
	for i := range b.d.Organizations {
		o := b.d.Organizations[i]
		if o.MSPID == "" {
			return fmt.Errorf("organizations[%d].mspID is empty", i)
		}
		if o.Name == "" {
			o.Name = string(o.MSPID)
		}
		if err := validateElementName(o.Name); err != nil {
			return fmt.Errorf("organizations[%d]: %w", i, err)
		}
		if b.orgs[o.Name] != nil || ids[o.MSPID] {
			return fmt.Errorf("organizations[%d]: name %q or MSP id %q is taken", i, o.Name, string(o.MSPID))
		}
		b.orgs[o.Name], ids[o.MSPID] = &o, true
	}
	return nil
}

func (b *builder) orderer() (*commonpb.ConfigGroup, error) {
	o := b.d.Orderer
	setDefault(&o.Type, "solo")
	setDefault(&o.BatchTimeout, Duration(2*time.Second))
	setDefault(&o.BatchSize.MaxMessageCount, 500)
	setDefault(&o.BatchSize.AbsoluteMaxBytes, 10<<20)
	setDefault(&o.BatchSize.PreferredMaxBytes, min(2<<20, o.BatchSize.AbsoluteMaxBytes))
	if o.BatchTimeout < 0 {
		return nil, fmt.Errorf("orderer.batchTimeout: %s is not positive", time.Duration(o.BatchTimeout))
	}
	size := BatchSize{o.BatchSize.MaxMessageCount, uint32(o.BatchSize.AbsoluteMaxBytes), uint32(o.BatchSize.PreferredMaxBytes)}
	if err := size.validate(); err != nil {
		return nil, fmt.Errorf("orderer.batchSize: %w", err)
	}
	metadata := o.Metadata
	switch {
	case o.Type == "etcdraft" && o.Raft != nil:
		var err error
		if metadata, err = o.Raft.metadata(); err != nil {
			return nil, fmt.Errorf("orderer.%w", err)
		}
	case o.Type == "etcdraft" && len(metadata) == 0:
		return nil, errors.New("orderer.raft is missing: type etcdraft needs its consenters")
	case o.Type != "etcdraft" && o.Raft != nil:
		return nil, fmt.Errorf("orderer.raft: type %q does not use it: remove it or set type etcdraft", o.Type)
	case o.Type == "BFT":
		return nil, errors.New("orderer.type: a BFT channel cannot be described here yet: make its genesis block with Fabric's configtxgen")
	}
	g := newGroup()
	defaults := metaPolicies(map[string]string{blockValidation: implicitMetaPrefix + " ANY " + writers})
	if err := addPolicies(g, "orderer.policies", o.Policies, defaults, readers, writers, admins, blockValidation); err != nil {
		return nil, err
	}
	if err := errors.Join(
		addValue(g, "BatchSize", &ordererpb.BatchSize{MaxMessageCount: size.MaxMessageCount, AbsoluteMaxBytes: size.AbsoluteMaxBytes, PreferredMaxBytes: size.PreferredMaxBytes}),
		addValue(g, "BatchTimeout", &ordererpb.BatchTimeout{Timeout: time.Duration(o.BatchTimeout).String()}),
		addValue(g, "ChannelRestrictions", &ordererpb.ChannelRestrictions{MaxCount: o.MaxChannels}),
		addValue(g, "ConsensusType", &ordererpb.ConsensusType{Type: o.Type, Metadata: metadata}),
		addCapability(g, "orderer", b.d.Capabilities.Orderer, "V2_0", ordererCapabilities),
	); err != nil {
		return nil, err
	}
	return g, b.members(g, "orderer.organizations", o.Organizations, func(org *OrganizationDescription, sub *commonpb.ConfigGroup) error {
		if len(org.OrdererEndpoints) == 0 {
			if channelCapabilities[b.d.Capabilities.Channel] >= LevelV3_0 {
				return errors.New("ordererEndpoints is empty: channel capability V3_0 needs at least one")
			}
			return nil
		}
		for _, address := range org.OrdererEndpoints {
			if _, _, err := splitAddress(address); err != nil {
				return fmt.Errorf("ordererEndpoints: %w", err)
			}
		}
		return addValue(sub, "Endpoints", &commonpb.OrdererAddresses{Addresses: org.OrdererEndpoints})
	})
}

func (b *builder) application() (*commonpb.ConfigGroup, error) {
	a := b.d.Application
	g := newGroup()
	defaults := metaPolicies(map[string]string{
		endorsement: implicitMetaPrefix + " MAJORITY " + endorsement, lifecycle: implicitMetaPrefix + " MAJORITY " + endorsement,
	})
	if err := addPolicies(g, "application.policies", a.Policies, defaults, readers, writers, admins); err != nil {
		return nil, err
	}
	if len(a.ACLs) > 0 {
		acls := &peerpb.ACLs{Acls: make(map[string]*peerpb.APIResource, len(a.ACLs))}
		for resource, ref := range a.ACLs {
			if ref == "" {
				return nil, fmt.Errorf("application.acls: resource %q has no policy: give its path, or remove the resource", resource)
			}
			acls.Acls[resource] = &peerpb.APIResource{PolicyRef: ref}
		}
		if err := addValue(g, "ACLs", acls); err != nil {
			return nil, err
		}
	}
	var more []string
	if b.d.Capabilities.Rego {
		more = append(more, RegoCapability)
	}
	if err := addCapability(g, "application", b.d.Capabilities.Application, "V2_5", applicationCapabilities, more...); err != nil {
		return nil, err
	}
	return g, b.members(g, "application.organizations", a.Organizations, func(org *OrganizationDescription, sub *commonpb.ConfigGroup) error {
		if len(org.AnchorPeers) == 0 {
			return nil
		}
		anchors := &peerpb.AnchorPeers{}
		for _, address := range org.AnchorPeers {
			host, port, err := splitAddress(address)
			if err != nil {
				return fmt.Errorf("anchorPeers: %w", err)
			}
			anchors.AnchorPeers = append(anchors.AnchorPeers, &peerpb.AnchorPeer{Host: host, Port: port})
		}
		return addValue(sub, "AnchorPeers", anchors)
	})
}

// members adds the groups of organisations.
func (b *builder) members(g *commonpb.ConfigGroup, field string, names []string, more func(*OrganizationDescription, *commonpb.ConfigGroup) error) error {
	if len(names) == 0 {
		return fmt.Errorf("%s is empty: name at least one organisation", field)
	}
	for _, name := range names {
		o := b.orgs[name]
		if o == nil {
			return fmt.Errorf("%s: %q is not among organizations", field, name)
		}
		if g.Groups[name] != nil {
			return fmt.Errorf("%s: %q is named twice", field, name)
		}
		sub := newGroup()
		conf, err := o.config()
		if err != nil {
			return fmt.Errorf("organization %q: %w", name, err)
		}
		if err := errors.Join(
			addPolicies(sub, fmt.Sprintf("organization %q: policies", name), o.Policies, b.defaultPolicies(o), readers, writers, admins),
			addValue(sub, mspKey, conf), more(o, sub),
		); err != nil {
			return fmt.Errorf("organization %q: %w", name, err)
		}
		g.Groups[name] = sub
	}
	return nil
}

func (b *builder) defaultPolicies(o *OrganizationDescription) map[string]string {
	of := func(rolesOf ...string) string {
		text := "OR("
		for i, r := range rolesOf {
			if i > 0 {
				text += ", "
			}
			text += "'" + string(o.MSPID) + "." + r + "'"
		}
		return text + ")"
	}
	if !slices.Contains(b.d.Application.Organizations, o.Name) {
		return map[string]string{readers: of("member"), writers: of("member"), admins: of("admin")}
	}
	return map[string]string{
		readers: of("admin", "peer", "client"), writers: of("admin", "client"), admins: of("admin"), endorsement: of("peer"),
	}
}
