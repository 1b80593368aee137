package replay

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
)

// Limits on what an archive may hold. A block is never near the first: a peer would
// not have taken it.
const (
	maxBlockBytes   = 128 << 20
	maxArchiveBytes = 64 << 30
	maxWindow       = 128 << 20 // of a zstd frame
)

// Files lists a folder's block files, *.pb, sorted by name: number them with leading
// zeros (block-000017.pb).
func Files(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("blocks: %w", err)
	}
	var files []string
	for _, e := range entries {
		if e.Type().IsRegular() && isBlockFile(e.Name()) {
			files = append(files, filepath.Join(folder, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("blocks: %s holds no block-NNNNNN.pb: give the folder that has the block files in it", folder)
	}
	slices.Sort(files)
	return files, nil
}

func isBlockFile(name string) bool {
	return strings.HasPrefix(name, "block-") && strings.HasSuffix(name, ".pb")
}

// Unpack writes the block files of an archive (.tar, .tar.zst) into a folder, without
// the folders that they are in there. Nothing else of the archive is written.
func Unpack(archive, folder string) (err error) {
	f, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("blocks: %w", err)
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(archive, ".zst") {
		z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return fmt.Errorf("blocks: %s: %w", archive, err)
		}
		defer z.Close()
		r = z
	}
	if err := unpack(tar.NewReader(io.LimitReader(r, maxArchiveBytes)), folder); err != nil {
		return fmt.Errorf("blocks: %s: %w", archive, err)
	}
	return nil
}

func unpack(t *tar.Reader, folder string) error {
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Base(h.Name)
		if h.Typeflag != tar.TypeReg || !isBlockFile(name) {
			continue
		}
		if h.Size > maxBlockBytes {
			return fmt.Errorf("%s has %d bytes: a block has at most %d", h.Name, h.Size, maxBlockBytes)
		}
		out, err := os.OpenFile(filepath.Join(folder, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("two files are named %s", name)
		}
		if err != nil {
			return err
		}
		_, err = io.Copy(out, t)
		if err := errors.Join(err, out.Close()); err != nil {
			return err
		}
	}
}

// readBlock reads one block file.
func readBlock(file string) (*commonpb.Block, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("blocks: %w", err)
	}
	if info.Size() > maxBlockBytes {
		return nil, fmt.Errorf("blocks: %s has %d bytes: a block has at most %d", file, info.Size(), maxBlockBytes)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("blocks: %w", err)
	}
	b := &commonpb.Block{}
	if err := proto.Unmarshal(raw, b); err != nil {
		return nil, fmt.Errorf("blocks: %s is no block: %w", file, err)
	}
	return b, nil
}

// turn is a sequence over files[from:] that ends after the block with which it has
// given at least want transactions. It leaves the number of files taken in taken.
func turn(files []string, want int, taken *int, seen func(*commonpb.Block)) iter.Seq2[*commonpb.Block, error] {
	return func(yield func(*commonpb.Block, error) bool) {
		given := 0
		for _, file := range files {
			if given >= want {
				return
			}
			b, err := readBlock(file)
			if err == nil {
				given += len(b.GetData().GetData())
				*taken++
				seen(b)
			}
			if !yield(b, err) || err != nil {
				return
			}
		}
	}
}
