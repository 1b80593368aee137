package provenance

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// fileBlocks is how many statements one file holds.
	fileBlocks = 1000
	fileSuffix = ".sigstore.jsonl"
	lockName   = "lock"
)

// store keeps bundles in files of one line each: "<first block>.sigstore.jsonl". A
// line is a whole Sigstore bundle, so that any file can be read with a text tool.
// It is not safe for concurrent use; get alone may run beside get.
type store struct {
	dir  string
	lock *os.File

	firsts []uint64 // of the files, in order
	next   uint64   // number of the next statement
	file   *os.File // the last one, nil while there is none
	ends   []int64  // of the last file's lines
}

// CorruptError says that kept statements cannot be read as they were written.
type CorruptError struct {
	File   string
	Line   int // counted from 1
	Reason error
}

// Error names the file and the line.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is corrupt in line %d: %v: restore it from a backup", e.File, e.Line, e.Reason)
}

// Unwrap is the reason.
func (e *CorruptError) Unwrap() error { return e.Reason }

func fileName(first uint64) string { return fmt.Sprintf("%020d%s", first, fileSuffix) }

func openStore(dir string) (_ *store, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &store{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.lock, err = os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("%s is in use by another process: %w", dir, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), fileSuffix)
		if !ok {
			continue
		}
		var first uint64
		if _, err := fmt.Sscanf(name, "%020d", &first); err != nil || fileName(first) != e.Name() {
			return nil, fmt.Errorf("%s is no statement file's name: remove it", filepath.Join(dir, e.Name()))
		}
		s.firsts = append(s.firsts, first)
	}
	slices.Sort(s.firsts)
	if len(s.firsts) == 0 {
		return s, nil
	}
	return s, s.openLast()
}

// openLast opens the last file and cuts off what a crash left unfinished: a last
// line without its end, or lines at the end that are no bundles. A line that is no
// bundle before one that is was damaged later: a *CorruptError.
func (s *store) openLast() error {
	first := s.firsts[len(s.firsts)-1]
	path := filepath.Join(s.dir, fileName(first))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s.file = f
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var good int
	var bad error
	for at, number := 0, first; at < len(data); number++ {
		end := bytes.IndexByte(data[at:], '\n')
		if end < 0 {
			break
		}
		line := data[at : at+end]
		at += end + 1
		err := checkLine(line, number)
		switch {
		case err != nil && bad == nil:
			bad = err
		case err == nil && bad != nil:
			return &CorruptError{File: path, Line: len(s.ends) + 1, Reason: bad}
		case err == nil:
			s.ends = append(s.ends, int64(at))
			good = at
		}
	}
	s.next = first + uint64(len(s.ends))
	if good < len(data) {
		if err := f.Truncate(int64(good)); err != nil {
			return fmt.Errorf("cut the unfinished end of %s: %w", path, err)
		}
	}
	return f.Sync()
}

// checkLine tells whether a line is the bundle of the numbered block.
func checkLine(line []byte, number uint64) error {
	b, err := ParseBundle(line)
	if err != nil {
		return err
	}
	s, err := ParseStatement(b.Envelope.Payload)
	if err != nil {
		return err
	}
	if s.Predicate.Number != number {
		return fmt.Errorf("statement of block %d stands where the one of block %d belongs", s.Predicate.Number, number)
	}
	return nil
}

// empty tells whether there is no statement at all.
func (s *store) empty() bool { return len(s.firsts) == 0 || len(s.firsts) == 1 && len(s.ends) == 0 }

func (s *store) first() uint64 {
	if s.empty() {
		return s.next
	}
	return s.firsts[0]
}

// append writes lines from number on and syncs them. After an error none is kept.
func (s *store) append(number uint64, lines [][]byte) error {
	for len(lines) > 0 {
		if err := s.begin(number); err != nil {
			return err
		}
		n := min(len(lines), fileBlocks-len(s.ends))
		if err := s.write(lines[:n]); err != nil {
			return err
		}
		lines, number = lines[n:], number+uint64(n)
	}
	return nil
}

// begin makes the file for the next statement if the last one is full.
func (s *store) begin(number uint64) error {
	if s.file != nil && len(s.ends) == 0 && s.firsts[len(s.firsts)-1] != number {
		// An empty file of another number: a crash fell between making and filling it.
		last := len(s.firsts) - 1
		if err := errors.Join(s.file.Close(), os.Remove(filepath.Join(s.dir, fileName(s.firsts[last])))); err != nil {
			return err
		}
		s.firsts, s.file = s.firsts[:last], nil
	}
	if s.file != nil && len(s.ends) < fileBlocks {
		return nil
	}
	path := filepath.Join(s.dir, fileName(number))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	dir, err := os.Open(s.dir)
	if err == nil {
		err = errors.Join(dir.Sync(), dir.Close())
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(path))
	}
	if s.file != nil {
		if err := s.file.Close(); err != nil {
			return errors.Join(err, f.Close(), os.Remove(path))
		}
	}
	s.file, s.ends, s.next = f, nil, number
	s.firsts = append(s.firsts, number)
	return nil
}

func (s *store) write(lines [][]byte) error {
	var size int64
	if n := len(s.ends); n > 0 {
		size = s.ends[n-1]
	}
	_, err := s.file.WriteAt(bytes.Join(lines, nil), size)
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		return errors.Join(err, s.file.Truncate(size))
	}
	for _, line := range lines {
		size += int64(len(line))
		s.ends = append(s.ends, size)
	}
	s.next += uint64(len(lines))
	return nil
}

// fileOf is the index of the file that a statement belongs into, -1 before the first.
func (s *store) fileOf(number uint64) int {
	return sort.Search(len(s.firsts), func(i int) bool { return s.firsts[i] > number }) - 1
}

// get returns a statement's line without its end.
func (s *store) get(number uint64) ([]byte, error) {
	i := s.fileOf(number)
	if i < 0 || number >= s.next {
		return nil, fmt.Errorf("block %d: %w", number, ErrNotFound)
	}
	line := int(number - s.firsts[i])
	path := filepath.Join(s.dir, fileName(s.firsts[i]))
	if i == len(s.firsts)-1 {
		var start int64
		if line > 0 {
			start = s.ends[line-1]
		}
		b := make([]byte, s.ends[line]-start-1)
		if _, err := s.file.ReadAt(b, start); err != nil {
			return nil, fmt.Errorf("statement of block %d: %w", number, err)
		}
		return b, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("statement of block %d: %w", number, err)
	}
	for n := 0; ; n++ {
		text, rest, ended := bytes.Cut(data, []byte{'\n'})
		if !ended {
			return nil, &CorruptError{File: path, Line: n + 1, Reason: errors.New("the file ends before the statement")}
		}
		if n == line {
			return bytes.Clone(text), nil
		}
		data = rest
	}
}

func (s *store) close() error {
	var errs []error
	for _, f := range []*os.File{s.file, s.lock} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	s.file, s.lock = nil, nil
	return errors.Join(errs...)
}
