package ledger

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/storage"

	"strongroom/ledger/disk"
)

// The file FORMAT says in which form a ledger's folder is, and of which channel:
//
//	strongroom ledger 4
//	channel NAME
//
// Version 3 had compressed blocks; version 2 had not. Both had keys for the node
// alone, not for channels and namespaces, and sealed each block as a whole. Version 1 kept
// the stores in goleveldb's own files, readable but for values. Its upgrade goes over
// a version 2. An upgrade has an intermediate form, with the number of blocks that the
// older version had:
//
//	strongroom ledger 1 to 2
//	channel NAME
//	height N
const (
	formatFile  = "FORMAT"
	formatHead  = "strongroom ledger "
	formatNow   = "4"
	formatWhole = "3"
	formatPlain = "2"
	formatOld   = "1"
	formatRise  = "1 to 2"
	formatSplit = "3 to 4"
	privateName = "private"
	// privateNew is where the upgrade from version 1 seals the private writes.
	privateNew = "private.new"
)

// derivedStores are those that follow from the block log and the private writes.
var derivedStores = []string{"index", "state", "history"}

// folderForm is what a FORMAT file says.
type folderForm struct {
	version string
	channel string
	height  uint64 // blocks that were committed before an upgrade; 0 without one
}

func (f folderForm) marshal() string {
	s := formatHead + f.version + "\nchannel " + f.channel + "\n"
	if f.version == formatRise || f.version == formatSplit {
		s += "height " + strconv.FormatUint(f.height, 10) + "\n"
	}
	return s
}

// parseForm reads a FORMAT file. Only the very bytes that marshal writes pass.
func parseForm(content string) (folderForm, bool) {
	var f folderForm
	var rest string
	f.version, rest, _ = strings.Cut(strings.TrimPrefix(content, formatHead), "\n")
	rest, _ = strings.CutPrefix(rest, "channel ")
	f.channel, rest, _ = strings.Cut(rest, "\n")
	if f.version == formatRise || f.version == formatSplit {
		n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(rest, "height "), "\n"), 10, 64)
		if err != nil {
			return f, false
		}
		f.height = n
	}
	known := []string{formatOld, formatRise, formatPlain, formatWhole, formatSplit, formatNow}
	return f, slices.Contains(known, f.version) && f.marshal() == content
}

func (l *Ledger) formatPath() string { return filepath.Join(l.config.Dir, formatFile) }

// checkFolder makes the folder, or checks that it is this channel's ledger in a
// form that this code knows, and takes the stores of an older form away.
func (l *Ledger) checkFolder() (folderForm, error) {
	now := folderForm{version: formatNow, channel: l.config.ChannelID}
	if err := l.config.FS.MkdirAll(l.config.Dir, 0o700); err != nil {
		return now, err
	}
	content, err := disk.ReadFile(l.config.FS, l.formatPath())
	if errors.Is(err, os.ErrNotExist) {
		if entries, err := l.config.FS.ReadDir(l.config.Dir); err != nil || len(entries) > 0 {
			if err == nil && !(len(entries) == 1 && entries[0].Name() == formatFile+".tmp") {
				err = fmt.Errorf("folder %s is not empty and has no file %s: it is no ledger", l.config.Dir, formatFile)
			}
			if err != nil {
				return now, err
			}
		}
		return now, disk.Replace(l.config.FS, l.formatPath(), []byte(now.marshal()))
	}
	if err != nil {
		return now, err
	}
	form, ok := parseForm(string(content))
	if !ok {
		return form, fmt.Errorf("file %s is not of a form that this version knows", l.formatPath())
	}
	if form.channel != l.config.ChannelID {
		return form, fmt.Errorf("folder %s is the ledger of channel %q", l.config.Dir, form.channel)
	}
	if err := l.dropRebuilt(); err != nil {
		return form, err
	}
	if form.version == formatOld {
		if form, err = l.beginUpgrade(); err != nil {
			return form, fmt.Errorf("upgrade from version %s: %w", formatOld, err)
		}
	}
	if form.version == formatRise {
		if err := l.clearOld(); err != nil {
			return form, fmt.Errorf("upgrade from version %s: %w", formatOld, err)
		}
	}
	if form.version == formatRise || form.version == formatPlain || form.version == formatWhole {
		if form, err = l.beginSplit(form); err != nil {
			return form, fmt.Errorf("upgrade to version %s: %w", formatNow, err)
		}
	}
	if form.version == formatSplit {
		if err := l.clearWhole(); err != nil {
			return form, fmt.Errorf("upgrade to version %s: %w", formatNow, err)
		}
	}
	return form, nil
}

