package gateway

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"strongroom/acl"
	"strongroom/appliance/rpcerr"
	"strongroom/ledger"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/gatewaypb"
	"strongroom/wire/ordererpb"
	"strongroom/wire/peerpb"
)

// CommitStatus waits until a transaction is committed and says how it was
// validated, and in which block.
func (g *Gateway) CommitStatus(ctx context.Context, signed *gatewaypb.SignedCommitStatusRequest) (*gatewaypb.CommitStatusResponse, error) {
	req, err := parseCommitStatus(signed)
	if err != nil {
		return nil, err
	}
	resp, err := g.commitStatus(ctx, req, signed)
	if err = rpcerr.Status(err); err != nil {
		return nil, err
	}
	return resp, nil
}

func parseCommitStatus(signed *gatewaypb.SignedCommitStatusRequest) (*gatewaypb.CommitStatusRequest, error) {
	if len(signed.GetRequest()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "a commit status request is required")
	}
	req := &gatewaypb.CommitStatusRequest{}
	if err := proto.Unmarshal(signed.GetRequest(), req); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "invalid status request: %v", err)
	}
	return req, nil
}

func (g *Gateway) commitStatus(ctx context.Context, req *gatewaypb.CommitStatusRequest, signed *gatewaypb.SignedCommitStatusRequest) (*gatewaypb.CommitStatusResponse, error) {
	ch, ok := g.cfg.Channels(req.GetChannelId())
	if !ok {
		return nil, fmt.Errorf("%q: %w", req.GetChannelId(), rpcerr.ErrUnknownChannel)
	}
	if _, _, err := g.signer(ctx, ch, acl.ResourceGatewayCommitStatus, req.GetChannelId(), req.GetIdentity(), signed.GetRequest(), signed.GetSignature()); err != nil {
		return nil, err
	}
	code, block, err := ch.AwaitTx(ctx, req.GetTransactionId())
	if err != nil {
		if st := rpcerr.Status(err); status.Code(st) != codes.Internal {
			return nil, st
		}
		g.cfg.Logger.ErrorContext(ctx, "commit status failed", "channel", req.GetChannelId(), "tx", req.GetTransactionId(), "error", err)
		return nil, status.Error(codes.Aborted, "the commit status cannot be told: the channel is not followed at present")
	}
	return &gatewaypb.CommitStatusResponse{Result: code, BlockNumber: block}, nil
}

// ChaincodeEvents streams the events of one chaincode in valid transactions, a
// response for each block that has any. The signer's standing is checked again when
// the channel's configuration changes; the stream ends when its certificate does.
func (g *Gateway) ChaincodeEvents(signed *gatewaypb.SignedChaincodeEventsRequest, srv gatewaypb.Gateway_ChaincodeEventsServer) error {
	req, err := parseChaincodeEvents(signed)
	if err != nil {
		return err
	}
	ctx := srv.Context()
	ch, ok := g.cfg.Channels(req.GetChannelId())
	if !ok {
		return rpcerr.Status(fmt.Errorf("%q: %w", req.GetChannelId(), rpcerr.ErrUnknownChannel))
	}
	cfg, id, err := g.signer(ctx, ch, acl.ResourceGatewayChaincodeEvents, req.GetChannelId(), req.GetIdentity(), signed.GetRequest(), signed.GetSignature())
	if err != nil {
		return rpcerr.Status(err)
	}
	from, err := startBlock(ch.Ledger(), req)
	if err != nil {
		return rpcerr.Status(err)
	}
	match := matcher(req)
	for b, err := range ch.Ledger().ParsedBlocks(ctx, from) {
		if err != nil {
			if ctx.Err() != nil {
				return rpcerr.Status(ctx.Err())
			}
			g.cfg.Logger.ErrorContext(ctx, "chaincode events ended", "channel", req.GetChannelId(), "error", err)
			return status.Error(codes.Aborted, "the channel's blocks cannot be read at present")
		}
		if now := ch.Config(); now.Sequence != cfg.Sequence {
			if cfg, id, err = g.signer(ctx, ch, acl.ResourceGatewayChaincodeEvents, req.GetChannelId(), req.GetIdentity(), signed.GetRequest(), signed.GetSignature()); err != nil {
				return rpcerr.Status(err)
			}
		}
		if g.cfg.Now().After(id.ExpiresAt()) {
			return rpcerr.Status(g.refused(ctx, refusal(req.GetChannelId(), "", fmt.Errorf("certificate of %s ended at %s", id, id.ExpiresAt()))))
		}
		events := match(b)
		if len(events) == 0 {
			continue
		}
		if err := srv.Send(&gatewaypb.ChaincodeEventsResponse{Events: events, BlockNumber: b.Number()}); err != nil {
			return err
		}
	}
	return rpcerr.Status(ctx.Err())
}

func parseChaincodeEvents(signed *gatewaypb.SignedChaincodeEventsRequest) (*gatewaypb.ChaincodeEventsRequest, error) {
	if len(signed.GetRequest()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "a chaincode events request is required")
	}
	req := &gatewaypb.ChaincodeEventsRequest{}
	if err := proto.Unmarshal(signed.GetRequest(), req); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "invalid chaincode events request: %v", err)
	}
	return req, nil
}

// chain is what a start position needs of a ledger.
type chain interface {
	Height() uint64
	ValidationCode(txID string) (peerpb.TxValidationCode, uint64, error)
}

// startBlock is the block of the transaction after which events are wanted, or the
// start position, or the next block.
func startBlock(l chain, req *gatewaypb.ChaincodeEventsRequest) (uint64, error) {
	if after := req.GetAfterTransactionId(); after != "" {
		_, block, err := l.ValidationCode(after)
		if err == nil {
			return block, nil
		}
		if !errors.Is(err, ledger.ErrNotFound) {
			return 0, fmt.Errorf("look for transaction %q: %w", after, err)
		}
	}
	switch seek := req.GetStartPosition().GetType().(type) {
	case nil, *ordererpb.SeekPosition_NextCommit:
		return l.Height(), nil
	case *ordererpb.SeekPosition_Specified:
		return seek.Specified.GetNumber(), nil
	default:
		return 0, status.Errorf(codes.InvalidArgument, "invalid start position type: %T", seek)
	}
}

// matcher picks the events of a block. With a transaction after which they are
// wanted, it picks none until it has seen that transaction.
func matcher(req *gatewaypb.ChaincodeEventsRequest) func(*wire.Block) []*peerpb.ChaincodeEvent {
	name, after := req.GetChaincodeId(), req.GetAfterTransactionId()
	passed := after == ""
	return func(b *wire.Block) []*peerpb.ChaincodeEvent {
		var flags []byte
		if m := b.Proto.GetMetadata().GetMetadata(); len(m) > int(commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER) {
			flags = m[commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER]
		}
		var out []*peerpb.ChaincodeEvent
		for i, tx := range b.Txs {
			if !passed {
				passed = tx.TxID() == after
				continue
			}
			valid := i < len(flags) && peerpb.TxValidationCode(flags[i]) == peerpb.TxValidationCode_VALID
			if valid && tx.Endorsed != nil && tx.Endorsed.Event.GetChaincodeId() == name && tx.Endorsed.Event != nil {
				out = append(out, tx.Endorsed.Event)
			}
		}
		return out
	}
}
