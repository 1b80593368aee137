package ordering

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
)

// entryKind says how an entry is ordered.
type entryKind byte

const (
	normalEntry entryKind = 1
	// configEntry is a CONFIG envelope made here; it gets a block of its own.
	configEntry entryKind = 2
)

const entryHeaderSize = 1 + 8

// encodeEntry is an entry as the pending log holds it: kind, configuration sequence,
// envelope. The log's record number is its position.
func encodeEntry(kind entryKind, sequence uint64, raw []byte) []byte {
	b := make([]byte, 0, entryHeaderSize+len(raw))
	b = append(b, byte(kind))
	b = binary.BigEndian.AppendUint64(b, sequence)
	return append(b, raw...)
}

// decodeEntry is the reverse; the entry aliases b.
func decodeEntry(position uint64, b []byte) (entry, error) {
	if len(b) < entryHeaderSize {
		return entry{}, fmt.Errorf("pending entry %d has %d bytes, at least %d are needed", position, len(b), entryHeaderSize)
	}
	e := entry{position: position, kind: entryKind(b[0]), sequence: binary.BigEndian.Uint64(b[1:]), raw: b[entryHeaderSize:]}
	if e.kind != normalEntry && e.kind != configEntry {
		return entry{}, fmt.Errorf("pending entry %d is of kind %d, which this version does not know", position, e.kind)
	}
	var env commonpb.Envelope
	if err := proto.Unmarshal(e.raw, &env); err != nil {
		return entry{}, fmt.Errorf("pending entry %d: %w", position, err)
	}
	e.size = envelopeSize(&env)
	return e, nil
}

// envelopeSize is what Fabric's limits count of an envelope, in bytes.
func envelopeSize(env *commonpb.Envelope) uint32 {
	return uint32(len(env.GetPayload()) + len(env.GetSignature()))
}

// usedUp is what the consenter metadata of a block says: how many entries of the
// pending log are in this block or before it, or were refused on the way.
type usedUp uint64

// consenterVersion is the first byte of our consenter metadata, so that it is never
// taken for another orderer's.
const consenterVersion = 0x53

func (u usedUp) marshal() []byte {
	return binary.BigEndian.AppendUint64([]byte{consenterVersion}, uint64(u))
}

// parseUsedUp reads the value of a block that this service signed. A block without
// one, as the genesis block, uses up nothing.
func parseUsedUp(b []byte) (usedUp, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if len(b) != 9 || b[0] != consenterVersion {
		return 0, fmt.Errorf("consenter metadata %x is not of this ordering service", b)
	}
	return usedUp(binary.BigEndian.Uint64(b[1:])), nil
}
