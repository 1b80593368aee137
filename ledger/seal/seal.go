package seal

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"sync"
)

const (
	format    = 1  // first byte of a sealed value
	nonceSize = 12 // AES-GCM's 96 bits (SP 800-38D section 5.2.1.1)
	tagSize   = 16

	// Overhead is the most that a sealed value is longer than its plaintext.
	Overhead = 1 + binary.MaxVarintLen32 + binary.MaxVarintLen64 + tagSize
)

// scratch holds what a call hands to the cipher, so that it need not be allocated.
type scratch struct {
	nonce [nonceSize]byte
	ad    []byte
}

var scratches = sync.Pool{New: func() any { return &scratch{ad: make([]byte, 0, 256)} }}

// set fills in the associated data: the header of the sealed value, then its place.
func (s *scratch) set(counter uint64, header []byte, p Place) {
	binary.BigEndian.PutUint64(s.nonce[nonceSize-8:], counter)
	s.ad = p.appendTo(append(s.ad[:0], header...))
}

// Seal appends the sealed form of plaintext to dst: a format byte, the term and
// the nonce's counter as unsigned varints, the ciphertext and the tag. The
// plaintext and dst must not overlap. An error means that the value was not
// sealed; it never holds the plaintext.
func (k *Keyring) Seal(dst, plaintext []byte, p Place) ([]byte, error) {
	t, counter, err := k.next(p.scope())
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", p, err)
	}
	t.size.Add(uint64(len(plaintext)))
	return t.seal(dst, plaintext, counter, p), nil
}

// seal is Seal with a counter that the term never used before.
func (t *term) seal(dst, plaintext []byte, counter uint64, p Place) []byte {
	start := len(dst)
	dst = append(dst, format)
	dst = binary.AppendUvarint(dst, uint64(t.id))
	dst = binary.AppendUvarint(dst, counter)
	s := scratches.Get().(*scratch)
	s.set(counter, dst[start:], p)
	dst = t.aead.Seal(dst, s.nonce[:], plaintext, s.ad)
	scratches.Put(s)
	return dst
}

// next takes a nonce of the present term of a scope, or starts a new term when there
// is none or it is used up.
func (k *Keyring) next(of scope) (*term, uint64, error) {
	for {
		m := k.current.Load()
		if m == nil {
			return nil, 0, k.unusable()
		}
		t := (*m)[of]
		if t != nil {
			if n := t.next.Add(1) - 1; n < k.limit {
				return t, n, nil
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), deviceTimeout)
		err := k.replace(ctx, of, t)
		cancel()
		if err != nil {
			return nil, 0, err
		}
	}
}

func (k *Keyring) unusable() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return ErrClosed
	}
	return ErrReadOnly
}

// Open appends the plaintext of a sealed value to dst. The errors wrap
// ErrMalformed, ErrAltered, ErrUnknownTerm, ErrShredded, ErrOtherWrappingKey, or the
// token's own error when it could not unwrap the term's key; all name the place.
func (k *Keyring) Open(dst, sealed []byte, p Place) ([]byte, error) {
	id, counter, header, err := parse(sealed)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", p, err)
	}
	t, err := k.term(id, p.scope())
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", p, err)
	}
	out, err := t.open(dst, sealed, counter, header, p)
	if err != nil {
		return nil, fmt.Errorf("open %s (term %d): %w", p, id, err)
	}
	return out, nil
}

func (t *term) open(dst, sealed []byte, counter uint64, header int, p Place) ([]byte, error) {
	s := scratches.Get().(*scratch)
	s.set(counter, sealed[:header], p)
	out, err := t.aead.Open(dst, s.nonce[:], sealed[header:], s.ad)
	scratches.Put(s)
	if err != nil {
		return nil, ErrAltered
	}
	return out, nil
}

// parse reads the header of a sealed value and returns its length.
func parse(sealed []byte) (id uint32, counter uint64, header int, err error) {
	if len(sealed) == 0 || sealed[0] != format {
		return 0, 0, 0, fmt.Errorf("%w: it does not start with format byte %d", ErrMalformed, format)
	}
	header = 1
	v, n := binary.Uvarint(sealed[header:])
	if n <= 0 || v == 0 || v > math.MaxUint32 {
		return 0, 0, 0, fmt.Errorf("%w: its term is not readable", ErrMalformed)
	}
	header += n
	counter, n = binary.Uvarint(sealed[header:])
	if n <= 0 {
		return 0, 0, 0, fmt.Errorf("%w: its nonce counter is not readable", ErrMalformed)
	}
	header += n
	if len(sealed)-header < tagSize {
		return 0, 0, 0, fmt.Errorf("%w: %d bytes are too few", ErrMalformed, len(sealed))
	}
	return uint32(v), counter, header, nil
}
