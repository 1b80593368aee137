package lifecycle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/proto"

	"strongroom/acl/validation"
	"strongroom/appliance/endorser"
	"strongroom/appliance/rpcerr"
	"strongroom/channel/configtx"
	state "strongroom/channel/lifecycle"
	"strongroom/ledger"
	"strongroom/wire/lifecyclepb"
	"strongroom/wire/peerpb"
)

// parameters are what the arguments of approving, checking and committing share.
type parameters interface {
	GetSequence() int64
	GetName() string
	GetVersion() string
	GetEndorsementPlugin() string
	GetValidationPlugin() string
	GetValidationParameter() []byte
	GetCollections() *peerpb.CollectionConfigPackage
	GetInitRequired() bool
}

func definitionOf(p parameters) *state.Definition {
	return &state.Definition{
		Name: p.GetName(), Sequence: p.GetSequence(), Version: p.GetVersion(), InitRequired: p.GetInitRequired(),
		EndorsementPlugin: p.GetEndorsementPlugin(), ValidationPlugin: p.GetValidationPlugin(),
		ValidationParameter: p.GetValidationParameter(), Collections: p.GetCollections(),
	}
}

// setDefaults fills what a definition leaves open, as Fabric does, and refuses
// what nothing here could honour.
func setDefaults(call *endorser.Call, d *state.Definition) error {
	if d.EndorsementPlugin == "" {
		d.EndorsementPlugin = state.EndorsementPlugin
	}
	if d.ValidationPlugin == "" {
		d.ValidationPlugin = state.ValidationPlugin
	}
	if d.ValidationPlugin == validation.Plugin {
		return checkValidationRules(call, d)
	}
	if len(d.ValidationParameter) > 0 {
		return nil
	}
	if _, err := call.Config.Policies.Policy(defaultPolicy); err != nil {
		return fmt.Errorf("could not set defaults for chaincode definition in channel %s: policy '%s' must be defined for channel '%s' before chaincode operations can be attempted", call.ChannelID, defaultPolicy, call.ChannelID)
	}
	param, err := proto.Marshal(&peerpb.ApplicationPolicy{Type: &peerpb.ApplicationPolicy_ChannelConfigPolicyReference{ChannelConfigPolicyReference: defaultPolicy}})
	if err != nil {
		return fmt.Errorf("default endorsement policy: %w", err)
	}
	d.ValidationParameter = param
	return nil
}

// checkValidationRules refuses to agree on validation rules that every peer would deny
// by, or that this one could not evaluate.
func checkValidationRules(call *endorser.Call, d *state.Definition) error {
	if !call.Config.Capabilities.Rego {
		return fmt.Errorf("validation plugin '%s' needs the application capability %s, which channel %s does not have: Fabric's own peers would stop at the chaincode's first transaction", validation.Plugin, configtx.RegoCapability, call.ChannelID)
	}
	if _, err := validation.Parse(d.ValidationParameter); err != nil {
		return fmt.Errorf("validation parameter of chaincode '%s': %w", d.Name, err)
	}
	return nil
}

// checkInput applies the rules on names and collections. Its reads of the state are
// Fabric's: the committed definition and, without one, lscc.
func (s *Service) checkInput(call *endorser.Call, p parameters) error {
	if err := checkName(p.GetName()); err != nil {
		return err
	}
	if err := checkVersion(p.GetVersion()); err != nil {
		return err
	}
	if err := checkCollections(call.Config.MSPs, p.GetCollections(), nil); err != nil {
		return err
	}
	committed, err := state.ReadDefinition(call.Simulator, p.GetName())
	if errors.Is(err, state.ErrNotDefined) {
		_, err := call.Simulator.Get(lscc, p.GetName())
		return err
	}
	if err != nil {
		return fmt.Errorf("could not retrieve committed definition for chaincode '%s': %w", p.GetName(), err)
	}
	return checkCollections(call.Config.MSPs, p.GetCollections(), committed.Collections)
}

