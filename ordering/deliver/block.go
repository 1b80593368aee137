package deliver

import (
	"fmt"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
)

// blockField is the number of the field block in orderer.DeliverResponse and in
// protos.DeliverResponse: the same in both.
const blockField protowire.Number = 2

// Block is one block as streams serve it. The bytes of a whole block are made
// once and shared by every stream that sends it. A Block is immutable and safe
// for concurrent use.
type Block struct {
	number uint64

	parse  sync.Once
	raw    []byte
	msg    *commonpb.Block
	err    error
	encode sync.Once
	field  []byte
	config bool
}

// NewBlock serves a block that was already decoded. Nothing may change msg afterwards.
func NewBlock(msg *commonpb.Block) *Block {
	b := &Block{number: msg.GetHeader().GetNumber(), msg: msg}
	b.parse.Do(func() { b.config = isConfig(msg) })
	return b
}

// EncodedBlock serves a block from the bytes of its common.Block. They are decoded
// only if a stream asks for the message. Nothing may change raw afterwards.
func EncodedBlock(number uint64, raw []byte) *Block {
	return &Block{number: number, raw: raw}
}

// Number is the block's height in its channel.
func (b *Block) Number() uint64 { return b.number }

// Message is the decoded block; the caller must not change it. The error says that
// the stored bytes are not a block.
func (b *Block) Message() (*commonpb.Block, error) {
	b.parse.Do(func() {
		msg := new(commonpb.Block)
		if err := proto.Unmarshal(b.raw, msg); err != nil {
			b.err = fmt.Errorf("block %d as it is stored: %w", b.number, err)
			return
		}
		b.msg, b.config = msg, isConfig(msg)
	})
	return b.msg, b.err
}

// response is the whole block as the field of a deliver response.
func (b *Block) response() ([]byte, error) {
	b.encode.Do(func() {
		raw := b.raw
		if raw == nil {
			var err error
			if raw, err = proto.Marshal(b.msg); err != nil {
				b.err = fmt.Errorf("encode block %d: %w", b.number, err)
				return
			}
		}
		field := make([]byte, 0, protowire.SizeTag(blockField)+protowire.SizeBytes(len(raw)))
		field = protowire.AppendTag(field, blockField, protowire.BytesType)
		b.field = protowire.AppendBytes(field, raw)
	})
	if b.field == nil {
		return nil, b.err
	}
	return b.field, nil
}

// headerResponse is the block without its data, as SeekInfo.HEADER_WITH_SIG asks
// for; a configuration block keeps its data (Fabric's rule), so that a follower of
// headers learns who may sign the next one.
func (b *Block) headerResponse() ([]byte, error) {
	msg, err := b.Message()
	if err != nil {
		return nil, err
	}
	if b.config {
		return b.response()
	}
	raw, err := proto.Marshal(&commonpb.Block{Header: msg.Header, Metadata: msg.Metadata})
	if err != nil {
		return nil, fmt.Errorf("encode header of block %d: %w", b.number, err)
	}
	field := protowire.AppendTag(nil, blockField, protowire.BytesType)
	return protowire.AppendBytes(field, raw), nil
}

// isConfig tells whether the block's first envelope is a CONFIG message: such a
// block holds nothing else.
func isConfig(b *commonpb.Block) bool {
	data := b.GetData().GetData()
	if len(data) != 1 {
		return false
	}
	var (
		env     commonpb.Envelope
		payload commonpb.Payload
		header  commonpb.ChannelHeader
	)
	if proto.Unmarshal(data[0], &env) != nil || proto.Unmarshal(env.Payload, &payload) != nil ||
		proto.Unmarshal(payload.GetHeader().GetChannelHeader(), &header) != nil {
		return false
	}
	return commonpb.HeaderType(header.Type) == commonpb.HeaderType_CONFIG
}
