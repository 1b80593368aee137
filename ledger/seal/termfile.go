package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A term's file is text of exactly five lines:
//
//	strongroom data key 1
//	term 12
//	wrapping-key "label or id of the token's key"
//	wrapped 0f1e2d…
//	sha256 of the lines above, as hex
//
// The checksum finds damage; that the key is the right one is for the token to
// say when it unwraps it (RFC 3394 section 2.2.3).
const (
	termHead   = "strongroom data key 1\n"
	termPrefix = "term-"
	tempSuffix = ".tmp"
	maxWrapped = 1024
)

// termFile is one data key as it lies on the disk.
type termFile struct {
	Term          uint32
	WrappingKeyID string
	Wrapped       []byte
}

// marshal is the file's content.
func (f termFile) marshal() []byte {
	b := fmt.Appendf([]byte(termHead), "term %d\nwrapping-key %q\nwrapped %x\n", f.Term, f.WrappingKeyID, f.Wrapped)
	sum := sha256.Sum256(b)
	return fmt.Appendf(b, "sha256 %x\n", sum)
}

// parseTerm reads a file's content. Only the very bytes that marshal writes pass.
func parseTerm(b []byte) (termFile, error) {
	var f termFile
	rest, ok := bytes.CutPrefix(b, []byte(termHead))
	if !ok {
		return f, fmt.Errorf("first line is not %q", strings.TrimSpace(termHead))
	}
	var values [4]string
	for i, name := range [...]string{"term ", "wrapping-key ", "wrapped ", "sha256 "} {
		line, after, ok := bytes.Cut(rest, []byte("\n"))
		if !ok {
			return f, fmt.Errorf("line %d is not complete", i+2)
		}
		value, ok := bytes.CutPrefix(line, []byte(name))
		if !ok {
			return f, fmt.Errorf("line %d is not %q", i+2, strings.TrimSpace(name))
		}
		values[i], rest = string(value), after
	}
	if len(rest) > 0 {
		return f, errors.New("there is more after the last line")
	}
	id, err := strconv.ParseUint(values[0], 10, 32)
	if err != nil || id == 0 {
		return f, fmt.Errorf("term is not a number from 1: %q", values[0])
	}
	f.Term = uint32(id)
	if f.WrappingKeyID, err = strconv.Unquote(values[1]); err != nil {
		return f, errors.New("wrapping-key is not a quoted string")
	}
	if f.Wrapped, err = hex.DecodeString(values[2]); err != nil || len(f.Wrapped) == 0 || len(f.Wrapped) > maxWrapped {
		return f, fmt.Errorf("wrapped is not hexadecimal of 1 to %d bytes", maxWrapped)
	}
	if !bytes.Equal(f.marshal(), b) {
		return f, errors.New("checksum or spelling is wrong: the file was damaged or edited")
	}
	return f, nil
}

func termPath(dir string, id uint32) string {
	return filepath.Join(dir, fmt.Sprintf("%s%010d", termPrefix, id))
}

// readTerm reads one term's file; an error of os.ErrNotExist means there is none.
func readTerm(dir string, id uint32) (termFile, error) {
	name := termPath(dir, id)
	b, err := os.ReadFile(name)
	if err != nil {
		return termFile{}, fmt.Errorf("keyring: %w", err)
	}
	f, err := parseTerm(b)
	if err == nil && f.Term != id {
		err = fmt.Errorf("it holds term %d", f.Term)
	}
	if err != nil {
		return termFile{}, fmt.Errorf("keyring file %s: %w; restore it from a backup", name, err)
	}
	return f, nil
}

// listTerms reads all of a folder's term files, in the order of their terms, and
// removes temporary files that a crash left if it may. Any other file is an error.
func listTerms(dir string, writable bool) ([]termFile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	var files []termFile
	for _, e := range entries {
		name := e.Name()
		digits, isTerm := strings.CutPrefix(name, termPrefix)
		switch {
		case name == "LOCK":
		case isTerm && strings.HasSuffix(name, tempSuffix) && !writable:
		case isTerm && strings.HasSuffix(name, tempSuffix):
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				return nil, fmt.Errorf("keyring: %w", err)
			}
		case isTerm:
			id, err := strconv.ParseUint(digits, 10, 32)
			if err != nil || termPath(dir, uint32(id)) != filepath.Join(dir, name) {
				return nil, fmt.Errorf("keyring file %s: its name is not %s and ten digits", filepath.Join(dir, name), termPrefix)
			}
			f, err := readTerm(dir, uint32(id))
			if err != nil {
				return nil, err
			}
			files = append(files, f)
		default:
			return nil, fmt.Errorf("keyring folder holds %s, which is no part of a keyring: move it away", filepath.Join(dir, name))
		}
	}
	slices.SortFunc(files, func(a, b termFile) int { return int(int64(a.Term) - int64(b.Term)) })
	return files, nil
}

// writeTerm puts a term's file in place so that it is there whole or not at all,
// and on the disk when this returns.
func writeTerm(dir string, f termFile) (err error) {
	name := termPath(dir, f.Term)
	if _, err := os.Lstat(name); err == nil {
		return fmt.Errorf("keyring file %s is there already", name)
	}
	temp := name + tempSuffix
	file, err := os.OpenFile(temp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	_, err = file.Write(f.marshal())
	if err == nil {
		err = file.Sync()
	}
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(temp, name)
	}
	if err == nil {
		err = syncFolder(dir)
	}
	if err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	return nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
