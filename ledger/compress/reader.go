package compress

import (
	"encoding/binary"
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/klauspost/compress/zstd"
)

// keptDecoders is how many dictionaries a reader keeps ready.
const keptDecoders = 8

// Reader reads the contents of one channel's blocks. It is safe for concurrent use.
type Reader struct {
	plain    *zstd.Decoder
	decoders *lru.Cache[uint64, *zstd.Decoder] // by the number of the block that holds the dictionary
}

// NewReader returns a reader.
func NewReader() (*Reader, error) {
	plain, err := newDecoder(nil)
	if err != nil {
		return nil, err
	}
	decoders, err := lru.New[uint64, *zstd.Decoder](keptDecoders)
	if err != nil {
		return nil, err
	}
	return &Reader{plain: plain, decoders: decoders}, nil
}

func newDecoder(dictionary []byte) (*zstd.Decoder, error) {
	options := []zstd.DOption{zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(MaxBlock),
		zstd.WithDecodeAllCapLimit(true)}
	if dictionary != nil {
		options = append(options, zstd.WithDecoderDictRaw(dictionaryID, dictionary))
	}
	d, err := zstd.NewReader(nil, options...)
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return d, nil
}

// content is the parts of a content.
type content struct {
	back       uint64
	length     int
	dictionary int    // length of the dictionary; 0 when it is elsewhere
	packed     []byte // its frame
	frames     []byte
}

func parse(b []byte) (content, error) {
	var c content
	malformed := func(what string) (content, error) { return c, fmt.Errorf("%w: %s", ErrMalformed, what) }
	if len(b) == 0 || b[0] != form {
		return malformed("it does not start with form 1")
	}
	rest := b[1:]
	number := func(most uint64) (uint64, bool) {
		v, n := binary.Uvarint(rest)
		if n <= 0 || v > most {
			return 0, false
		}
		rest = rest[n:]
		return v, true
	}
	bytesOf := func() ([]byte, bool) {
		n, ok := number(uint64(len(rest)))
		if !ok || n > uint64(len(rest)) {
			return nil, false
		}
		out := rest[:n]
		rest = rest[n:]
		return out, true
	}
	var ok bool
	if c.back, ok = number(1 << 62); !ok {
		return malformed("its way back to the dictionary is not readable")
	}
	length, ok := number(MaxBlock)
	if !ok {
		return malformed("its length is not readable or too great")
	}
	c.length = int(length)
	if c.back == 1 {
		n, ok := number(MaxDictionary)
		if !ok || n == 0 {
			return malformed("its dictionary's length is not readable, 0 or too great")
		}
		c.dictionary = int(n)
		if c.packed, ok = bytesOf(); !ok {
			return malformed("its dictionary is not whole")
		}
	}
	if c.frames, ok = bytesOf(); !ok {
		return malformed("its frames are not whole")
	}
	for _, pad := range rest {
		if pad != 0 {
			return malformed("more than zeros follow its frames")
		}
	}
	return c, nil
}

// Holder is the number of the block whose content has the dictionary of a block's
// content; false if it needs none.
func Holder(number uint64, b []byte) (uint64, bool, error) {
	c, err := parse(b)
	if err != nil || c.back == 0 {
		return 0, false, err
	}
	if c.back-1 > number {
		return 0, false, fmt.Errorf("%w: its dictionary is %d blocks back, before block 0", ErrMalformed, c.back-1)
	}
	return number - (c.back - 1), true, nil
}

// Dictionary is the dictionary that a content holds; nil if it holds none.
func (r *Reader) Dictionary(b []byte) ([]byte, error) {
	c, err := parse(b)
	if err != nil || c.back != 1 {
		return nil, err
	}
	return r.expand(r.plain, c.packed, c.dictionary)
}

// Block gives back the bytes of a block. Load returns the content of an earlier block,
// whose dictionary is needed; it is not called for those that were used lately.
func (r *Reader) Block(number uint64, b []byte, load func(number uint64) ([]byte, error)) ([]byte, error) {
	c, err := parse(b)
	if err != nil {
		return nil, err
	}
	decoder, err := r.decoder(number, c, b, load)
	if err != nil {
		return nil, err
	}
	return r.expand(decoder, c.frames, c.length)
}

func (r *Reader) decoder(number uint64, c content, b []byte, load func(number uint64) ([]byte, error)) (*zstd.Decoder, error) {
	if c.back == 0 {
		return r.plain, nil
	}
	holder, _, err := Holder(number, b)
	if err != nil {
		return nil, err
	}
	if d, ok := r.decoders.Get(holder); ok {
		return d, nil
	}
	if c.back > 1 {
		if b, err = load(holder); err != nil {
			return nil, fmt.Errorf("dictionary: %w", err)
		}
	}
	dictionary, err := r.Dictionary(b)
	if err == nil && dictionary == nil {
		err = fmt.Errorf("%w: it has no dictionary", ErrMalformed)
	}
	if err != nil {
		return nil, fmt.Errorf("dictionary in block %d: %w", holder, err)
	}
	d, err := newDecoder(dictionary)
	if err != nil {
		return nil, err
	}
	r.decoders.Add(holder, d)
	return d, nil
}

// maxRatio is how many bytes one byte of a frame can stand for at most: a block of 4
// bytes repeats one byte up to 128 KiB times (RFC 8878 section 3.1.1.2).
const maxRatio = 1 << 15

// expand decompresses frames that must hold just so many bytes. It allocates no more,
// and nothing for a length that such frames cannot have.
func (r *Reader) expand(d *zstd.Decoder, frames []byte, length int) ([]byte, error) {
	if length/maxRatio > len(frames) {
		return nil, fmt.Errorf("%w: %d bytes cannot hold the %d that it says", ErrMalformed, len(frames), length)
	}
	out, err := d.DecodeAll(frames, make([]byte, 0, length))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(out) != length {
		return nil, fmt.Errorf("%w: it says that it has %d bytes, it has %d", ErrMalformed, length, len(out))
	}
	return out, nil
}
