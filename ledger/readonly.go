package ledger

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/syndtr/goleveldb/leveldb/storage"

	"strongroom/ledger/disk"
	"strongroom/ledger/seal/sealfs"
)

// storeNames are all stores of a ledger, those that follow from the block log first.
var storeNames = []string{"index", "state", "history", privateName}

// readForm reads FORMAT of a ledger that must be of the present version.
func readForm(c Config) error {
	name := filepath.Join(c.Dir, formatFile)
	content, err := disk.ReadFile(c.FS, name)
	if err != nil {
		return fmt.Errorf("folder %s is no ledger: %w", c.Dir, err)
	}
	form, ok := parseForm(string(content))
	switch {
	case !ok:
		return fmt.Errorf("file %s is not of a form that this version knows", name)
	case form.channel != c.ChannelID:
		return fmt.Errorf("folder %s is the ledger of channel %q", c.Dir, form.channel)
	case form.version != formatNow:
		return fmt.Errorf("file %s says version %s, %s is the present one: start the peer once, it upgrades the ledger", name, form.version, formatNow)
	}
	return nil
}

// openUnchanged opens a store that is there for reading alone: nothing of it changes
// on the disk. An end of its journal that a crash tore is passed over; cut names it.
// The private store gives what it has, the others what they had applied.
func openUnchanged(c Config, name string) (s *store, cut []string, err error) {
	dir := filepath.Join(c.Dir, name)
	if _, err := c.FS.Stat(dir); err != nil {
		return nil, nil, fmt.Errorf("store %s: %w", dir, err)
	}
	o := options(false)
	o.ReadOnly = true
	files := sealfs.Config{Dir: dir, Keyring: c.Keyring, Channel: c.ChannelID, Store: name, FS: c.FS}
	s, err = openSealed(files, o)
	if isCorrupted(err) {
		lenient := options(false)
		lenient.ReadOnly = true
		lenient.Strict = 0
		files.Lenient = true
		s, err = openSealed(files, lenient)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("store %s: %w", dir, err)
	}
	return s, s.files.Cut(), nil
}

// readFiles reads every byte of a store's files, whatever the store makes of them, and
// gives the problems that it meets by the file's path.
func (s *store) readFiles() map[string]error {
	bad := map[string]error{}
	fds, err := s.files.List(storage.TypeAll)
	if err != nil {
		return map[string]error{s.dir: err}
	}
	for _, fd := range fds {
		path := filepath.Join(s.dir, fd.String())
		r, err := s.files.Open(fd)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
			err = errors.Join(err, r.Close())
		}
		if err != nil {
			bad[path] = err
		}
	}
	return bad
}
