package configtx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/commonpb"
)

// InvalidBlockError is the verdict that a block is not one of the channel's: its
// data is not what its header says, or its signatures do not satisfy the policy.
type InvalidBlockError struct {
	Number uint64
	Reason string
}

// Error names the block and the reason.
func (e *InvalidBlockError) Error() string {
	return fmt.Sprintf("block %d is not valid: %s", e.Number, e.Reason)
}

// VerifyBlock checks that a block's data is what its header says and that its
// signatures satisfy the channel's BlockValidation policy. c is the configuration
// in force before the block. An *InvalidBlockError is a verdict on the block; every
// other error is a failure of ours. Number, previous hash and channel are the
// caller's to check; genesis blocks are not signed.
func VerifyBlock(ctx context.Context, c *Config, b *commonpb.Block) error {
	number := b.GetHeader().GetNumber()
	invalid := func(format string, args ...any) error {
		return &InvalidBlockError{Number: number, Reason: fmt.Sprintf(format, args...)}
	}
	if b.GetHeader() == nil || b.GetData() == nil {
		return invalid("it has no header or no data")
	}
	if !bytes.Equal(wire.DataHash(b.GetData()), b.GetHeader().GetDataHash()) {
		return invalid("its data does not have the hash that its header says")
	}
	signed, err := blockSignatures(c, b)
	if err != nil {
		return invalid("%v", err)
	}
	policy, err := c.Policies.Policy(BlockValidationPath)
	if err != nil {
		return fmt.Errorf("block %d: %w", number, err)
	}
	signers, err := c.Verified(ctx, signed)
	if err != nil {
		return fmt.Errorf("block %d: check its signatures: %w", number, err)
	}
	decision, err := policy.Evaluate(ctx, signers)
	if err != nil {
		return fmt.Errorf("block %d: policy %s: %w", number, BlockValidationPath, err)
	}
	if !decision.Allowed {
		return invalid("its %d signatures do not satisfy %s: %s", len(signed), BlockValidationPath, decision.Reason)
	}
	return nil
}

// blockSignatures lists what the orderers signed: the metadata value, the header
// that names the signer, and the block header (common.MetadataSignature).
func blockSignatures(c *Config, b *commonpb.Block) ([]Signed, error) {
	md, err := blockMetadata(b, commonpb.BlockMetadataIndex_SIGNATURES)
	if err != nil {
		return nil, err
	}
	header := wire.HeaderBytes(b.GetHeader())
	signed := make([]Signed, 0, len(md.GetSignatures()))
	for i, s := range md.GetSignatures() {
		if c.Capabilities.BFT() && len(s.GetSignatureHeader()) == 0 && len(s.GetIdentifierHeader()) > 0 {
			number, err := identifier(s.GetIdentifierHeader())
			if err != nil {
				return nil, fmt.Errorf("signature %d: identifier_header: %w", i, err)
			}
			at := slices.IndexFunc(c.Consenters, func(o *commonpb.Consenter) bool { return o.GetId() == number })
			if at < 0 {
				continue // of no orderer of this configuration
			}
			identity, err := msp.Serialize(msp.ID(c.Consenters[at].GetMspId()), c.Consenters[at].GetIdentity())
			if err != nil {
				return nil, fmt.Errorf("signature %d: %w", i, err)
			}
			signed = append(signed, Signed{Message: slices.Concat(md.GetValue(), s.GetIdentifierHeader(), header), Identity: identity, Signature: s.GetSignature()})
			continue
		}
		sh := &commonpb.SignatureHeader{}
		if err := proto.Unmarshal(s.GetSignatureHeader(), sh); err != nil {
			return nil, fmt.Errorf("signature %d: signature_header: %w", i, err)
		}
		signed = append(signed, Signed{Message: slices.Concat(md.GetValue(), s.GetSignatureHeader(), header), Identity: sh.GetCreator(), Signature: s.GetSignature()})
	}
	return signed, nil
}

// identifier reads common.IdentifierHeader.identifier (field 1): which consenter
// signed.
func identifier(b []byte) (uint32, error) {
	var id uint32
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		b = b[n:]
		if num == 1 && typ == protowire.VarintType {
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return 0, protowire.ParseError(n)
			}
			id, b = uint32(v), b[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return 0, protowire.ParseError(n)
		}
		b = b[n:]
	}
	return id, nil
}

