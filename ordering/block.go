package ordering

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/commonpb"
)

// nonceSize is that of Fabric's signature headers, in bytes.
const nonceSize = 24

func nonce() []byte {
	b := make([]byte, nonceSize)
	rand.Read(b) // never fails (crypto/rand)
	return b
}

// signEnvelope makes an envelope of this node for the channel.
func (c *chain) signEnvelope(ctx context.Context, kind commonpb.HeaderType, data proto.Message) (*commonpb.Envelope, error) {
	body, err := proto.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", kind, err)
	}
	channelHeader, err := proto.Marshal(&commonpb.ChannelHeader{
		Type:      int32(kind),
		ChannelId: c.id,
		Timestamp: timestamppb.New(c.cfg.Now()),
	})
	if err != nil {
		return nil, fmt.Errorf("encode channel header: %w", err)
	}
	by := c.cfg.Identity.Current()
	signatureHeader, err := signatureHeader(by)
	if err != nil {
		return nil, err
	}
	payload, err := proto.Marshal(&commonpb.Payload{
		Header: &commonpb.Header{ChannelHeader: channelHeader, SignatureHeader: signatureHeader},
		Data:   body,
	})
	if err != nil {
		return nil, fmt.Errorf("encode payload: %w", err)
	}
	sig, err := by.SignPayload(ctx, payload)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", kind, err)
	}
	return &commonpb.Envelope{Payload: payload, Signature: sig}, nil
}

func signatureHeader(by *msp.LocalIdentity) ([]byte, error) {
	b, err := proto.Marshal(&commonpb.SignatureHeader{Creator: by.Serialized, Nonce: nonce()})
	if err != nil {
		return nil, fmt.Errorf("encode signature header: %w", err)
	}
	return b, nil
}

// tail is what the next block builds on. The write stage owns it.
type tail struct {
	next       uint64 // number of the next block
	hash       []byte // of the last block's header
	lastConfig uint64 // number of the last configuration block
}

// nextBlock makes the block after the tail, without its signature.
func (t *tail) nextBlock(envelopes [][]byte) *commonpb.Block {
	data := &commonpb.BlockData{Data: envelopes}
	return &commonpb.Block{
		Header: &commonpb.BlockHeader{Number: t.next, PreviousHash: t.hash, DataHash: wire.DataHash(data)},
		Data:   data,
	}
}

// sign fills a block's metadata as Fabric's orderers do since 2.0: SIGNATURES holds
// the OrdererBlockMetadata with one signature over it, the signature header and the
// block header; LAST_CONFIG repeats the number of the last configuration block for
// readers of older formats; the others are left to the peers.
func (c *chain) sign(ctx context.Context, b *commonpb.Block, lastConfig uint64, used usedUp) error {
	consenter, err := proto.Marshal(&commonpb.Metadata{Value: used.marshal()})
	if err != nil {
		return fmt.Errorf("encode consenter metadata: %w", err)
	}
	value, err := proto.Marshal(&commonpb.OrdererBlockMetadata{
		LastConfig:        &commonpb.LastConfig{Index: lastConfig},
		ConsenterMetadata: consenter,
	})
	if err != nil {
		return fmt.Errorf("encode orderer metadata: %w", err)
	}
	by := c.cfg.Identity.Current()
	header, err := signatureHeader(by)
	if err != nil {
		return err
	}
	sig, err := by.SignBlock(ctx, value, header, wire.HeaderBytes(b.Header))
	if err != nil {
		return fmt.Errorf("sign block %d: %w", b.Header.Number, err)
	}
	signatures, err := proto.Marshal(&commonpb.Metadata{
		Value:      value,
		Signatures: []*commonpb.MetadataSignature{{SignatureHeader: header, Signature: sig}},
	})
	if err != nil {
		return fmt.Errorf("encode signatures of block %d: %w", b.Header.Number, err)
	}
	index, err := proto.Marshal(&commonpb.LastConfig{Index: lastConfig})
	if err != nil {
		return fmt.Errorf("encode last config: %w", err)
	}
	last, err := proto.Marshal(&commonpb.Metadata{Value: index})
	if err != nil {
		return fmt.Errorf("encode last config: %w", err)
	}
	slots := make([][]byte, commonpb.BlockMetadataIndex_COMMIT_HASH+1)
	slots[commonpb.BlockMetadataIndex_SIGNATURES] = signatures
	slots[commonpb.BlockMetadataIndex_LAST_CONFIG] = last
	b.Metadata = &commonpb.BlockMetadata{Metadata: slots}
	return nil
}

// ordererMetadata reads what sign wrote. The genesis block has none: nothing is used
// up, and it is the last configuration itself.
func ordererMetadata(b *commonpb.Block) (lastConfig uint64, used usedUp, err error) {
	number := b.GetHeader().GetNumber()
	if number == 0 {
		return 0, 0, nil
	}
	slots := b.GetMetadata().GetMetadata()
	if len(slots) <= int(commonpb.BlockMetadataIndex_SIGNATURES) {
		return 0, 0, fmt.Errorf("block %d has no metadata", number)
	}
	var m, consenter commonpb.Metadata
	var obm commonpb.OrdererBlockMetadata
	if err := proto.Unmarshal(slots[commonpb.BlockMetadataIndex_SIGNATURES], &m); err != nil {
		return 0, 0, fmt.Errorf("block %d: metadata SIGNATURES: %w", number, err)
	}
	if err := proto.Unmarshal(m.Value, &obm); err != nil {
		return 0, 0, fmt.Errorf("block %d: orderer metadata: %w", number, err)
	}
	if err := proto.Unmarshal(obm.ConsenterMetadata, &consenter); err != nil {
		return 0, 0, fmt.Errorf("block %d: consenter metadata: %w", number, err)
	}
	if used, err = parseUsedUp(consenter.Value); err != nil {
		return 0, 0, fmt.Errorf("block %d: %w", number, err)
	}
	return obm.GetLastConfig().GetIndex(), used, nil
}

// parseBlock reads a block of the log and checks what can be checked without its
// neighbours.
func parseBlock(number uint64, raw []byte) (*commonpb.Block, error) {
	b := new(commonpb.Block)
	if err := proto.Unmarshal(raw, b); err != nil {
		return nil, fmt.Errorf("block %d as it is stored: %w", number, err)
	}
	if got := b.GetHeader().GetNumber(); got != number {
		return nil, fmt.Errorf("block %d is stored as block %d", got, number)
	}
	if !bytes.Equal(wire.DataHash(b.GetData()), b.GetHeader().GetDataHash()) {
		return nil, fmt.Errorf("block %d as it is stored: its data does not have its data hash", number)
	}
	return b, nil
}

// errNoGenesis says that a channel's folder holds no block.
var errNoGenesis = errors.New("channel has no genesis block")
