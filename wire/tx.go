package wire

import (
	"bytes"
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// ParseBlock reads a block and every transaction in it. An error says that the
// block itself is malformed and must be refused; a bad transaction is a fault in
// its Tx. Whether the hashes and the orderer's signatures are right is not looked at.
func ParseBlock(b *commonpb.Block) (*Block, error) {
	block, err := NewBlock(b)
	if err != nil {
		return nil, err
	}
	for i, envelope := range b.Data.Data {
		block.Txs[i] = ParseTx(i, envelope)
	}
	return block, nil
}

// NewBlock is ParseBlock without the transactions: its Txs are nil, one for each
// envelope, for a caller that fills them with ParseTx in parallel.
func NewBlock(b *commonpb.Block) (*Block, error) {
	switch {
	case b == nil:
		return nil, errors.New("block is missing")
	case b.Header == nil:
		return nil, errors.New("common.Block.header is missing")
	case b.Data == nil:
		return nil, errors.New("common.Block.data is missing")
	}
	return &Block{Proto: b, Hash: BlockHash(b.Header), Txs: make([]*Tx, len(b.Data.Data))}, nil
}

// ParseTx reads the transaction at one index of a block. The checks stand in the
// order of Fabric's validator, because the first that fails gives the code:
// core/common/validation/msgvalidation.go, then Dispatch of
// core/committer/txvalidator/v20/plugindispatcher/dispatcher.go.
func ParseTx(index int, envelope []byte) *Tx { return parseTx(index, envelope, false) }

// ParseWithheld is ParseTx for a transaction that was judged before and of which
// values were replaced by zeros since: that it still hashes to what was endorsed is
// not looked at. It must not be used to judge a transaction.
func ParseWithheld(index int, envelope []byte) *Tx { return parseTx(index, envelope, true) }

func parseTx(index int, envelope []byte, withheld bool) *Tx {
	tx := &Tx{Index: index, Envelope: envelope}
	if err := scanTwo(envelope, &tx.Payload, &tx.Signature); err != nil {
		tx.HeaderFault = fault(peerpb.TxValidationCode_INVALID_OTHER_REASON, "the transaction's bytes are not a common.Envelope")
		return tx
	}
	e := &Envelope{Payload: tx.Payload, Signature: tx.Signature}
	tx.HeaderFault = e.parse()
	tx.ChannelHeader, tx.SignatureHeader = e.ChannelHeader, e.SignatureHeader
	if tx.HeaderFault == nil {
		tx.HeaderFault = checkCommonHeader(e)
	}
	if tx.HeaderFault != nil {
		return tx
	}
	switch commonpb.HeaderType(e.ChannelHeader.Type) {
	case commonpb.HeaderType_ENDORSER_TRANSACTION:
		tx.BodyFault = tx.parseEndorsed(e, withheld)
	case commonpb.HeaderType_CONFIG:
		tx.BodyFault = tx.parseConfig(e)
	default:
		tx.BodyFault = fault(peerpb.TxValidationCode_UNSUPPORTED_TX_PAYLOAD, "a block holds no %s", commonpb.HeaderType(e.ChannelHeader.Type))
	}
	return tx
}

func checkCommonHeader(e *Envelope) *Fault {
	const code = peerpb.TxValidationCode_BAD_COMMON_HEADER
	switch kind := commonpb.HeaderType(e.ChannelHeader.Type); kind {
	case commonpb.HeaderType_ENDORSER_TRANSACTION, commonpb.HeaderType_CONFIG_UPDATE, commonpb.HeaderType_CONFIG:
	default:
		return fault(code, "common.ChannelHeader.type is %s", kind)
	}
	if e.ChannelHeader.Epoch != 0 {
		return fault(code, "common.ChannelHeader.epoch is %d, not 0", e.ChannelHeader.Epoch)
	}
	return checkSignatureHeader(e.SignatureHeader, code)
}

func checkSignatureHeader(h *commonpb.SignatureHeader, code peerpb.TxValidationCode) *Fault {
	if len(h.Nonce) == 0 {
		return fault(code, "common.SignatureHeader.nonce is empty")
	}
	if len(h.Creator) == 0 {
		return fault(code, "common.SignatureHeader.creator is empty")
	}
	return nil
}

func (tx *Tx) parseConfig(e *Envelope) *Fault {
	if e.Data == nil {
		return fault(peerpb.TxValidationCode_INVALID_CONFIG_TRANSACTION, "common.Payload.data is missing")
	}
	config := &commonpb.ConfigEnvelope{}
	if err := proto.Unmarshal(e.Data, config); err != nil {
		return fault(peerpb.TxValidationCode_INVALID_CONFIG_TRANSACTION, "common.Payload.data does not parse as a ConfigEnvelope")
	}
	tx.Config = config
	return nil
}

// parseEndorsed reads an ENDORSER_TRANSACTION. What it returns is found before the
// duplicate check; what Fabric finds after it goes into Endorsed.ResultsFault.
func (tx *Tx) parseEndorsed(e *Envelope, withheld bool) *Fault {
	if want := TxID(e.SignatureHeader.Nonce, e.SignatureHeader.Creator); e.ChannelHeader.TxId != want {
		return fault(peerpb.TxValidationCode_BAD_PROPOSAL_TXID, "tx_id is %q, nonce and creator give %q", e.ChannelHeader.TxId, want)
	}
	const code = peerpb.TxValidationCode_INVALID_ENDORSER_TRANSACTION
	action, count := transactionAction{}, 0
	err := scan(e.Data, func(number protowire.Number, value []byte) error {
		if number != 1 {
			return nil
		}
		count++
		return scanTwo(value, &action.header, &action.payload)
	})
	if err != nil {
		return fault(code, "common.Payload.data does not parse as a Transaction")
	}
	if count != 1 {
		return fault(code, "protos.Transaction.actions has %d entries, not 1", count)
	}
	header, err := parseSignatureHeader(action.header)
	if err != nil {
		return fault(code, "protos.TransactionAction.header does not parse as a SignatureHeader")
	}
	if f := checkSignatureHeader(header, code); f != nil {
		return f
	}
	endorsed := &Endorsed{}
	if err := endorsed.parseActionPayload(action.payload); err != nil {
		return fault(code, "protos.TransactionAction.payload does not parse as a ChaincodeActionPayload")
	}
	var extension []byte
	if err := scanTwo(endorsed.ResponsePayload, &endorsed.ProposalHash, &extension); err != nil {
		return fault(code, "proposal_response_payload does not parse as a ProposalResponsePayload")
	}
	if e.ChannelHeaderBytes == nil || endorsed.ProposalPayload == nil {
		return fault(code, "protos.ChaincodeActionPayload.chaincode_proposal_payload is missing")
	}
	if !withheld && !bytes.Equal(endorsed.ProposalHash, proposalHash(e.ChannelHeaderBytes, action.header, endorsed.ProposalPayload)) {
		return fault(code, "the proposal hash that was endorsed is not that of the proposal")
	}
	tx.Endorsed = endorsed
	endorsed.ResultsFault = endorsed.parseResults(e.ChannelHeader.Extension, extension)
	return nil
}

type transactionAction struct{ header, payload []byte }

// parseActionPayload reads a protos.ChaincodeActionPayload and the
// protos.ChaincodeEndorsedAction in it.
func (d *Endorsed) parseActionPayload(b []byte) error {
	return scan(b, func(number protowire.Number, value []byte) error {
		if number == 1 {
			d.ProposalPayload = value
			return nil
		}
		return scan(value, func(number protowire.Number, value []byte) error {
			if number == 1 {
				d.ResponsePayload = value
				return nil
			}
			endorsement := &peerpb.Endorsement{}
			d.Endorsements = append(d.Endorsements, endorsement)
			return scanTwo(value, &endorsement.Endorser, &endorsement.Signature)
		})
	})
}

// parseResults reads the header extension and the chaincode action.
func (d *Endorsed) parseResults(headerExtension, action []byte) *Fault {
	extension := &peerpb.ChaincodeHeaderExtension{}
	if err := proto.Unmarshal(headerExtension, extension); err != nil {
		return fault(peerpb.TxValidationCode_BAD_HEADER_EXTENSION, "common.ChannelHeader.extension does not parse as a ChaincodeHeaderExtension")
	}
	d.ChaincodeID = extension.ChaincodeId
	if action == nil {
		return fault(peerpb.TxValidationCode_BAD_RESPONSE_PAYLOAD, "protos.ProposalResponsePayload.extension is missing")
	}
	d.Action = &peerpb.ChaincodeAction{}
	if err := proto.Unmarshal(action, d.Action); err != nil {
		d.Action = nil
		return fault(peerpb.TxValidationCode_BAD_RESPONSE_PAYLOAD, "protos.ProposalResponsePayload.extension does not parse as a ChaincodeAction")
	}
	set, err := ParseReadWriteSet(d.Action.Results)
	if err != nil {
		return fault(peerpb.TxValidationCode_BAD_RWSET, "%s", err)
	}
	d.ReadWriteSet = set
	switch {
	case d.ChaincodeID == nil:
		return fault(peerpb.TxValidationCode_INVALID_OTHER_REASON, "protos.ChaincodeHeaderExtension.chaincode_id is missing")
	case d.Action.ChaincodeId == nil:
		return fault(peerpb.TxValidationCode_INVALID_OTHER_REASON, "protos.ChaincodeAction.chaincode_id is missing")
	case d.ChaincodeID.Name == "":
		return fault(peerpb.TxValidationCode_INVALID_CHAINCODE, "the chaincode's name is empty")
	case d.ChaincodeID.Name != d.Action.ChaincodeId.Name:
		return fault(peerpb.TxValidationCode_INVALID_CHAINCODE, "chaincode %q was called, %q answered", d.ChaincodeID.Name, d.Action.ChaincodeId.Name)
	case d.Action.ChaincodeId.Version == "":
		return fault(peerpb.TxValidationCode_INVALID_CHAINCODE, "the version of chaincode %q is empty", d.ChaincodeID.Name)
	}
	if f := d.parseEvent(); f != nil {
		return f
	}
	seen := make(map[string]bool, len(set.Namespaces))
	for i := range set.Namespaces {
		name := set.Namespaces[i].Namespace
		if seen[name] {
			return fault(peerpb.TxValidationCode_ILLEGAL_WRITESET, "namespace %q stands twice in the read/write set", name)
		}
		seen[name] = true
	}
	return nil
}

func (d *Endorsed) parseEvent() *Fault {
	if d.Action.Events == nil {
		return nil
	}
	event := &peerpb.ChaincodeEvent{}
	if err := proto.Unmarshal(d.Action.Events, event); err != nil {
		return fault(peerpb.TxValidationCode_INVALID_OTHER_REASON, "protos.ChaincodeAction.events does not parse as a ChaincodeEvent")
	}
	if event.ChaincodeId != d.ChaincodeID.Name {
		return fault(peerpb.TxValidationCode_INVALID_OTHER_REASON, "an event of chaincode %q in a call of %q", event.ChaincodeId, d.ChaincodeID.Name)
	}
	d.Event = event
	return nil
}