func blockMetadata(b *commonpb.Block, index commonpb.BlockMetadataIndex) (*commonpb.Metadata, error) {
	slots := b.GetMetadata().GetMetadata()
	if len(slots) <= int(index) {
		return nil, fmt.Errorf("it has no metadata %s", index)
	}
	md := &commonpb.Metadata{}
	if err := proto.Unmarshal(slots[index], md); err != nil {
		return nil, fmt.Errorf("its metadata %s: %w", index, err)
	}
	return md, nil
}

// LastConfigIndex is the number of the last configuration block at or before a
// block, as its orderer signed it (OrdererBlockMetadata in the metadata SIGNATURES,
// or in old blocks the metadata LAST_CONFIG).
func LastConfigIndex(b *commonpb.Block) (uint64, error) {
	number := b.GetHeader().GetNumber()
	md, err := blockMetadata(b, commonpb.BlockMetadataIndex_SIGNATURES)
	if err != nil {
		return 0, fmt.Errorf("block %d: %w", number, err)
	}
	if len(md.GetValue()) > 0 {
		obm := &commonpb.OrdererBlockMetadata{}
		if err := proto.Unmarshal(md.GetValue(), obm); err != nil {
			return 0, fmt.Errorf("block %d: OrdererBlockMetadata: %w", number, err)
		}
		if obm.GetLastConfig() == nil {
			return 0, fmt.Errorf("block %d: OrdererBlockMetadata has no last_config", number)
		}
		return obm.GetLastConfig().GetIndex(), nil
	}
	if md, err = blockMetadata(b, commonpb.BlockMetadataIndex_LAST_CONFIG); err != nil {
		return 0, fmt.Errorf("block %d: %w", number, err)
	}
	last := &commonpb.LastConfig{}
	if err := proto.Unmarshal(md.GetValue(), last); err != nil {
		return 0, fmt.Errorf("block %d: LastConfig: %w", number, err)
	}
	return last.GetIndex(), nil
}

// EnvelopeFromBlock takes the channel id and the configuration out of a
// configuration block.
func EnvelopeFromBlock(b *commonpb.Block) (channelID string, ce *commonpb.ConfigEnvelope, err error) {
	number := b.GetHeader().GetNumber()
	if n := len(b.GetData().GetData()); n != 1 {
		return "", nil, fmt.Errorf("block %d is not a configuration block: it has %d transactions, not one", number, n)
	}
	env := &commonpb.Envelope{}
	if err := proto.Unmarshal(b.GetData().GetData()[0], env); err != nil {
		return "", nil, fmt.Errorf("block %d: envelope: %w", number, err)
	}
	ch, data, err := openEnvelope(env, commonpb.HeaderType_CONFIG)
	if err != nil {
		return "", nil, fmt.Errorf("block %d is not a configuration block: %w", number, err)
	}
	ce = &commonpb.ConfigEnvelope{}
	if err := proto.Unmarshal(data, ce); err != nil {
		return "", nil, fmt.Errorf("block %d: ConfigEnvelope: %w", number, err)
	}
	return ch.GetChannelId(), ce, nil
}

// openEnvelope returns the channel header and the data of an envelope's payload,
// which must be of the wanted type.
func openEnvelope(env *commonpb.Envelope, want commonpb.HeaderType) (*commonpb.ChannelHeader, []byte, error) {
	if env == nil {
		return nil, nil, errors.New("envelope is missing")
	}
	payload := &commonpb.Payload{}
	if err := proto.Unmarshal(env.GetPayload(), payload); err != nil {
		return nil, nil, fmt.Errorf("payload: %w", err)
	}
	if payload.GetHeader() == nil {
		return nil, nil, errors.New("payload has no header")
	}
	ch := &commonpb.ChannelHeader{}
	if err := proto.Unmarshal(payload.GetHeader().GetChannelHeader(), ch); err != nil {
		return nil, nil, fmt.Errorf("channel header: %w", err)
	}
	if ch.GetType() != int32(want) {
		return nil, nil, fmt.Errorf("the envelope is of type %d, not %s", ch.GetType(), want)
	}
	return ch, payload.GetData(), nil
}
