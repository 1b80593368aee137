package translog

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Checkpoint says what a log held at one time: C2SP tlog-checkpoint, without
// extension lines.
type Checkpoint struct {
	Origin string // the log's unique name, which is also the name of its key
	Size   uint64 // leaves
	Root   Hash
}

// Origin is the name of the log that the peer with this key (SHA-256 of its
// SubjectPublicKeyInfo in hex) keeps of a channel.
func Origin(channel, keyID string) string { return "strongroom/" + channel + "/" + keyID }

// Text is what is signed.
func (c *Checkpoint) Text() []byte {
	return fmt.Appendf(nil, "%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
}

// keyHash is the id of an ECDSA key in a note.
func keyHash(spki []byte) uint32 {
	sum := sha256.Sum256(spki)
	return binary.BigEndian.Uint32(sum[:])
}

// Note is the checkpoint as a C2SP signed note with one ECDSA signature, in ASN.1
// DER, by the key with this SubjectPublicKeyInfo.
func (c *Checkpoint) Note(spki, sig []byte) []byte {
	line := binary.BigEndian.AppendUint32(nil, keyHash(spki))
	line = append(line, sig...)
	return fmt.Appendf(c.Text(), "\n— %s %s\n", c.Origin, base64.StdEncoding.EncodeToString(line))
}

// ParseNote reads a checkpoint in the one form that Note gives it, and its
// signature by the key with this SubjectPublicKeyInfo, which it does not check.
func ParseNote(note, spki []byte) (*Checkpoint, []byte, error) {
	c, err := ParseText(note)
	if err != nil {
		return nil, nil, err
	}
	_, last, _ := bytes.Cut(note, []byte("\n\n"))
	encoded, ok := strings.CutPrefix(strings.TrimSuffix(string(last), "\n"), "— "+c.Origin+" ")
	if !ok {
		return nil, nil, fmt.Errorf("checkpoint of %q is not signed in that name", c.Origin)
	}
	line, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(line) < 5 {
		return nil, nil, errors.New("checkpoint: its signature is not in base64")
	}
	if got, want := binary.BigEndian.Uint32(line), keyHash(spki); got != want {
		return nil, nil, fmt.Errorf("checkpoint is signed by key %08x, not by %08x", got, want)
	}
	sig := line[4:]
	if !bytes.Equal(c.Note(spki, sig), note) {
		return nil, nil, errors.New("checkpoint is not in its one form")
	}
	return c, sig, nil
}

// ParseText reads what a checkpoint says; nothing of its signature is looked at, not
// even whose it is.
func ParseText(note []byte) (*Checkpoint, error) {
	text, _, found := bytes.Cut(note, []byte("\n\n"))
	if !found {
		return nil, errors.New("checkpoint is no signed note: it has no empty line")
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) != 3 {
		return nil, fmt.Errorf("checkpoint has %d lines of text: origin, size and root are needed", len(lines))
	}
	c := &Checkpoint{Origin: lines[0]}
	var err error
	if c.Size, err = strconv.ParseUint(lines[1], 10, 64); err != nil {
		return nil, fmt.Errorf("checkpoint: size %q is not a number", lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != HashSize {
		return nil, fmt.Errorf("checkpoint: root %q is not 32 bytes in base64", lines[2])
	}
	c.Root = Hash(root)
	return c, nil
}

// NoteSize is the size that a checkpoint speaks about; nothing else of it is checked.
func NoteSize(note []byte) (uint64, error) {
	lines := strings.SplitN(string(note), "\n", 3)
	if len(lines) < 3 {
		return 0, errors.New("checkpoint has no size")
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("checkpoint: size %q is not a number", lines[1])
	}
	return size, nil
}

// proofHeader is the first line of a C2SP tlog-proof.
const proofHeader = "c2sp.org/tlog-proof@v1"

// FormatProof is a C2SP tlog-proof: that the leaf stands in the log whose checkpoint
// is the note.
func FormatProof(leaf uint64, proof []Hash, note []byte) []byte {
	b := fmt.Appendf(nil, "%s\nindex %d\n", proofHeader, leaf)
	for _, h := range proof {
		b = fmt.Appendf(b, "%s\n", base64.StdEncoding.EncodeToString(h[:]))
	}
	b = append(b, '\n')
	return append(b, note...)
}

// ParseProof reads what FormatProof makes, and nothing else.
func ParseProof(raw []byte) (leaf uint64, proof []Hash, note []byte, err error) {
	head, note, found := bytes.Cut(raw, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !found || len(lines) < 2 || lines[0] != proofHeader {
		return 0, nil, nil, fmt.Errorf("no proof: its first line is not %q", proofHeader)
	}
	number, ok := strings.CutPrefix(lines[1], "index ")
	if leaf, err = strconv.ParseUint(number, 10, 64); err != nil || !ok {
		return 0, nil, nil, fmt.Errorf("proof: %q does not give the index", lines[1])
	}
	if proof, err = ParseHashes(lines[2:]); err != nil {
		return 0, nil, nil, err
	}
	if !bytes.Equal(FormatProof(leaf, proof, note), raw) {
		return 0, nil, nil, errors.New("proof is not in its one form")
	}
	return leaf, proof, note, nil
}

// ParseHashes reads hashes in base64.
func ParseHashes(lines []string) ([]Hash, error) {
	hashes := make([]Hash, len(lines))
	for i, line := range lines {
		h, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(h) != HashSize {
			return nil, fmt.Errorf("proof: hash %q is not 32 bytes in base64", line)
		}
		hashes[i] = Hash(h)
	}
	return hashes, nil
}
