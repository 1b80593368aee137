package configtx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"strongroom/msp"
	"strongroom/policy"
	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
	"strongroom/wire/ordererpb"
	"strongroom/wire/peerpb"
)

// Paths of groups, and names of values, in a channel's configuration.
const (
	rootKey         = "Channel"
	applicationKey  = "Application"
	ordererKey      = "Orderer"
	consortiumsKey  = "Consortiums"
	capabilitiesKey = "Capabilities"
	mspKey          = "MSP"

	applicationPath = "/Channel/Application"
	ordererPath     = "/Channel/Orderer"

	// BlockValidationPath is the policy that a block's signatures must satisfy.
	BlockValidationPath = "/Channel/Orderer/BlockValidation"
)

const maxNameLength = 249

var (
	channelName = regexp.MustCompile(`^[a-z][a-z0-9.-]*$`)
	elementName = regexp.MustCompile(`^[a-zA-Z0-9.-]+$`)
)

// ValidateChannelID checks a channel's id: lower-case letters, digits, dots and
// dashes, first a letter, at most 249.
func ValidateChannelID(id string) error {
	if len(id) > maxNameLength || !channelName.MatchString(id) {
		return fmt.Errorf("channel id %q is not allowed: use 1 to %d lower-case letters, digits, dots and dashes, first a letter", id, maxNameLength)
	}
	return nil
}

func validateElementName(name string) error {
	if len(name) > maxNameLength || name == "." || name == ".." || !elementName.MatchString(name) {
		return fmt.Errorf("name %q is not allowed: use 1 to %d letters, digits, dots and dashes", name, maxNameLength)
	}
	return nil
}

// reader fills a Config from a channel group.
type reader struct {
	cfg       *Config
	msps      []*msppb.MSPConfig
	mspPaths  map[msp.ID]string
	addresses []string // of the channel group
}

func (r *reader) read(root *commonpb.ConfigGroup) error {
	if root == nil {
		return errors.New("/Channel: the group is missing")
	}
	r.mspPaths = map[msp.ID]string{}
	for name := range root.GetGroups() {
		switch name {
		case applicationKey, ordererKey:
		case consortiumsKey:
			return errors.New("/Channel/Consortiums: this is the configuration of a system channel, which Fabric 3 does not have: join its application channels without it")
		default:
			return fmt.Errorf("/Channel: group %q is not allowed: only Application and Orderer are", name)
		}
	}
	if err := r.readChannel(root); err != nil {
		return err
	}
	orderer, application := root.GetGroups()[ordererKey], root.GetGroups()[applicationKey]
	if orderer == nil {
		return fmt.Errorf("%s: the group is missing", ordererPath)
	}
	if application == nil {
		return fmt.Errorf("%s: the group is missing", applicationPath)
	}
	if orderer.GetValues()[capabilitiesKey] == nil {
		return fmt.Errorf("%s/Capabilities: the value is missing: channel and application capabilities need the orderer's first", ordererPath)
	}
	if err := r.readOrderer(orderer); err != nil {
		return err
	}
	return r.readApplication(application)
}

// values decodes the values of a group. A value that is not in the table is
// refused, as in Fabric; one that the group lacks stays as it is.
func values(path string, g *commonpb.ConfigGroup, table map[string]proto.Message) error {
	for name, v := range g.GetValues() {
		m, ok := table[name]
		if !ok {
			return fmt.Errorf("%s: value %q is not allowed here", path, name)
		}
		if m == nil {
			continue
		}
		if err := proto.Unmarshal(v.GetValue(), m); err != nil {
			return fmt.Errorf("%s/%s: %w", path, name, err)
		}
	}
	return nil
}

func (r *reader) readChannel(g *commonpb.ConfigGroup) error {
	var (
		hashing      commonpb.HashingAlgorithm
		structure    commonpb.BlockDataHashingStructure
		addresses    commonpb.OrdererAddresses
		consortium   commonpb.Consortium
		capabilities commonpb.Capabilities
	)
	if err := values("/Channel", g, map[string]proto.Message{
		"HashingAlgorithm": &hashing, "BlockDataHashingStructure": &structure, "OrdererAddresses": &addresses,
		"Consortium": &consortium, capabilitiesKey: &capabilities,
		"Orderers": nil, // allowed here too; the orderer group's counts
	}); err != nil {
		return err
	}
	if hashing.GetName() != "SHA256" {
		return fmt.Errorf("/Channel/HashingAlgorithm: %q is not supported: SHA256 is", hashing.GetName())
	}
	if structure.GetWidth() != math.MaxUint32 {
		return fmt.Errorf("/Channel/BlockDataHashingStructure: width %d is not supported: %d is", structure.GetWidth(), uint32(math.MaxUint32))
	}
	l, err := level("/Channel/Capabilities", &capabilities, channelCapabilities)
	if err != nil {
		return err
	}
	if l < LevelV2_0 {
		return errors.New("/Channel/Capabilities: the channel has a level below V2_0, which Strongroom does not serve: enable channel capability V2_0 or V3_0 in a configuration update first")
	}
	r.cfg.Capabilities.Channel = l
	if l >= LevelV3_0 && len(addresses.GetAddresses()) > 0 {
		return errors.New("/Channel/OrdererAddresses: not allowed with channel capability V3_0: each orderer organisation has its Endpoints")
	}
	r.cfg.Consortium = consortium.GetName()
	r.addresses = addresses.GetAddresses()
	return nil
}

