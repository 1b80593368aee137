package endorser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"google.golang.org/grpc/codes"

	"strongroom/acl"
	"strongroom/appliance/rpcerr"
	"strongroom/chaincode"
	"strongroom/ledger"
	"strongroom/wire"
	"strongroom/wire/peerpb"
)

// initializedKey holds, in a chaincode's namespace, the version whose Init ran
// (Fabric's core/chaincode InitializedKeyName).
var initializedKey = "\x00" + string(utf8.MaxRune) + "initialized"

// simulateAndEndorse answers an admitted proposal. What goes wrong from here on is
// in the response; only a context that ended is an error of the call.
func (e *Endorser) simulateAndEndorse(ctx context.Context, r *request, o *Observation) (*peerpb.ProposalResponse, error) {
	p := r.proposal
	name := p.ChaincodeID.GetName()
	var sim *ledger.Simulator
	if r.channel != nil && e.needsSimulator(name) {
		var err error
		if sim, err = r.channel.Ledger().NewSimulator(p.TxID()); err != nil {
			return nil, fmt.Errorf("simulator for %s: %w", p.TxID(), err)
		}
		defer sim.Done()
	}
	start := e.cfg.Now()
	done, refusal, err := e.simulate(ctx, r, sim)
	o.Simulation = e.cfg.Now().Sub(start)
	if err != nil {
		return nil, err
	}
	if refusal != "" {
		e.cfg.Logger.WarnContext(ctx, "proposal not simulated", "channel", p.ChannelID(), "chaincode", name, "tx", p.TxID(), "error", refusal)
		return failure(refusal), nil
	}
	return e.endorse(ctx, r, sim, done, o)
}

func (e *Endorser) needsSimulator(name string) bool {
	if s := e.system[name]; s != nil {
		_, ok := s.(Simulated)
		return ok
	}
	return true
}

// simulated is what a simulation led to.
type simulated struct {
	id       *peerpb.ChaincodeID
	response *peerpb.Response
	event    *peerpb.ChaincodeEvent // nil without one
	results  results
}

// simulate runs the chaincode. A refusal is a text for the client; an error is of
// the call: access that a system chaincode refused, or a context that ended.
func (e *Endorser) simulate(ctx context.Context, r *request, sim *ledger.Simulator) (s *simulated, refusal string, err error) {
	p := r.proposal
	s = &simulated{id: &peerpb.ChaincodeID{Name: p.ChaincodeID.GetName(), Version: SystemVersion}}
	if system := e.system[s.id.Name]; system != nil {
		s.response, err = system.Invoke(ctx, r.call(sim, p.Input.GetArgs()))
		if err != nil {
			if ctx.Err() != nil || rpcerr.Code(err) == codes.PermissionDenied {
				return nil, "", err
			}
			e.cfg.Logger.ErrorContext(ctx, "system chaincode failed", "chaincode", s.id.Name, "function", r.call(nil, p.Input.GetArgs()).Function(), "error", err)
			return nil, "error in simulation: the peer failed: its log says why", nil
		}
	} else {
		run, err := e.cfg.Definitions.Runnable(ctx, p.ChannelID(), s.id.Name, sim)
		if err != nil {
			return nil, fmt.Sprintf("make sure the chaincode %s has been successfully defined on channel %s and try again: %s", s.id.Name, p.ChannelID(), err), nil
		}
		if run.Plugin != "" && run.Plugin != "escc" {
			return nil, fmt.Sprintf("endorsing with plugin failed: plugin %q is unknown: define the chaincode with escc", run.Plugin), nil
		}
		s.id.Version = run.Version
		outcome, err := e.execute(ctx, r, run, sim)
		if err != nil {
			if ctxErr := ctx.Err(); errors.Is(ctxErr, context.Canceled) {
				return nil, "", ctxErr
			}
			return nil, fmt.Sprintf("error in simulation: failed to execute transaction %s: %s", p.TxID(), err), nil
		}
		s.response, s.event = outcome.Response, outcome.Event
	}
	if s.response == nil {
		return nil, fmt.Sprintf("error in simulation: chaincode %s gave no response", s.id.Name), nil
	}
	if s.response.GetStatus() >= statusThreshold {
		s.event = nil
	}
	if sim == nil {
		return s, "", nil
	}
	if err := s.results.take(sim); err != nil {
		e.cfg.Logger.ErrorContext(ctx, "simulation has no results", "tx", p.TxID(), "error", err)
		return nil, "error in simulation: the read/write set cannot be built: " + err.Error(), nil
	}
	return s, "", nil
}

