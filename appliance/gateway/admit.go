package gateway

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"strongroom/acl"
	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// Fabric's gateway asks nobody whether it may pass on a proposal that only other peers
// are to process, or a transaction to the ordering service: those decide. Where a
// security team has layers of its own, they are asked here as well, so that this peer is
// nobody's relay past them. It takes one more signature check in the token, and none
// where there is no layer.

// layered is an Access that may have no layer beyond Fabric's policies. *acl.Guard is one.
type layered interface{ Layered() bool }

func (g *Gateway) asksLayers() bool {
	l, ok := g.cfg.Access.(layered)
	return !ok || l.Layered()
}

// mayRelay asks about a proposal of which this peer itself will process nothing: where
// it does, its endorser asks.
func (g *Gateway) mayRelay(ctx context.Context, p *wire.Proposal, targets []msp.ID) error {
	if len(targets) == 0 || slices.Contains(targets, g.cfg.Local.MSPID) || !g.asksLayers() {
		return nil
	}
	ch, ok := g.cfg.Channels(p.ChannelID())
	if !ok {
		return status.Errorf(codes.FailedPrecondition, "channel '%s' not found: this peer has not joined it", p.ChannelID())
	}
	cfg := ch.Config()
	id, err := g.identify(ctx, cfg, p.ChannelID(), p.Creator(), p.Bytes, p.Signature)
	if err != nil {
		return err
	}
	r := acl.Request{Resource: acl.ResourceProposePropose, Channel: p.ChannelID(), Chaincode: p.ChaincodeID.GetName(), Caller: id}
	if args := p.Input.GetArgs(); len(args) > 0 {
		r.Function, r.Args = string(args[0]), args[1:]
	}
	return g.permitted(ctx, cfg, r)
}

// maySubmit asks about a transaction that is to go to the ordering service.
func (g *Gateway) maySubmit(ctx context.Context, channelID string, env *commonpb.Envelope) error {
	if !g.asksLayers() {
		return nil
	}
	ch, ok := g.cfg.Channels(channelID)
	if !ok {
		return status.Errorf(codes.FailedPrecondition, "no ordering service is known for channel '%s': this peer has not joined it", channelID)
	}
	e, fault := wire.ParseEnvelope(env)
	if fault != nil {
		return status.Errorf(codes.InvalidArgument, "the prepared transaction cannot be read: %s", fault.Reason)
	}
	if id := e.ChannelHeader.GetChannelId(); id != channelID {
		return status.Errorf(codes.InvalidArgument, "the prepared transaction is for channel '%s', the request for '%s'", id, channelID)
	}
	extension := &peerpb.ChaincodeHeaderExtension{}
	if err := proto.Unmarshal(e.ChannelHeader.GetExtension(), extension); err != nil {
		return status.Error(codes.InvalidArgument, "the prepared transaction's header extension cannot be read")
	}
	cfg := ch.Config()
	id, err := g.identify(ctx, cfg, channelID, e.SignatureHeader.GetCreator(), e.Payload, e.Signature)
	if err != nil {
		return err
	}
	return g.permitted(ctx, cfg, acl.Request{
		Resource: acl.ResourceGatewaySubmit, Channel: channelID, Chaincode: extension.GetChaincodeId().GetName(), Caller: id,
	})
}
