package blocklog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	segmentSuffix = ".log"
	markName      = "durable"
	lockName      = "lock"
	markSize      = 20
)

// segment is one file of a log.
type segment struct {
	path    string
	file    *os.File
	first   uint64  // number of its first record
	offsets []int64 // of its records, in order
	size    int64   // where the next record goes
	synced  int64   // bytes known to be on disk
	readers sync.WaitGroup
}

func segmentName(first uint64) string { return fmt.Sprintf("%020d%s", first, segmentSuffix) }

// open takes the lock, reads the folder and repairs the tail.
func (l *Log) open() error {
	var err error
	if l.lock, err = os.OpenFile(filepath.Join(l.cfg.Dir, lockName), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if err := unix.Flock(int(l.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%s is in use by another process: %w", l.cfg.Dir, err)
	}
	if l.mark, err = os.OpenFile(filepath.Join(l.cfg.Dir, markName), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	names, err := segmentNames(l.cfg.Dir)
	if err != nil {
		return err
	}
	markFirst, markOffset := l.readMark()
	for i, first := range names {
		var durable int64
		if first == markFirst {
			durable = markOffset
		}
		s, err := openSegment(l.cfg.Dir, first, i == len(names)-1, durable)
		if err != nil {
			return err
		}
		l.segments = append(l.segments, s)
		if i > 0 && l.next != first {
			return &CorruptError{File: s.path, Reason: fmt.Errorf("it starts with record %d, record %d is missing", first, l.next)}
		}
		l.next = first + uint64(len(s.offsets))
	}
	if markOffset > 0 && (len(names) == 0 || names[len(names)-1] < markFirst) {
		return &CorruptError{File: filepath.Join(l.cfg.Dir, segmentName(markFirst)), Reason: errors.New("the file was durable and is missing")}
	}
	l.synced = l.next
	if s := l.last(); s != nil {
		l.writeMark(s)
	}
	return nil
}

// segmentNames lists the first record numbers of the folder's segments, in order.
func segmentNames(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var firsts []uint64
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), segmentSuffix)
		if !ok {
			continue
		}
		var first uint64
		if _, err := fmt.Sscanf(name, "%020d", &first); err != nil || segmentName(first) != e.Name() {
			return nil, fmt.Errorf("%s is not a segment's name: remove the file", filepath.Join(dir, e.Name()))
		}
		firsts = append(firsts, first)
	}
	slices.Sort(firsts)
	return firsts, nil
}

// openSegment reads the records' places. The last segment is checked in full and
// its torn tail cut; of the others, which were synced before the next one was
// begun, the headers are read here and the bodies when they are used.
func openSegment(dir string, first uint64, last bool, durable int64) (_ *segment, err error) {
	path := filepath.Join(dir, segmentName(first))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	s := &segment{path: path, file: f, first: first, size: info.Size()}
	if !last {
		s.synced = s.size
		return s, s.readHeaders()
	}
	return s, s.repair(durable)
}

// readHeaders walks over the headers.
func (s *segment) readHeaders() error {
	var buf [headerSize]byte
	for at := int64(0); at < s.size; {
		_, err := s.file.ReadAt(buf[:], at)
		var h header
		if err == nil {
			h, err = parseHeader(buf[:])
		}
		if errors.Is(err, io.EOF) {
			err = errors.New("the file ends inside a record")
		}
		if want := s.first + uint64(len(s.offsets)); err == nil && h.number != want {
			err = fmt.Errorf("record %d stands where record %d belongs", h.number, want)
		}
		end := at + headerSize + int64(h.length)
		if err == nil && end > s.size {
			err = fmt.Errorf("record %d ends at byte %d, the file at %d", h.number, end, s.size)
		}
		if err != nil {
			return &CorruptError{File: s.path, Offset: at, Reason: err}
		}
		s.offsets = append(s.offsets, at)
		at = end
	}
	return nil
}

// repair checks every record and cuts the file at the first bad one, unless that
// one was durable.
func (s *segment) repair(durable int64) error {
	if s.size == 0 {
		if durable > 0 {
			return &CorruptError{File: s.path, Reason: fmt.Errorf("%d bytes were durable, the file is empty", durable)}
		}
		return nil
	}
	data, err := unix.Mmap(int(s.file.Fd()), 0, int(s.size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map %s: %w", s.path, err)
	}
	at := int64(0)
	var bad error
	for at < s.size {
		h, body, err := parseRecord(data[at:])
		if want := s.first + uint64(len(s.offsets)); err == nil && h.number != want {
			err = fmt.Errorf("record %d stands where record %d belongs", h.number, want)
		}
		if err != nil {
			bad = err
			durable = max(durable, int64(laterDurable(data[at:])))
			break
		}
		s.offsets = append(s.offsets, at)
		at += headerSize + int64(len(body))
	}
	if err := unix.Munmap(data); err != nil {
		return fmt.Errorf("unmap %s: %w", s.path, err)
	}
	if at < durable {
		if bad == nil {
			bad = fmt.Errorf("%d bytes were durable, the file ends", durable)
		}
		return &CorruptError{File: s.path, Offset: at, Reason: bad}
	}
	if bad != nil {
		if err := s.file.Truncate(at); err != nil {
			return fmt.Errorf("cut the torn tail of %s at byte %d: %w", s.path, at, err)
		}
		s.size = at
	}
	// What was read here may still be in the page cache only.
	if err := s.file.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", s.path, err)
	}
	s.synced = s.size
	return nil
}

// writable returns the segment for the next record, a new one if there is none or
// the last is full. The full one is synced first: only a last segment may be torn.
func (l *Log) writable() (*segment, error) {
	s := l.last()
	if s != nil && s.size < l.cfg.SegmentBytes {
		return s, nil
	}
	if err := l.Sync(); err != nil {
		return nil, err
	}
	if s != nil && len(s.offsets) == 0 {
		return s, nil
	}
	first := l.Next()
	path := filepath.Join(l.cfg.Dir, segmentName(first))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syncDir(l.cfg.Dir); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	s = &segment{path: path, file: f, first: first}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = append(l.segments, s)
	return s, nil
}

// find returns the segment of a record and its place there. Callers hold mu.
func (l *Log) find(number uint64) (*segment, int) {
	i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].first > number }) - 1
	if i < 0 {
		return nil, 0
	}
	s := l.segments[i]
	if n := number - s.first; n < uint64(len(s.offsets)) {
		return s, int(n)
	}
	return nil, 0
}

// writeMark notes how far the segment is durable: number of its first record,
// offset, CRC-32C. It is not synced itself, and a write that fails leaves a mark
// that is too low, or none: both only make Open less able to tell corruption from a
// torn tail, so the error is not one of the log's.
func (l *Log) writeMark(s *segment) {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, markSize), s.first)
	b = binary.BigEndian.AppendUint64(b, uint64(s.synced))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	_, _ = l.mark.WriteAt(b, 0)
}

// readMark is the reverse; a mark that does not read, as after a torn write, is no mark.
func (l *Log) readMark() (first uint64, offset int64) {
	b := make([]byte, markSize)
	if _, err := l.mark.ReadAt(b, 0); err != nil {
		return 0, 0
	}
	if crc32.Checksum(b[:16], castagnoli) != binary.BigEndian.Uint32(b[16:]) {
		return 0, 0
	}
	return binary.BigEndian.Uint64(b), int64(binary.BigEndian.Uint64(b[8:]))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func fdatasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
