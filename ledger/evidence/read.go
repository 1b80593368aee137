package evidence

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// maxFile bounds one file of a pack, in bytes: a block with all that Fabric's limits
// let into it is smaller.
const maxFile = 512 << 20

// File is one file of a pack.
type File struct {
	Name string
	Data []byte
}

// Reader yields the files of a pack in their order, one at a time. It is for one
// goroutine.
type Reader struct {
	file  *os.File
	unzip func()
	tar   *tar.Reader
	left  []string // of a folder
	root  *os.Root
	last  string
}

// Open opens a pack: an archive, or the folder that it was unpacked to.
func Open(path string) (*Reader, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return openFolder(path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r := &Reader{file: f, unzip: func() {}}
	buffered := bufio.NewReaderSize(f, 1<<20)
	magic, err := buffered.Peek(4)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s is no evidence pack: it is too short", path), f.Close())
	}
	switch {
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFile))
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		r.tar, r.unzip = tar.NewReader(z), z.Close
	case bytes.Equal(magic[:2], []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
		}
		r.tar = tar.NewReader(z)
	default:
		return nil, errors.Join(fmt.Errorf("%s is no evidence pack: it is neither zstd nor gzip", path), f.Close())
	}
	return r, nil
}

func openFolder(dir string) (*Reader, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	r := &Reader{root: root}
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			r.left = append(r.left, filepath.ToSlash(name))
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	slices.SortFunc(r.left, order)
	return r, nil
}

func order(a, b string) int {
	sa, na, ka := rank(a)
	sb, nb, kb := rank(b)
	return cmp.Or(cmp.Compare(sa, sb), cmp.Compare(na, nb), cmp.Compare(ka, kb), cmp.Compare(a, b))
}

// Next returns the next file, or io.EOF after the last. An error says that the archive
// cannot be read on.
func (r *Reader) Next() (*File, error) {
	if r.root != nil {
		if len(r.left) == 0 {
			return nil, io.EOF
		}
		name := r.left[0]
		r.left = r.left[1:]
		data, err := r.root.ReadFile(name)
		return &File{Name: name, Data: data}, err
	}
	head, err := r.tar.Next()
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if err != nil {
		return nil, r.broken(err)
	}
	switch {
	case head.Typeflag != tar.TypeReg:
		return nil, r.broken(fmt.Errorf("%q is not a file", head.Name))
	case head.Size > maxFile:
		return nil, r.broken(fmt.Errorf("%q has %d bytes, more than any file of a pack", head.Name, head.Size))
	case r.last != "" && order(r.last, head.Name) >= 0:
		return nil, r.broken(fmt.Errorf("%q stands after %q: the files were reordered", head.Name, r.last))
	}
	r.last = head.Name
	data, err := io.ReadAll(r.tar)
	if err != nil {
		return nil, r.broken(fmt.Errorf("%q: %w", head.Name, err))
	}
	return &File{Name: head.Name, Data: data}, nil
}

func (r *Reader) broken(err error) error {
	return fmt.Errorf("the archive is damaged after %q: %w", r.last, err)
}

// Close closes the pack.
func (r *Reader) Close() error {
	if r.root != nil {
		return r.root.Close()
	}
	r.unzip()
	return r.file.Close()
}
