package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Bounds of an archive.
const (
	MaxArchive = 8 << 20  // bytes, compressed
	maxContent = 32 << 20 // bytes of all files
	maxFiles   = 1024
	maxName    = 256 // bytes
)

// Names of files with a meaning of their own.
const (
	signaturesFile = ".signatures.json"
	manifestFile   = ".manifest"
	dataFile       = "data.json"
)

// Contents are the files of a bundle by name: slashes, none at the front.
type Contents map[string][]byte

// unpack reads a tar.gz within bounds.
func unpack(archive []byte) (Contents, error) {
	if len(archive) > MaxArchive {
		return nil, fmt.Errorf("the archive has %d bytes: at most %d are taken", len(archive), MaxArchive)
	}
	zr, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return nil, fmt.Errorf("not a gzip archive: %w", err)
	}
	bounded := &io.LimitedReader{R: zr, N: maxContent + 1}
	tr := tar.NewReader(bounded)
	files := Contents{}
	for entries := 0; ; entries++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err == nil && entries >= maxFiles {
			err = fmt.Errorf("more than %d files", maxFiles)
		}
		if err != nil {
			return nil, fmt.Errorf("read the archive: %w", tooLarge(bounded, err))
		}
		name, err := fileName(h.Name)
		if err != nil {
			return nil, err
		}
		switch h.Typeflag {
		case tar.TypeDir:
			continue
		case tar.TypeReg:
		default:
			return nil, fmt.Errorf("%s is neither a file nor a folder: bundles have no links", name)
		}
		if _, twice := files[name]; twice {
			return nil, fmt.Errorf("%s is in the archive twice", name)
		}
		if files[name], err = io.ReadAll(tr); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, tooLarge(bounded, err))
		}
	}
}

func tooLarge(r *io.LimitedReader, err error) error {
	if r.N <= 0 {
		return fmt.Errorf("more than %d bytes unpacked", maxContent)
	}
	return err
}

// fileName is a name without the slash at its front that opa build writes.
func fileName(name string) (string, error) {
	short := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(name, "./"), "/"), "/")
	if short == "" {
		short = "."
	}
	if len(name) > maxName || !fs.ValidPath(short) || strings.ContainsAny(short, "\\\x00") {
		return "", fmt.Errorf("the archive has a file named %.64q: names are relative, without \"..\"", name)
	}
	return short, nil
}

// Pack makes the archive of a bundle's files. The same files give the same bytes.
func Pack(files Contents) ([]byte, error) {
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	tw := tar.NewWriter(zw)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Name: "/" + name, Mode: 0o600, Typeflag: tar.TypeReg, Size: int64(len(files[name]))}
		if err := tw.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("bundle: %s: %w", name, err)
		}
		if _, err := tw.Write(files[name]); err != nil {
			return nil, fmt.Errorf("bundle: %s: %w", name, err)
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	if out.Len() > MaxArchive {
		return nil, fmt.Errorf("bundle: %d bytes packed: at most %d are taken", out.Len(), MaxArchive)
	}
	return out.Bytes(), nil
}

// ReadFolder reads the .rego and data.json files of a folder and those below it, and
// a .manifest at its top. Other files are left out; links are not followed.
func ReadFolder(dir string) (Contents, error) {
	files, size := Contents{}, int64(0)
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if d.IsDir() && name != "." && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		wanted := path.Ext(name) == ".rego" || path.Base(name) == dataFile || name == manifestFile
		if !d.Type().IsRegular() || !wanted {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if size += info.Size(); size > maxContent || len(files) == maxFiles {
			return fmt.Errorf("more than %d bytes or %d files", maxContent, maxFiles)
		}
		files[name], err = os.ReadFile(file)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("bundle folder %s: %w", dir, err)
	}
	return files, nil
}
