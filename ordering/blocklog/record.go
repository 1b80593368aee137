package blocklog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

const (
	headerSize = 28
	// MaxRecord bounds a record's body in bytes: a length above it is not read as one.
	MaxRecord = 1 << 30
)

var (
	magic      = [4]byte{'r', 'c', 'd', '1'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// header is what stands before a record's body.
type header struct {
	length   uint32
	number   uint64
	durable  uint64
	checksum uint32
}

// appendRecord appends one whole record to b.
func appendRecord(b []byte, number, durable uint64, body []byte) []byte {
	at := len(b)
	b = append(b, magic[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	b = binary.BigEndian.AppendUint64(b, number)
	b = binary.BigEndian.AppendUint64(b, durable)
	sum := crc32.Update(crc32.Checksum(b[at+4:], castagnoli), castagnoli, body)
	b = binary.BigEndian.AppendUint32(b, sum)
	return append(b, body...)
}

// parseHeader reads a header; the error says what is not one.
func parseHeader(b []byte) (header, error) {
	if len(b) < headerSize {
		return header{}, fmt.Errorf("%d bytes are no record header, which has %d", len(b), headerSize)
	}
	if !bytes.Equal(b[:4], magic[:]) {
		return header{}, fmt.Errorf("no record starts here: bytes %x in place of %x", b[:4], magic)
	}
	h := header{
		length:   binary.BigEndian.Uint32(b[4:]),
		number:   binary.BigEndian.Uint64(b[8:]),
		durable:  binary.BigEndian.Uint64(b[16:]),
		checksum: binary.BigEndian.Uint32(b[24:]),
	}
	if h.length > MaxRecord {
		return header{}, fmt.Errorf("record %d claims %d bytes, at most %d are possible", h.number, h.length, MaxRecord)
	}
	return h, nil
}

// parseRecord reads the record at the start of b and returns its body, which
// aliases b.
func parseRecord(b []byte) (header, []byte, error) {
	h, err := parseHeader(b)
	if err != nil {
		return header{}, nil, err
	}
	if uint64(len(b)-headerSize) < uint64(h.length) {
		return header{}, nil, fmt.Errorf("record %d has %d bytes of its %d", h.number, len(b)-headerSize, h.length)
	}
	body := b[headerSize : headerSize+int(h.length)]
	if sum := crc32.Update(crc32.Checksum(b[4:headerSize-4], castagnoli), castagnoli, body); sum != h.checksum {
		return header{}, nil, fmt.Errorf("record %d has checksum %08x, its bytes give %08x", h.number, h.checksum, sum)
	}
	return h, body, nil
}

// laterDurable looks in b, which starts with a bad record, for good records and
// returns the highest durable mark among them, or 0.
func laterDurable(b []byte) uint64 {
	var mark uint64
	for at := 1; at < len(b); {
		i := bytes.Index(b[at:], magic[:])
		if i < 0 {
			return mark
		}
		at += i
		h, body, err := parseRecord(b[at:])
		if err != nil {
			at++
			continue
		}
		mark = max(mark, h.durable)
		at += headerSize + len(body)
	}
	return mark
}
