package endorser

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/peerpb"
)

// Statuses of a chaincode's response (Fabric's chaincode shim): below 400 it may
// become a transaction, from 500 on it is an error of the chaincode.
const (
	statusOK        = 200
	statusThreshold = 400
	statusError     = 500
)

// marshalPayload makes the protos.ProposalResponsePayload that is endorsed. Each
// of its messages has its fields in the order of their numbers and no map, so that
// the bytes are those of any Fabric peer.
func marshalPayload(proposalHash []byte, response *peerpb.Response, results, event []byte, id *peerpb.ChaincodeID) ([]byte, error) {
	deterministic := proto.MarshalOptions{Deterministic: true}
	action, err := deterministic.Marshal(&peerpb.ChaincodeAction{Results: results, Events: event, Response: response, ChaincodeId: id})
	if err != nil {
		return nil, fmt.Errorf("chaincode action: %w", err)
	}
	payload, err := deterministic.Marshal(&peerpb.ProposalResponsePayload{ProposalHash: proposalHash, Extension: action})
	if err != nil {
		return nil, fmt.Errorf("proposal response payload: %w", err)
	}
	return payload, nil
}

// marshalEvent is a chaincode event as the action carries it: nil for none.
func marshalEvent(event *peerpb.ChaincodeEvent) ([]byte, error) {
	if event == nil {
		return nil, nil
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(event)
	if err != nil {
		return nil, fmt.Errorf("chaincode event: %w", err)
	}
	return b, nil
}

// failure is the answer to a proposal that was understood and allowed, but could
// not be simulated or endorsed: Fabric reports it in the response, not as a gRPC error.
func failure(text string) *peerpb.ProposalResponse {
	return &peerpb.ProposalResponse{Response: &peerpb.Response{Status: statusError, Message: text}}
}

// Success is a system chaincode's response with a payload.
func Success(payload []byte) *peerpb.Response {
	return &peerpb.Response{Status: statusOK, Payload: payload}
}

// Failure is a system chaincode's response with an error text for the caller.
func Failure(format string, args ...any) *peerpb.Response {
	return &peerpb.Response{Status: statusError, Message: fmt.Sprintf(format, args...)}
}
