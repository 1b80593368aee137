package compress

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// Writer compresses the blocks of one channel in their order. It is not safe for
// concurrent use, but Start may run in a goroutine of its own that ends before the
// next call.
type Writer struct {
	encoder    *zstd.Encoder
	dictionary []byte // nil for none
	holder     uint64 // block whose content has it
	known      *identities

	number  uint64
	length  int
	fresh   bool   // the dictionary goes into this block's content
	frames  []byte // of the block that was started
	scratch []byte
}

// NewWriter returns a writer without a dictionary.
func NewWriter() *Writer { return &Writer{known: newIdentities()} }

// Use goes on with the dictionary that the content of an earlier block holds. The
// writer keeps it.
func (w *Writer) Use(holder uint64, dictionary []byte) {
	w.dictionary, w.holder, w.encoder = dictionary, holder, nil
}

// Start begins a block with the first part of its bytes. The numbers of the blocks
// must grow.
func (w *Writer) Start(number uint64, first []byte) error {
	w.number, w.length, w.fresh = number, 0, false
	if d := w.known.worthwhile(w.dictionary); d != nil {
		w.dictionary, w.holder, w.fresh, w.encoder = d, number, true, nil
	}
	if w.encoder == nil {
		var err error
		if w.encoder, err = newEncoder(w.dictionary); err != nil {
			return err
		}
	}
	w.frames = w.frames[:0]
	return w.add(first)
}

func (w *Writer) add(part []byte) error {
	if len(part) > MaxBlock-w.length {
		return fmt.Errorf("block has more than the %d bytes that are compressed", MaxBlock)
	}
	w.length += len(part)
	w.frames = w.encoder.EncodeAll(part, w.frames)
	return nil
}

func newEncoder(dictionary []byte) (*zstd.Encoder, error) {
	options := []zstd.EOption{zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false)}
	if dictionary != nil {
		options = append(options, zstd.WithEncoderDictRaw(dictionaryID, dictionary))
	}
	e, err := zstd.NewWriter(nil, options...)
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return e, nil
}

// Finish appends the content of the block that was started to dst, with the rest of
// the block's bytes. Identities are those that occur in the block, as serialised,
// repeated or not; the writer copies those that it keeps.
func (w *Writer) Finish(dst, rest []byte, identities [][]byte) ([]byte, error) {
	if err := w.add(rest); err != nil {
		return nil, err
	}
	start := len(dst)
	dst = append(dst, form)
	switch {
	case w.dictionary == nil:
		dst = binary.AppendUvarint(dst, 0)
	default:
		dst = binary.AppendUvarint(dst, w.number-w.holder+1)
	}
	dst = binary.AppendUvarint(dst, uint64(w.length))
	if w.fresh {
		plain, err := newEncoder(nil)
		if err != nil {
			return nil, err
		}
		w.scratch = plain.EncodeAll(w.dictionary, w.scratch[:0])
		dst = binary.AppendUvarint(dst, uint64(len(w.dictionary)))
		dst = binary.AppendUvarint(dst, uint64(len(w.scratch)))
		dst = append(dst, w.scratch...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(w.frames)))
	dst = append(dst, w.frames...)
	length := len(dst) - start
	pad := PaddedLength(length) - length
	dst = slices.Grow(dst, pad)
	for range pad {
		dst = append(dst, 0)
	}
	w.known.note(w.number, identities, w.dictionary)
	return dst, nil
}
