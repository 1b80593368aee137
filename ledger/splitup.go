package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/syndtr/goleveldb/leveldb"

	"strongroom/ledger/compress"
	"strongroom/ledger/disk"
	"strongroom/ledger/seal"
)

// Folders in which the upgrade from version 2 or 3 seals anew what nothing else holds.
const (
	blocksSplit  = "blocks.4"
	privateByKey = "private.4"
)

// beginSplit seals the blocks and the private writes of a version 2 or 3 anew, with keys
// for each namespace, and notes how many blocks there were. The disk must have room
// for a second block log until it is done.
//
// Crash points: until FORMAT is replaced here, the older version is as it was, with half-made
// folders that the next try removes. Then the new folders take the place of the old
// ones (clearWhole, which may be repeated), the stores are rebuilt from the block log
// as in any recovery, and FORMAT becomes the present version when all of them are
// whole (endUpgrade). A crash before that starts the rebuild again.
func (l *Ledger) beginSplit(was folderForm) (folderForm, error) {
	form := folderForm{version: formatSplit, channel: l.config.ChannelID, height: was.height}
	l.config.Logger.Info("upgrading the ledger: sealing its blocks for each namespace", "channel", form.channel, "from", was.version, "to", formatNow)
	for _, name := range derivedStores {
		next, err := l.sealedNext(name)
		if err != nil {
			return form, err
		}
		form.height = max(form.height, next)
	}
	for _, name := range []string{blocksSplit, privateByKey} {
		if err := l.config.FS.RemoveAll(filepath.Join(l.config.Dir, name)); err != nil {
			return form, err
		}
	}
	if err := l.splitBlocks(form.height); err != nil {
		return form, err
	}
	if err := l.splitPrivate(); err != nil {
		return form, err
	}
	if err := l.config.FS.SyncDir(l.config.Dir); err != nil {
		return form, err
	}
	return form, disk.Replace(l.config.FS, l.formatPath(), []byte(form.marshal()))
}

// sealedNext is how many blocks a store of version 2 or 3 holds. One that is not there, or
// that cannot be read, holds none: it is rebuilt anyway.
func (l *Ledger) sealedNext(name string) (uint64, error) {
	dir := filepath.Join(l.config.Dir, name)
	if _, err := l.config.FS.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	s, _, err := openDatabase(l.config, dir, name, false)
	if isCorrupted(err) {
		l.config.Logger.Warn("upgrading the ledger: a store is damaged; it is rebuilt", "error", err)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	next, err := s.next()
	return next, errors.Join(err, s.Close())
}

// splitBlocks writes the block log again. Blocks below known were committed.
func (l *Ledger) splitBlocks(known uint64) (err error) {
	const syncEvery = 16 << 20
	dir := filepath.Join(l.config.Dir, blocksSplit)
	to, err := openBlockLog(l.config.FS, dir, l.config.BlockFileSize, l.config.Logger, location{}, 0, 0, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.close()) }()
	dictionaries := map[uint64]location{} // records that hold one
	records, err := newBlockRecords(l.config, func(number uint64) (record, error) {
		at, ok := dictionaries[number]
		if !ok {
			return record{}, fmt.Errorf("block %d holds no dictionary", number)
		}
		return readRecord(l.config.FS, l.blocksDir(), number, at)
	})
	if err != nil {
		return err
	}
	unsynced := 0
	from, err := openBlockLog(l.config.FS, l.blocksDir(), l.config.BlockFileSize, l.config.Logger, location{}, 0, known, func(r record, at location) error {
		l.progress("upgrading the ledger: sealing blocks", r.number, known)
		if r.form == formCompressed {
			content, err := records.open(r)
			if err != nil {
				return err
			}
			if holder, used, err := compress.Holder(r.number, content); err != nil {
				return err
			} else if used && holder == r.number {
				dictionaries[r.number] = at
			}
		}
		stored, err := records.decode(r)
		if err != nil {
			return err
		}
		b, err := stored.parse()
		if err != nil {
			return err
		}
		records.begin(b.Block)
		if err := records.finish(b.Block); err != nil {
			return err
		}
		frame := records.frame
		if unsynced += len(frame); unsynced > syncEvery || to.tailSize+int64(len(frame)) > to.maxFile {
			if err := to.sync(); err != nil {
				return err
			}
			unsynced = 0
		}
		next, err := to.place(len(frame))
		if err != nil {
			return err
		}
		return to.write(next, frame)
	})
	if err != nil {
		return err
	}
	return errors.Join(from.close(), to.sync())
}

// splitPrivate copies the private writes into a new store.
func (l *Ledger) splitPrivate() (err error) {
	dir := filepath.Join(l.config.Dir, privateName)
	if _, err := l.config.FS.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	old, recovered, err := openDatabase(l.config, dir, privateName, false)
	if err != nil {
		return err
	}
	if recovered {
		l.warnPrivate(old)
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	store, _, err := openDatabase(l.config, filepath.Join(l.config.Dir, privateByKey), privateName, false)
	if err != nil {
		return err
	}
	to := private{store: store, sealer: l.sealer}
	defer func() { err = errors.Join(err, to.Close()) }()
	rows := old.NewIterator(nil, nil)
	defer rows.Release()
	batch := &leveldb.Batch{}
	for size := 0; rows.Next(); {
		value, err := to.split(rows.Key(), rows.Value())
		if err != nil {
			return fmt.Errorf("store %s: %w", dir, err)
		}
		batch.Put(rows.Key(), value)
		if size += len(rows.Key()) + len(value); size >= 1<<20 {
			if err := to.write(batch); err != nil {
				return err
			}
			batch.Reset()
			size = 0
		}
	}
	if err := rows.Error(); err != nil {
		return fmt.Errorf("store %s: read: %w", dir, err)
	}
	return to.write(batch)
}

// split seals a row of the private store anew.
func (s private) split(key, value []byte) ([]byte, error) {
	var head []byte
	var at seal.Place
	switch {
	case len(key) > 0 && key[0] == rowKept:
		length, n := binary.Uvarint(key[1:])
		height, m := binary.Uvarint(value)
		if n <= 0 || m <= 0 || length > uint64(len(key)-1-n) {
			return nil, errors.New("a row of private writes is not readable")
		}
		at = s.keptPlace(string(key[1+n:1+n+int(length)]), height)
		head, value = value[:m:m], value[m:]
	case len(key) == 13 && key[0] == rowCommitted:
		at = seal.Place{Kind: seal.KindCommitted, Channel: s.sealer.channel,
			Block: binary.BigEndian.Uint64(key[1:]), Tx: uint64(binary.BigEndian.Uint32(key[9:]))}
	default:
		return value, nil
	}
	set, err := s.open(value, at)
	if err != nil {
		return nil, err
	}
	return s.seal(head, set, at)
}

// clearWhole puts what beginSplit made in the place of what the older version had.
func (l *Ledger) clearWhole() error {
	for _, name := range derivedStores {
		if err := l.config.FS.RemoveAll(filepath.Join(l.config.Dir, name)); err != nil {
			return err
		}
	}
	for _, move := range [][2]string{{blocksSplit, "blocks"}, {privateByKey, privateName}} {
		from, to := filepath.Join(l.config.Dir, move[0]), filepath.Join(l.config.Dir, move[1])
		if _, err := l.config.FS.Stat(from); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := l.config.FS.RemoveAll(to); err != nil {
			return err
		}
		if err := l.config.FS.Rename(from, to); err != nil {
			return err
		}
	}
	return l.config.FS.SyncDir(l.config.Dir)
}
