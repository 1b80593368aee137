package auditlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"

	"strongroom/ledger/seal"
)

// The records lie in segments, files named by their first record's number (20 digits).
// A segment is a sequence of frames, and a frame holds records that were written with
// one sync:
//
//	magic    4 bytes  "SRA1"
//	length   4 bytes  of what is sealed, big endian
//	first    8 bytes  number of the first record, big endian
//	count    4 bytes  of records
//	checksum 4 bytes  CRC-32C over length, first, count and what is sealed
//	sealed            zstd of: for each record its length (uvarint), the record, the
//	                  length of its private part (uvarint), the private part
//
// The checksum tells a write that did not finish from one that did; that nobody changed
// it is for the seal and the tree to say.
const (
	frameMagic  = "SRA1"
	frameHeader = 24
	maxSealed   = 64 << 20
	suffix      = ".audit"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Opener opens what a Sealer sealed. *seal.Keyring is both.
type Opener interface {
	Open(dst, sealed []byte, p seal.Place) ([]byte, error)
}

// Sealer seals.
type Sealer interface {
	Seal(dst, plaintext []byte, p seal.Place) ([]byte, error)
}

// Stored is a record as it lies on disk.
type Stored struct {
	Number  uint64
	Line    []byte // the record
	Private []byte // what lies beside it and is no part of the tree; often nil
}

func place(first uint64, count uint32) seal.Place {
	return seal.Place{Kind: seal.KindAudit, Block: first, Tx: uint64(count)}
}

// The coders have no state between calls of EncodeAll and DecodeAll.
var (
	packer, _   = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	unpacker, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(4*maxSealed))
)

// frame makes a frame of records.
func frame(s Sealer, records []Stored) ([]byte, error) {
	var plain []byte
	for _, r := range records {
		plain = binary.AppendUvarint(plain, uint64(len(r.Line)))
		plain = append(plain, r.Line...)
		plain = binary.AppendUvarint(plain, uint64(len(r.Private)))
		plain = append(plain, r.Private...)
	}
	first, count := records[0].Number, uint32(len(records))
	b, err := s.Seal(make([]byte, frameHeader), packer.EncodeAll(plain, nil), place(first, count))
	clear(plain)
	if err != nil {
		return nil, err
	}
	if len(b)-frameHeader > maxSealed {
		return nil, fmt.Errorf("records from %d on have %d bytes: %d are the most", first, len(b)-frameHeader, maxSealed)
	}
	copy(b, frameMagic)
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)-frameHeader))
	binary.BigEndian.PutUint64(b[8:], first)
	binary.BigEndian.PutUint32(b[16:], count)
	binary.BigEndian.PutUint32(b[20:], checksum(b))
	return b, nil
}

func checksum(frame []byte) uint32 {
	sum := crc32.Update(0, castagnoli, frame[4:20])
	return crc32.Update(sum, castagnoli, frame[frameHeader:])
}

// open gives the records of a whole frame.
func open(o Opener, frame []byte) ([]Stored, error) {
	first, count := binary.BigEndian.Uint64(frame[8:]), binary.BigEndian.Uint32(frame[16:])
	packed, err := o.Open(nil, frame[frameHeader:], place(first, count))
	if err != nil {
		return nil, err
	}
	plain, err := unpacker.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("records from %d on: %w", first, err)
	}
	var records []Stored
	for i := range uint64(count) {
		r := Stored{Number: first + i}
		for _, part := range []*[]byte{&r.Line, &r.Private} {
			n, used := binary.Uvarint(plain)
			if used <= 0 || n > uint64(len(plain)-used) {
				return nil, fmt.Errorf("record %d is cut off in its frame", r.Number)
			}
			*part, plain = plain[used:used+int(n):used+int(n)], plain[used+int(n):]
		}
		records = append(records, r)
	}
	if len(plain) > 0 {
		return nil, fmt.Errorf("records from %d on: the frame holds more than its %d records", first, count)
	}
	return records, nil
}

// errTorn means that a frame does not end, as after a crash while it was written.
var errTorn = errors.New("the last write did not finish")

