package seal

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Kind says what was sealed, so that a value can never be opened as something else.
type Kind byte

// The kinds. Their numbers are part of what is authenticated: they never change.
const (
	KindBlock         Kind = 1 // a whole block of a channel's log
	KindState         Kind = 2 // a public value
	KindStateMetadata Kind = 3 // a public value with its metadata
	KindHash          Kind = 4 // the hash of a private value
	KindHashMetadata  Kind = 5 // the hash of a private value with the key's metadata
	KindPrivate       Kind = 6 // a private value
	KindKept          Kind = 7 // private writes that wait for their transaction
	KindCommitted     Kind = 8 // private writes of a committed transaction
	KindPackage       Kind = 9 // an installed chaincode package
	KindFile          Kind = 10
	// KindCompressedBlock is a whole block of a channel's log that was compressed.
	KindCompressedBlock Kind = 11
)

var kindNames = map[Kind]string{
	KindBlock: "block", KindState: "state", KindStateMetadata: "state with metadata", KindHash: "private hash",
	KindHashMetadata: "private hash with metadata", KindPrivate: "private value", KindKept: "kept private writes",
	KindCommitted: "committed private writes", KindPackage: "chaincode package", KindFile: "file",
	KindCompressedBlock: "compressed block",
}

// Place is where a sealed value belongs. All of it is associated data: a value
// that was moved, swapped or rolled back does not open.
type Place struct {
	Kind       Kind
	Channel    string
	Namespace  string
	Collection string
	Key        string
	Block      uint64
	Tx         uint64
}

// String names the place for an error.
func (p Place) String() string {
	name, ok := kindNames[p.Kind]
	if !ok {
		name = fmt.Sprintf("kind %d", byte(p.Kind))
	}
	var b strings.Builder
	b.WriteString(name)
	for _, part := range []struct{ what, value string }{
		{"channel", p.Channel}, {"namespace", p.Namespace}, {"collection", p.Collection}, {"key", p.Key},
	} {
		if part.value != "" {
			fmt.Fprintf(&b, " %s %q", part.what, part.value)
		}
	}
	fmt.Fprintf(&b, " at %d:%d", p.Block, p.Tx)
	return b.String()
}

// appendTo appends an encoding of the place that no other place shares.
func (p Place) appendTo(b []byte) []byte {
	b = append(b, byte(p.Kind))
	for _, s := range [...]string{p.Channel, p.Namespace, p.Collection, p.Key} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = binary.AppendUvarint(b, p.Block)
	return binary.AppendUvarint(b, p.Tx)
}
