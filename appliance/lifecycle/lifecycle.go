// Package lifecycle is the system chaincode `_lifecycle`: it installs chaincode
// packages on this peer, records what this organisation approves, and commits
// definitions on a channel, with the rules, the read/write sets and the answers of
// a Hyperledger Fabric 3.1 peer. It also tells the endorser which package runs a
// chaincode.
//
// The state's layout is in channel/lifecycle; here are the rules around it. Only
// chaincode that runs as a service is installed: this peer builds and starts nothing.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"strongroom/acl"
	"strongroom/appliance/endorser"
	"strongroom/appliance/rpcerr"
	"strongroom/channel/configtx"
	state "strongroom/channel/lifecycle"
	"strongroom/ledger"
	"strongroom/ledger/auditlog"
	"strongroom/ledger/selector"
	"strongroom/msp"
	"strongroom/wire/lifecyclepb"
	"strongroom/wire/peerpb"
)

// Names of the channel's policies that lifecycle refers to.
const defaultPolicy = "/Channel/Application/Endorsement"

// lscc is Fabric's namespace for chaincode of the first lifecycle. Nothing is ever
// in it on a channel of ours, but Fabric reads it, and so the read set has it.
const lscc = "lscc"

// Access decides who may call a function. *acl.Guard is one.
type Access interface {
	Check(ctx context.Context, cfg *configtx.Config, r acl.Request) (acl.Decision, error)
}

// Channel is a joined channel as lifecycle uses it.
type Channel interface {
	Config() *configtx.Config
	Ledger() *ledger.Ledger
}

// Config is what a Service needs.
type Config struct {
	MSPID    msp.ID   // this peer's organisation, whose approvals it records
	LocalMSP *msp.Set // of that organisation: who may call what concerns the peer alone
	Access   Access
	// Channels lists the ids of the joined channels, and Channel finds one.
	Channels func() []string
	Channel  func(channelID string) (Channel, bool)
	Packages PackageStore
	Services Services
	Logger   *slog.Logger
	Trail    auditlog.Trail // records installations, approvals and commits; nil for none
}

// Validate names the field that is missing.
func (c *Config) Validate() error {
	switch {
	case c.MSPID == "":
		return errors.New("lifecycle: MSPID is missing: name this peer's organisation")
	case c.LocalMSP == nil:
		return errors.New("lifecycle: LocalMSP is missing: load this organisation's MSP")
	case c.Access == nil:
		return errors.New("lifecycle: Access is missing")
	case c.Channels == nil || c.Channel == nil:
		return errors.New("lifecycle: Channels or Channel is missing")
	case c.Packages == nil:
		return errors.New("lifecycle: Packages is missing: open a Folder")
	case c.Services == nil:
		return errors.New("lifecycle: Services is missing: give the chaincode host")
	}
	return nil
}

// Service is `_lifecycle`. It is safe for concurrent use.
type Service struct {
	cfg Config

	installing sync.Mutex // one installation at a time

	mu        sync.Mutex // guards what follows
	installed map[string]Installed
	indexes   map[string][]*selector.Index // of each installed package
	changed   chan struct{}                // closed and replaced when a package was installed
	runnable  map[runnableKey]*runnableEntry
}

var (
	_ endorser.Simulated   = (*Service)(nil)
	_ endorser.Definitions = (*Service)(nil)
)

// Open makes a Service, and names to the chaincode host the services of all
// packages that are installed.
func Open(ctx context.Context, cfg Config) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{cfg: cfg, installed: make(map[string]Installed), indexes: make(map[string][]*selector.Index),
		changed: make(chan struct{}), runnable: make(map[runnableKey]*runnableEntry)}
	ids, err := cfg.Packages.IDs(ctx)
	if err != nil {
		return nil, fmt.Errorf("installed chaincode packages: %w", err)
	}
	for _, id := range ids {
		if err := s.start(ctx, id); err != nil {
			return nil, fmt.Errorf("installed chaincode package %q: %w", id, err)
		}
	}
	return s, nil
}

// Name is "_lifecycle".
func (s *Service) Name() string { return state.Namespace }

// Simulated marks that its calls read and write the channel's state.
func (s *Service) Simulated() {}

// function is one of the chaincode's functions. channel says that it needs one.
type function struct {
	channel bool
	run     func(s *Service, ctx context.Context, call *endorser.Call, input []byte) (proto.Message, error)
}

// handle makes a function of one that takes its decoded arguments.
func handle[Args any, P interface {
	*Args
	proto.Message
}](channel bool, run func(s *Service, ctx context.Context, call *endorser.Call, args P) (proto.Message, error)) function {
	return function{channel: channel, run: func(s *Service, ctx context.Context, call *endorser.Call, input []byte) (proto.Message, error) {
		args := P(new(Args))
		if err := proto.Unmarshal(input, args); err != nil {
			return nil, fmt.Errorf("could not decode input arg for %s: %w", call.Function(), err)
		}
		return run(s, ctx, call, args)
	}}
}

