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
	"time"
)

// A term's file is text of exactly nine lines:
//
//	strongroom data key 2
//	term 12
//	channel "name"           "" for a key of the node
//	namespace "name"         "" for a key of a channel or of the node
//	created 2026-01-02T03:04:05Z
//	wrapping-key "label or id of the token's key"
//	wrapped 0f1e2d…
//	proof 010c00…            nothing, sealed with the key for a place of kind 15 that holds channel, namespace and term
//	sha256 of the lines above, as hex
//
// The first version had no lines channel, namespace, created and proof: its keys are
// the node's and have sealed everything. The checksum finds damage; that the key is the right one is for
// the token to say when it unwraps it (RFC 3394 section 2.2.3), and for the proof.
const (
	termHead      = "strongroom data key 2\n"
	firstTermHead = "strongroom data key 1\n"
	termPrefix    = "term-"
	tempSuffix    = ".tmp"
	maxWrapped    = 1024
)

// termFile is one data key as it lies on the disk. Proof is nil in one of the first version.
type termFile struct {
	Term          uint32
	Channel       string
	Namespace     string
	Created       time.Time // UTC, whole seconds
	WrappingKeyID string
	Wrapped       []byte
	Proof         []byte
}

func (f termFile) first() bool { return len(f.Proof) == 0 }

func (f termFile) scope() scope { return scope{f.Channel, f.Namespace} }

// place is where the proof belongs.
func (f termFile) place() Place {
	return Place{Kind: KindTerm, Channel: f.Channel, Namespace: f.Namespace, Block: uint64(f.Term)}
}

// marshal is the file's content.
func (f termFile) marshal() []byte {
	var b []byte
	if f.first() {
		b = fmt.Appendf(b, "%sterm %d\n", firstTermHead, f.Term)
	} else {
		b = fmt.Appendf(b, "%sterm %d\nchannel %q\nnamespace %q\ncreated %s\n", termHead, f.Term, f.Channel, f.Namespace, f.Created.Format(time.RFC3339))
	}
	b = fmt.Appendf(b, "wrapping-key %q\nwrapped %x\n", f.WrappingKeyID, f.Wrapped)
	if !f.first() {
		b = fmt.Appendf(b, "proof %x\n", f.Proof)
	}
	sum := sha256.Sum256(b)
	return fmt.Appendf(b, "sha256 %x\n", sum)
}

var (
	termLines      = []string{"term", "channel", "namespace", "created", "wrapping-key", "wrapped", "proof", "sha256"}
	firstTermLines = []string{"term", "wrapping-key", "wrapped", "sha256"}
)

// parseTerm reads a file's content. Only the very bytes that marshal writes pass.
func parseTerm(b []byte) (termFile, error) {
	var f termFile
	names := termLines
	rest, ok := bytes.CutPrefix(b, []byte(termHead))
	if !ok {
		names = firstTermLines
		if rest, ok = bytes.CutPrefix(b, []byte(firstTermHead)); !ok {
			return f, fmt.Errorf("first line is not %q", strings.TrimSpace(termHead))
		}
	}
	values := map[string]string{}
	for i, name := range names {
		line, after, ok := bytes.Cut(rest, []byte("\n"))
		if !ok {
			return f, fmt.Errorf("line %d is not complete", i+2)
		}
		value, ok := bytes.CutPrefix(line, []byte(name+" "))
		if !ok {
			return f, fmt.Errorf("line %d is not %q", i+2, name)
		}
		values[name], rest = string(value), after
	}
	if len(rest) > 0 {
		return f, errors.New("there is more after the last line")
	}
	id, err := strconv.ParseUint(values["term"], 10, 32)
	if err != nil || id == 0 {
		return f, fmt.Errorf("term is not a number from 1: %q", values["term"])
	}
	f.Term = uint32(id)
	if f.WrappingKeyID, err = strconv.Unquote(values["wrapping-key"]); err != nil {
		return f, errors.New("wrapping-key is not a quoted string")
	}
	if f.Wrapped, err = hex.DecodeString(values["wrapped"]); err != nil || len(f.Wrapped) == 0 || len(f.Wrapped) > maxWrapped {
		return f, fmt.Errorf("wrapped is not hexadecimal of 1 to %d bytes", maxWrapped)
	}
	if len(names) == len(termLines) {
		if err := f.parseSecond(values); err != nil {
			return f, err
		}
	}
	if !bytes.Equal(f.marshal(), b) {
		return f, errors.New("checksum or spelling is wrong: the file was damaged or edited")
	}
	return f, nil
}

// parseSecond reads the lines that the first version did not have.
func (f *termFile) parseSecond(values map[string]string) (err error) {
	if f.Channel, err = strconv.Unquote(values["channel"]); err != nil {
		return errors.New("channel is not a quoted string")
	}
	if f.Namespace, err = strconv.Unquote(values["namespace"]); err != nil {
		return errors.New("namespace is not a quoted string")
	}
	if f.Created, err = time.Parse(time.RFC3339, values["created"]); err != nil {
		return errors.New("created is not a time")
	}
	if f.Proof, err = hex.DecodeString(values["proof"]); err != nil || len(f.Proof) == 0 || len(f.Proof) > Overhead {
		return fmt.Errorf("proof is not hexadecimal of 1 to %d bytes", Overhead)
	}
	return nil
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
// destroys temporary files that a crash left if it may. Any other file is an error.
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
		case name == "LOCK", name == shredName, name == shredName+tempSuffix:
		case isTerm && strings.HasSuffix(name, tempSuffix) && !writable:
		case isTerm && strings.HasSuffix(name, tempSuffix):
			if err := wipe(filepath.Join(dir, name)); err != nil {
				return nil, err
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

// writeTerm puts a new term's file in place so that it is there whole or not at all,
// and on the disk when this returns.
func writeTerm(dir string, f termFile) error {
	name := termPath(dir, f.Term)
	if _, err := os.Lstat(name); err == nil {
		return fmt.Errorf("keyring file %s is there already", name)
	}
	return writeFile(dir, name, f.marshal())
}

// writeFile replaces a file of the keyring so that either content is there whole.
func writeFile(dir, name string, content []byte) error {
	temp := name + tempSuffix
	file, err := os.OpenFile(temp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	_, err = file.Write(content)
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
