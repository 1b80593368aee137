package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"strongroom/appliance/endorser"
	"strongroom/channel/configtx"
	state "strongroom/channel/lifecycle"
	"strongroom/ledger"
	"strongroom/ledger/rwset"
	"strongroom/msp"
	"strongroom/wire/lifecyclepb"
)

// applicationOrgs are the MSPs of the channel's application organisations, sorted.
func applicationOrgs(c *configtx.Config) []msp.ID {
	var out []msp.ID
	for _, org := range c.Organizations {
		out = append(out, org.MSPID)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ranger walks a range of the simulator's or a snapshot's state.
type ranger struct {
	open func(namespace, start, end string) (rwset.KVIterator, error)
}

func (r ranger) Range(namespace, start, end string, each func(key string, value []byte) error) error {
	it, err := r.open(namespace, start, end)
	if err != nil {
		return err
	}
	defer it.Close()
	for {
		kv, err := it.Next()
		if err != nil || kv == nil {
			return err
		}
		if err := each(kv.GetKey(), kv.GetValue()); err != nil {
			return err
		}
	}
}

func (s *Service) queryDefinition(ctx context.Context, call *endorser.Call, args *lifecyclepb.QueryChaincodeDefinitionArgs) (proto.Message, error) {
	d, err := state.ReadDefinition(call.Simulator, args.GetName())
	if errors.Is(err, state.ErrNotDefined) {
		return nil, notFound("namespace %s is not defined", args.GetName())
	}
	if err != nil {
		return nil, fmt.Errorf("could not read the definition of %s: %w", args.GetName(), err)
	}
	orgs, err := comparisons(call, d)
	if err != nil {
		return nil, err
	}
	out := &lifecyclepb.QueryChaincodeDefinitionResult{
		Sequence: d.Sequence, Version: d.Version, EndorsementPlugin: d.EndorsementPlugin, ValidationPlugin: d.ValidationPlugin,
		ValidationParameter: d.ValidationParameter, InitRequired: d.InitRequired, Collections: d.Collections,
		Approvals: make(map[string]bool, len(orgs)),
	}
	for org, c := range orgs {
		out.Approvals[org] = c.Agrees()
	}
	return out, nil
}

func (s *Service) queryAllDefinitions(ctx context.Context, call *endorser.Call, _ *lifecyclepb.QueryChaincodeDefinitionsArgs) (proto.Message, error) {
	names, err := state.Names(ranger{call.Simulator.Range})
	if err != nil {
		return nil, fmt.Errorf("could not list the definitions: %w", err)
	}
	out := &lifecyclepb.QueryChaincodeDefinitionsResult{}
	for _, name := range names {
		d, err := state.ReadDefinition(call.Simulator, name)
		if err != nil {
			return nil, fmt.Errorf("could not read the definition of %s: %w", name, err)
		}
		out.ChaincodeDefinitions = append(out.ChaincodeDefinitions, &lifecyclepb.QueryChaincodeDefinitionsResult_ChaincodeDefinition{
			Name: name, Sequence: d.Sequence, Version: d.Version, EndorsementPlugin: d.EndorsementPlugin, ValidationPlugin: d.ValidationPlugin,
			ValidationParameter: d.ValidationParameter, InitRequired: d.InitRequired, Collections: d.Collections,
		})
	}
	return out, nil
}

// source is where an approved chaincode's package is, for a client.
func source(packageID string) *lifecyclepb.ChaincodeSource {
	if packageID == "" {
		return &lifecyclepb.ChaincodeSource{Type: &lifecyclepb.ChaincodeSource_Unavailable_{Unavailable: &lifecyclepb.ChaincodeSource_Unavailable{}}}
	}
	return &lifecyclepb.ChaincodeSource{Type: &lifecyclepb.ChaincodeSource_LocalPackage{LocalPackage: &lifecyclepb.ChaincodeSource_Local{PackageId: packageID}}}
}

func (s *Service) queryApproved(ctx context.Context, call *endorser.Call, args *lifecyclepb.QueryApprovedChaincodeDefinitionArgs) (proto.Message, error) {
	org, sequence := s.orgState(call.Simulator), args.GetSequence()
	if sequence == 0 { // the latest: of the next sequence, or else of the current one
		current, err := state.ReadSequence(call.Simulator, args.GetName())
		if err != nil {
			return nil, fmt.Errorf("could not get current sequence: %w", err)
		}
		has, err := state.HasApproval(org, args.GetName(), next(current))
		if err != nil {
			return nil, fmt.Errorf("could not look for an approval of sequence %d: %w", next(current), err)
		}
		if sequence = current; has {
			sequence = next(current)
		}
	}
	a, err := state.ReadApproval(org, args.GetName(), sequence)
	if errors.Is(err, state.ErrNotApproved) {
		return nil, fmt.Errorf("could not fetch approved chaincode definition (name: '%s', sequence: '%d') on channel '%s'", args.GetName(), args.GetSequence(), call.ChannelID)
	}
	if err != nil {
		return nil, fmt.Errorf("could not read the approval: %w", err)
	}
	d := &a.Definition
	return &lifecyclepb.QueryApprovedChaincodeDefinitionResult{
		Sequence: sequence, Version: d.Version, EndorsementPlugin: d.EndorsementPlugin, ValidationPlugin: d.ValidationPlugin,
		ValidationParameter: d.ValidationParameter, InitRequired: d.InitRequired, Collections: d.Collections, Source: source(a.PackageID),
	}, nil
}

func (s *Service) queryAllApproved(ctx context.Context, call *endorser.Call, _ *lifecyclepb.QueryApprovedChaincodeDefinitionsArgs) (proto.Message, error) {
	approvals, err := s.approvals(call.Simulator)
	if err != nil {
		return nil, err
	}
	out := &lifecyclepb.QueryApprovedChaincodeDefinitionsResult{}
	for _, a := range approvals {
		d := &a.Definition
		out.ApprovedChaincodeDefinitions = append(out.ApprovedChaincodeDefinitions, &lifecyclepb.QueryApprovedChaincodeDefinitionsResult_ApprovedChaincodeDefinition{
			Name: d.Name, Sequence: d.Sequence, Version: d.Version, EndorsementPlugin: d.EndorsementPlugin, ValidationPlugin: d.ValidationPlugin,
			ValidationParameter: d.ValidationParameter, InitRequired: d.InitRequired, Collections: d.Collections, Source: source(a.PackageID),
		})
	}
	return out, nil
}

// approvals are all that this organisation approved, in the order of their keys.
func (s *Service) approvals(sim *ledger.Simulator) ([]*state.Approval, error) {
	const prefix = "namespaces/metadata/"
	collection := state.ImplicitCollection(string(s.cfg.MSPID))
	walk := ranger{func(namespace, start, end string) (rwset.KVIterator, error) {
		return sim.RangePrivate(namespace, collection, start, end)
	}}
	var keys []string
	err := walk.Range(state.Namespace, prefix, prefix[:len(prefix)-1]+"0", func(key string, _ []byte) error {
		keys = append(keys, strings.TrimPrefix(key, prefix))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("could not list the approvals: %w", err)
	}
	org := s.orgState(sim)
	var out []*state.Approval
	for _, key := range keys {
		name, digits, ok := strings.Cut(key, "#")
		sequence, err := strconv.ParseInt(digits, 10, 64)
		if !ok || err != nil {
			continue // not an approval's key
		}
		a, err := state.ReadApproval(org, name, sequence)
		if err != nil {
			return nil, fmt.Errorf("could not read the approval of %s at sequence %d: %w", name, sequence, err)
		}
		out = append(out, a)
	}
	return out, nil
}