func (r *reader) readOrderer(g *commonpb.ConfigGroup) error {
	var (
		consensus    ordererpb.ConsensusType
		size         ordererpb.BatchSize
		timeout      ordererpb.BatchTimeout
		restrictions ordererpb.ChannelRestrictions
		orderers     commonpb.Orderers
		capabilities commonpb.Capabilities
		err          error
	)
	if err := values(ordererPath, g, map[string]proto.Message{
		"ConsensusType": &consensus, "BatchSize": &size, "BatchTimeout": &timeout, "ChannelRestrictions": &restrictions,
		"Orderers": &orderers, capabilitiesKey: &capabilities,
		"KafkaBrokers": nil, // of a former orderer; nothing reads it any more
	}); err != nil {
		return err
	}
	cfg := r.cfg
	if cfg.Capabilities.Orderer, err = level(ordererPath+"/Capabilities", &capabilities, ordererCapabilities); err != nil {
		return err
	}
	if consensus.GetType() == "" {
		return fmt.Errorf("%s/ConsensusType: type is empty", ordererPath)
	}
	cfg.ConsensusType, cfg.ConsensusMetadata, cfg.ConsensusState = consensus.GetType(), consensus.GetMetadata(), consensus.GetState()
	cfg.BatchSize = BatchSize{size.GetMaxMessageCount(), size.GetAbsoluteMaxBytes(), size.GetPreferredMaxBytes()}
	if err := cfg.BatchSize.validate(); err != nil {
		return fmt.Errorf("%s/BatchSize: %w", ordererPath, err)
	}
	if cfg.BatchTimeout, err = time.ParseDuration(timeout.GetTimeout()); err != nil {
		return fmt.Errorf("%s/BatchTimeout: %w", ordererPath, err)
	}
	if cfg.BatchTimeout <= 0 {
		return fmt.Errorf("%s/BatchTimeout: %s is not positive", ordererPath, cfg.BatchTimeout)
	}
	cfg.MaxChannels = restrictions.GetMaxCount()
	cfg.Consenters = orderers.GetConsenterMapping()
	for _, name := range groupNames(g) {
		var endpoints commonpb.OrdererAddresses
		path := ordererPath + "/" + name
		id, err := r.readOrganization(path, g.GetGroups()[name], map[string]proto.Message{"Endpoints": &endpoints})
		if err != nil {
			return err
		}
		if cfg.Capabilities.Channel >= LevelV3_0 && len(endpoints.GetAddresses()) == 0 {
			return fmt.Errorf("%s/Endpoints: channel capability V3_0 needs at least one address", path)
		}
		cfg.OrdererOrganizations = append(cfg.OrdererOrganizations, OrdererOrganization{Name: name, MSPID: id, Endpoints: endpoints.GetAddresses()})
	}
	return nil
}

func (s BatchSize) validate() error {
	switch {
	case s.MaxMessageCount == 0:
		return errors.New("max_message_count is 0: give at least 1")
	case s.AbsoluteMaxBytes == 0:
		return errors.New("absolute_max_bytes is 0: give at least 1")
	case s.PreferredMaxBytes == 0:
		return errors.New("preferred_max_bytes is 0: give at least 1")
	case s.PreferredMaxBytes > s.AbsoluteMaxBytes:
		return fmt.Errorf("preferred_max_bytes %d is greater than absolute_max_bytes %d", s.PreferredMaxBytes, s.AbsoluteMaxBytes)
	}
	return nil
}

func (r *reader) readApplication(g *commonpb.ConfigGroup) error {
	var (
		acls         peerpb.ACLs
		capabilities commonpb.Capabilities
		err          error
	)
	if err := values(applicationPath, g, map[string]proto.Message{"ACLs": &acls, capabilitiesKey: &capabilities}); err != nil {
		return err
	}
	cfg := r.cfg
	if cfg.Capabilities.Application, err = level(applicationPath+"/Capabilities", &capabilities, applicationCapabilities); err != nil {
		return err
	}
	_, cfg.Capabilities.Rego = capabilities.GetCapabilities()[RegoCapability]
	if cfg.Capabilities.Application < LevelV2_0 {
		return fmt.Errorf("%s/Capabilities: the channel has a level below V2_0, which Strongroom does not serve: enable application capability V2_0 or V2_5 in a configuration update first", applicationPath)
	}
	cfg.ACLs = make(map[string]string, len(acls.GetAcls()))
	for resource, api := range acls.GetAcls() {
		// An empty reference leaves the default; a relative one is of the application group.
		switch ref := api.GetPolicyRef(); {
		case ref == "":
		case ref[0] == '/':
			cfg.ACLs[resource] = ref
		default:
			cfg.ACLs[resource] = applicationPath + "/" + ref
		}
	}
	for _, name := range groupNames(g) {
		var anchors peerpb.AnchorPeers
		path := applicationPath + "/" + name
		id, err := r.readOrganization(path, g.GetGroups()[name], map[string]proto.Message{"AnchorPeers": &anchors})
		if err != nil {
			return err
		}
		org := Organization{Name: name, MSPID: id}
		for _, a := range anchors.GetAnchorPeers() {
			org.AnchorPeers = append(org.AnchorPeers, AnchorPeer{Host: a.GetHost(), Port: a.GetPort()})
		}
		cfg.Organizations = append(cfg.Organizations, org)
	}
	return nil
}

