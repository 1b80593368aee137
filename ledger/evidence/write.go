package evidence

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"strongroom/wire"
	"strongroom/wire/commonpb"
)

//go:embed VERIFY.md
var verifyText []byte

// Writer writes a pack. It is for one goroutine.
type Writer struct {
	path   string
	file   *os.File
	packed io.WriteCloser
	tar    *tar.Writer
	sums   bytes.Buffer
}

// Create makes a new pack, compressed as its name's end says: .tar.zst or .tar.gz. The
// file must not exist. Until Finish it has the end ".part".
func Create(path string) (*Writer, error) {
	w := &Writer{path: path}
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("%s exists: choose another name", path)
	}
	if !strings.HasSuffix(path, ".tar.zst") && !strings.HasSuffix(path, ".tar.gz") {
		return nil, fmt.Errorf("%s: a pack's name ends in .tar.zst or .tar.gz", path)
	}
	var err error
	if w.file, err = os.OpenFile(path+".part", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return nil, err
	}
	if strings.HasSuffix(path, ".gz") {
		w.packed = gzip.NewWriter(w.file)
	} else if w.packed, err = zstd.NewWriter(w.file); err != nil {
		return nil, errors.Join(err, w.Abort())
	}
	w.tar = tar.NewWriter(w.packed)
	return w, nil
}

// Abort removes an unfinished pack.
func (w *Writer) Abort() error { return errors.Join(w.file.Close(), os.Remove(w.path+".part")) }

// Begin writes the files that stand once. The configuration block is the one in force
// at the first block.
func (w *Writer) Begin(info Info, signerPEM, checkpoint, config []byte) error {
	info.Format = Format
	data, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return err
	}
	block := &commonpb.Block{}
	if err := proto.Unmarshal(config, block); err != nil {
		return fmt.Errorf("configuration block: %w", err)
	}
	msps, err := MSPFiles(block)
	if err != nil {
		return err
	}
	for _, f := range append([]File{
		{InfoFile, append(data, '\n')}, {VerifyFile, verifyText}, {SignerFile, signerPEM},
		{CheckpointFile, checkpoint}, {ConfigFile, config},
	}, msps...) {
		if err := w.add(f.Name, f.Data); err != nil {
			return err
		}
	}
	return nil
}

// Block writes the files of the next block.
func (w *Writer) Block(raw []byte, header *commonpb.BlockHeader, statement, proof []byte) error {
	for k, data := range [kinds][]byte{wire.HeaderBytes(header), raw, statement, proof} {
		if err := w.add(Kind(k).Name(header.GetNumber()), data); err != nil {
			return err
		}
	}
	return nil
}

// Finish writes the sums, has them signed, and gives the pack its name.
func (w *Writer) Finish(sign func(sums [sha256.Size]byte) ([]byte, error)) error {
	sums := bytes.Clone(w.sums.Bytes())
	signature, err := sign(sha256.Sum256(sums))
	if err != nil {
		return err
	}
	if err := errors.Join(w.add(SumsFile, sums), w.add(SignatureFile, signature)); err != nil {
		return err
	}
	if err := errors.Join(w.tar.Close(), w.packed.Close(), w.file.Sync(), w.file.Close()); err != nil {
		return err
	}
	return os.Rename(w.path+".part", w.path)
}

func (w *Writer) add(name string, data []byte) error {
	fmt.Fprintf(&w.sums, "%x  %s\n", sha256.Sum256(data), name)
	if err := w.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err := w.tar.Write(data)
	return err
}
