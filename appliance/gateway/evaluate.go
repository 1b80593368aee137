package gateway

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"strongroom/appliance/rpcerr"
	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/gatewaypb"
	"strongroom/wire/peerpb"
)

// Evaluate has one peer process a proposal and returns the chaincode's result: this
// peer if it can, else another of the wanted organisations. A proposal with
// transient data goes to this organisation alone unless the client names others.
func (g *Gateway) Evaluate(ctx context.Context, req *gatewaypb.EvaluateRequest) (*gatewaypb.EvaluateResponse, error) {
	return serve(g, "Evaluate", req.GetChannelId(), func() (*gatewaypb.EvaluateResponse, error) {
		if len(req.GetProposedTransaction().GetProposalBytes()) == 0 {
			return nil, status.Error(codes.InvalidArgument, "failed to unpack transaction proposal: a signed proposal is required")
		}
		p, err := wire.ParseSignedProposal(req.GetProposedTransaction())
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "failed to unpack transaction proposal: %s", err)
		}
		if p.ChannelID() == "" {
			return nil, status.Error(codes.InvalidArgument, "failed to unpack transaction proposal: no channel id provided")
		}
		if err := g.mayRelay(ctx, p, orgs(req.GetTargetOrganizations())); err != nil {
			return nil, err
		}
		return g.evaluate(ctx, p, req)
	})
}

func (g *Gateway) evaluate(ctx context.Context, p *wire.Proposal, req *gatewaypb.EvaluateRequest) (*gatewaypb.EvaluateResponse, error) {
	targets, protected := req.GetTargetOrganizations(), false
	if len(p.Transient) > 0 && len(targets) == 0 {
		targets, protected = []string{string(g.cfg.Local.MSPID)}, true
	}
	var details []protoadapt.MessageV1
	last := verdict{code: codes.FailedPrecondition, text: "no peers available to evaluate chaincode " + p.ChaincodeID.GetName() + " in channel " + p.ChannelID()}
	for _, e := range g.endorsers(p.ChannelID()) {
		if len(targets) > 0 && !slices.Contains(targets, string(e.MSPID)) {
			continue
		}
		resp, v := g.ask(ctx, e, req.GetProposedTransaction())
		if v.code == codes.OK {
			return evaluated(resp)
		}
		if ctx.Err() != nil {
			return nil, rpcerr.WithDetails(codes.DeadlineExceeded, "evaluate timeout expired", details...)
		}
		g.cfg.Logger.DebugContext(ctx, "evaluate failed at a peer", "channel", p.ChannelID(), "chaincode", p.ChaincodeID.GetName(), "tx", p.TxID(), "peer", e.Address, "msp", string(e.MSPID), "error", v.text)
		details = append(details, detail(e, v.text))
		if !v.retry {
			return nil, rpcerr.WithDetails(v.code, "evaluate call to endorser returned error: "+v.text, details...)
		}
		last = v
	}
	switch {
	case len(details) > 0:
		return nil, rpcerr.WithDetails(last.code, "failed to evaluate transaction, see attached details for more info", details...)
	case protected:
		return nil, status.Errorf(codes.FailedPrecondition, "no endorsers found in the gateway's organization; retry specifying target organization(s) to protect transient data: %s", last.text)
	default:
		return nil, status.Error(last.code, last.text)
	}
}

// evaluated takes the result out of the payload that a peer signed, if there is one.
func evaluated(resp *peerpb.ProposalResponse) (*gatewaypb.EvaluateResponse, error) {
	out := &peerpb.Response{Status: resp.GetResponse().GetStatus(), Message: resp.GetResponse().GetMessage(), Payload: resp.GetResponse().GetPayload()}
	if len(resp.GetPayload()) > 0 {
		payload, err := result(resp)
		if err != nil {
			return nil, status.Error(codes.Aborted, fmt.Sprintf("the peer's answer cannot be read: %s", err))
		}
		out.Payload = payload
	}
	return &gatewaypb.EvaluateResponse{Result: out}, nil
}

// orgs turns names into MSP ids.
func orgs(names []string) []msp.ID {
	out := make([]msp.ID, len(names))
	for i, n := range names {
		out[i] = msp.ID(n)
	}
	return out
}
