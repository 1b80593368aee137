package wire

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// Envelope is a parsed common.Envelope of any type. Its slices alias the message
// that it was parsed from; nothing may change them.
type Envelope struct {
	Payload              []byte // common.Envelope.payload: the bytes that the creator signed
	Signature            []byte // common.Envelope.signature
	ChannelHeaderBytes   []byte // common.Header.channel_header
	SignatureHeaderBytes []byte // common.Header.signature_header
	ChannelHeader        *commonpb.ChannelHeader
	SignatureHeader      *commonpb.SignatureHeader
	Data                 []byte // common.Payload.data; nil when it is absent or empty
}

// ParseEnvelope reads an envelope and its headers, whatever its type. The fault is
// NIL_ENVELOPE, BAD_PAYLOAD or BAD_COMMON_HEADER. What the headers must hold for
// one purpose (a nonce, a type, a channel) is for the service that asks.
func ParseEnvelope(env *commonpb.Envelope) (*Envelope, *Fault) {
	if env == nil {
		return nil, fault(peerpb.TxValidationCode_NIL_ENVELOPE, "the envelope is missing")
	}
	e := &Envelope{Payload: env.Payload, Signature: env.Signature}
	if f := e.parse(); f != nil {
		return nil, f
	}
	return e, nil
}

// parse reads the payload and its headers. After a fault, the headers that could
// be read are set.
func (e *Envelope) parse() *Fault {
	hasHeader := false
	err := scan(e.Payload, func(number protowire.Number, value []byte) error {
		if number == 2 {
			e.Data = value
			return nil
		}
		hasHeader = true
		return scanTwo(value, &e.ChannelHeaderBytes, &e.SignatureHeaderBytes)
	})
	if err != nil {
		return fault(peerpb.TxValidationCode_BAD_PAYLOAD, "common.Envelope.payload is not a common.Payload")
	}
	if !hasHeader {
		return fault(peerpb.TxValidationCode_BAD_COMMON_HEADER, "common.Payload.header is missing")
	}
	channel := &commonpb.ChannelHeader{}
	if err := proto.Unmarshal(e.ChannelHeaderBytes, channel); err != nil {
		return fault(peerpb.TxValidationCode_BAD_COMMON_HEADER, "common.Header.channel_header does not parse")
	}
	e.ChannelHeader = channel
	signature, err := parseSignatureHeader(e.SignatureHeaderBytes)
	if err != nil {
		return fault(peerpb.TxValidationCode_BAD_COMMON_HEADER, "common.Header.signature_header does not parse")
	}
	e.SignatureHeader = signature
	return nil
}

func parseSignatureHeader(b []byte) (*commonpb.SignatureHeader, error) {
	h := &commonpb.SignatureHeader{}
	return h, scanTwo(b, &h.Creator, &h.Nonce)
}

func fault(code peerpb.TxValidationCode, format string, args ...any) *Fault {
	return &Fault{Code: code, Reason: fmt.Sprintf(format, args...)}
}
