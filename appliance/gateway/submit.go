package gateway

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"strongroom/appliance/rpcerr"
	"strongroom/ordering/client"
	"strongroom/wire/gatewaypb"
)

// Submit hands a transaction that the client signed to the ordering service, and
// returns when an orderer took it. It says nothing about its commit.
func (g *Gateway) Submit(ctx context.Context, req *gatewaypb.SubmitRequest) (*gatewaypb.SubmitResponse, error) {
	return serve(g, "Submit", req.GetChannelId(), func() (*gatewaypb.SubmitResponse, error) {
		env := req.GetPreparedTransaction()
		if env == nil {
			return nil, status.Error(codes.InvalidArgument, "a prepared transaction is required")
		}
		if len(env.GetSignature()) == 0 {
			return nil, status.Error(codes.InvalidArgument, "prepared transaction must be signed")
		}
		orderers, ok := g.cfg.Orderers(req.GetChannelId())
		if !ok {
			return nil, status.Errorf(codes.FailedPrecondition, "no ordering service is known for channel '%s': this peer has not joined it", req.GetChannelId())
		}
		if err := g.maySubmit(ctx, req.GetChannelId(), env); err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, g.cfg.BroadcastTimeout)
		defer cancel()
		if err := orderers.Broadcast(ctx, env); err != nil {
			g.cfg.Logger.WarnContext(ctx, "transaction was not taken", "channel", req.GetChannelId(), "tx", req.GetTransactionId(), "error", err)
			return nil, submitError(ctx, err)
		}
		return &gatewaypb.SubmitResponse{}, nil
	})
}

// submitError is Fabric's status for an ordering service that did not take an
// envelope: its own verdict aborts, anything else is unavailable, with one detail
// for each orderer.
func submitError(ctx context.Context, err error) error {
	var answer *client.StatusError
	if errors.As(err, &answer) && answer.Status >= 400 && answer.Status < 500 {
		return status.Errorf(codes.Aborted, "received unsuccessful response from orderer: status=%s, info=%s", answer.Status, answer.Info)
	}
	if ctx.Err() != nil {
		return status.Error(codes.DeadlineExceeded, "submit timeout expired while broadcasting to ordering service")
	}
	var details []protoadapt.MessageV1
	for _, e := range leaves(err) {
		d := &gatewaypb.ErrorDetail{Message: e.Error()}
		var answer *client.StatusError
		if errors.As(e, &answer) {
			d.Address = answer.Endpoint
			d.Message = fmt.Sprintf("received unsuccessful response from orderer: status=%s, info=%s", answer.Status, answer.Info)
		}
		details = append(details, protoadapt.MessageV1Of(d))
	}
	return rpcerr.WithDetails(codes.Unavailable, "no orderers could successfully process transaction", details...)
}

// leaves takes joined errors apart.
func leaves(err error) []error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if joined, ok := e.(interface{ Unwrap() []error }); ok {
			var out []error
			for _, one := range joined.Unwrap() {
				out = append(out, leaves(one)...)
			}
			return out
		}
	}
	return []error{err}
}
