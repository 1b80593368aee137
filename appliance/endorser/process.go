package endorser

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"strongroom/acl"
	"strongroom/appliance/rpcerr"
	"strongroom/bccsp"
	"strongroom/channel/configtx"
	"strongroom/msp"
	"strongroom/ordering/deliver"
	"strongroom/wire"
	"strongroom/wire/msppb"
	"strongroom/wire/peerpb"
)

// request is one proposal on its way.
type request struct {
	signed   *peerpb.SignedProposal
	proposal *wire.Proposal
	channel  Channel          // nil without channel
	config   *configtx.Config // of the channel, as it was when the proposal came; nil without channel
	creator  *msp.Identity
	remote   string
	tlsHash  []byte
}

// process takes a proposal through all stages. An error is one of the gRPC call.
func (e *Endorser) process(ctx context.Context, signed *peerpb.SignedProposal, remote string, o *Observation) (*peerpb.ProposalResponse, error) {
	o.Stage = StageMalformed
	if size := len(signed.GetProposalBytes()); size > e.cfg.MaxProposalBytes {
		return nil, rpcerr.Malformed("SignedProposal.proposal_bytes has %d bytes: this peer takes at most %d", size, e.cfg.MaxProposalBytes)
	}
	p, err := wire.ParseSignedProposal(signed)
	if err != nil {
		return nil, rpcerr.Malformed("%s", err)
	}
	r := &request{signed: signed, proposal: p, remote: remote, tlsHash: deliver.PeerCertificateHash(ctx)}
	o.Channel, o.Chaincode = p.ChannelID(), p.ChaincodeID.GetName()
	if p.ChannelID() != "" {
		ch, ok := e.cfg.Channels(p.ChannelID())
		if !ok {
			return failure(fmt.Sprintf("channel '%s' not found", p.ChannelID())), nil
		}
		r.channel, r.config = ch, ch.Config()
	} else if e.system[p.ChaincodeID.GetName()] == nil {
		return nil, rpcerr.Malformed("ChannelHeader.channel_id is empty: chaincode %q is called on a channel", p.ChaincodeID.GetName())
	}

	o.Stage = StageRefused
	if err := e.admit(ctx, r); err != nil {
		return nil, err
	}
	o.Stage = StageFailed
	return e.simulateAndEndorse(ctx, r, o)
}

// admit checks who proposes and whether it may.
func (e *Endorser) admit(ctx context.Context, r *request) error {
	if err := e.identify(ctx, r); err != nil {
		return err
	}
	p := r.proposal
	if r.channel == nil {
		return nil // the system chaincode checks the access itself
	}
	if !e.IsSystem(p.ChaincodeID.GetName()) {
		if err := e.access(ctx, r, acl.ResourceProposePropose, p.ChaincodeID.GetName(), p.Input.GetArgs()); err != nil {
			return err
		}
	}
	known, err := r.channel.Ledger().HasTx(p.TxID())
	if err != nil {
		return fmt.Errorf("look for transaction %s: %w", p.TxID(), err)
	}
	if known {
		return rpcerr.Malformed("duplicate transaction found [%s]: make a proposal with a new nonce", p.TxID())
	}
	return nil
}

// identify validates the creator against the channel's organisations, or this
// peer's own without channel, and verifies its signature in the token.
func (e *Endorser) identify(ctx context.Context, r *request) error {
	p := r.proposal
	refuse := func(cause error) error {
		var claimed msppb.SerializedIdentity
		if proto.Unmarshal(p.Creator(), &claimed) != nil {
			return &rpcerr.Refusal{Public: fmt.Sprintf("error validating proposal: access denied: channel [%s] creator org unknown, creator is malformed", p.ChannelID()), Cause: cause}
		}
		return &rpcerr.Refusal{Public: fmt.Sprintf("error validating proposal: access denied: channel [%s] creator org [%s]", p.ChannelID(), printable(claimed.GetMspid())), Cause: cause}
	}
	set := e.cfg.LocalMSP
	if r.config != nil {
		set = r.config.MSPs
	}
	id, err := set.Identity(ctx, p.Creator())
	if msp.IsInvalid(err) {
		return refuse(err)
	}
	if err != nil {
		return fmt.Errorf("creator's identity: %w", err)
	}
	if now := e.cfg.Now(); now.After(id.ExpiresAt()) {
		return &rpcerr.Refusal{
			Public: "proposal client identity expired: renew the client's certificate",
			Cause:  fmt.Errorf("certificate of %s ended at %s", id, id.ExpiresAt()),
		}
	}
	if err := id.Verify(ctx, p.Bytes, p.Signature); err != nil {
		if errors.Is(err, bccsp.ErrBadSignature) {
			return refuse(fmt.Errorf("signature over the proposal: %w", err))
		}
		return fmt.Errorf("verify the proposal's signature: %w", err)
	}
	r.creator = id
	return nil
}

// printable bounds what a claimed MSP id may put into an error text.
func printable(mspid string) string {
	if len(mspid) > 128 {
		mspid = mspid[:128]
	}
	clean := []rune(mspid)
	for i, c := range clean {
		if c < ' ' || c == 0x7f {
			clean[i] = '?'
		}
	}
	return string(clean)
}

// access asks the guard about one resource on the proposal's channel.
func (e *Endorser) access(ctx context.Context, r *request, resource acl.Resource, chaincode string, args [][]byte) error {
	function := ""
	if len(args) > 0 {
		function, args = string(args[0]), args[1:]
	}
	decision, err := e.cfg.Access.Check(ctx, r.config, acl.Request{
		Resource: resource, Channel: r.proposal.ChannelID(), Chaincode: chaincode, Function: function, Args: args,
		Caller: r.creator, RemoteAddr: r.remote, TLSCertHash: r.tlsHash,
	})
	if errors.Is(err, acl.ErrDenied) {
		return &rpcerr.Refusal{
			Public:   fmt.Sprintf("access denied: channel [%s] creator org [%s]", r.proposal.ChannelID(), r.creator.MSPID),
			Decision: decision.ID, Cause: err,
		}
	}
	if err != nil {
		return fmt.Errorf("access to %s: %w", resource, err)
	}
	return nil
}