// execute runs a chaincode in the host, with the rules on its initialisation.
func (e *Endorser) execute(ctx context.Context, r *request, run Runnable, sim *ledger.Simulator) (*chaincode.Outcome, error) {
	p := r.proposal
	name := p.ChaincodeID.GetName()
	if err := checkInit(sim, name, run, p.Input.GetIsInit()); err != nil {
		return nil, err
	}
	return e.cfg.Chaincodes.Execute(withRequest(ctx, r), chaincode.Invocation{
		ChannelID: p.ChannelID(), TxID: p.TxID(), Namespace: name, PackageID: run.PackageID,
		Input: p.Input, Proposal: r.signed, IsInit: p.Input.GetIsInit(), State: sim,
	})
}

// checkInit applies Fabric's rules (core/chaincode, CheckInvocation), whose reads
// and writes are part of the transaction.
func checkInit(sim *ledger.Simulator, name string, run Runnable, isInit bool) error {
	needs := false
	if run.InitRequired {
		version, err := sim.Get(name, initializedKey)
		if err != nil {
			return fmt.Errorf("could not get 'initialized' key: %w", err)
		}
		needs = !bytes.Equal(version, []byte(run.Version))
	}
	switch {
	case isInit && !run.InitRequired:
		return fmt.Errorf("chaincode '%s' does not require initialization but called as init", name)
	case isInit && !needs:
		return fmt.Errorf("chaincode '%s' is already initialized but called as init", name)
	case isInit:
		if err := sim.Put(name, initializedKey, []byte(run.Version)); err != nil {
			return fmt.Errorf("could not set 'initialized' key: %w", err)
		}
	case needs:
		return fmt.Errorf("chaincode '%s' has not been initialized for this version, must call as init first", name)
	}
	return nil
}

// endorse turns a simulation into the answer: signed, if its status allows it.
func (e *Endorser) endorse(ctx context.Context, r *request, sim *ledger.Simulator, s *simulated, o *Observation) (*peerpb.ProposalResponse, error) {
	p, status := r.proposal, s.response.GetStatus()
	switch {
	case r.channel == nil && status < statusError:
		o.Stage = StageUnendorsed
		return &peerpb.ProposalResponse{Response: s.response}, nil
	case status >= statusThreshold && status < statusError:
		o.Stage = StageRejected
		return &peerpb.ProposalResponse{Response: s.response}, nil
	}
	event, err := marshalEvent(s.event)
	if err != nil {
		return failure("failed to marshal chaincode event: " + err.Error()), nil
	}
	payload, err := marshalPayload(p.Hash, s.response, s.results.public, event, s.id)
	if err != nil {
		return failure("failed to create the proposal response: " + err.Error()), nil
	}
	set, err := s.results.parse()
	if err != nil {
		return nil, fmt.Errorf("our own read/write set of %s: %w", p.TxID(), err)
	}
	interest, err := e.interest(sim, set)
	if err != nil {
		return nil, fmt.Errorf("interest of %s: %w", p.TxID(), err)
	}
	if status >= statusError {
		o.Stage = StageRejected
		return &peerpb.ProposalResponse{Response: s.response, Payload: payload, Interest: interest}, nil
	}
	if refusal := e.veto(ctx, r, s, set); refusal != "" {
		o.Stage = StageVetoed
		return failure(refusal), nil
	}
	if s.results.private != nil {
		if err := r.channel.Ledger().KeepPrivate(p.TxID(), s.results.private); err != nil {
			return nil, fmt.Errorf("keep the private data of %s: %w", p.TxID(), err)
		}
	}
	identity := e.cfg.Identity.Current()
	signature, err := identity.SignEndorsement(ctx, payload, identity.Serialized)
	if err != nil {
		o.Stage = StageUnsigned
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		e.cfg.Logger.ErrorContext(ctx, "the token did not sign an endorsement", "tx", p.TxID(), "error", err)
		return failure("endorsing failed: the peer's token did not sign"), nil
	}
	o.Stage = StageEndorsed
	return &peerpb.ProposalResponse{
		Version: 1, Response: s.response, Payload: payload, Interest: interest,
		Endorsement: &peerpb.Endorsement{Endorser: identity.Serialized, Signature: signature},
	}, nil
}