// beginUpgrade seals the private writes of a version 1, which nothing can rebuild,
// and notes how many blocks there were.
//
// Crash points of the upgrade: until FORMAT is replaced here, version 1 is as it was,
// with a half-made folder private.new that the next try removes. Then the old
// stores go (clearOld, which may be repeated). What is left is a version 2 that has to
// rebuild what follows from the block log, and is upgraded as such: see beginSplit.
func (l *Ledger) beginUpgrade() (folderForm, error) {
	form := folderForm{version: formatRise, channel: l.config.ChannelID}
	l.config.Logger.Info("upgrading the ledger: sealing its stores", "channel", form.channel, "from", formatOld, "to", formatPlain)
	for _, name := range derivedStores {
		next, err := l.oldNext(name)
		if err != nil {
			return form, err
		}
		form.height = max(form.height, next)
	}
	if err := l.config.FS.RemoveAll(filepath.Join(l.config.Dir, privateNew)); err != nil {
		return form, err
	}
	rows, err := l.sealPrivate()
	if err != nil {
		return form, err
	}
	l.config.Logger.Info("upgrading the ledger: private writes are sealed", "channel", form.channel, "rows", rows, "blocks to apply", form.height)
	return form, disk.Replace(l.config.FS, l.formatPath(), []byte(form.marshal()))
}

// openOld opens a store of version 1 for reading; nil when there is none.
func (l *Ledger) openOld(name string) (*store, storage.Storage, error) {
	dir := filepath.Join(l.config.Dir, name)
	if _, err := l.config.FS.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	files, err := storage.OpenFile(dir, true)
	if err != nil {
		return nil, nil, fmt.Errorf("store %s: %w", dir, err)
	}
	o := options(false)
	o.ReadOnly = true
	db, err := leveldb.Open(files, o)
	if isCorrupted(err) {
		// As version 1 did: the end of a journal that a crash tore is dropped.
		o.Strict = 0
		db, err = leveldb.Open(files, o)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("store %s: %w", dir, err), files.Close())
	}
	return &store{DB: db, dir: dir}, files, nil
}

// oldNext is how many blocks a store of version 1 holds. One that cannot be read
// holds none: it is rebuilt anyway.
func (l *Ledger) oldNext(name string) (uint64, error) {
	s, files, err := l.openOld(name)
	if isCorrupted(err) {
		l.config.Logger.Warn("upgrading the ledger: a store is damaged; it is rebuilt", "error", err)
		return 0, nil
	}
	if err != nil || s == nil {
		return 0, err
	}
	next, err := s.next()
	return next, errors.Join(err, s.DB.Close(), files.Close())
}

// sealPrivate copies the private writes into a sealed store and counts the rows.
func (l *Ledger) sealPrivate() (n int, err error) {
	old, files, err := l.openOld(privateName)
	if err != nil || old == nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, old.DB.Close(), files.Close()) }()
	to, _, err := openDatabase(l.config, filepath.Join(l.config.Dir, privateNew), privateName, false)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	rows := old.NewIterator(nil, nil)
	defer rows.Release()
	batch := &leveldb.Batch{}
	for size := 0; rows.Next(); n++ {
		batch.Put(rows.Key(), rows.Value())
		if size += len(rows.Key()) + len(rows.Value()); size >= 1<<20 {
			if err := to.write(batch); err != nil {
				return n, err
			}
			batch.Reset()
			size = 0
		}
	}
	if err := rows.Error(); err != nil {
		return n, fmt.Errorf("store %s: read: %w", old.dir, err)
	}
	return n, errors.Join(to.write(batch), l.config.FS.SyncDir(l.config.Dir))
}

// clearOld removes what version 1 left readable and puts the sealed private writes
// in place.
func (l *Ledger) clearOld() error {
	for _, name := range derivedStores {
		if err := l.config.FS.RemoveAll(filepath.Join(l.config.Dir, name)); err != nil {
			return err
		}
	}
	from, to := filepath.Join(l.config.Dir, privateNew), filepath.Join(l.config.Dir, privateName)
	if _, err := l.config.FS.Stat(from); errors.Is(err, os.ErrNotExist) {
		return l.config.FS.SyncDir(l.config.Dir)
	}
	if err := l.config.FS.RemoveAll(to); err != nil {
		return err
	}
	if err := l.config.FS.Rename(from, to); err != nil {
		return err
	}
	return l.config.FS.SyncDir(l.config.Dir)
}

// endUpgrade makes an upgrade final when all its blocks are applied, and before
// anything is written that only this version reads.
func (l *Ledger) endUpgrade(from folderForm) error {
	if from.version == formatNow {
		return nil
	}
	from.version = formatNow
	if err := disk.Replace(l.config.FS, l.formatPath(), []byte(from.marshal())); err != nil {
		return err
	}
	l.config.Logger.Info("upgraded the ledger", "channel", from.channel, "version", formatNow, "height", l.end.height)
	return nil
}
