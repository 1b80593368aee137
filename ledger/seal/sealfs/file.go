package sealfs

import (
	"errors"
	"io"

	"strongroom/ledger/disk"
)

// errEnded means that a writer was used after its end.
var errEnded = errors.New("sealed file was ended: nothing can be added")

// file is a new file that is written from its start to its end.
type file struct {
	f     disk.File
	fs    disk.FS
	dir   string
	size  int64 // bytes written
	named bool  // the folder was synced since the file was made
	err   error // the first error: nothing more is written after it
}

func (w *file) write(b []byte) error {
	if w.err != nil {
		return w.err
	}
	n, err := w.f.Write(b)
	w.size += int64(n)
	w.err = err
	return err
}

// sync has the file, and the first time its name, on the disk.
func (w *file) sync() error {
	if w.err != nil {
		return w.err
	}
	w.err = w.f.Sync()
	if w.err == nil && !w.named {
		w.err = w.fs.SyncDir(w.dir)
		w.named = w.err == nil
	}
	return w.err
}

// close closes the file; what was written stays.
func (w *file) close() error {
	if w.f == nil {
		return nil
	}
	err := w.f.Close()
	w.f = nil
	if w.err == nil {
		w.err = errEnded
	}
	return err
}

// copyAll copies without the short cuts of io.Copy, which files that are sealed do not have.
func copyAll(w io.Writer, r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, chunkSize))
}
