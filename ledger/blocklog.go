package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"strongroom/ledger/disk"
)

// location is where a record stands in the block log.
type location struct {
	File   uint32
	Offset int64
	Length int // of the whole frame
}

// end is where the next record stands, if it is in the same file.
func (l location) end() location {
	return location{File: l.File, Offset: l.Offset + int64(l.Length)}
}

// blockLog is a channel's blocks in files that only grow. Appending is for one
// goroutine; reading is safe for concurrent use.
type blockLog struct {
	fs      disk.FS
	dir     string
	maxFile int64
	logger  *slog.Logger

	tail     disk.File // what is appended to
	tailFile uint32
	tailSize int64
}

func (g *blockLog) path(file uint32) string { return blockFile(g.dir, file) }

func blockFile(dir string, file uint32) string {
	return filepath.Join(dir, fmt.Sprintf("%06d.blocks", file))
}

// files returns the numbers of the log's files. Gaps and other files are errors.
func (g *blockLog) files() ([]uint32, error) {
	entries, err := g.fs.ReadDir(g.dir)
	if err != nil {
		return nil, fmt.Errorf("block log: %w", err)
	}
	var files []uint32
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), ".blocks")
		n, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || g.path(uint32(n)) != filepath.Join(g.dir, e.Name()) {
			return nil, fmt.Errorf("block log holds %s, which is no part of it: move it away", filepath.Join(g.dir, e.Name()))
		}
		files = append(files, uint32(n))
	}
	slices.Sort(files)
	for i, n := range files {
		if n != uint32(i) {
			return nil, fmt.Errorf("block log file %s is missing: restore it", g.path(uint32(i)))
		}
	}
	return files, nil
}

// openBlockLog reads the log from a place on, hands each whole record to visit,
// cuts an end that was not written completely, and leaves the log ready to append.
// next is the number of the block expected at from; blocks below known were
// acknowledged once, so that it is an error when one of them is not there.
func openBlockLog(fs disk.FS, dir string, maxFile int64, logger *slog.Logger, from location, next, known uint64,
	visit func(r record, at location) error) (*blockLog, error) {
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("block log: %w", err)
	}
	g := &blockLog{fs: fs, dir: dir, maxFile: maxFile, logger: logger}
	files, err := g.files()
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		files = []uint32{0}
		if err := g.create(0); err != nil {
			return nil, err
		}
	}
	last := files[len(files)-1]
	if from.File > last {
		return nil, fmt.Errorf("block log file %s is missing: restore it", g.path(from.File))
	}
	s := &logScan{log: g, next: next, known: known, visit: visit}
	for file := from.File; file <= last; file++ {
		offset := int64(0)
		if file == from.File {
			offset = from.Offset
		}
		if err := s.file(file, offset, file == last); err != nil {
			return nil, errors.Join(err, g.close())
		}
	}
	if s.next < known {
		err := fmt.Errorf("block log %s ends at block %d, but block %d was committed: the log was truncated, or it is an older copy; restore it",
			dir, s.next, known-1)
		return nil, errors.Join(err, g.close())
	}
	return g, nil
}

// create makes an empty file and has its name on the disk.
func (g *blockLog) create(file uint32) error {
	f, err := g.fs.OpenFile(g.path(file), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("block log: %w", err)
	}
	if err := errors.Join(f.Close(), g.fs.SyncDir(g.dir)); err != nil {
		return fmt.Errorf("block log: %w", err)
	}
	return nil
}

// logScan reads the log at start.
type logScan struct {
	log   *blockLog
	next  uint64
	known uint64
	visit func(r record, at location) error
	buf   []byte
}

func (s *logScan) file(file uint32, offset int64, last bool) error {
	path := s.log.path(file)
	f, err := s.log.fs.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("block log: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil && offset > size {
		err = fmt.Errorf("file has %d bytes, blocks up to byte %d were committed: it was truncated, or it is an older copy; restore it", size, offset)
	}
	if err == nil && last {
		err = secure(f, offset, size)
	}
	for err == nil && offset < size {
		var length int
		var bad error
		if length, bad, err = s.record(f, file, offset, size); err != nil {
			break
		}
		if bad != nil {
			err = s.cut(f, path, offset, size, last, bad)
			size = offset
			break
		}
		offset += int64(length)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("block log file %s, byte %d: %w", path, offset, err), f.Close())
	}
	if !last {
		return f.Close()
	}
	s.log.tail, s.log.tailFile, s.log.tailSize = f, file, size
	return nil
}

// secure has the end of the last file, which no store vouches for, on the disk before
// a store learns of it: a process that was killed may have left it in the system's
// memory alone, and after a sync that failed the system takes for written what is not,
// unless it is written again.
func secure(f disk.File, from, to int64) error {
	if from == to {
		return nil
	}
	buf := make([]byte, min(to-from, 1<<20))
	for at := from; at < to; {
		b := buf[:min(to-at, int64(len(buf)))]
		if _, err := f.ReadAt(b, at); err != nil {
			return err
		}
		if _, err := f.WriteAt(b, at); err != nil {
			return err
		}
		at += int64(len(b))
	}
	return f.Sync()
}