// readFrame reads the frame at an offset of a file of a size. At the end it is io.EOF;
// a frame that is not whole, with nothing after it, is errTorn.
func readFrame(f io.ReaderAt, offset, size int64) ([]byte, error) {
	if offset == size {
		return nil, io.EOF
	}
	header := make([]byte, frameHeader)
	if size-offset < frameHeader {
		return nil, errTorn
	}
	if _, err := f.ReadAt(header, offset); err != nil {
		return nil, err
	}
	length := int64(binary.BigEndian.Uint32(header[4:]))
	if !bytes.Equal(header[:4], []byte(frameMagic)) || length > maxSealed {
		if allZero(header) {
			return nil, errTorn // room that a crash left without its content
		}
		return nil, errors.New("no record begins here")
	}
	end := offset + frameHeader + length
	if end > size {
		return nil, errTorn
	}
	b := make([]byte, frameHeader+length)
	if _, err := f.ReadAt(b, offset); err != nil {
		return nil, err
	}
	if binary.BigEndian.Uint32(b[20:]) != checksum(b) {
		if end == size {
			return nil, errTorn
		}
		return nil, errors.New("the checksum is wrong")
	}
	return b, nil
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

func segmentName(first uint64) string { return fmt.Sprintf("%020d%s", first, suffix) }

// segments lists the numbers of the first records of the segments in a folder.
func segments(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var firsts []uint64
	for _, e := range entries {
		var first uint64
		if _, err := fmt.Sscanf(e.Name(), "%d"+suffix, &first); err == nil && segmentName(first) == e.Name() {
			firsts = append(firsts, first)
		}
	}
	slices.Sort(firsts)
	return firsts, nil
}

// Reader reads the records of a folder in their order. It may run beside the process
// that writes them. It is for one goroutine.
type Reader struct {
	dir    string
	opener Opener

	file   *os.File
	first  uint64 // of the open segment
	offset int64  // of the next frame in it
	next   uint64 // record to give next
	queue  []Stored
}

// OpenReader opens a log for reading from a record on: from 0 for all that is kept.
// dir is the log's folder, as for Open.
func OpenReader(dir string, o Opener, from uint64) (*Reader, error) {
	r := &Reader{dir: filepath.Join(dir, recordsDir), opener: o, next: from}
	firsts, err := segments(r.dir)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	if len(firsts) == 0 {
		return r, nil
	}
	if from < firsts[0] {
		r.next = firsts[0]
	}
	i, found := slices.BinarySearch(firsts, r.next)
	if !found {
		i--
	}
	return r, r.open(firsts[i])
}

func (r *Reader) open(first uint64) error {
	f, err := os.Open(filepath.Join(r.dir, segmentName(first)))
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	if r.file != nil {
		if err := r.file.Close(); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	r.file, r.first, r.offset = f, first, 0
	return nil
}

// Next gives the next record. At the end of what is written it is io.EOF, and may be
// asked again later. The caller owns the record.
func (r *Reader) Next() (*Stored, error) {
	for {
		for len(r.queue) > 0 {
			s := r.queue[0]
			r.queue = r.queue[1:]
			if s.Number >= r.next {
				r.next = s.Number + 1
				return &s, nil
			}
		}
		if err := r.fill(); err != nil {
			return nil, err
		}
	}
}

// fill reads the next frame.
func (r *Reader) fill() error {
	if r.file == nil {
		return r.begin()
	}
	info, err := r.file.Stat()
	if err != nil {
		return err
	}
	b, err := readFrame(r.file, r.offset, info.Size())
	if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
		return r.follow(err)
	}
	if err == nil {
		r.queue, err = open(r.opener, b)
	}
	if err != nil {
		return fmt.Errorf("audit log %s at byte %d: %w", segmentName(r.first), r.offset, err)
	}
	r.offset += int64(len(b))
	return nil
}

// begin opens the first segment of a log that had none.
func (r *Reader) begin() error {
	firsts, err := segments(r.dir)
	if err != nil {
		return err
	}
	if len(firsts) == 0 {
		return io.EOF
	}
	return r.open(firsts[0])
}

// follow goes on with the segment after the open one, whose end is end: io.EOF or errTorn.
func (r *Reader) follow(end error) error {
	firsts, err := segments(r.dir)
	if err != nil {
		return err
	}
	i, found := slices.BinarySearch(firsts, r.first)
	switch {
	case found && i+1 == len(firsts):
		return io.EOF
	case i+1 > len(firsts):
		return io.EOF
	case !found:
		return r.open(firsts[i])
	case errors.Is(end, errTorn):
		return fmt.Errorf("audit log %s at byte %d: %w, and later records stand in another file", segmentName(r.first), r.offset, end)
	}
	return r.open(firsts[i+1])
}

// Close closes the reader.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}

// hashOf is what the next record will name.
func hashOf(line []byte) Hash { return sha256.Sum256(line) }

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
