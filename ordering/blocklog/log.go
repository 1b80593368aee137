package blocklog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// Sealer encrypts records before they reach the disk. It is safe for concurrent use.
type Sealer interface {
	// Seal returns plain in sealed form, bound to ad.
	Seal(plain, ad []byte) ([]byte, error)
	// Open reverses Seal; it fails if sealed or ad is not what it was.
	Open(sealed, ad []byte) ([]byte, error)
}

// DefaultSegmentBytes is the size at which a new segment is begun.
const DefaultSegmentBytes = 256 << 20

// Config says where a log lies and how.
type Config struct {
	Dir  string // made if it is not there
	Name string // bound into sealed records, such as "blocks/main"; not empty
	// First is the number that the first record of a new log gets.
	First uint64
	// Sealer encrypts the bodies; nil leaves them in clear.
	Sealer Sealer
	// SegmentBytes overrides DefaultSegmentBytes.
	SegmentBytes int64
}

var (
	// ErrNotFound says that a record is not in the log, not yet or no more.
	ErrNotFound = errors.New("record is not in the log")
	// ErrBroken says that a sync failed: what is on disk is not known any more, so
	// nothing is appended until the log is opened again.
	ErrBroken = errors.New("log is broken after a failed sync")
)

// CorruptError says that a record which was on disk cannot be read as it was written.
type CorruptError struct {
	File   string
	Offset int64
	Reason error
}

// Error names the file and the offset.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is corrupt at byte %d: %v: restore it from a backup", e.File, e.Offset, e.Reason)
}

// Unwrap is the reason.
func (e *CorruptError) Unwrap() error { return e.Reason }

// Log is an open log. Appending (Append, Sync, DropBefore) is for one goroutine at
// a time; reading is safe at any time.
type Log struct {
	cfg  Config
	mark *os.File // the file "durable"
	lock *os.File

	mu       sync.RWMutex // guards the fields below; only the appender writes them
	segments []*segment
	next     uint64 // number of the next record to append
	synced   uint64 // records below are durable
	broken   error

	buf []byte // the appender's: a batch of records on its way to the file
}

// Open opens or makes a log. It cuts a torn tail off and returns a *CorruptError
// for a record that was durable and is damaged.
func Open(cfg Config) (*Log, error) {
	if cfg.Name == "" {
		return nil, errors.New("block log: the name is empty: give the log one to seal its records with")
	}
	if cfg.SegmentBytes <= 0 {
		cfg.SegmentBytes = DefaultSegmentBytes
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := syncDir(filepath.Dir(cfg.Dir)); err != nil {
		return nil, err
	}
	l := &Log{cfg: cfg, next: cfg.First, synced: cfg.First}
	if err := l.open(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// First is the number of the oldest record that is kept, and Next of the next one.
// With no record both are equal.
func (l *Log) First() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, s := range l.segments {
		if len(s.offsets) > 0 {
			return s.first
		}
	}
	return l.next
}

// Next is the number of the next record to append.
func (l *Log) Next() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.next
}

// Synced is the number below which all records are durable.
func (l *Log) Synced() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.synced
}

