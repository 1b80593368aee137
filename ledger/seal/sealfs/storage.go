package sealfs

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/syndtr/goleveldb/leveldb/storage"

	"strongroom/ledger/disk"
	"strongroom/ledger/seal"
)

const (
	lockName   = "LOCK"
	tempSuffix = ".tmp"
)

// Config says where a store lies and what seals it. All fields but Lenient and FS are needed.
type Config struct {
	Dir     string        // made when it is not there
	Keyring *seal.Keyring // must stay open for longer than the storage
	Channel string        // bound into every file
	Store   string        // name of the store in the channel, bound into every file
	// Lenient drops an end of a journal or manifest that does not open and that no
	// later record proves to have been on the disk; Cut says so. Without it such an
	// end is a *storage.ErrCorrupted.
	Lenient bool
	// FS is where the files are; nil stands for disk.OS.
	FS disk.FS
}

// Storage is a storage.Storage over a folder of sealed files. It is safe for
// concurrent use. Errors about a file's content are *storage.ErrCorrupted (with the
// file's path and the place in it), the token's and the disk's are not.
type Storage struct {
	config Config
	lock   disk.File

	mu     sync.Mutex // guards what follows
	id     [idSize]byte
	locked bool
	closed bool
	cut    []string
	// undecided is why it is not known which manifest is in force after a power failure.
	undecided error
}

var _ storage.Storage = (*Storage)(nil)

// Open opens a folder for one process and removes what a crash left of files that
// were never part of the database. A folder in use gives an error that wraps
// seal.ErrInUse.
func Open(c Config) (*Storage, error) {
	switch {
	case c.Dir == "":
		return nil, errors.New("sealed store: Dir is empty: name the store's folder")
	case c.Keyring == nil:
		return nil, errors.New("sealed store: Keyring is missing: nothing may be written unsealed")
	case c.Channel == "" || c.Store == "":
		return nil, errors.New("sealed store: Channel or Store is empty: files are bound to both")
	}
	if c.FS == nil {
		c.FS = disk.OS
	}
	if err := c.FS.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	s := &Storage{config: c}
	var err error
	if s.lock, err = c.FS.OpenFile(s.path(lockName), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	if err = s.lock.Lock(); err != nil {
		err = fmt.Errorf("%s: %w (%w)", s.path(lockName), seal.ErrInUse, err)
	} else {
		err = s.begin()
	}
	if err != nil {
		return nil, errors.Join(err, s.lock.Close())
	}
	return s, nil
}

// begin reads the store's identity, or gives it one.
//
// Crash points: goleveldb makes the first manifest, then calls SetMeta, then makes
// the first journal. A manifest alone, without CURRENT, is a store that never was.
func (s *Storage) begin() error {
	if err := s.config.FS.Remove(s.path(currentName + tempSuffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	_, err := s.readCurrent()
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if _, err := rand.Read(s.id[:]); err != nil {
		return err
	}
	fds, err := s.list(storage.TypeAll)
	if err != nil {
		return err
	}
	if len(fds) == 1 && fds[0].Type == storage.TypeManifest {
		return s.config.FS.Remove(s.path(fds[0].String()))
	}
	return nil
}

func (s *Storage) path(name string) string { return filepath.Join(s.config.Dir, name) }

// corrupt is an error about a file's content in goleveldb's form.
func (s *Storage) corrupt(fd storage.FileDesc, path string, reason error) error {
	return &storage.ErrCorrupted{Fd: fd, Err: fmt.Errorf("file %s: %w", path, reason)}
}

// classify makes errors of content out of those that are; a token or a disk that
// failed says nothing about the file.
func (s *Storage) classify(fd storage.FileDesc, path string, err error) error {
	var system *os.PathError
	if errors.As(err, &system) || errors.Is(err, seal.ErrClosed) {
		return fmt.Errorf("file %s: %w", path, err)
	}
	if errors.Is(err, seal.ErrAltered) || errors.Is(err, seal.ErrMalformed) {
		return s.corrupt(fd, path, err)
	}
	return fmt.Errorf("file %s: %w", path, err)
}

// Cut says which ends of files were dropped because they did not open.
func (s *Storage) Cut() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.cut...)
}

type locker struct{ s *Storage }

func (l locker) Unlock() {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.s.locked = false
}

// Lock gives the one lock that a database takes.
func (s *Storage) Lock() (storage.Locker, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, storage.ErrClosed
	case s.locked:
		return nil, storage.ErrLocked
	}
	s.locked = true
	return locker{s}, nil
}

// Log drops goleveldb's messages: they name keys.
func (s *Storage) Log(string) {}

func (s *Storage) check(fds ...storage.FileDesc) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return storage.ErrClosed
	}
	for _, fd := range fds {
		if !storage.FileDescOk(fd) {
			return storage.ErrInvalidFile
		}
	}
	return nil
}

