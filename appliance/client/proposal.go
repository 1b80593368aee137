// Package client is how Strongroom's own command line talks to a peer: as any
// Fabric client does, with an identity whose key is in a token.
package client

import (
	"context"
	"crypto/rand"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// Invocation names what a client asks of a chaincode.
type Invocation struct {
	Channel   string // "" for what concerns the peer and no channel
	Chaincode string
	Args      [][]byte // the function's name first
	Transient map[string][]byte
	IsInit    bool
}

// nonceSize is what Fabric's clients use (protos.SignatureHeader.nonce).
const nonceSize = 24

// Propose builds and signs a proposal. It returns the transaction id beside it.
func Propose(ctx context.Context, id *msp.LocalIdentity, inv Invocation) (*peerpb.SignedProposal, string, error) {
	nonce := make([]byte, nonceSize)
	if _, err := rand.Read(nonce); err != nil {
		return nil, "", err
	}
	txID := wire.TxID(nonce, id.Serialized)
	chaincode := &peerpb.ChaincodeID{Name: inv.Chaincode}
	extension, err := proto.Marshal(&peerpb.ChaincodeHeaderExtension{ChaincodeId: chaincode})
	if err != nil {
		return nil, "", err
	}
	header, err := header(commonpb.HeaderType_ENDORSER_TRANSACTION, inv.Channel, txID, extension, id.Serialized, nonce)
	if err != nil {
		return nil, "", err
	}
	input, err := proto.Marshal(&peerpb.ChaincodeInvocationSpec{ChaincodeSpec: &peerpb.ChaincodeSpec{
		Type:        peerpb.ChaincodeSpec_GOLANG,
		ChaincodeId: chaincode,
		Input:       &peerpb.ChaincodeInput{Args: inv.Args, IsInit: inv.IsInit},
	}})
	if err != nil {
		return nil, "", err
	}
	payload, err := proto.Marshal(&peerpb.ChaincodeProposalPayload{Input: input, TransientMap: inv.Transient})
	if err != nil {
		return nil, "", err
	}
	headerBytes, err := proto.Marshal(header)
	if err != nil {
		return nil, "", err
	}
	proposal, err := proto.Marshal(&peerpb.Proposal{Header: headerBytes, Payload: payload})
	if err != nil {
		return nil, "", err
	}
	signature, err := id.SignProposal(ctx, proposal)
	if err != nil {
		return nil, "", fmt.Errorf("sign proposal: %w", err)
	}
	return &peerpb.SignedProposal{ProposalBytes: proposal, Signature: signature}, txID, nil
}

func header(kind commonpb.HeaderType, channel, txID string, extension, creator, nonce []byte) (*commonpb.Header, error) {
	channelHeader, err := proto.Marshal(&commonpb.ChannelHeader{
		Type:      int32(kind),
		Timestamp: timestamppb.Now(),
		ChannelId: channel,
		TxId:      txID,
		Extension: extension,
	})
	if err != nil {
		return nil, err
	}
	signatureHeader, err := proto.Marshal(&commonpb.SignatureHeader{Creator: creator, Nonce: nonce})
	if err != nil {
		return nil, err
	}
	return &commonpb.Header{ChannelHeader: channelHeader, SignatureHeader: signatureHeader}, nil
}
