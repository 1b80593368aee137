package lifecycle

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"strongroom/ledger/seal"
)

// PackageStore keeps installed chaincode packages. It is safe for concurrent use.
type PackageStore interface {
	// Save keeps a package durably. Saving the same again changes nothing.
	Save(ctx context.Context, id string, data []byte) error
	// Load returns a package. An id that is not there gives rpcerr.ErrNotFound.
	Load(ctx context.Context, id string) ([]byte, error)
	// IDs lists the packages, sorted.
	IDs(ctx context.Context) ([]string, error)
}

// Sealer seals what goes to the disk. *seal.Keyring is one.
type Sealer interface {
	Seal(dst, plaintext []byte, p seal.Place) ([]byte, error)
	Open(dst, sealed []byte, p seal.Place) ([]byte, error)
}

// packageSuffix ends the name of a sealed package's file; before it stands the hex
// SHA-256 of the package id, so that the folder does not tell what is installed.
const packageSuffix = ".pkg"

// Folder is a PackageStore over one folder of sealed files.
//
// Crash points of Save: after the temporary file is written, a restart leaves it
// aside and removes it; after the rename, before the folder is synced, either name
// may be there. A package is in the store if and only if its final name is.
type Folder struct {
	dir  string
	seal Sealer
}

// OpenFolder opens or makes the folder and removes what an interrupted Save left.
func OpenFolder(dir string, s Sealer) (*Folder, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("chaincode packages: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.tmp"))
	if err != nil {
		return nil, fmt.Errorf("chaincode packages: %w", err)
	}
	for _, name := range left {
		if err := os.Remove(name); err != nil {
			return nil, fmt.Errorf("chaincode packages: unfinished file: %w", err)
		}
	}
	return &Folder{dir: dir, seal: s}, nil
}

func fileName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:]) + packageSuffix
}

// place binds a sealed package to its file's name.
func place(name string) seal.Place { return seal.Place{Kind: seal.KindPackage, Key: name} }

// Save implements PackageStore. The file holds the id, with its length before it,
// and the package.
func (f *Folder) Save(ctx context.Context, id string, data []byte) error {
	name := fileName(id)
	path := filepath.Join(f.dir, name)
	if _, err := os.Stat(path); err == nil {
		return nil // the id holds the package's hash: it is the same
	}
	plain := binary.AppendUvarint(nil, uint64(len(id)))
	plain = append(append(plain, id...), data...)
	sealed, err := f.seal.Seal(nil, plain, place(name))
	if err != nil {
		return fmt.Errorf("chaincode package: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return writeDurably(f.dir, path, sealed)
}

func writeDurably(dir, path string, data []byte) (err error) {
	file, err := os.CreateTemp(dir, "*.tmp")
	if err != nil {
		return fmt.Errorf("chaincode package: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close(), os.Remove(file.Name()))
		}
	}()
	if _, err = file.Write(data); err != nil {
		return fmt.Errorf("chaincode package: %w", err)
	}
	if err = file.Sync(); err != nil {
		return fmt.Errorf("chaincode package: %w", err)
	}
	if err = os.Rename(file.Name(), path); err != nil {
		return fmt.Errorf("chaincode package: %w", err)
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("chaincode package: %w", err)
	}
	folder, openErr := os.Open(dir)
	if openErr != nil {
		return fmt.Errorf("chaincode packages: %w", openErr)
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// Load implements PackageStore.
func (f *Folder) Load(ctx context.Context, id string) ([]byte, error) {
	got, data, err := f.read(fileName(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFound("chaincode install package '%s' not found", id)
	}
	if err != nil {
		return nil, err
	}
	if got != id {
		return nil, fmt.Errorf("chaincode package %q: its file holds %q", id, got)
	}
	return data, ctx.Err()
}

func (f *Folder) read(name string) (id string, data []byte, err error) {
	sealed, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil {
		return "", nil, fmt.Errorf("chaincode package: %w", err)
	}
	plain, err := f.seal.Open(nil, sealed, place(name))
	if err != nil {
		return "", nil, fmt.Errorf("chaincode package %s: %w", name, err)
	}
	return splitPackage(plain)
}

func splitPackage(plain []byte) (id string, data []byte, err error) {
	n, size := binary.Uvarint(plain)
	if size <= 0 || n > uint64(len(plain)-size) {
		return "", nil, errors.New("chaincode package file is too short for its id")
	}
	return string(plain[size : size+int(n)]), plain[size+int(n):], nil
}

// IDs implements PackageStore.
func (f *Folder) IDs(ctx context.Context) ([]string, error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, fmt.Errorf("chaincode packages: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), packageSuffix) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		id, _, err := f.read(e.Name())
		if err != nil {
			return nil, err
		}
		if fileName(id) != e.Name() {
			return nil, fmt.Errorf("chaincode package file %s holds %q, which belongs elsewhere", e.Name(), id)
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}
