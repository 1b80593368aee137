package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/syndtr/goleveldb/leveldb"

	"strongroom/ledger/disk"
)

// BackedUp says what Backup copied.
type BackedUp struct {
	Channel string `json:"channel"`
	Height  uint64 `json:"height"`
	Bytes   int64  `json:"bytes"` // of the block log
}

// Backup copies the ledger as it is at one height into a folder that is not there yet,
// beside commits and readers; a commit waits only while that height is taken. The
// blocks are copied sealed as they are; private writes, which nothing else holds, go into
// a sealed store of their own. Index, state and history are left out: opening the copy
// makes them. Everything is on the disk when Backup returns.
func (l *Ledger) Backup(ctx context.Context, dir string) (_ *BackedUp, err error) {
	files := l.config.FS
	if _, err := files.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, os.ErrExist), err)
	}
	l.commitMu.Lock()
	if err := l.usable(); err != nil {
		l.commitMu.Unlock()
		return nil, err
	}
	out := &BackedUp{Channel: l.config.ChannelID, Height: l.end.height}
	last, size := l.log.tailFile, l.log.tailSize
	kept, err := l.private.GetSnapshot()
	l.commitMu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("store %s: snapshot: %w", l.private.dir, err)
	}
	defer kept.Release()
	blocks := filepath.Join(dir, "blocks")
	if err := files.MkdirAll(blocks, 0o700); err != nil {
		return nil, err
	}
	for file := uint32(0); file <= last; file++ {
		limit := int64(-1)
		if file == last {
			limit = size
		}
		n, err := copyFile(ctx, files, blockFile(blocks, file), l.log.path(file), limit)
		if err != nil {
			return nil, err
		}
		out.Bytes += n
	}
	if err := l.copyPrivate(ctx, dir, kept); err != nil {
		return nil, err
	}
	if err := files.SyncDir(blocks); err != nil {
		return nil, err
	}
	// What makes a ledger of the folder comes last.
	form := folderForm{version: formatNow, channel: l.config.ChannelID}
	return out, disk.Replace(files, filepath.Join(dir, formatFile), []byte(form.marshal()))
}

// copyFile copies the first limit bytes of a file, or all of it if limit is negative,
// and has them on the disk.
func copyFile(ctx context.Context, files disk.FS, to, from string, limit int64) (n int64, err error) {
	in, err := files.OpenFile(from, os.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	if limit < 0 {
		info, err := in.Stat()
		if err != nil {
			return 0, err
		}
		limit = info.Size()
	}
	out, err := files.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	const chunk = 8 << 20
	for n < limit && err == nil {
		if err = ctx.Err(); err == nil {
			var copied int64
			copied, err = io.CopyN(out, in, min(chunk, limit-n))
			n += copied
		}
	}
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return n, fmt.Errorf("copy %s: %w", from, err)
	}
	return n, nil
}

// copyPrivate writes the rows of the private store into a new sealed one.
func (l *Ledger) copyPrivate(ctx context.Context, dir string, kept *leveldb.Snapshot) (err error) {
	to, _, err := openDatabase(l.config, filepath.Join(dir, privateName), privateName, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	batch := &leveldb.Batch{}
	size := 0
	err = walk(ctx, kept.NewIterator(nil, nil), func(key, row []byte) error {
		batch.Put(key, row)
		if size += len(key) + len(row); size < 1<<20 {
			return nil
		}
		err := to.write(batch)
		batch.Reset()
		size = 0
		return err
	})
	if err != nil {
		return err
	}
	return to.write(batch)
}
