package bundles

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"strongroom/policy/bundle"
)

// Source is where new bundles come from.
type Source interface {
	// Fetch gives the archive that is offered now.
	Fetch(ctx context.Context) ([]byte, error)
	String() string
}

// File is an archive on disk. Replace it by renaming another over it.
type File string

// Fetch reads the file.
func (f File) Fetch(context.Context) ([]byte, error) {
	file, err := os.Open(string(f))
	if err != nil {
		return nil, fmt.Errorf("policy bundle: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(file, bundle.MaxArchive+1))
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("policy bundle: %w", err)
	}
	if len(b) > bundle.MaxArchive {
		return nil, fmt.Errorf("policy bundle: %s has more than %d bytes", f, bundle.MaxArchive)
	}
	return b, nil
}

func (f File) String() string { return string(f) }

// Folder offers, of the *.tar.gz files in it, the last by name.
type Folder string

// Fetch reads that file.
func (f Folder) Fetch(ctx context.Context) ([]byte, error) {
	names, err := filepath.Glob(filepath.Join(string(f), "*.tar.gz")) // sorted
	if err != nil {
		return nil, fmt.Errorf("policy bundle: %w", err)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("policy bundle: folder %s has no file *.tar.gz", f)
	}
	return File(names[len(names)-1]).Fetch(ctx)
}

func (f Folder) String() string { return string(f) }