func (s *Service) approve(ctx context.Context, call *endorser.Call, args *lifecyclepb.ApproveChaincodeDefinitionForMyOrgArgs) (proto.Message, error) {
	if err := s.checkInput(call, args); err != nil {
		return nil, fmt.Errorf("error validating chaincode definition: %w", err)
	}
	d := definitionOf(args)
	packageID := args.GetSource().GetLocalPackage().GetPackageId()
	current, err := state.ReadSequence(call.Simulator, d.Name)
	if err != nil {
		return nil, fmt.Errorf("could not get current sequence: %w", err)
	}
	switch {
	case d.Sequence <= 0 && current == 0:
		return nil, fmt.Errorf("requested sequence is %d, but first definable sequence number is 1", d.Sequence)
	case d.Sequence < current:
		return nil, fmt.Errorf("currently defined sequence %d is larger than requested sequence %d", current, d.Sequence)
	case d.Sequence > next(current):
		return nil, fmt.Errorf("requested sequence %d is larger than the next available sequence number %d", d.Sequence, next(current))
	}
	if err := setDefaults(call, d); err != nil {
		return nil, err
	}
	if d.Sequence == current {
		committed, err := state.ReadDefinition(call.Simulator, d.Name)
		if err != nil {
			return nil, fmt.Errorf("could not read the current definition: %w", err)
		}
		if what := difference(committed, d); what != "" {
			return nil, fmt.Errorf("attempted to redefine the current committed sequence (%d) for namespace %s with different parameters: %s", current, d.Name, what)
		}
	}
	same, err := s.unchanged(call.Simulator, d, packageID)
	if err != nil {
		return nil, err
	}
	if same && d.Sequence == current {
		return nil, fmt.Errorf("attempted to redefine the current committed sequence (%d) for namespace %s", current, d.Name)
	}
	if same {
		return nil, fmt.Errorf("attempted to redefine uncommitted sequence (%d) for namespace %s with unchanged content", d.Sequence, d.Name)
	}
	if err := state.WriteApproval(s.orgState(call.Simulator), &state.Approval{Definition: *d, PackageID: packageID}); err != nil {
		return nil, fmt.Errorf("could not write the approval: %w", err)
	}
	return &lifecyclepb.ApproveChaincodeDefinitionForMyOrgResult{}, nil
}

func next(sequence int64) int64 {
	if sequence == math.MaxInt64 {
		return sequence
	}
	return sequence + 1
}

// unchanged tells whether this organisation has approved just that already. Its
// reads are those of Fabric's isAttemptToRedefine: an approval of other parameters
// is left before the package is read.
func (s *Service) unchanged(sim *ledger.Simulator, d *state.Definition, packageID string) (bool, error) {
	before, err := state.ReadApproval(s.orgState(sim), d.Name, d.Sequence)
	if errors.Is(err, state.ErrNotApproved) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("could not read the approval of %s at sequence %d: %w", d.Name, d.Sequence, err)
	}
	return before.Definition.SameParameters(d) && before.PackageID == packageID, nil
}

func (s *Service) orgState(sim *ledger.Simulator) state.Writer {
	return state.OrgState(sim, string(s.cfg.MSPID))
}

// difference names the first part in which two definitions differ, "" if none.
func difference(a, b *state.Definition) string {
	switch {
	case a.Version != b.Version:
		return fmt.Sprintf("Version '%s' != '%s'", a.Version, b.Version)
	case a.EndorsementPlugin != b.EndorsementPlugin:
		return fmt.Sprintf("EndorsementPlugin '%s' != '%s'", a.EndorsementPlugin, b.EndorsementPlugin)
	case a.InitRequired != b.InitRequired:
		return fmt.Sprintf("InitRequired '%t' != '%t'", a.InitRequired, b.InitRequired)
	case a.ValidationPlugin != b.ValidationPlugin:
		return fmt.Sprintf("ValidationPlugin '%s' != '%s'", a.ValidationPlugin, b.ValidationPlugin)
	case !bytes.Equal(a.ValidationParameter, b.ValidationParameter):
		return fmt.Sprintf("ValidationParameter '%x' != '%x'", a.ValidationParameter, b.ValidationParameter)
	case !a.SameParameters(b):
		return "Collections do not match"
	}
	return ""
}

// hashes is a simulator's private state by its hashes.
type hashes struct{ sim *ledger.Simulator }

func (h hashes) PrivateHash(namespace, collection, key string) ([]byte, error) {
	return h.sim.GetPrivateHash(namespace, collection, key)
}

