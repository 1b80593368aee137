// Package evidence is the folder in which a range of a channel's blocks leaves a peer
// for an auditor: the blocks as the peer keeps them, the statement that its HSM
// signed about each, the configuration in force at the start, and the peer's
// certificate.
//
//	manifest.json
//	config.block                    the configuration block in force at the first block
//	signer.pem                      certificate of the key that signed the statements
//	blocks/00000000000000000042.block
//	headers/00000000000000000042.der      its ASN.1 header: SHA-256 of this file is the block hash
//	statements/00000000000000000042.sigstore.json
package evidence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"strongroom/wire"
	"strongroom/wire/commonpb"
)

// Format names this layout in the manifest.
const Format = "strongroom-evidence/1"

// Manifest says what the folder holds.
type Manifest struct {
	Format  string `json:"format"`
	Channel string `json:"channel"`
	From    uint64 `json:"from"` // first block
	To      uint64 `json:"to"`   // last block, included
	MSPID   string `json:"mspId"`
}

// Folder is an evidence folder on disk.
type Folder struct{ dir string }

// Create makes a new folder. It must not exist, or be empty.
func Create(dir string) (*Folder, error) {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return nil, fmt.Errorf("%s is not empty: choose another folder", dir)
	}
	for _, d := range []string{"blocks", "headers", "statements"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	return &Folder{dir: dir}, nil
}

// Open opens a folder and reads its manifest.
func Open(dir string) (*Folder, *Manifest, error) {
	f := &Folder{dir: dir}
	data, err := os.ReadFile(f.path("manifest.json"))
	if err != nil {
		return nil, nil, fmt.Errorf("evidence folder: %w", err)
	}
	m := &Manifest{}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(m); err != nil {
		return nil, nil, fmt.Errorf("manifest.json: %w", err)
	}
	switch {
	case m.Format != Format:
		return nil, nil, fmt.Errorf("manifest.json: format is %q, this program reads %q", m.Format, Format)
	case m.Channel == "":
		return nil, nil, errors.New("manifest.json: channel is empty")
	case m.From > m.To:
		return nil, nil, fmt.Errorf("manifest.json: from %d is after to %d", m.From, m.To)
	}
	return f, m, nil
}

// WriteManifest finishes a folder: a folder without it is not complete.
func (f *Folder) WriteManifest(m Manifest) error {
	m.Format = Format
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return f.write("manifest.json", append(data, '\n'))
}

// WriteBlock writes a block, its header and its statement.
func (f *Folder) WriteBlock(raw []byte, header *commonpb.BlockHeader, statement []byte) error {
	name := number(header.GetNumber())
	return errors.Join(
		f.write(filepath.Join("blocks", name+".block"), raw),
		f.write(filepath.Join("headers", name+".der"), wire.HeaderBytes(header)),
		f.write(filepath.Join("statements", name+".sigstore.json"), statement),
	)
}

// Block reads a block.
func (f *Folder) Block(n uint64) (*commonpb.Block, error) {
	return f.readBlock(filepath.Join("blocks", number(n)+".block"))
}

// Statement reads the statement of a block.
func (f *Folder) Statement(n uint64) ([]byte, error) {
	return os.ReadFile(f.path("statements", number(n)+".sigstore.json"))
}

// Header reads the header file of a block.
func (f *Folder) Header(n uint64) ([]byte, error) {
	return os.ReadFile(f.path("headers", number(n)+".der"))
}

// WriteConfig writes the configuration block in force at the first block.
func (f *Folder) WriteConfig(raw []byte) error { return f.write("config.block", raw) }

// Config reads the configuration block in force at the first block.
func (f *Folder) Config() (*commonpb.Block, error) { return f.readBlock("config.block") }

// WriteSigner writes the certificate, in PEM, of the key that signed the statements.
func (f *Folder) WriteSigner(pem []byte) error { return f.write("signer.pem", pem) }

// Signer reads the certificate, in PEM, of the key that signed the statements.
func (f *Folder) Signer() ([]byte, error) { return os.ReadFile(f.path("signer.pem")) }

// Extra names the files of blocks/, headers/ and statements/ that lie outside the
// manifest's range, and so would go unchecked.
func (f *Folder) Extra(m *Manifest) ([]string, error) {
	var extra []string
	for dir, suffix := range map[string]string{"blocks": ".block", "headers": ".der", "statements": ".sigstore.json"} {
		entries, err := os.ReadDir(f.path(dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			var n uint64
			if _, err := fmt.Sscanf(e.Name(), "%d"+suffix, &n); err != nil || e.Name() != number(n)+suffix || n < m.From || n > m.To {
				extra = append(extra, filepath.Join(dir, e.Name()))
			}
		}
	}
	return extra, nil
}

func (f *Folder) readBlock(name string) (*commonpb.Block, error) {
	data, err := os.ReadFile(f.path(name))
	if err != nil {
		return nil, err
	}
	block := &commonpb.Block{}
	if err := proto.Unmarshal(data, block); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return block, nil
}

func (f *Folder) write(name string, data []byte) error {
	return os.WriteFile(f.path(name), data, 0o644)
}

func (f *Folder) path(parts ...string) string {
	return filepath.Join(append([]string{f.dir}, parts...)...)
}

func number(n uint64) string { return fmt.Sprintf("%020d", n) }
