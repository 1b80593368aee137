// Package compress makes the bytes of a channel's blocks smaller before they are
// sealed, and gives them back after. It performs no I/O and knows no keys.
//
// Certificates repeat in every transaction. Inside a block Zstandard finds that by
// itself; for blocks of few transactions a dictionary of the identities that earlier
// blocks showed stands before the block. Dictionaries hold identities and nothing
// else: no value of a transaction ever helps to compress another block.
//
// The compressed form of a block, its content:
//
//	1 byte   form: 1
//	varint   back: 0 without a dictionary; 1 if the dictionary follows; n for the
//	         dictionary in the content of the block n-1 blocks before
//	varint   length of the block's bytes
//	if back is 1:
//	varint   length of the dictionary
//	varint   length of its frame
//	...      a Zstandard frame (RFC 8878)
//	always:
//	varint   length of the block's frames
//	...      one or more Zstandard frames, whose contents in a row are the block
//	...      zero bytes up to a length that PaddedLength allows
//
// Varints are protobuf's. A frame's dictionary is raw content (RFC 8878 section 5).
package compress

import (
	"errors"
	"math/bits"
)

const (
	form = 1
	// MaxBlock is the most bytes that a block may have to be compressed, and the most
	// that reading one gives or allocates.
	MaxBlock = 256 << 20
	// MaxDictionary is the most bytes of a dictionary.
	MaxDictionary = 32 << 10
	// dictionaryID stands in the frames that were made with a dictionary. Which one
	// it is, back says.
	dictionaryID = 1
)

// ErrMalformed means that bytes are no content that a Writer made. It comes wrapped.
var ErrMalformed = errors.New("compressed block is malformed")

// PaddedLength is the length that n bytes are filled up to: at most 12 % more, so that
// of the length little more is told than its order of magnitude and log2(log2 n) bits
// (Padmé: Nikitin and others, "Reducing Metadata Leakage from Encrypted Files and
// Communication with PURBs", 2019, section 4).
func PaddedLength(n int) int {
	if n < 2 {
		return n
	}
	exponent := bits.Len(uint(n)) - 1
	low := exponent - bits.Len(uint(exponent))
	mask := 1<<low - 1
	return (n + mask) &^ mask
}
