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
	KindBlock         Kind = 1 // a whole block of a channel's log, as formats 1 and 2 of a ledger have it
	KindState         Kind = 2 // a public value
	KindStateMetadata Kind = 3 // a public value with its metadata, in formats 1 and 2
	KindHash          Kind = 4 // the hash of a private value
	KindHashMetadata  Kind = 5 // the hash of a private value with the key's metadata, in formats 1 and 2
	KindPrivate       Kind = 6 // a private value
	KindKept          Kind = 7 // private writes that wait for their transaction
	KindCommitted     Kind = 8 // private writes of a committed transaction
	KindPackage       Kind = 9 // an installed chaincode package
	KindFile          Kind = 10
	// KindCompressedBlock is a whole block of a channel's log that was compressed.
	KindCompressedBlock Kind = 11
	KindMetadata        Kind = 12 // the metadata of a public or private key
	KindOutline         Kind = 13 // a block without the values of its namespaces
	KindValues          Kind = 14 // the values of one namespace in a block
	KindTerm            Kind = 15 // nothing: the proof that a data key belongs to its file
	// KindAudit is records of a node's audit log.
	KindAudit Kind = 20
)

var kindNames = map[Kind]string{
	KindAudit: "audit records",
	KindBlock: "block", KindState: "state", KindStateMetadata: "state with metadata", KindHash: "private hash",
	KindHashMetadata: "private hash with metadata", KindPrivate: "private value", KindKept: "kept private writes",
	KindCommitted: "committed private writes", KindPackage: "chaincode package", KindFile: "file",
	KindCompressedBlock: "compressed block",
	KindMetadata:        "metadata", KindOutline: "block outline", KindValues: "values of a block", KindTerm: "data key",
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

// scope is whose keys seal: of a namespace of a channel, of a channel (namespace ""),
// or of the node (both "").
type scope struct{ channel, namespace string }

// String names the scope for an error.
func (s scope) String() string {
	switch {
	case s.namespace != "":
		return fmt.Sprintf("namespace %q of channel %q", s.namespace, s.channel)
	case s.channel != "":
		return fmt.Sprintf("channel %q", s.channel)
	}
	return "the node"
}

// OwnKeys tells whether a namespace has keys of its own: those of chaincode that users
// install have, those of the system (the configuration's "", _lifecycle and the
// system chaincodes) are sealed under the channel's keys and cannot be shredded.
func OwnKeys(namespace string) bool {
	switch namespace {
	case "", "lscc", "cscc", "qscc", "escc", "vscc":
		return false
	}
	return namespace[0] != '_'
}

// scope says whose keys seal a place.
func (p Place) scope() scope {
	switch p.Kind {
	case KindState, KindStateMetadata, KindHash, KindHashMetadata, KindPrivate, KindKept, KindCommitted, KindValues:
		if OwnKeys(p.Namespace) {
			return scope{p.Channel, p.Namespace}
		}
	case KindTerm:
		return scope{p.Channel, p.Namespace}
	}
	return scope{channel: p.Channel}
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
