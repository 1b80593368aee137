package auditlog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"strongroom/ledger/seal"
)

// maxRecord bounds one record with its private part, in bytes.
const maxRecord = 32 << 20

// output is a segment that is written. *os.File is one.
type output interface {
	io.Writer
	Sync() error
	Truncate(size int64) error
	Close() error
}

// writer appends records to the segments of a folder. It is for one goroutine.
type writer struct {
	dir     string
	keyring *seal.Keyring
	limit   int64
	create  func(path string) (output, error) // O_CREATE|O_EXCL|O_WRONLY

	next    uint64 // number of the next record
	last    Hash   // of the record before it
	pending []Stored

	file  output // nil: the next frame begins a segment
	path  string
	size  int64 // of the open segment, as it is known to be on disk
	dirty bool  // there may be more in it than that

	pruned time.Time // when old segments were last looked for
}

// openWriter finds the end of a log. It cuts off a last write that did not finish.
//
// Crash points: a frame that was not whole on disk was acknowledged to nobody, and is
// cut off here. A segment that was begun and has no frame is continued.
func openWriter(cfg Config) (*writer, error) {
	w := &writer{dir: filepath.Join(cfg.Dir, recordsDir), keyring: cfg.Keyring, limit: cfg.SegmentBytes, create: cfg.create}
	if w.create == nil {
		w.create = createFile
	}
	firsts, err := segments(w.dir)
	if err != nil || len(firsts) == 0 {
		return w, err
	}
	// An empty last segment says nothing of the record before it: read the one before too.
	for len(firsts) > 0 {
		first := firsts[len(firsts)-1]
		w.path = filepath.Join(w.dir, segmentName(first))
		w.next = first
		found, err := w.recover(first)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.path, err)
		}
		if found || first == 0 {
			break
		}
		if err := os.Remove(w.path); err != nil { // empty
			return nil, err
		}
		w.path = ""
		firsts = firsts[:len(firsts)-1]
	}
	if w.path == "" {
		return nil, fmt.Errorf("%s: the segment before record %d is missing: restore it from a backup", w.dir, w.next)
	}
	f, err := os.OpenFile(w.path, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	w.file = f
	if w.dirty {
		err = errors.Join(f.Truncate(w.size), f.Sync())
		w.dirty = false
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return w, nil
}

// recover reads the last segment, whose records must follow each other.
func (w *writer) recover(first uint64) (found bool, err error) {
	f, err := os.Open(w.path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	var chain Chain
	for w.size = 0; ; {
		b, err := readFrame(f, w.size, info.Size())
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if errors.Is(err, errTorn) {
			w.dirty = true
			return found, nil
		}
		var records []Stored
		if err == nil {
			records, err = open(w.keyring, b)
		}
		if err != nil {
			return found, fmt.Errorf("at byte %d: %w: restore it from a backup", w.size, err)
		}
		for _, s := range records {
			r, err := chain.Add(s.Line)
			if err == nil && (r.Number != s.Number || r.Number < first) {
				err = fmt.Errorf("record %d stands at the place of record %d", r.Number, s.Number)
			}
			if err != nil {
				return found, fmt.Errorf("at byte %d: %w: restore it from a backup", w.size, err)
			}
			w.next, w.last, found = s.Number+1, hashOf(s.Line), true
		}
		w.size += int64(len(b))
	}
}

func createFile(path string) (output, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
}

// add makes the next record; it is pending until it is written.
func (w *writer) add(kind Kind, body, private []byte) {
	line := form(w.next, w.last, kind, body)
	w.pending = append(w.pending, Stored{Number: w.next, Line: line, Private: private})
	w.next, w.last = w.next+1, hashOf(line)
}

// write writes what is pending, with one sync, and returns the records' bytes. After an
// error all of it is still pending, and nothing of it is known to be on disk.
func (w *writer) write() (lines [][]byte, err error) {
	defer func() {
		if err != nil {
			w.dirty = true
		}
	}()
	if err := w.clean(); err != nil {
		return nil, err
	}
	written := int64(0)
	for rest := w.pending; len(rest) > 0; {
		n, size := 0, 0
		for n < len(rest) && n < frameRecords && (n == 0 || size+len(rest[n].Line) <= frameBytes) {
			size += len(rest[n].Line) + len(rest[n].Private)
			n++
		}
		b, err := frame(w.keyring, rest[:n])
		if err != nil {
			return nil, err
		}
		if err := w.begin(w.pending[0].Number); err != nil {
			return nil, err
		}
		if _, err := w.file.Write(b); err != nil {
			return nil, fmt.Errorf("write %s: %w", w.path, err)
		}
		written += int64(len(b))
		rest = rest[n:]
	}
	if err := w.file.Sync(); err != nil {
		return nil, fmt.Errorf("sync %s: %w", w.path, err)
	}
	for _, s := range w.pending {
		lines = append(lines, s.Line)
	}
	w.size += written
	w.pending = w.pending[:0]
	if w.size >= w.limit {
		_ = w.file.Close() // all of it is synced
		w.file = nil
	}
	return lines, nil
}

// begin makes a new segment if none is open.
func (w *writer) begin(first uint64) error {
	if w.file != nil {
		return nil
	}
	path := filepath.Join(w.dir, segmentName(first))
	if there, err := exists(path); err != nil {
		return err
	} else if there { // what an attempt before this one left
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	f, err := w.create(path)
	if err != nil {
		return err
	}
	if err := syncDir(w.dir); err != nil {
		return errors.Join(err, f.Close())
	}
	w.file, w.path, w.size = f, path, 0
	return nil
}

// clean cuts off what a failed write may have left. After a failed sync nobody knows
// what is on disk: the segment ends where it was known to be whole, and a new one begins.
func (w *writer) clean() error {
	if !w.dirty {
		return nil
	}
	if w.file != nil {
		if err := w.file.Truncate(w.size); err != nil {
			return fmt.Errorf("cut %s: %w", w.path, err)
		}
		if err := w.file.Sync(); err != nil {
			return fmt.Errorf("sync %s: %w", w.path, err)
		}
		err := w.file.Close()
		w.file = nil
		if err != nil {
			return err
		}
		if w.size == 0 {
			if err := os.Remove(w.path); err != nil {
				return err
			}
		}
	}
	w.dirty = false
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (w *writer) close() error {
	if w.file == nil {
		return nil
	}
	return w.file.Close()
}
