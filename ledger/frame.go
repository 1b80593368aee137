package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A record of the block log is a frame around one sealed block:
//
//	magic    4 bytes  "SRB" and the form: "1" if a marshalled common.Block was sealed,
//	                  "2" if it was compressed before (ledger/compress),
//	                  "3" if its values were cut out and sealed for their namespaces
//	length   4 bytes  of the sealed block, big endian
//	number   8 bytes  of the block, big endian
//	checksum 4 bytes  CRC-32C over length, number and the sealed block
//	sealed block
//
// The form decides as what kind the block is sealed, so that nobody can change it.
//
// The checksum tells a write that did not finish from one that did; that nobody
// changed the block is for the seal to say.
const (
	frameMagic  = "SRB" // and the form
	frameHeader = 20
	// maxRecord bounds a sealed block: more than any orderer cuts.
	maxRecord = 1 << 30
)

// blockForm says how a block became what is sealed in a record.
type blockForm byte

const (
	formMarshalled blockForm = '1'
	formCompressed blockForm = '2'
	formSplit      blockForm = '3'
)

func (f blockForm) known() bool { return f >= formMarshalled && f <= formSplit }

// record is one block of the log as it was read.
type record struct {
	number uint64
	form   blockForm
	sealed []byte
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errIncomplete means that a frame ends before its length says.
var errIncomplete = errors.New("record is not complete")

// startFrame appends room for a frame's header to b; finishFrame fills it in when
// the sealed block stands behind it.
func startFrame(b []byte) []byte {
	return append(b, make([]byte, frameHeader)...)
}

func finishFrame(frame []byte, number uint64, form blockForm) error {
	length := len(frame) - frameHeader
	if length > maxRecord {
		return fmt.Errorf("sealed block %d has %d bytes, %d are the most", number, length, maxRecord)
	}
	copy(frame, frameMagic)
	frame[len(frameMagic)] = byte(form)
	binary.BigEndian.PutUint32(frame[4:], uint32(length))
	binary.BigEndian.PutUint64(frame[8:], number)
	binary.BigEndian.PutUint32(frame[16:], frameSum(frame))
	return nil
}

func frameSum(frame []byte) uint32 {
	sum := crc32.Update(0, castagnoli, frame[4:16])
	return crc32.Update(sum, castagnoli, frame[frameHeader:])
}

// frameLength reads a header and returns the whole frame's length.
func frameLength(header []byte) (int, error) {
	if len(header) < frameHeader {
		return 0, errIncomplete
	}
	if string(header[:3]) != frameMagic || !blockForm(header[3]).known() {
		return 0, fmt.Errorf("record does not start with %s and a form from %c to %c", frameMagic, formMarshalled, formSplit)
	}
	length := binary.BigEndian.Uint32(header[4:])
	if length > maxRecord {
		return 0, fmt.Errorf("record claims %d bytes", length)
	}
	return frameHeader + int(length), nil
}

// parseFrame reads the frame at the start of b. What it returns aliases b.
func parseFrame(b []byte) (record, error) {
	length, err := frameLength(b)
	if err != nil {
		return record{}, err
	}
	if len(b) < length {
		return record{}, errIncomplete
	}
	frame := b[:length]
	if binary.BigEndian.Uint32(frame[16:]) != frameSum(frame) {
		return record{}, errors.New("record's checksum is wrong")
	}
	return record{number: binary.BigEndian.Uint64(frame[8:]), form: blockForm(frame[3]), sealed: frame[frameHeader:]}, nil
}