// comparisons compares a definition with what each of the channel's organisations
// approved, by the hashes in their implicit collections.
func comparisons(call *endorser.Call, d *state.Definition) (map[string]state.Comparison, error) {
	out := make(map[string]state.Comparison)
	for _, org := range applicationOrgs(call.Config) {
		c, err := state.Compare(hashes{call.Simulator}, string(org), d)
		if err != nil {
			return nil, fmt.Errorf("approval of organisation %q: %w", org, err)
		}
		out[string(org)] = c
	}
	return out, nil
}

// readiness checks that a definition is the next one, and who approved it.
func readiness(call *endorser.Call, d *state.Definition) (map[string]state.Comparison, error) {
	current, err := state.ReadSequence(call.Simulator, d.Name)
	if err != nil {
		return nil, fmt.Errorf("could not get current sequence: %w", err)
	}
	if d.Sequence != next(current) {
		return nil, fmt.Errorf("requested sequence is %d, but new definition must be sequence %d", d.Sequence, next(current))
	}
	if err := setDefaults(call, d); err != nil {
		return nil, err
	}
	return comparisons(call, d)
}

func (s *Service) checkReadiness(ctx context.Context, call *endorser.Call, args *lifecyclepb.CheckCommitReadinessArgs) (proto.Message, error) {
	orgs, err := readiness(call, definitionOf(args))
	if err != nil {
		return nil, err
	}
	out := &lifecyclepb.CheckCommitReadinessResult{Approvals: map[string]bool{}, Mismatches: map[string]*lifecyclepb.CheckCommitReadinessResult_Mismatches{}}
	for org, c := range orgs {
		out.Approvals[org] = c.Agrees()
		if !c.Agrees() {
			out.Mismatches[org] = &lifecyclepb.CheckCommitReadinessResult_Mismatches{Items: mismatches(c)}
		}
	}
	return out, nil
}

// mismatches are the parts of an approval that differ, in the words of `peer
// lifecycle chaincode checkcommitreadiness --inspect`.
func mismatches(c state.Comparison) []string {
	if !c.Approved {
		return []string{"ChaincodeParameters (Check the Sequence, ChaincodeName)"}
	}
	var items []string
	if !c.EndorsementInfo {
		items = append(items, "EndorsementInfo (Check the Version, InitRequired, EndorsementPlugin)")
	}
	if !c.ValidationInfo {
		items = append(items, "ValidationInfo (Check the ValidationPlugin, ValidationParameter)")
	}
	if !c.Collections {
		items = append(items, "Collections (Check the Collections)")
	}
	return items
}

func (s *Service) commit(ctx context.Context, call *endorser.Call, args *lifecyclepb.CommitChaincodeDefinitionArgs) (proto.Message, error) {
	if err := s.checkInput(call, args); err != nil {
		return nil, fmt.Errorf("error validating chaincode definition: %w", err)
	}
	d := definitionOf(args)
	orgs, err := readiness(call, d)
	if err != nil {
		return nil, err
	}
	mine, ok := orgs[string(s.cfg.MSPID)]
	if !ok {
		return nil, fmt.Errorf("organisation %q of this peer is no member of channel %q: ask a peer of a member", s.cfg.MSPID, call.ChannelID)
	}
	if err := state.WriteDefinition(call.Simulator, d); err != nil {
		return nil, fmt.Errorf("could not write the definition: %w", err)
	}
	if !mine.Agrees() {
		return nil, fmt.Errorf("chaincode definition not agreed to by this org (%s)", s.cfg.MSPID)
	}
	s.cfg.Logger.InfoContext(ctx, "endorsing the commit of a chaincode definition", "channel", call.ChannelID, "chaincode", d.Name, "version", d.Version, "sequence", d.Sequence)
	return &lifecyclepb.CommitChaincodeDefinitionResult{}, nil
}

func notFound(format string, args ...any) error {
	return &missing{text: fmt.Sprintf(format, args...)}
}

// missing is an rpcerr.ErrNotFound with a text of its own, which Fabric's clients know.
type missing struct{ text string }

func (m *missing) Error() string        { return m.text }
func (m *missing) Is(target error) bool { return target == rpcerr.ErrNotFound }