// SetMeta puts the manifest in force; it is on the disk when SetMeta returns.
func (s *Storage) SetMeta(fd storage.FileDesc) error {
	if err := s.check(fd); err != nil {
		return err
	}
	if fd.Type != storage.TypeManifest {
		return storage.ErrInvalidFile
	}
	return s.writeCurrent(fd.Num)
}

// GetMeta is the manifest in force; os.ErrNotExist when there is none.
func (s *Storage) GetMeta() (storage.FileDesc, error) {
	if err := s.check(); err != nil {
		return storage.FileDesc{}, err
	}
	n, err := s.readCurrent()
	if err != nil {
		return storage.FileDesc{}, err
	}
	fd := storage.FileDesc{Type: storage.TypeManifest, Num: n}
	if _, err := s.config.FS.Stat(s.path(fd.String())); err != nil {
		return storage.FileDesc{}, err
	}
	return fd, nil
}

// List gives the files of some types.
func (s *Storage) List(types storage.FileType) ([]storage.FileDesc, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return s.list(types)
}

func (s *Storage) list(types storage.FileType) ([]storage.FileDesc, error) {
	entries, err := s.config.FS.ReadDir(s.config.Dir)
	if err != nil {
		return nil, err
	}
	var fds []storage.FileDesc
	for _, e := range entries {
		if fd, ok := parseName(e.Name()); ok && fd.Type&types != 0 {
			fds = append(fds, fd)
		}
	}
	return fds, nil
}

var suffixes = map[string]storage.FileType{".log": storage.TypeJournal, ".ldb": storage.TypeTable, tempSuffix: storage.TypeTemp}

// parseName reads a name as storage.FileDesc writes it.
func parseName(name string) (storage.FileDesc, bool) {
	fd := storage.FileDesc{Type: storage.TypeManifest}
	digits, ok := strings.CutPrefix(name, "MANIFEST-")
	if !ok {
		ext := filepath.Ext(name)
		fd.Type, digits = suffixes[ext], strings.TrimSuffix(name, ext)
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	fd.Num = n
	return fd, err == nil && storage.FileDescOk(fd) && fd.String() == name
}

// Open opens a file for reading. Journals and manifests are checked as a whole,
// tables at their end, and chunk by chunk when they are read.
func (s *Storage) Open(fd storage.FileDesc) (storage.Reader, error) {
	if err := s.check(fd); err != nil {
		return nil, err
	}
	path := s.path(fd.String())
	f, err := s.config.FS.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	if layoutOf(fd.Type) == layChunks {
		return s.openChunks(f, fd)
	}
	r, err := s.openRecords(f, fd)
	if closing := f.Close(); err == nil && closing != nil {
		return nil, closing
	}
	return r, err
}

// Create makes a file under a new key; what had its name is gone.
func (s *Storage) Create(fd storage.FileDesc) (storage.Writer, error) {
	if err := s.check(fd); err != nil {
		return nil, err
	}
	head, aead, err := s.newHeader(fd)
	if err != nil {
		return nil, fmt.Errorf("file %s: %w", s.path(fd.String()), err)
	}
	f, err := s.config.FS.OpenFile(s.path(fd.String()), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(head); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	w := file{f: f, fs: s.config.FS, dir: s.config.Dir, size: int64(len(head))}
	if layoutOf(fd.Type) == layChunks {
		return &chunkWriter{file: w, aead: aead}, nil
	}
	return &recordWriter{file: w, aead: aead}, nil
}

// Remove deletes a file, after it overwrote the file's key where it lies: what the
// disk keeps of the rest cannot be opened any more, with the keyring either. After a
// SetMeta of which it is not known whether it is on the disk, nothing is removed until
// the folder is opened again.
func (s *Storage) Remove(fd storage.FileDesc) error {
	if err := s.check(fd); err != nil {
		return err
	}
	s.mu.Lock()
	undecided := s.undecided
	s.mu.Unlock()
	if undecided != nil {
		return undecided
	}
	path := s.path(fd.String())
	f, err := s.config.FS.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.WriteAt(make([]byte, min(info.Size(), maxHeader)), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close(), s.config.FS.Remove(path))
}

// Rename seals a file's content anew under its other name and removes the old one:
// a file is bound to its name.
func (s *Storage) Rename(from, to storage.FileDesc) (err error) {
	if err := s.check(from, to); err != nil || from == to {
		return err
	}
	r, err := s.Open(from)
	if err != nil {
		return err
	}
	w, err := s.Create(to)
	if err != nil {
		return errors.Join(err, r.Close())
	}
	_, err = copyAll(w, r)
	if err == nil {
		err = w.Sync()
	}
	if err = errors.Join(err, w.Close(), r.Close()); err != nil {
		return err
	}
	return s.Remove(from)
}

// Close releases the folder. Closing twice is no error.
func (s *Storage) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.lock.Close()
}
