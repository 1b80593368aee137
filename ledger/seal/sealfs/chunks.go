package sealfs

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/syndtr/goleveldb/leveldb/storage"

	"strongroom/ledger/disk"
	"strongroom/ledger/seal"
)

// A table is its header and then chunks of chunkSize bytes, each followed by its
// tag; the last has 0 to chunkSize bytes. The nonce is
//
//	zeros   3 bytes
//	last    1 byte   1 for the last chunk, else 0
//	number  8 bytes  of the chunk from 0, big endian
const (
	chunkSize   = 4096
	sealedChunk = chunkSize + tagSize
	// gather is how many sealed bytes are collected for one write.
	gather = 16 * sealedChunk
)

func chunkNonce(nonce *[nonceSize]byte, number uint64, last bool) {
	nonce[3] = 0
	if last {
		nonce[3] = 1
	}
	binary.BigEndian.PutUint64(nonce[4:], number)
}

// chunkWriter writes a table. It is for one goroutine.
type chunkWriter struct {
	file
	aead   cipher.AEAD
	nonce  [nonceSize]byte
	number uint64
	ended  bool
	plain  []byte // less than or just one chunk that is not sealed yet
	out    []byte // sealed chunks on their way to the file
}

// Write takes bytes into the table. An error is final.
func (w *chunkWriter) Write(b []byte) (int, error) {
	if w.ended {
		return 0, errEnded
	}
	total := len(b)
	for len(b) > 0 {
		// A full chunk waits for a byte after it: it may be the last.
		if len(w.plain) == chunkSize {
			if err := w.flush(false); err != nil {
				return total - len(b), err
			}
		}
		n := min(len(b), chunkSize-len(w.plain))
		w.plain = append(w.plain, b[:n]...)
		b = b[n:]
	}
	return total, nil
}

// flush seals the chunk at hand and writes what was collected if it is enough.
func (w *chunkWriter) flush(last bool) error {
	if w.err != nil {
		return w.err
	}
	chunkNonce(&w.nonce, w.number, last)
	w.number++
	w.out = w.aead.Seal(w.out, w.nonce[:], w.plain, nil)
	w.plain = w.plain[:0]
	if !last && len(w.out) < gather {
		return nil
	}
	err := w.write(w.out)
	w.out = w.out[:0]
	return err
}

// end seals the last chunk.
func (w *chunkWriter) end() error {
	if w.ended {
		return w.err
	}
	w.ended = true
	return w.flush(true)
}

// Sync ends the table and has it on the disk. Nothing can be written after it.
func (w *chunkWriter) Sync() error {
	if err := w.end(); err != nil {
		return err
	}
	return w.sync()
}

// Close ends the table if Sync did not, and closes the file.
func (w *chunkWriter) Close() error {
	if w.f == nil {
		return nil
	}
	var err error
	if w.err == nil {
		err = w.end()
	}
	return errors.Join(err, w.close())
}

// chunkReader reads a table. ReadAt is safe for concurrent use.
type chunkReader struct {
	*io.SectionReader // over the chunks' content
	chunks            *chunks
}

// Close closes the file.
func (r chunkReader) Close() error { return r.chunks.f.Close() }

type chunks struct {
	s     *Storage
	fd    storage.FileDesc
	f     disk.File
	aead  cipher.AEAD
	start int64  // of the chunks in the file
	last  uint64 // number of the last chunk
	size  int64  // of the content
}

// openChunks checks a table's end and so its length.
func (s *Storage) openChunks(f disk.File, fd storage.FileDesc) (storage.Reader, error) {
	c := &chunks{s: s, fd: fd, f: f}
	err := c.open()
	if errors.Is(err, errTorn) {
		err = s.corrupt(fd, f.Name(), err)
	} else if err != nil {
		err = c.failed(err)
	}
	if err != nil {
		_ = f.Close() // it was only read; err is goleveldb's own type and stays bare
		return nil, err
	}
	return chunkReader{io.NewSectionReader(c, 0, c.size), c}, nil
}

// failed gives an error of reading its form.
func (c *chunks) failed(err error) error {
	var corrupted *storage.ErrCorrupted
	if errors.As(err, &corrupted) {
		return corrupted
	}
	return c.s.classify(c.fd, c.f.Name(), err)
}

func (c *chunks) open() error {
	info, err := c.f.Stat()
	if err != nil {
		return err
	}
	if c.start, c.aead, err = c.s.readHeader(c.f, c.fd); err != nil {
		return err
	}
	body := info.Size() - c.start
	if body < tagSize {
		return errTorn
	}
	c.last = uint64((body - 1) / sealedChunk)
	rest := body - int64(c.last)*sealedChunk
	if rest < tagSize {
		return errTorn
	}
	c.size = int64(c.last)*chunkSize + rest - tagSize
	if rest == tagSize && c.last > 0 {
		return c.damaged(c.last) // only an empty table has an empty chunk
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	_, err = c.read(buf, c.last, c.last)
	return err
}

func (c *chunks) damaged(number uint64) error {
	at := c.start + int64(number)*sealedChunk
	return c.s.corrupt(c.fd, c.f.Name(), fmt.Errorf("chunk %d at byte %d: %w, or the file was cut", number, at, seal.ErrAltered))
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4*sealedChunk); return &b }}

// read opens the chunks from first to last and returns their content, in buf.
func (c *chunks) read(buf *[]byte, first, last uint64) ([]byte, error) {
	from := c.start + int64(first)*sealedChunk
	length := int64(last-first+1) * sealedChunk
	if last == c.last {
		length -= int64(c.last+1)*chunkSize - c.size
	}
	if int64(cap(*buf)) < length {
		*buf = make([]byte, 0, length)
	}
	raw := (*buf)[:length]
	if n, err := c.f.ReadAt(raw, from); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, c.s.corrupt(c.fd, c.f.Name(), fmt.Errorf("it ends at byte %d, %d are needed: it was cut", from+int64(n), from+length))
		}
		return nil, err
	}
	var nonce [nonceSize]byte
	out := raw[:0]
	for n := first; n <= last; n++ {
		sealed := raw[(n-first)*sealedChunk:]
		if len(sealed) > sealedChunk {
			sealed = sealed[:sealedChunk]
		}
		chunkNonce(&nonce, n, n == c.last)
		plain, err := c.aead.Open(sealed[:0], nonce[:], sealed, nil)
		if err != nil {
			return nil, c.damaged(n)
		}
		out = append(out, plain...) // moves the content together, downwards
	}
	return out, nil
}

// ReadAt reads content.
func (c *chunks) ReadAt(b []byte, off int64) (int, error) {
	if off >= c.size || off < 0 {
		return 0, io.EOF
	}
	want := b[:min(int64(len(b)), c.size-off)]
	if len(want) == 0 {
		return 0, nil
	}
	first := uint64(off / chunkSize)
	last := uint64((off + int64(len(want)) - 1) / chunkSize)
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	content, err := c.read(buf, first, last)
	if err != nil {
		return 0, c.failed(err)
	}
	n := copy(want, content[off-int64(first)*chunkSize:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