// readOrganization reads what every organisation's group has, and the values in
// table. An MSP may be defined twice (an organisation of peers and orderers) when
// both definitions are the same.
func (r *reader) readOrganization(path string, g *commonpb.ConfigGroup, table map[string]proto.Message) (msp.ID, error) {
	if len(g.GetGroups()) > 0 {
		return "", fmt.Errorf("%s: an organisation has no groups below it", path)
	}
	m := &msppb.MSPConfig{}
	table[mspKey] = m
	if err := values(path, g, table); err != nil {
		return "", err
	}
	if g.GetValues()[mspKey] == nil {
		return "", fmt.Errorf("%s/MSP: the value is missing", path)
	}
	id, err := mspName(m)
	if err != nil {
		return "", fmt.Errorf("%s/MSP: %w", path, err)
	}
	if first, ok := r.mspPaths[id]; ok {
		for _, other := range r.msps {
			if name, err := mspName(other); err == nil && name == id && (other.GetType() != m.GetType() || !bytes.Equal(other.GetConfig(), m.GetConfig())) {
				return "", fmt.Errorf("%s/MSP: MSP %q is defined differently at %s/MSP: give both the same definition", path, string(id), first)
			}
		}
		return id, nil
	}
	r.mspPaths[id] = path
	r.msps = append(r.msps, m)
	return id, nil
}

// mspName is the name in an X.509 MSP configuration; msp.NewSet says what else may
// be wrong with it.
func mspName(m *msppb.MSPConfig) (msp.ID, error) {
	if m.GetType() != 0 {
		return msp.ID(fmt.Sprintf("type %d", m.GetType())), nil
	}
	conf := &msppb.FabricMSPConfig{}
	if err := proto.Unmarshal(m.GetConfig(), conf); err != nil {
		return "", err
	}
	if conf.GetName() == "" {
		return "", errors.New("the MSP has no name")
	}
	return msp.ID(conf.GetName()), nil
}

// failure marks an error that is ours and not the configuration's.
type failure struct{ error }

func (f *failure) Unwrap() error { return f.error }

func isFailure(err error) bool {
	f := (*failure)(nil)
	return errors.As(err, &f)
}

// resolve makes the MSPs and the policies, and what follows from them.
func (r *reader) resolve(ctx context.Context, deps Deps, previous *msp.Set) error {
	cfg := r.cfg
	opts := []msp.Option{msp.WithPrevious(previous), msp.WithCacheSize(deps.Identities)}
	if cfg.Capabilities.Channel >= LevelV3_0 {
		opts = append(opts, msp.WithEdwardsKeys())
	}
	var err error
	if cfg.MSPs, err = msp.NewSet(ctx, deps.Verifier, r.msps, opts...); err != nil {
		if token := (*msp.TokenError)(nil); errors.As(err, &token) {
			return &failure{err}
		}
		return err
	}
	if cfg.Policies, err = deps.Engine.Tree(cfg.MSPs, cfg.Proto.GetChannelGroup()); err != nil {
		if !errors.Is(err, policy.ErrInvalid) {
			return &failure{err}
		}
		return err
	}
	for i := range cfg.Organizations {
		o := &cfg.Organizations[i]
		o.TLSRoots, o.TLSIntermediates = cfg.MSPs.TLSRoots(o.MSPID), cfg.MSPs.TLSIntermediates(o.MSPID)
	}
	var all [][]byte
	for i := range cfg.OrdererOrganizations {
		o := &cfg.OrdererOrganizations[i]
		o.TLSRoots, o.TLSIntermediates = cfg.MSPs.TLSRoots(o.MSPID), cfg.MSPs.TLSIntermediates(o.MSPID)
		own := slices.Concat(o.TLSRoots, o.TLSIntermediates)
		all = append(all, own...)
		for _, address := range o.Endpoints {
			cfg.OrdererEndpoints = append(cfg.OrdererEndpoints, OrdererEndpoint{Address: address, MSPID: o.MSPID, TLSRoots: own})
		}
	}
	// As in Fabric, addresses of the channel group count only when no organisation
	// names its own.
	if len(cfg.OrdererEndpoints) == 0 {
		for _, address := range r.addresses {
			cfg.OrdererEndpoints = append(cfg.OrdererEndpoints, OrdererEndpoint{Address: address, TLSRoots: all})
		}
	}
	return nil
}

func groupNames(g *commonpb.ConfigGroup) []string {
	names := make([]string, 0, len(g.GetGroups()))
	for name := range g.GetGroups() {
		names = append(names, name)
	}
	slices.SortFunc(names, strings.Compare)
	return names
}
