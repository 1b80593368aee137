package sealfs

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/syndtr/goleveldb/leveldb/storage"

	"strongroom/ledger/disk"
	"strongroom/ledger/seal"
)

// A journal or manifest is its header and then records:
//
//	magic    4 bytes  "SRR1"
//	length   4 bytes  of the content
//	number   8 bytes  of the record from 0
//	durable  8 bytes  how many bytes of the file were synced when the record was written
//	content and tag
//
// with big-endian integers. The nonce is four zero bytes and the number; what
// stands before the content is associated data.
const (
	recordMagic = "SRR1"
	recordHead  = 24
	// maxRecord bounds a record's content.
	maxRecord = 1 << 26
)

// recordWriter writes a journal or manifest. It is for one goroutine.
type recordWriter struct {
	file
	aead    cipher.AEAD
	number  uint64
	durable int64
	out     []byte
}

// Write appends bytes to the file. An error is final.
func (w *recordWriter) Write(b []byte) (int, error) {
	total := len(b)
	for len(b) > 0 {
		n := min(len(b), maxRecord)
		w.out = w.appendRecord(w.out[:0], b[:n])
		if err := w.write(w.out); err != nil {
			return total - len(b), err
		}
		b = b[n:]
	}
	return total, w.err
}

func (w *recordWriter) appendRecord(dst, content []byte) []byte {
	var nonce [nonceSize]byte
	binary.BigEndian.PutUint64(nonce[4:], w.number)
	dst = append(dst, recordMagic...)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(content)))
	dst = binary.BigEndian.AppendUint64(dst, w.number)
	dst = binary.BigEndian.AppendUint64(dst, uint64(w.durable))
	w.number++
	return w.aead.Seal(dst, nonce[:], content, dst[:recordHead])
}

// Sync has what was written on the disk.
func (w *recordWriter) Sync() error {
	if err := w.sync(); err != nil {
		return err
	}
	w.durable = w.size
	return nil
}

// Close closes the file.
func (w *recordWriter) Close() error { return w.close() }

// recordReader is the content of a journal or manifest.
type recordReader struct{ *bytes.Reader }

// Close does nothing: the file was read already.
func (recordReader) Close() error { return nil }

// openRecords reads and checks all records.
//
// A record that does not open, or is not complete, is one of two things. If a later
// record that opens says that the file was synced beyond it, it was on the disk and was
// damaged: an error, always. Otherwise nothing in the file proves that it ever was
// on the disk whole, and it is taken for the end of a write that a crash tore:
// with Lenient it and what follows is dropped, else it is an error.
func (s *Storage) openRecords(f disk.File, fd storage.FileDesc) (storage.Reader, error) {
	raw, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("file %s: %w", f.Name(), err)
	}
	start, aead, err := s.readHeader(bytes.NewReader(raw), fd)
	if errors.Is(err, errTorn) {
		return s.torn(f.Name(), fd, nil, 0, err)
	}
	if err != nil {
		return nil, s.classify(fd, f.Name(), err)
	}
	content := make([]byte, 0, len(raw))
	at, number := int(start), uint64(0)
	for at < len(raw) {
		next, n, err := openRecord(content, raw[at:], aead)
		if err == nil && n.number != number {
			err = fmt.Errorf("record %d stands where record %d belongs", n.number, number)
		}
		if err != nil {
			if durable := laterDurable(raw[at:], aead); durable > uint64(at) {
				return nil, s.corrupt(fd, f.Name(), fmt.Errorf("record %d at byte %d: %w; it was on the disk, for the file was synced up to byte %d",
					number, at, err, durable))
			}
			return s.torn(f.Name(), fd, content, at, err)
		}
		content, at = next, at+n.size
		number++
	}
	return recordReader{bytes.NewReader(content)}, nil
}

// torn drops the end of a file from a byte on, if that is allowed.
func (s *Storage) torn(path string, fd storage.FileDesc, content []byte, at int, reason error) (storage.Reader, error) {
	if !s.config.Lenient {
		return nil, s.corrupt(fd, path, fmt.Errorf("byte %d: %w", at, reason))
	}
	s.mu.Lock()
	s.cut = append(s.cut, fmt.Sprintf("file %s from byte %d on: %v", path, at, reason))
	s.mu.Unlock()
	return recordReader{bytes.NewReader(content)}, nil
}

// opened is what the header of a record says.
type opened struct {
	number, durable uint64
	size            int // of the whole record
}

// openRecord appends the content of the record at the start of b to dst.
func openRecord(dst, b []byte, aead cipher.AEAD) ([]byte, opened, error) {
	if len(b) < recordHead {
		return dst, opened{}, errTorn
	}
	if string(b[:4]) != recordMagic {
		return dst, opened{}, fmt.Errorf("no record starts here")
	}
	length := binary.BigEndian.Uint32(b[4:])
	if length > maxRecord {
		return dst, opened{}, fmt.Errorf("a record claims %d bytes", length)
	}
	n := opened{number: binary.BigEndian.Uint64(b[8:]), durable: binary.BigEndian.Uint64(b[16:]), size: recordHead + int(length) + tagSize}
	if len(b) < n.size {
		return dst, n, errTorn
	}
	var nonce [nonceSize]byte
	binary.BigEndian.PutUint64(nonce[4:], n.number)
	out, err := aead.Open(dst, nonce[:], b[recordHead:n.size], b[:recordHead])
	if err != nil {
		return dst, n, seal.ErrAltered
	}
	return out, n, nil
}

// laterDurable looks behind a bad record for records that open and returns the most
// that one of them says was synced.
func laterDurable(b []byte, aead cipher.AEAD) uint64 {
	var most uint64
	for at := 1; at < len(b); {
		i := bytes.Index(b[at:], []byte(recordMagic))
		if i < 0 {
			break
		}
		at += i
		_, n, err := openRecord(nil, b[at:], aead)
		if err != nil {
			at++
			continue
		}
		most = max(most, n.durable)
		at += n.size
	}
	return most
}