// veto asks the endorsement guard. It returns the text for the client, "" to go on.
func (e *Endorser) veto(ctx context.Context, r *request, s *simulated, set *wire.ReadWriteSet) string {
	if e.cfg.Guard == nil {
		return ""
	}
	p := r.proposal
	err := e.cfg.Guard.MayEndorse(ctx, &Result{
		ChannelID: p.ChannelID(), TxID: p.TxID(), Chaincode: s.id, Args: p.Input.GetArgs(),
		Transient: slices.Sorted(maps.Keys(p.Transient)), Creator: r.creator, RemoteAddr: r.remote,
		Response: s.response, Event: s.event, ReadWriteSet: set, Private: s.results.private,
	})
	if err == nil {
		return ""
	}
	var refusal *rpcerr.Refusal
	if errors.As(err, &refusal) { // the guard has logged it
		return "endorsement refused: " + refusal.Error()
	}
	e.cfg.Logger.WarnContext(ctx, "endorsement vetoed", "channel", p.ChannelID(), "chaincode", s.id.Name, "tx", p.TxID(), "error", err)
	return "endorsement refused by this peer's endorsement policy"
}

// call is a proposal as a system chaincode sees it.
func (r *request) call(sim *ledger.Simulator, args [][]byte) *Call {
	return &Call{
		ChannelID: r.proposal.ChannelID(), TxID: r.proposal.TxID(), Args: args, Proposal: r.proposal,
		Creator: r.creator, Config: r.config, Simulator: sim,
		RemoteAddr: r.remote, TLSCertHash: r.tlsHash,
	}
}

type requestKey struct{}

func withRequest(ctx context.Context, r *request) context.Context {
	return context.WithValue(ctx, requestKey{}, r)
}

// Resolve is a chaincode.Resolver: it decides on a call from chaincode to
// chaincode within a proposal that this Endorser is simulating.
func (e *Endorser) Resolve(ctx context.Context, caller *chaincode.Invocation, name string, _ *peerpb.ChaincodeInput) (chaincode.Target, error) {
	r, ok := ctx.Value(requestKey{}).(*request)
	if !ok {
		return chaincode.Target{}, errors.New("chaincode may be called within a proposal only")
	}
	sim, err := simulatorOf(caller.State)
	if err != nil {
		return chaincode.Target{}, err
	}
	if system := e.system[name]; system != nil {
		if _, ok := system.(Simulated); !ok {
			return chaincode.Target{}, fmt.Errorf("system chaincode %s cannot be called from another chaincode: call it in a proposal", name)
		}
		return chaincode.Target{System: func(ctx context.Context, inv chaincode.Invocation) (*peerpb.Response, error) {
			call := r.call(sim, inv.Input.GetArgs())
			call.Nested = true
			return system.Invoke(ctx, call)
		}}, nil
	}
	args := [][]byte(nil)
	if caller.Input != nil {
		args = caller.Input.GetArgs()
	}
	if err := e.access(ctx, r, acl.ResourceChaincodeToChaincode, name, args); err != nil {
		e.cfg.Logger.WarnContext(ctx, "call from chaincode to chaincode refused", "caller", caller.Namespace, "chaincode", name, "error", rpcerr.Detail(err))
		return chaincode.Target{}, err
	}
	run, err := e.cfg.Definitions.Runnable(ctx, caller.ChannelID, name, sim)
	if err != nil {
		return chaincode.Target{}, fmt.Errorf("make sure the chaincode %s has been successfully defined on channel %s and try again: %w", name, caller.ChannelID, err)
	}
	if err := checkInit(sim, name, run, false); err != nil {
		return chaincode.Target{}, err
	}
	return chaincode.Target{PackageID: run.PackageID}, nil
}
