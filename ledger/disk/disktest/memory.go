// Package disktest is a file system in memory that behaves as a disk does when
// something goes wrong: it loses what was not synced, tears writes, fills up, turns
// read-only, fails to read or write, and flips bits.
package disktest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"strongroom/ledger/disk"
)

// inode is a file's content, now and as it was when it was last synced.
type inode struct {
	data, synced []byte
	// forgotten are bytes that a sync which failed should have brought to the disk: the
	// system counts them as written, and no later sync writes them.
	forgottenFrom, forgottenTo int
	locked                     bool
}

// forget notes what a failed sync leaves behind.
func (i *inode) forget() {
	same := 0
	for same < min(len(i.synced), len(i.data)) && i.synced[same] == i.data[same] {
		same++
	}
	if same < len(i.data) {
		i.forgottenFrom, i.forgottenTo = same, len(i.data)
	}
}

// wrote notes that bytes are to be written again.
func (i *inode) wrote(from, to int) {
	switch {
	case from <= i.forgottenFrom && to >= i.forgottenTo:
		i.forgottenFrom, i.forgottenTo = 0, 0
	case from <= i.forgottenFrom && to > i.forgottenFrom:
		i.forgottenFrom = to
	case to >= i.forgottenTo && from < i.forgottenTo:
		i.forgottenTo = from
	}
}

// sync brings to the disk what the system knows to be missing there.
func (i *inode) sync() {
	before := i.synced
	i.synced = bytes.Clone(i.data)
	for at := i.forgottenFrom; at < min(i.forgottenTo, len(i.synced)); at++ {
		i.synced[at] = 0
		if at < len(before) {
			i.synced[at] = before[at]
		}
	}
}

// Memory is a disk.FS in memory. Folders are there as soon as they are made; files
// are under a name for good when the folder was synced. It is safe for concurrent use.
type Memory struct {
	mu      sync.Mutex // guards everything, the inodes too
	files   map[string]*inode
	durable map[string]*inode // by the names that survive a power failure
	dirs    map[string]bool

	ops   []Op
	fault func(n int, op Op) error
}

// Op is one step that changes the disk, or reads from it.
type Op struct {
	Kind string // create, write, truncate, sync, rename, remove, syncdir; read, open
	Name string
}

// Changes tells whether the step changes what the disk holds.
func (o Op) Changes() bool { return o.Kind != "read" && o.Kind != "open" }

var _ disk.FS = (*Memory)(nil)

// New is an empty disk.
func New() *Memory {
	return &Memory{files: map[string]*inode{}, durable: map[string]*inode{}, dirs: map[string]bool{"/": true}}
}

// Fault has every step from now on ask what its error is; n counts the steps that
// change the disk. Nil takes it away. A write that fails with ErrTorn is done by half.
func (m *Memory) Fault(f func(n int, op Op) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault, m.ops = f, nil
}

// ErrTorn has a write done by half, and fails it.
var ErrTorn = errors.New("write torn")

// Ops are the steps that changed the disk since Fault was called.
func (m *Memory) Ops() []Op {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.ops)
}

// step counts a step and gives its error; mu is held.
func (m *Memory) step(kind, name string) error {
	op := Op{kind, name}
	if op.Changes() {
		m.ops = append(m.ops, op)
	}
	if m.fault == nil {
		return nil
	}
	if err := m.fault(len(m.ops), op); err != nil {
		return &os.PathError{Op: kind, Path: name, Err: err}
	}
	return nil
}

// Persist says what of the unsynced part of each file a power failure leaves, given
// what was synced and what was written.
type Persist func(synced, data []byte) []byte

// sector is what a disk writes whole or not at all.
const sector = 512

// The ways in which a disk loses power.
var (
	// Lost: only what was synced is there.
	Lost Persist = func(synced, _ []byte) []byte { return synced }
	// Kept: everything had reached the disk.
	Kept Persist = func(_, data []byte) []byte { return data }
	// Half: the first half of what was added had reached it.
	Half Persist = func(synced, data []byte) []byte {
		if len(data) <= len(synced) {
			return synced
		}
		return data[:len(synced)+(len(data)-len(synced))/2]
	}
	// Holes: the length had reached the disk, what stands there had not.
	Holes Persist = func(synced, data []byte) []byte {
		if len(data) <= len(synced) {
			return synced
		}
		return append(bytes.Clone(synced), make([]byte, len(data)-len(synced))...)
	}
	// Swapped: the later sectors of what was added had reached the disk, the first had not.
	Swapped Persist = func(synced, data []byte) []byte {
		if len(data) <= len(synced) {
			return synced
		}
		out := bytes.Clone(data)
		middle := (len(synced) + (len(data)-len(synced)+1)/2) / sector * sector
		if middle > len(synced) {
			clear(out[len(synced):middle])
		}
		return out
	}
)

