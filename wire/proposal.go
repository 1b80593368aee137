package wire

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// Proposal is a parsed protos.SignedProposal that invokes a chaincode. Everything
// in it was checked but the creator's identity and signature: those are the
// caller's, over Bytes and Signature. Nothing may change its slices.
type Proposal struct {
	Bytes           []byte // protos.SignedProposal.proposal_bytes: what the creator signed
	Signature       []byte
	Header          []byte // protos.Proposal.header
	Payload         []byte // protos.Proposal.payload, with the transient fields
	ChannelHeader   *commonpb.ChannelHeader
	SignatureHeader *commonpb.SignatureHeader
	ChaincodeID     *peerpb.ChaincodeID    // of the header extension: the chaincode to call, its name is not empty
	Input           *peerpb.ChaincodeInput // arguments and decorations, not nil
	Transient       map[string][]byte      // secrets for the endorser: never in a transaction, a log or an error

	// PayloadNoTransient is the protos.ChaincodeProposalPayload that goes into the
	// transaction, Hash the proposal hash that goes into the response payload.
	PayloadNoTransient []byte
	Hash               []byte
}

// TxID is the proposal's transaction id, which was found to fit its nonce and creator.
func (p *Proposal) TxID() string { return p.ChannelHeader.TxId }

// ChannelID is the channel that the proposal is for; "" for a call without one.
func (p *Proposal) ChannelID() string { return p.ChannelHeader.ChannelId }

// Creator is the proposer's serialized identity.
func (p *Proposal) Creator() []byte { return p.SignatureHeader.Creator }

// ParseSignedProposal reads a proposal as a peer gets it from a client. The error
// is the client's: it names the field and what it should be.
func ParseSignedProposal(sp *peerpb.SignedProposal) (*Proposal, error) {
	if len(sp.GetProposalBytes()) == 0 {
		return nil, errors.New("protos.SignedProposal.proposal_bytes is empty: send a marshalled Proposal")
	}
	if len(sp.GetSignature()) == 0 {
		return nil, errors.New("protos.SignedProposal.signature is empty: sign proposal_bytes with the creator's key")
	}
	p := &Proposal{Bytes: sp.ProposalBytes, Signature: sp.Signature}
	if err := scanTwo(p.Bytes, &p.Header, &p.Payload); err != nil {
		return nil, fmt.Errorf("protos.SignedProposal.proposal_bytes does not parse as a Proposal: %w", err)
	}
	var channelHeader, signatureHeader []byte
	if err := scanTwo(p.Header, &channelHeader, &signatureHeader); err != nil {
		return nil, fmt.Errorf("protos.Proposal.header does not parse as a Header: %w", err)
	}
	p.ChannelHeader = &commonpb.ChannelHeader{}
	if err := proto.Unmarshal(channelHeader, p.ChannelHeader); err != nil {
		return nil, fmt.Errorf("common.Header.channel_header does not parse as a ChannelHeader: %w", err)
	}
	var err error
	if p.SignatureHeader, err = parseSignatureHeader(signatureHeader); err != nil {
		return nil, fmt.Errorf("common.Header.signature_header does not parse as a SignatureHeader: %w", err)
	}
	if err := p.checkHeaders(); err != nil {
		return nil, err
	}
	if err := p.parsePayload(); err != nil {
		return nil, err
	}
	p.Hash = proposalHash(channelHeader, signatureHeader, p.PayloadNoTransient)
	return p, nil
}

func (p *Proposal) checkHeaders() error {
	header := p.ChannelHeader
	switch kind := commonpb.HeaderType(header.Type); kind {
	case commonpb.HeaderType_ENDORSER_TRANSACTION, commonpb.HeaderType_CONFIG: // Fabric takes a CONFIG header here, too
	default:
		return fmt.Errorf("common.ChannelHeader.type is %s: a proposal's type is ENDORSER_TRANSACTION", kind)
	}
	if header.Epoch != 0 {
		return fmt.Errorf("common.ChannelHeader.epoch is %d: it must be 0", header.Epoch)
	}
	if len(p.SignatureHeader.Nonce) == 0 {
		return errors.New("common.SignatureHeader.nonce is empty: send 24 random bytes")
	}
	if len(p.SignatureHeader.Creator) == 0 {
		return errors.New("common.SignatureHeader.creator is empty: send the client's SerializedIdentity")
	}
	if want := TxID(p.SignatureHeader.Nonce, p.SignatureHeader.Creator); header.TxId != want {
		return fmt.Errorf("common.ChannelHeader.tx_id is %q: it must be the hex SHA-256 of nonce and creator, %q", header.TxId, want)
	}
	extension := &peerpb.ChaincodeHeaderExtension{}
	if err := proto.Unmarshal(header.Extension, extension); err != nil {
		return fmt.Errorf("common.ChannelHeader.extension does not parse as a ChaincodeHeaderExtension: %w", err)
	}
	if extension.GetChaincodeId().GetName() == "" {
		return errors.New("protos.ChaincodeHeaderExtension.chaincode_id.name is empty: name the chaincode to call")
	}
	p.ChaincodeID = extension.ChaincodeId
	return nil
}

func (p *Proposal) parsePayload() error {
	payload := &peerpb.ChaincodeProposalPayload{}
	if err := proto.Unmarshal(p.Payload, payload); err != nil {
		return errors.New("protos.Proposal.payload does not parse as a ChaincodeProposalPayload") // the cause could hold transient data
	}
	invocation := &peerpb.ChaincodeInvocationSpec{}
	if err := proto.Unmarshal(payload.Input, invocation); err != nil {
		return fmt.Errorf("protos.ChaincodeProposalPayload.input does not parse as a ChaincodeInvocationSpec: %w", err)
	}
	if invocation.ChaincodeSpec == nil {
		return errors.New("protos.ChaincodeInvocationSpec.chaincode_spec is missing")
	}
	if invocation.ChaincodeSpec.Input == nil {
		return errors.New("protos.ChaincodeSpec.input is missing: send the arguments of the call")
	}
	p.Input, p.Transient = invocation.ChaincodeSpec.Input, payload.TransientMap
	var err error
	p.PayloadNoTransient, err = proto.Marshal(&peerpb.ChaincodeProposalPayload{Input: payload.Input})
	return err
}