// record reads and visits one record. A record that is damaged or not complete is
// returned as bad; err is a failure to read, or the visitor's.
func (s *logScan) record(f disk.File, file uint32, offset, size int64) (length int, bad, err error) {
	s.buf = slices.Grow(s.buf[:0], frameHeader)[:min(frameHeader, size-offset)]
	if _, err := f.ReadAt(s.buf, offset); err != nil {
		return 0, nil, err
	}
	length, bad = frameLength(s.buf)
	if bad == nil && offset+int64(length) > size {
		bad = errIncomplete
	}
	if bad != nil {
		return 0, bad, nil
	}
	s.buf = slices.Grow(s.buf[:0], length)[:length]
	if _, err := f.ReadAt(s.buf, offset); err != nil {
		return 0, nil, err
	}
	r, bad := parseFrame(s.buf)
	if bad != nil {
		return 0, bad, nil
	}
	if r.number != s.next {
		return 0, nil, fmt.Errorf("record holds block %d where block %d should be", r.number, s.next)
	}
	if err := s.visit(r, location{File: file, Offset: offset, Length: length}); err != nil {
		return 0, nil, err
	}
	s.next++
	return length, nil, nil
}

// cut removes a bad end of the log if it can only be a write that never finished:
// it is the end of the last file, no whole record follows, and no store knows of
// its block. Anything else is damage.
func (s *logScan) cut(f disk.File, path string, offset, size int64, last bool, bad error) error {
	const advice = "the file is damaged; restore it"
	if !last {
		return fmt.Errorf("%w, and another file follows: %s", bad, advice)
	}
	if s.next < s.known {
		return fmt.Errorf("%w, and block %d was committed: %s", bad, s.next, advice)
	}
	rest := make([]byte, size-offset)
	if _, err := f.ReadAt(rest, offset); err != nil {
		return err
	}
	for i := 1; i < len(rest); i++ {
		j := bytes.Index(rest[i:], []byte(frameMagic))
		if j < 0 {
			break
		}
		i += j
		if _, err := parseFrame(rest[i:]); err == nil {
			return fmt.Errorf("%w, and a whole record follows at byte %d: %s", bad, offset+int64(i), advice)
		}
	}
	s.log.logger.Warn("cutting the end of the block log, which was not written completely",
		"file", path, "offset", offset, "bytes", size-offset, "block", s.next)
	return errors.Join(f.Truncate(offset), f.Sync())
}

// place is where the next record of a length will stand; it starts a new file when
// the present one is full.
func (g *blockLog) place(length int) (location, error) {
	if g.tailSize > 0 && g.tailSize+int64(length) > g.maxFile {
		if err := g.roll(); err != nil {
			return location{}, err
		}
	}
	return location{File: g.tailFile, Offset: g.tailSize, Length: length}, nil
}

func (g *blockLog) roll() error {
	if g.tailFile == math.MaxUint32 {
		return errors.New("block log has used up its file numbers")
	}
	next := g.tailFile + 1
	if err := g.create(next); err != nil {
		return err
	}
	f, err := g.fs.OpenFile(g.path(next), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("block log: %w", err)
	}
	err = g.tail.Close()
	g.tail, g.tailFile, g.tailSize = f, next, 0
	return err
}

// write puts a whole frame at the place that was taken for it.
func (g *blockLog) write(at location, frame []byte) error {
	if _, err := g.tail.WriteAt(frame, at.Offset); err != nil {
		return fmt.Errorf("block log file %s, byte %d: %w", g.path(at.File), at.Offset, err)
	}
	g.tailSize = at.Offset + int64(len(frame))
	return nil
}

// sync has everything that was written on the disk.
func (g *blockLog) sync() error {
	if err := g.tail.Sync(); err != nil {
		return fmt.Errorf("block log file %s: sync: %w", g.path(g.tailFile), err)
	}
	return nil
}

// readRecord reads the record of a block in a log's folder.
func readRecord(fs disk.FS, dir string, number uint64, at location) (record, error) {
	f, err := fs.OpenFile(blockFile(dir, at.File), os.O_RDONLY, 0)
	if err != nil {
		return record{}, fmt.Errorf("block %d: block log: %w", number, err)
	}
	defer f.Close()
	frame := make([]byte, at.Length)
	if _, err := f.ReadAt(frame, at.Offset); err != nil {
		return record{}, fmt.Errorf("block %d: block log file %s, byte %d: %w", number, f.Name(), at.Offset, err)
	}
	r, err := parseFrame(frame)
	if err == nil && r.number != number {
		err = fmt.Errorf("record holds block %d", r.number)
	}
	if err != nil {
		return record{}, fmt.Errorf("block %d: block log file %s, byte %d: %w: the file is damaged; restore it", number, f.Name(), at.Offset, err)
	}
	return r, nil
}

func (g *blockLog) close() error {
	if g.tail == nil {
		return nil
	}
	err := g.tail.Close()
	g.tail = nil
	return err
}