// AfterPowerFailure is the disk as it is found after the power failed now: files keep
// what persist says; a name that was made, changed or removed since its folder was
// synced is as it was then or, if named, as it is now.
func (m *Memory) AfterPowerFailure(persist Persist, named bool) *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := New()
	maps.Copy(out.dirs, m.dirs)
	names := m.durable
	if named {
		names = m.files
	}
	for name, i := range names {
		data := bytes.Clone(persist(i.synced, i.data))
		out.files[name] = &inode{data: data, synced: bytes.Clone(data)}
	}
	maps.Copy(out.durable, out.files)
	return out
}

// Clone is a copy of the disk as it is, with what was not synced still not synced: what
// the next process finds when this one was killed.
func (m *Memory) Clone() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := New()
	maps.Copy(out.dirs, m.dirs)
	copies := map[*inode]*inode{}
	clone := func(from map[string]*inode, to map[string]*inode) {
		for name, i := range from {
			if copies[i] == nil {
				copies[i] = &inode{data: bytes.Clone(i.data), synced: bytes.Clone(i.synced), forgottenFrom: i.forgottenFrom, forgottenTo: i.forgottenTo}
			}
			to[name] = copies[i]
		}
	}
	clone(m.files, out.files)
	clone(m.durable, out.durable)
	return out
}

