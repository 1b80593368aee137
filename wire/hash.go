package wire

import (
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"
	"math/big"

	"strongroom/wire/commonpb"
)

// blockHeader is the ASN.1 form of a block header, which Fabric hashes and signs
// instead of the message: SEQUENCE { INTEGER, OCTET STRING, OCTET STRING }.
type blockHeader struct {
	Number       *big.Int
	PreviousHash []byte
	DataHash     []byte
}

// HeaderBytes is the ASN.1 DER form of a block header: the end of what an orderer
// signs (common.MetadataSignature).
func HeaderBytes(h *commonpb.BlockHeader) []byte {
	der, err := asn1.Marshal(blockHeader{
		Number:       new(big.Int).SetUint64(h.GetNumber()),
		PreviousHash: h.GetPreviousHash(),
		DataHash:     h.GetDataHash(),
	})
	if err != nil {
		panic("wire: a block header of one number and two strings does not marshal: " + err.Error())
	}
	return der
}

// BlockHash is the SHA-256 of HeaderBytes: what the next block's previous_hash is.
func BlockHash(h *commonpb.BlockHeader) []byte {
	sum := sha256.Sum256(HeaderBytes(h))
	return sum[:]
}

// DataHash is the SHA-256 of a block's envelopes, one after the other: what
// common.BlockHeader.data_hash must be.
func DataHash(d *commonpb.BlockData) []byte {
	h := sha256.New()
	for _, envelope := range d.GetData() {
		h.Write(envelope)
	}
	return h.Sum(nil)
}

// TxID is the transaction id that belongs to a nonce and a creator: the SHA-256 of
// both, in lower-case hex.
func TxID(nonce, creator []byte) string {
	h := sha256.New()
	h.Write(nonce)
	h.Write(creator)
	return hex.EncodeToString(h.Sum(nil))
}

// proposalHash is the hash that ties a proposal response to its proposal: over the
// channel header, the signature header and the ChaincodeProposalPayload without
// its transient fields.
func proposalHash(channelHeader, signatureHeader, payload []byte) []byte {
	h := sha256.New()
	h.Write(channelHeader)
	h.Write(signatureHeader)
	h.Write(payload)
	return h.Sum(nil)
}
