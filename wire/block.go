package wire

import (
	"fmt"

	"strongroom/wire/commonpb"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/peerpb"
)

// Block is a parsed common.Block. Its slices alias the message that it was
// parsed from; nothing may change them.
type Block struct {
	Proto *commonpb.Block // as received; the ledger stores this
	Hash  []byte          // SHA-256 of the header's ASN.1 form: the Fabric block hash
	Txs   []*Tx           // one for each entry of Proto.Data.Data, in order
}

// Number is the block's height in its channel, counted from 0.
func (b *Block) Number() uint64 { return b.Proto.GetHeader().GetNumber() }

// Tx is one parsed envelope of a block. A Tx that is not well formed has a fault
// for the stage at which Fabric's validator finds it; the fields that could be
// read before are set, the others are zero.
type Tx struct {
	Index           int
	Envelope        []byte // as it stands in the block
	Payload         []byte // common.Envelope.payload: the bytes the creator signed
	Signature       []byte // common.Envelope.signature
	ChannelHeader   *commonpb.ChannelHeader
	SignatureHeader *commonpb.SignatureHeader

	// HeaderFault is what is wrong before the creator's signature is looked at,
	// BodyFault what is wrong after it was found good. Nil means nothing is.
	HeaderFault *Fault
	BodyFault   *Fault

	Endorsed *Endorsed                // for ENDORSER_TRANSACTION
	Config   *commonpb.ConfigEnvelope // for CONFIG
}

// TxID is the transaction id that the channel header claims, or "".
func (t *Tx) TxID() string { return t.ChannelHeader.GetTxId() }

// IndexID is the id under which a ledger finds the transaction, valid or not: what
// the channel header claims or, when that is empty, what nonce and creator give. It
// is "" for a transaction whose headers do not parse. A later transaction of this id
// is a duplicate (GetOrComputeTxIDFromEnvelope of Fabric's protoutil).
func (t *Tx) IndexID() string {
	if id := t.TxID(); id != "" || t.ChannelHeader == nil || t.SignatureHeader == nil {
		return id
	}
	return TxID(t.SignatureHeader.Nonce, t.SignatureHeader.Creator)
}

// Endorsed is the content of an ENDORSER_TRANSACTION. Fabric allows one action.
type Endorsed struct {
	ChaincodeID     *peerpb.ChaincodeID // of the header extension: the chaincode that was called
	ProposalPayload []byte              // protos.ChaincodeProposalPayload without transient fields
	ResponsePayload []byte              // protos.ProposalResponsePayload: what endorsers signed, before their identity
	ProposalHash    []byte
	Endorsements    []*peerpb.Endorsement
	Action          *peerpb.ChaincodeAction
	Event           *peerpb.ChaincodeEvent // nil when the transaction has none
	ReadWriteSet    *ReadWriteSet          // nil when the results do not parse

	// ResultsFault is the first thing wrong with the header extension, the action,
	// its results or its event. Fabric looks for it after the duplicate check.
	ResultsFault *Fault
}

// ReadWriteSet is a parsed rwset.TxReadWriteSet of the key-value model.
type ReadWriteSet struct {
	Namespaces []NamespaceSet // in the order of the message
}

// NamespaceSet is what a transaction read and wrote in one namespace.
type NamespaceSet struct {
	Namespace   string
	KV          *kvrwsetpb.KVRWSet
	Collections []CollectionSet
}

// CollectionSet is the hashed part of what a transaction read and wrote in one
// private data collection.
type CollectionSet struct {
	Collection string
	Hashed     *kvrwsetpb.HashedRWSet
	PvtHash    []byte // SHA-256 of the private read/write set
}

// Fault says that a transaction is invalid: a deterministic verdict with the
// code that goes into the block's transaction filter. It is never used for a
// failure of ours.
type Fault struct {
	Code   peerpb.TxValidationCode
	Reason string
}

// Error makes a Fault usable as an error.
func (f *Fault) Error() string { return fmt.Sprintf("%s: %s", f.Code, f.Reason) }