// Names are the files below a folder, sorted.
func (m *Memory) Names(below string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for name := range m.files {
		if strings.HasPrefix(name, below) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Change replaces a file's content, synced. It panics when there is no such file.
func (m *Memory) Change(name string, change func([]byte) []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.files[name]
	i.data = change(bytes.Clone(i.data))
	i.synced = bytes.Clone(i.data)
}

// OpenFile implements disk.FS.
func (m *Memory) OpenFile(name string, flag int, _ os.FileMode) (disk.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, there := m.files[name]
	fail := func(err error) (disk.File, error) { return nil, &os.PathError{Op: "open", Path: name, Err: err} }
	switch {
	case there && flag&os.O_EXCL != 0:
		return fail(fs.ErrExist)
	case !there && flag&os.O_CREATE == 0:
		return fail(fs.ErrNotExist)
	case !there && !m.dirs[filepath.Dir(name)]:
		return fail(fs.ErrNotExist)
	}
	kind := "open"
	if flag&(os.O_CREATE|os.O_TRUNC) != 0 && (!there || flag&os.O_TRUNC != 0) {
		kind = "create"
	}
	if err := m.step(kind, name); err != nil {
		return nil, err
	}
	if !there {
		i = &inode{}
		m.files[name] = i
	}
	if flag&os.O_TRUNC != 0 {
		i.data = nil
	}
	return &file{fs: m, inode: i, name: name}, nil
}

// ReadDir implements disk.FS.
func (m *Memory) ReadDir(name string) ([]os.DirEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.step("read", name); err != nil {
		return nil, err
	}
	if !m.dirs[name] {
		return nil, &os.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	var list []os.DirEntry
	for dir := range m.dirs {
		if filepath.Dir(dir) == name && dir != name {
			list = append(list, fs.FileInfoToDirEntry(info{name: filepath.Base(dir), mode: fs.ModeDir | 0o700}))
		}
	}
	for file, i := range m.files {
		if filepath.Dir(file) == name {
			list = append(list, fs.FileInfoToDirEntry(info{name: filepath.Base(file), size: int64(len(i.data)), mode: 0o600}))
		}
	}
	slices.SortFunc(list, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}

// MkdirAll implements disk.FS.
func (m *Memory) MkdirAll(name string, _ os.FileMode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for dir := name; !m.dirs[dir]; dir = filepath.Dir(dir) {
		if err := m.step("create", dir); err != nil {
			return err
		}
		m.dirs[dir] = true
	}
	return nil
}

// Rename implements disk.FS.
func (m *Memory) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.step("rename", to); err != nil {
		return err
	}
	i, ok := m.files[from]
	if !ok {
		return &os.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	m.files[to] = i
	delete(m.files, from)
	return nil
}

// Remove implements disk.FS.
func (m *Memory) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.files[name]; !ok {
		return &os.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	if err := m.step("remove", name); err != nil {
		return err
	}
	delete(m.files, name)
	return nil
}

// RemoveAll implements disk.FS.
func (m *Memory) RemoveAll(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.step("remove", name); err != nil {
		return err
	}
	within := func(other string) bool { return other == name || strings.HasPrefix(other, name+"/") }
	maps.DeleteFunc(m.files, func(other string, _ *inode) bool { return within(other) })
	maps.DeleteFunc(m.dirs, func(other string, _ bool) bool { return within(other) })
	return nil
}

// Stat implements disk.FS.
func (m *Memory) Stat(name string) (os.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i, ok := m.files[name]; ok {
		return info{name: filepath.Base(name), size: int64(len(i.data)), mode: 0o600}, nil
	}
	if m.dirs[name] {
		return info{name: filepath.Base(name), mode: fs.ModeDir | 0o700}, nil
	}
	return nil, &os.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
}

// SyncDir implements disk.FS.
func (m *Memory) SyncDir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.step("syncdir", name); err != nil {
		return err
	}
	within := func(file string, _ *inode) bool { return filepath.Dir(file) == name }
	maps.DeleteFunc(m.durable, within)
	for file, i := range m.files {
		if within(file, i) {
			m.durable[file] = i
		}
	}
	return nil
}

type info struct {
	name string
	size int64
	mode fs.FileMode
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }

// file is an open file; its place is for one goroutine, as that of an os.File in use.
type file struct {
	fs     *Memory
	inode  *inode
	name   string
	at     int64
	locked bool
}

func (f *file) Name() string { return f.name }

func (f *file) Read(b []byte) (int, error) {
	n, err := f.ReadAt(b, f.at)
	f.at += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (f *file) ReadAt(b []byte, at int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.step("read", f.name); err != nil {
		return 0, err
	}
	if at >= int64(len(f.inode.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.inode.data[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) Write(b []byte) (int, error) {
	n, err := f.WriteAt(b, f.at)
	f.at += int64(n)
	return n, err
}

func (f *file) WriteAt(b []byte, at int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	err := f.fs.step("write", f.name)
	if errors.Is(err, ErrTorn) {
		b = b[:len(b)/2]
	} else if err != nil {
		return 0, err
	}
	if missing := at + int64(len(b)) - int64(len(f.inode.data)); missing > 0 {
		f.inode.data = append(f.inode.data, make([]byte, missing)...)
	}
	f.inode.wrote(int(at), int(at)+len(b))
	return copy(f.inode.data[at:], b), err
}

func (f *file) Seek(offset int64, whence int) (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	switch whence {
	case io.SeekStart:
		f.at = offset
	case io.SeekCurrent:
		f.at += offset
	default:
		f.at = int64(len(f.inode.data)) + offset
	}
	return f.at, nil
}

func (f *file) Stat() (os.FileInfo, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return info{name: filepath.Base(f.name), size: int64(len(f.inode.data)), mode: 0o600}, nil
}

func (f *file) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.step("truncate", f.name); err != nil {
		return err
	}
	if size > int64(len(f.inode.data)) {
		return fmt.Errorf("truncate %s: it has %d bytes, not %d", f.name, len(f.inode.data), size)
	}
	f.inode.data = f.inode.data[:size:size]
	return nil
}

// Sync persists the content. If it fails, what was not synced counts as lost and as
// clean, as Linux does: a later Sync does not bring it to the disk.
func (f *file) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.step("sync", f.name); err != nil {
		f.inode.forget()
		return err
	}
	f.inode.sync()
	return nil
}

func (f *file) Lock() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.inode.locked {
		return syscall.EWOULDBLOCK
	}
	f.inode.locked, f.locked = true, true
	return nil
}

func (f *file) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.locked {
		f.inode.locked, f.locked = false, false
	}
	return nil
}
