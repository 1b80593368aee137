package evidence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
)

// Format names this layout in pack.json.
const Format = "strongroom-evidence/2"

// The files of a pack that stand once.
const (
	InfoFile       = "pack.json"
	VerifyFile     = "VERIFY.md"
	SignerFile     = "signer.pem"
	CheckpointFile = "checkpoint"
	ConfigFile     = "config.block"
	SumsFile       = "SHA256SUMS"
	SignatureFile  = "SHA256SUMS.sigstore.json"
)

// Info says what a pack holds.
type Info struct {
	Format  string `json:"format"`
	Channel string `json:"channel"`
	From    uint64 `json:"from"` // first block
	To      uint64 `json:"to"`   // last block, included
	MSPID   string `json:"mspId"`
}

// ParseInfo reads pack.json.
func ParseInfo(data []byte) (*Info, error) {
	m := &Info{}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(m); err != nil {
		return nil, fmt.Errorf("pack.json: %w", err)
	}
	switch {
	case m.Format != Format:
		return nil, fmt.Errorf("pack.json: format is %q, this program reads %q", m.Format, Format)
	case m.Channel == "":
		return nil, errors.New("pack.json: channel is empty")
	case m.From > m.To:
		return nil, fmt.Errorf("pack.json: from %d is after to %d", m.From, m.To)
	}
	return m, nil
}

// Kind is one of the four files of each block.
type Kind int

// The files of a block, in their order.
const (
	Header Kind = iota
	Block
	Statement
	Proof
	kinds
)

var folders = [kinds]struct{ folder, suffix string }{
	{"headers", ".der"}, {"blocks", ".block"}, {"statements", ".sigstore.json"}, {"proofs", ".tlog-proof"},
}

// String is the folder's name.
func (k Kind) String() string { return folders[k].folder }

// Name is the file of a block.
func (k Kind) Name(number uint64) string {
	return fmt.Sprintf("%s/%020d%s", folders[k].folder, number, folders[k].suffix)
}

// ParseName tells whether a name is one of a block's files, and which.
func ParseName(name string) (kind Kind, number uint64, ok bool) {
	dir, base := path.Split(name)
	for k := range kinds {
		if dir != folders[k].folder+"/" {
			continue
		}
		if _, err := fmt.Sscanf(base, "%d", &number); err == nil && k.Name(number) == name {
			return k, number, true
		}
	}
	return 0, 0, false
}

// rank is the place of a file in the pack: sections, then blocks, then their files.
func rank(name string) (section int, number uint64, kind Kind) {
	if k, n, ok := ParseName(name); ok {
		return 6, n, k
	}
	for i, n := range []string{InfoFile, VerifyFile, SignerFile, CheckpointFile, ConfigFile} {
		if n == name {
			return i, 0, 0
		}
	}
	switch {
	case strings.HasPrefix(name, "msp/"):
		return 5, 0, 0
	case name == SumsFile:
		return 8, 0, 0
	case name == SignatureFile:
		return 9, 0, 0
	}
	return 7, 0, 0 // unknown: read, and refused by whoever checks
}
