package gateway

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// prepare assembles the envelope that the client signs: the proposal's headers as
// they came, its payload without transient fields, the payload that the endorsers
// signed, and their endorsements (common.Envelope.payload, protos.Transaction).
func prepare(header, payloadNoTransient, responsePayload []byte, endorsements []*peerpb.Endorsement) (*commonpb.Envelope, error) {
	// The header's two parts go in as they stand in the proposal: their bytes are
	// part of the proposal hash.
	var h commonpb.Header
	if err := proto.Unmarshal(header, &h); err != nil {
		return nil, fmt.Errorf("proposal header: %w", err)
	}
	action, err := proto.Marshal(&peerpb.ChaincodeActionPayload{
		ChaincodeProposalPayload: payloadNoTransient,
		Action:                   &peerpb.ChaincodeEndorsedAction{ProposalResponsePayload: responsePayload, Endorsements: endorsements},
	})
	if err != nil {
		return nil, fmt.Errorf("chaincode action payload: %w", err)
	}
	tx, err := proto.Marshal(&peerpb.Transaction{Actions: []*peerpb.TransactionAction{{Header: h.GetSignatureHeader(), Payload: action}}})
	if err != nil {
		return nil, fmt.Errorf("transaction: %w", err)
	}
	payload, err := proto.Marshal(&commonpb.Payload{Header: &h, Data: tx})
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	return &commonpb.Envelope{Payload: payload}, nil
}

// result is the chaincode's own response payload out of a proposal response: the
// response beside it need not carry it.
func result(resp *peerpb.ProposalResponse) ([]byte, error) {
	var prp peerpb.ProposalResponsePayload
	if err := proto.Unmarshal(resp.GetPayload(), &prp); err != nil {
		return nil, fmt.Errorf("proposal response payload: %w", err)
	}
	var action peerpb.ChaincodeAction
	if err := proto.Unmarshal(prp.GetExtension(), &action); err != nil {
		return nil, fmt.Errorf("chaincode action: %w", err)
	}
	return action.GetResponse().GetPayload(), nil
}
