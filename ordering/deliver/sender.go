package deliver

import (
	"context"

	"google.golang.org/protobuf/reflect/protoreflect"

	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
	"strongroom/wire/peerpb"
)

// Stream is the sending half of a gRPC stream of responses.
type Stream[Response any] interface {
	Send(*Response) error
}

// OrdererSender sends whole blocks, or headers, on orderer.AtomicBroadcast.Deliver.
func OrdererSender(s Stream[ordererpb.DeliverResponse]) Sender { return ordererSender{s} }

type ordererSender struct {
	stream Stream[ordererpb.DeliverResponse]
}

func (s ordererSender) SendStatus(status commonpb.Status) error {
	return s.stream.Send(&ordererpb.DeliverResponse{Type: &ordererpb.DeliverResponse_Status{Status: status}})
}

func (s ordererSender) SendBlock(_ context.Context, _ Chain, _ *Request, b *Block, headerOnly bool) error {
	resp := new(ordererpb.DeliverResponse)
	if err := fill(resp.ProtoReflect(), b, headerOnly); err != nil {
		return err
	}
	return s.stream.Send(resp)
}

// PeerSender sends whole blocks, or headers, on protos.Deliver.Deliver.
func PeerSender(s Stream[peerpb.DeliverResponse]) Sender { return peerSender{s} }

type peerSender struct {
	stream Stream[peerpb.DeliverResponse]
}

func (s peerSender) SendStatus(status commonpb.Status) error {
	return s.stream.Send(&peerpb.DeliverResponse{Type: &peerpb.DeliverResponse_Status{Status: status}})
}

func (s peerSender) SendBlock(_ context.Context, _ Chain, _ *Request, b *Block, headerOnly bool) error {
	resp := new(peerpb.DeliverResponse)
	if err := fill(resp.ProtoReflect(), b, headerOnly); err != nil {
		return err
	}
	return s.stream.Send(resp)
}

// fill puts a block's encoded field into an empty response as bytes that go out as
// they are: a block is encoded once for all its followers, and one that comes from
// disk is not decoded at all.
func fill(resp protoreflect.Message, b *Block, headerOnly bool) error {
	encode := b.response
	if headerOnly {
		encode = b.headerResponse
	}
	field, err := encode()
	if err != nil {
		return err
	}
	resp.SetUnknown(field)
	return nil
}
