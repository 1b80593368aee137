package selector

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"maps"
	"slices"

	"golang.org/x/text/collate"
)

// The encoding of a value in an index: bytes that compare as order.compare orders the
// values. No encoding is the beginning of another, so several can stand one behind
// the other, and equal values, and no others, have equal encodings.
//
//	null, false, true   one byte
//	number              a byte, sign, and unless it is 0: exponent, digits, 0; below 0 all inverted behind the sign
//	string              a byte, the collation key, the string's bytes; each escaped and ended
//	array               a byte, its elements, 0
//	object              a byte, name and value of each member by the order of the names' bytes, 0
const (
	codeEnd    = 0x00
	codeNull   = 0x10
	codeNo     = 0x11
	codeYes    = 0x12
	codeNumber = 0x20
	codeText   = 0x30
	codeArray  = 0x40
	codeObject = 0x50

	signBelow = 1
	signZero  = 2
	signAbove = 3

	// Exponents within this stand in one byte, others in nine.
	nearExponent = 100
	farBelow     = 0x01
	farAbove     = 0xff
	middle       = 0x80
)

// Encoder makes the rows of indexes. It is not safe for concurrent use.
type Encoder struct {
	order *order
	keys  collate.Buffer
}

// NewEncoder makes an Encoder.
func NewEncoder() *Encoder { return &Encoder{order: newOrder(context.Background())} }

// value appends the encoding of a value. Raw leaves strings in the order of their bytes.
func (e *Encoder) value(dst []byte, v any, raw bool) []byte {
	switch v := v.(type) {
	case bool:
		if v {
			return append(dst, codeYes)
		}
		return append(dst, codeNo)
	case json.Number:
		return appendNumber(append(dst, codeNumber), v)
	case string:
		return e.text(dst, v, raw)
	case []any:
		dst = append(dst, codeArray)
		for _, element := range v {
			dst = e.value(dst, element, raw)
		}
		return append(dst, codeEnd)
	case map[string]any:
		dst = append(dst, codeObject)
		for _, name := range slices.Sorted(maps.Keys(v)) {
			dst = e.value(e.text(dst, name, raw), v[name], raw)
		}
		return append(dst, codeEnd)
	}
	return append(dst, codeNull)
}

func (e *Encoder) text(dst []byte, s string, raw bool) []byte {
	dst = append(dst, codeText)
	if !raw {
		dst = appendEscaped(dst, e.order.strings.KeyFromString(&e.keys, s))
		e.keys.Reset()
	}
	return appendEscaped(dst, []byte(s))
}

// appendEscaped appends bytes of any length so that their order is kept: a zero is
// followed by 255, the end is a zero followed by 1.
func appendEscaped(dst, b []byte) []byte {
	for {
		i := bytes.IndexByte(b, 0)
		if i < 0 {
			return append(append(dst, b...), 0, 1)
		}
		dst = append(append(dst, b[:i+1]...), 0xff)
		b = b[i+1:]
	}
}

func appendNumber(dst []byte, n json.Number) []byte {
	d := newDecimal(n)
	if d.sign == 0 {
		return append(dst, signZero)
	}
	from := len(dst) + 1
	dst = append(dst, signAbove)
	switch {
	case d.exponent < -nearExponent:
		dst = binary.BigEndian.AppendUint64(append(dst, farBelow), uint64(d.exponent)) // all below 0, so in order
	case d.exponent > nearExponent:
		dst = binary.BigEndian.AppendUint64(append(dst, farAbove), uint64(d.exponent))
	default:
		dst = append(dst, byte(middle+d.exponent))
	}
	dst = append(append(dst, d.digits...), codeEnd)
	if d.sign < 0 {
		dst[from-1] = signBelow
		for i := from; i < len(dst); i++ {
			dst[i] = ^dst[i]
		}
	}
	return dst
}

// after returns the first bytes behind all that begin with b; nil when there are none.
func after(b []byte) []byte {
	b = bytes.Clone(b)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return b[:i+1]
		}
	}
	return nil
}