// Append writes records behind each other and returns the number of the first. They
// are not durable before Sync. After an error none of them is in the log, and the
// log can be used on: a full disk that was made room on takes the next Append.
//
// Crash points: during the write, a torn tail that Open cuts; after it, before Sync,
// any part of the records may be on disk, and Open keeps the good ones up to the
// first bad one.
func (l *Log) Append(bodies ...[]byte) (uint64, error) {
	first := l.Next()
	if l.broken != nil {
		return 0, l.broken
	}
	if len(bodies) == 0 {
		return first, nil
	}
	s, err := l.writable()
	if err != nil {
		return 0, err
	}
	l.buf = l.buf[:0]
	offsets := make([]int64, len(bodies))
	for i, body := range bodies {
		number := first + uint64(i)
		if l.cfg.Sealer != nil {
			if body, err = l.cfg.Sealer.Seal(body, l.associated(number)); err != nil {
				return 0, fmt.Errorf("seal record %d of %s: %w", number, l.cfg.Name, err)
			}
		}
		if len(body) > MaxRecord {
			return 0, fmt.Errorf("record %d of %s has %d bytes, at most %d are possible", number, l.cfg.Name, len(body), MaxRecord)
		}
		offsets[i] = s.size + int64(len(l.buf))
		l.buf = appendRecord(l.buf, number, uint64(s.synced), body)
	}
	if _, err := s.file.WriteAt(l.buf, s.size); err != nil {
		// What was written of it must not be found by the next Open.
		if cut := s.file.Truncate(s.size); cut != nil {
			l.setBroken(fmt.Errorf("%w: %w", ErrBroken, cut))
		}
		return 0, fmt.Errorf("append to %s: %w", l.cfg.Name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.offsets = append(s.offsets, offsets...)
	s.size += int64(len(l.buf))
	l.next += uint64(len(bodies))
	if cap(l.buf) > 16<<20 {
		l.buf = nil
	}
	return first, nil
}

// Sync makes everything appended durable, with one fsync. If it fails the log is
// broken: ErrBroken.
func (l *Log) Sync() error {
	if l.broken != nil {
		return l.broken
	}
	s := l.last()
	if s == nil || s.synced == s.size {
		return nil
	}
	if err := fdatasync(s.file); err != nil {
		err = fmt.Errorf("%w: sync %s: %w", ErrBroken, s.path, err)
		l.setBroken(err)
		return err
	}
	l.mu.Lock()
	s.synced = s.size
	l.synced = l.next
	l.mu.Unlock()
	l.writeMark(s)
	return nil
}

// Read returns a record's body; the caller owns it. A record that does not read as
// it was written gives a *CorruptError.
func (l *Log) Read(number uint64) ([]byte, error) {
	l.mu.RLock()
	s, i := l.find(number)
	if s == nil {
		first, next := l.next, l.next
		if len(l.segments) > 0 {
			first = l.segments[0].first
		}
		l.mu.RUnlock()
		return nil, fmt.Errorf("%w: %s has records %d to %d, not %d", ErrNotFound, l.cfg.Name, first, next, number)
	}
	offset, end := s.offsets[i], s.size
	if i+1 < len(s.offsets) {
		end = s.offsets[i+1]
	}
	s.readers.Add(1)
	l.mu.RUnlock()
	defer s.readers.Done()

	buf := make([]byte, end-offset)
	if _, err := s.file.ReadAt(buf, offset); err != nil {
		return nil, fmt.Errorf("read record %d of %s: %w", number, l.cfg.Name, err)
	}
	h, body, err := parseRecord(buf)
	if err == nil && h.number != number {
		err = fmt.Errorf("record %d stands where record %d belongs", h.number, number)
	}
	if err == nil && l.cfg.Sealer != nil {
		if body, err = l.cfg.Sealer.Open(body, l.associated(number)); err != nil {
			err = fmt.Errorf("open sealed record %d: %w", number, err)
		}
	}
	if err != nil {
		return nil, &CorruptError{File: s.path, Offset: offset, Reason: err}
	}
	return body, nil
}

// DropBefore removes the segments that hold only records below number. It keeps the
// segment that is being written, so that numbers go on.
//
// Crash points: segments go from the oldest on, each whole, so the records that
// remain follow each other at any point.
func (l *Log) DropBefore(number uint64) error {
	for {
		l.mu.Lock()
		if len(l.segments) < 2 || l.segments[1].first > number {
			l.mu.Unlock()
			return nil
		}
		s := l.segments[0]
		l.segments = l.segments[1:]
		l.mu.Unlock()
		s.readers.Wait()
		if err := errors.Join(s.file.Close(), os.Remove(s.path)); err != nil {
			return fmt.Errorf("drop old records of %s: %w", l.cfg.Name, err)
		}
	}
}

// Close syncs and closes the log.
func (l *Log) Close() error {
	var errs []error
	if l.broken == nil {
		errs = append(errs, l.Sync())
	}
	l.mu.Lock()
	segments := l.segments
	l.segments = nil
	l.broken = fmt.Errorf("%s: %w", l.cfg.Name, os.ErrClosed)
	l.mu.Unlock()
	for _, s := range segments {
		s.readers.Wait()
		errs = append(errs, s.file.Close())
	}
	for _, f := range []*os.File{l.mark, l.lock} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	l.mark, l.lock = nil, nil
	return errors.Join(errs...)
}

// Err is ErrBroken's error once a sync failed, and nil before.
func (l *Log) Err() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.broken
}

func (l *Log) setBroken(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = err
}

// last is the segment that is being written. Only the appender calls it.
func (l *Log) last() *segment {
	if len(l.segments) == 0 {
		return nil
	}
	return l.segments[len(l.segments)-1]
}

// associated is what a sealed record is bound to.
func (l *Log) associated(number uint64) []byte {
	ad := append([]byte("strongroom blocklog\x00"), l.cfg.Name...)
	return binary.BigEndian.AppendUint64(append(ad, 0), number)
}
