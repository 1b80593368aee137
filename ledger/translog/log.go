package translog

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

const (
	// tileHeight is how many levels of the tree one tile spans.
	tileHeight = 8
	// TileWidth is how many hashes a full tile holds.
	TileWidth = 1 << tileHeight
)

// Leaves gives the content of the leaves. It is what the log is rebuilt from.
type Leaves func(index uint64) ([]byte, error)

// Log is a tree whose full tiles lie on disk. It is not safe for concurrent use,
// except that reads may run beside reads.
type Log struct {
	dir    string
	size   uint64
	leaves Leaves
	edge   [][]Hash // for each level of tiles, the hashes of its last tile, which is not full
}

// Open opens the log of size leaves in a folder, which it makes. Tiles that are
// missing are computed from the leaves.
//
// Crash points: a tile is written whole under another name, synced and renamed; the
// leaf was durable before. What a crash left undone is computed again here.
func Open(dir string, size uint64, leaves Leaves) (*Log, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	l := &Log{dir: dir, size: size, leaves: leaves}
	for level := 0; size>>(level*tileHeight) > 0; level++ {
		hashes := size >> (level * tileHeight)
		full := hashes / TileWidth
		for n := range full {
			info, err := os.Stat(l.path(level, n))
			if err == nil && info.Size() == TileWidth*HashSize {
				continue
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			if err := l.rebuild(level, n); err != nil {
				return nil, err
			}
		}
		edge := make([]Hash, 0, TileWidth)
		for i := full * TileWidth; i < hashes; i++ {
			h, err := l.compute(level, i)
			if err != nil {
				return nil, err
			}
			edge = append(edge, h)
		}
		l.edge = append(l.edge, edge)
	}
	return l, nil
}

// Discard removes the tiles, so that Open computes all of them again.
func Discard(dir string) error { return os.RemoveAll(filepath.Join(dir, "tile")) }

// rebuild writes a full tile anew.
func (l *Log) rebuild(level int, n uint64) error {
	tile := make([]Hash, TileWidth)
	for i := range tile {
		var err error
		if tile[i], err = l.compute(level, n*TileWidth+uint64(i)); err != nil {
			return err
		}
	}
	return l.write(level, n, tile)
}

// compute is one hash of a level of tiles: of a leaf, or of the tile below.
func (l *Log) compute(level int, index uint64) (Hash, error) {
	if level == 0 {
		content, err := l.leaves(index)
		return LeafHash(content), err
	}
	tile, err := l.tile(level-1, index)
	return tileRoot(tile), err
}

// tileRoot is the root over a power of two of hashes, which it overwrites.
func tileRoot(h []Hash) Hash {
	if len(h) == 0 {
		return Hash{}
	}
	for n := len(h); n > 1; n /= 2 {
		for i := range n / 2 {
			h[i] = NodeHash(h[2*i], h[2*i+1])
		}
	}
	return h[0]
}

// Size is the number of leaves.
func (l *Log) Size() uint64 { return l.size }

// Append adds a leaf whose content Leaves already gives. After an error the log must
// be opened again.
func (l *Log) Append(content []byte) error { return l.AppendHash(LeafHash(content)) }

// AppendHash is Append for a leaf whose LeafHash is at hand.
func (l *Log) AppendHash(h Hash) error {
	l.size++
	for level := 0; ; level++ {
		if level == len(l.edge) {
			l.edge = append(l.edge, make([]Hash, 0, TileWidth))
		}
		l.edge[level] = append(l.edge[level], h)
		if len(l.edge[level]) < TileWidth {
			return nil
		}
		n := l.size>>((level+1)*tileHeight) - 1
		if err := l.write(level, n, l.edge[level]); err != nil {
			return fmt.Errorf("tile %d of level %d: %w", n, level, err)
		}
		h = tileRoot(l.edge[level])
		l.edge[level] = l.edge[level][:0]
	}
}

// Node implements Nodes.
func (l *Log) Node(level int, index uint64) (Hash, error) {
	if (index+1)<<level > l.size {
		return Hash{}, fmt.Errorf("node %d of level %d is not in a tree of %d leaves", index, level, l.size)
	}
	row, within := level/tileHeight, level%tileHeight
	first := index << within
	tile, err := l.tile(row, first/TileWidth)
	if err != nil {
		return Hash{}, err
	}
	start := int(first % TileWidth)
	return tileRoot(slices.Clone(tile[start : start+1<<within])), nil
}

// tile returns the hashes of a tile; the caller owns them.
func (l *Log) tile(level int, n uint64) ([]Hash, error) {
	if full := l.size >> (level * tileHeight) / TileWidth; n == full {
		return slices.Clone(l.edge[level]), nil
	}
	raw, err := os.ReadFile(l.path(level, n))
	if err != nil {
		return nil, err
	}
	if len(raw) != TileWidth*HashSize {
		return nil, fmt.Errorf("%s has %d bytes, a tile has %d", l.path(level, n), len(raw), TileWidth*HashSize)
	}
	tile := make([]Hash, TileWidth)
	for i := range tile {
		copy(tile[i][:], raw[i*HashSize:])
	}
	return tile, nil
}

// path is where tlog-tiles puts a tile: its number in groups of three digits, all
// but the last with an x before them.
func (l *Log) path(level int, n uint64) string {
	name := fmt.Sprintf("%03d", n%1000)
	for n /= 1000; n > 0; n /= 1000 {
		name = fmt.Sprintf("x%03d/%s", n%1000, name)
	}
	return filepath.Join(l.dir, "tile", fmt.Sprint(level), filepath.FromSlash(name))
}

func (l *Log) write(level int, n uint64, tile []Hash) error {
	var b bytes.Buffer
	for i := range tile {
		b.Write(tile[i][:])
	}
	path := l.path(level, n)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return WriteFile(path, b.Bytes())
}

// WriteFile replaces a file durably: after a crash it has its old or its new
// content.
func WriteFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
