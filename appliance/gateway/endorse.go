package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"strongroom/appliance/rpcerr"
	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/gatewaypb"
	"strongroom/wire/peerpb"
)

// Endorse collects the endorsements that a transaction needs and returns it for the
// client to sign. If the client names the organisations, each gives one; else this
// organisation endorses first, and the policies of what the transaction read and
// wrote say which others must.
func (g *Gateway) Endorse(ctx context.Context, req *gatewaypb.EndorseRequest) (*gatewaypb.EndorseResponse, error) {
	return serve(g, "Endorse", req.GetChannelId(), func() (*gatewaypb.EndorseResponse, error) {
		if len(req.GetProposedTransaction().GetProposalBytes()) == 0 {
			return nil, status.Error(codes.InvalidArgument, "the proposed transaction must contain a signed proposal")
		}
		p, err := wire.ParseSignedProposal(req.GetProposedTransaction())
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		ch, ok := g.cfg.Channels(p.ChannelID())
		if !ok {
			return nil, status.Errorf(codes.FailedPrecondition, "channel '%s' not found: this peer has not joined it", p.ChannelID())
		}
		if err := g.mayRelay(ctx, p, orgs(req.GetEndorsingOrganizations())); err != nil {
			return nil, err
		}
		e := &endorsing{g: g, ch: ch, p: p, signed: req.GetProposedTransaction(), got: newCollection()}
		return e.run(ctx, orgs(req.GetEndorsingOrganizations()))
	})
}

// endorsing is one Endorse call.
type endorsing struct {
	g      *Gateway
	ch     Channel
	p      *wire.Proposal
	signed *peerpb.SignedProposal
	got    *collection
}

func (e *endorsing) run(ctx context.Context, wanted []msp.ID) (*gatewaypb.EndorseResponse, error) {
	peers := e.g.endorsers(e.p.ChannelID())
	var layouts []Layout
	var err error
	if len(wanted) > 0 {
		layouts, err = named(peers, wanted)
	} else {
		peers, layouts, err = e.first(ctx, peers)
	}
	if err != nil {
		return nil, err
	}
	complete, err := collect(ctx, layouts, e.got, newPool(peers), e.ask)
	switch {
	case errors.Is(err, errIncomplete):
		return nil, rpcerr.WithDetails(codes.Aborted, "failed to collect enough transaction endorsements, see attached details for more info", e.got.details...)
	case err != nil:
		return nil, rpcerr.WithDetails(codes.DeadlineExceeded, "endorsement timeout expired while collecting endorsements", e.got.details...)
	}
	env, err := prepare(e.p.Header, e.p.PayloadNoTransient, e.got.payload, e.got.endorsements(complete))
	if err != nil {
		return nil, status.Errorf(codes.Aborted, "failed to assemble transaction: %s", err)
	}
	return &gatewaypb.EndorseResponse{PreparedTransaction: env}, nil
}

// named is the one layout of organisations that the client chose.
func named(peers []Endorser, wanted []msp.ID) ([]Layout, error) {
	l := Layout{}
	var without []string
	for _, id := range wanted {
		l[id] = 1
		if !slices.ContainsFunc(peers, func(e Endorser) bool { return e.MSPID == id }) {
			without = append(without, string(id))
		}
	}
	if len(without) > 0 {
		return nil, status.Errorf(codes.Unavailable, "failed to find any endorsing peers for org(s): %s", strings.Join(without, ", "))
	}
	return []Layout{l}, nil
}

// ask has a peer endorse, for collect.
func (e *endorsing) ask(ctx context.Context, from Endorser) bool {
	resp, v := e.g.ask(ctx, from, e.signed)
	if v.code != codes.OK {
		e.g.cfg.Logger.WarnContext(ctx, "a peer did not endorse", "channel", e.p.ChannelID(), "chaincode", e.p.ChaincodeID.GetName(), "tx", e.p.TxID(), "peer", from.Address, "msp", string(from.MSPID), "error", v.text)
		e.got.fail(from, v.text)
		return false
	}
	return e.got.add(from, resp)
}

// first has this organisation endorse, this peer before its others, and plans the
// rest from what the transaction read and wrote. It returns the peers left to ask.
func (e *endorsing) first(ctx context.Context, peers []Endorser) ([]Endorser, []Layout, error) {
	var details []protoadapt.MessageV1
	for len(peers) > 0 && peers[0].MSPID == e.g.cfg.Local.MSPID {
		from := peers[0]
		resp, v := e.g.ask(ctx, from, e.signed)
		if ctx.Err() != nil {
			return nil, nil, rpcerr.WithDetails(codes.DeadlineExceeded, "endorsement timeout expired while collecting first endorsement", details...)
		}
		if v.code == codes.OK && e.got.add(from, resp) {
			layouts, err := e.plan(resp.GetInterest(), peers)
			return peers[1:], prefer(layouts, from.MSPID), err
		}
		if v.code == codes.OK {
			v.text = "the peer's answer holds no endorsement"
		}
		e.g.cfg.Logger.WarnContext(ctx, "the first peer did not endorse", "channel", e.p.ChannelID(), "chaincode", e.p.ChaincodeID.GetName(), "tx", e.p.TxID(), "peer", from.Address, "error", v.text)
		details = append(details, detail(from, v.text))
		peers = peers[1:]
	}
	return nil, nil, rpcerr.WithDetails(codes.Aborted, "failed to endorse transaction, see attached details for more info", details...)
}

// plan finds the layouts that satisfy what an endorsement says is of interest.
func (e *endorsing) plan(interest *peerpb.ChaincodeInterest, peers []Endorser) ([]Layout, error) {
	calls := interest.GetChaincodes()
	if len(calls) == 0 {
		calls = []*peerpb.ChaincodeCall{{Name: e.p.ChaincodeID.GetName()}}
	}
	policies := newPolicies(e.ch)
	has := func(id msp.ID) bool {
		return slices.ContainsFunc(peers, func(p Endorser) bool { return p.MSPID == id })
	}
	layouts, err := policies.layouts(calls, has, len(e.p.Transient) > 0)
	if err != nil {
		return nil, status.Errorf(codes.FailedPrecondition, "no combination of peers can be derived which satisfy the endorsement policy: %s", err)
	}
	if len(layouts) > 0 {
		return layouts, nil
	}
	if len(e.p.Transient) > 0 {
		open, err := policies.layouts(calls, has, false)
		if err == nil && len(open) > 0 {
			var names []string
			for _, c := range calls {
				if c.GetNoPrivateReads() {
					names = append(names, c.GetCollectionNames()...)
				}
			}
			return nil, status.Errorf(codes.FailedPrecondition, "requires endorsement from organisation(s) that are not in the distribution policy of the private data collection(s): %v; retry specifying trusted endorsing organizations to protect transient data", names)
		}
	}
	return nil, status.Error(codes.FailedPrecondition, fmt.Sprintf("no combination of peers can be derived which satisfy the endorsement policy: %s", errNoLayout))
}