var functions = map[string]function{
	"InstallChaincode":                   handle[lifecyclepb.InstallChaincodeArgs](false, (*Service).install),
	"QueryInstalledChaincode":            handle[lifecyclepb.QueryInstalledChaincodeArgs](false, (*Service).queryInstalled),
	"QueryInstalledChaincodes":           handle[lifecyclepb.QueryInstalledChaincodesArgs](false, (*Service).queryAllInstalled),
	"GetInstalledChaincodePackage":       handle[lifecyclepb.GetInstalledChaincodePackageArgs](false, (*Service).getPackage),
	"ApproveChaincodeDefinitionForMyOrg": handle[lifecyclepb.ApproveChaincodeDefinitionForMyOrgArgs](true, (*Service).approve),
	"QueryApprovedChaincodeDefinition":   handle[lifecyclepb.QueryApprovedChaincodeDefinitionArgs](true, (*Service).queryApproved),
	"QueryApprovedChaincodeDefinitions":  handle[lifecyclepb.QueryApprovedChaincodeDefinitionsArgs](true, (*Service).queryAllApproved),
	"CheckCommitReadiness":               handle[lifecyclepb.CheckCommitReadinessArgs](true, (*Service).checkReadiness),
	"CommitChaincodeDefinition":          handle[lifecyclepb.CommitChaincodeDefinitionArgs](true, (*Service).commit),
	"QueryChaincodeDefinition":           handle[lifecyclepb.QueryChaincodeDefinitionArgs](true, (*Service).queryDefinition),
	"QueryChaincodeDefinitions":          handle[lifecyclepb.QueryChaincodeDefinitionsArgs](true, (*Service).queryAllDefinitions),
}

// Functions lists the functions' names, sorted.
func Functions() []string {
	names := make([]string, 0, len(functions))
	for name := range functions {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Invoke answers a call: the function's name and one message of its arguments.
func (s *Service) Invoke(ctx context.Context, call *endorser.Call) (*peerpb.Response, error) {
	switch len(call.Args) {
	case 0:
		return endorser.Failure("lifecycle scc must be invoked with arguments"), nil
	case 2:
	default:
		return endorser.Failure("lifecycle scc operations require exactly two arguments but received %d", len(call.Args)), nil
	}
	name := call.Function()
	f, ok := functions[name]
	if !ok {
		return endorser.Failure("unknown lifecycle function %q: known are %v", name, Functions()), nil
	}
	if f.channel && (call.Config == nil || call.Simulator == nil) {
		return endorser.Failure("lifecycle function %s works on a channel: name one in the proposal", name), nil
	}
	if refused, err := s.allowed(ctx, call); refused != nil || err != nil {
		return refused, err
	}

	var out proto.Message
	run := func() (err error) {
		out, err = f.run(s, ctx, call, call.Args[1])
		return err
	}
	err := error(nil)
	if act := actOf(call); act != nil {
		err = auditlog.Do(ctx, s.cfg.Trail, *act, run)
	} else {
		err = run()
	}
	switch {
	case errors.Is(err, rpcerr.ErrNotFound):
		return &peerpb.Response{Status: 404, Message: err.Error()}, nil
	case err != nil:
		return endorser.Failure("failed to invoke backing implementation of '%s': %s", name, err), nil
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("result of %s: %w", name, err)
	}
	return endorser.Success(payload), nil
}

// allowed asks the guard. It returns a response if it denied. What concerns the
// peer alone is for its own organisation, as its local MSP knows it, even when a
// channel is named (Fabric's core/aclmgmt).
func (s *Service) allowed(ctx context.Context, call *endorser.Call) (*peerpb.Response, error) {
	name, caller, cfg := call.Function(), call.Creator, call.Config
	resource := acl.Resource(state.Namespace + "/" + name)
	refuse := func(decision string, err error) *peerpb.Response {
		if decision == "none" { // else the guard has logged it
			s.cfg.Logger.WarnContext(ctx, "lifecycle call refused", "function", name, "channel", call.ChannelID, "creator", call.Creator.String(), "error", err)
		}
		return endorser.Failure("Failed to authorize invocation due to failed ACL check: access denied (decision %s)", decision)
	}
	if resource.Local() {
		id, err := s.cfg.LocalMSP.Identity(ctx, caller.Serialized)
		if msp.IsInvalid(err) {
			return refuse("none", err), nil
		}
		if err != nil {
			return nil, fmt.Errorf("creator's identity: %w", err)
		}
		caller, cfg = id, nil
	}
	decision, err := s.cfg.Access.Check(ctx, cfg, acl.Request{
		Resource: resource, Channel: call.ChannelID, Chaincode: state.Namespace, Function: name, Args: call.Parameters(), Caller: caller, RemoteAddr: call.RemoteAddr,
		TLSCertHash: call.TLSCertHash,
	})
	if errors.Is(err, acl.ErrDenied) {
		return refuse(decision.ID, err), nil
	}
	if err != nil {
		return nil, fmt.Errorf("access to %s: %w", name, err)
	}
	return nil, nil
}
