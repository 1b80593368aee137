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

	encode sync.Once
	field  []byte // the block as the field of a response; encode sets it and encErr
	encErr error

	decode sync.Once
	msg    *commonpb.Block // decode sets it, config and decErr
	config bool
	decErr error
}

// NewBlock serves a block that was already decoded. Nothing may change msg afterwards.
func NewBlock(msg *commonpb.Block) *Block {
	b := &Block{number: msg.GetHeader().GetNumber()}
	b.decode.Do(func() { b.msg, b.config = msg, isConfig(msg) })
	return b
}

// EncodedBlock serves a block from the bytes of its common.Block, which it copies.
// They are decoded only if a stream asks for the message.
func EncodedBlock(number uint64, raw []byte) *Block {
	b := &Block{number: number}
	b.encode.Do(func() { b.field = append(fieldHead(len(raw)), raw...) })
	return b
}

// fieldHead is what stands before a block of n bytes in a response, with room for it.
func fieldHead(n int) []byte {
	b := make([]byte, 0, protowire.SizeTag(blockField)+protowire.SizeBytes(n))
	b = protowire.AppendTag(b, blockField, protowire.BytesType)
	return protowire.AppendVarint(b, uint64(n))
}

// Number is the block's height in its channel.
func (b *Block) Number() uint64 { return b.number }

// Message is the decoded block; the caller must not change it. The error says that
// the stored bytes are not a block.
func (b *Block) Message() (*commonpb.Block, error) {
	b.decode.Do(func() {
		_, _, head := protowire.ConsumeTag(b.field)
		raw, _ := protowire.ConsumeBytes(b.field[head:])
		msg := new(commonpb.Block)
		if err := proto.Unmarshal(raw, msg); err != nil {
			b.decErr = fmt.Errorf("block %d as it is stored: %w", b.number, err)
			return
		}
		b.msg, b.config = msg, isConfig(msg)
	})
	return b.msg, b.decErr
}

// response is the whole block as the field of a deliver response.
func (b *Block) response() ([]byte, error) {
	b.encode.Do(func() { b.field, b.encErr = encodeField(b.number, b.msg) })
	return b.field, b.encErr
}

func encodeField(number uint64, msg *commonpb.Block) ([]byte, error) {
	field, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(fieldHead(proto.Size(msg)), msg)
	if err != nil {
		return nil, fmt.Errorf("encode block %d: %w", number, err)
	}
	return field, nil
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
	return encodeField(b.number, &commonpb.Block{Header: msg.Header, Metadata: msg.Metadata})
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
