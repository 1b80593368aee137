package sealfs

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/syndtr/goleveldb/leveldb/storage"

	"strongroom/ledger/disk"
	"strongroom/ledger/seal"
)

// A file's header:
//
//	magic   4 bytes  "SRF1"
//	layout  1 byte   1 chunks, 2 records
//	length  1 byte   of the sealed key
//	sealed key       the file's AES-256 key, sealed by the keyring for filePlace
//
// The layout follows from the file's type, which is part of its name.
const (
	fileMagic  = "SRF1"
	headSize   = 6
	keySize    = 32
	nonceSize  = 12
	tagSize    = 16
	layChunks  = 1
	layRecords = 2
	// maxHeader bounds a whole header.
	maxHeader = headSize + keySize + seal.Overhead
)

// errTorn means that a file ends before it is complete, as a crash leaves one that
// was not synced.
var errTorn = errors.New("file is not complete")

func layoutOf(t storage.FileType) byte {
	if t == storage.TypeTable || t == storage.TypeTemp {
		return layChunks
	}
	return layRecords
}

// filePlace is what the key of a file is bound to. The channel is not empty, which
// keeps these places apart from those of files that belong to no channel.
func (s *Storage) filePlace(name string) seal.Place {
	return seal.Place{Kind: seal.KindFile, Channel: s.config.Channel, Key: fmt.Sprintf("store/%s/%x/%s", s.config.Store, s.id, name)}
}

// newHeader makes a key for a new file and the header that holds it.
func (s *Storage) newHeader(fd storage.FileDesc) ([]byte, cipher.AEAD, error) {
	var key [keySize]byte
	defer clear(key[:])
	if _, err := rand.Read(key[:]); err != nil {
		return nil, nil, err
	}
	head := append(make([]byte, 0, maxHeader), fileMagic...)
	head = append(head, layoutOf(fd.Type), 0)
	head, err := s.config.Keyring.Seal(head, key[:], s.filePlace(fd.String()))
	if err != nil {
		return nil, nil, err
	}
	head[headSize-1] = byte(len(head) - headSize)
	aead, err := newAEAD(key[:])
	return head, aead, err
}

// readHeader reads the header of a file and returns its length and the file's
// cipher. The error is errTorn when the header is not complete, or is all zeros as
// a file may be of which only the length reached the disk.
func (s *Storage) readHeader(f io.ReaderAt, fd storage.FileDesc) (int64, cipher.AEAD, error) {
	head := make([]byte, maxHeader)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, nil, err
	}
	head = head[:n]
	if n < headSize || bytes.Count(head, []byte{0}) == n {
		return 0, nil, errTorn
	}
	if string(head[:4]) != fileMagic {
		return 0, nil, fmt.Errorf("%w: it does not start with %s", seal.ErrMalformed, fileMagic)
	}
	if head[4] != layoutOf(fd.Type) {
		return 0, nil, fmt.Errorf("%w: it has layout %d where %d belongs", seal.ErrMalformed, head[4], layoutOf(fd.Type))
	}
	length := headSize + int(head[5])
	if n < length && length <= maxHeader {
		return 0, nil, errTorn
	}
	if length > n {
		return 0, nil, fmt.Errorf("%w: its header claims %d bytes", seal.ErrMalformed, length)
	}
	var key [keySize]byte
	defer clear(key[:])
	out, err := s.config.Keyring.Open(key[:0], head[headSize:length], s.filePlace(fd.String()))
	if err != nil {
		return 0, nil, err
	}
	if len(out) != keySize {
		return 0, nil, fmt.Errorf("%w: its key has %d bytes", seal.ErrMalformed, len(out))
	}
	aead, err := newAEAD(out)
	return int64(length), aead, err
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// The file CURRENT names the manifest in force and gives the store its identity:
//
//	magic  4 bytes  "SRC1"
//	sealed          16 bytes of identity, 8 bytes number of the manifest, big endian
const (
	currentName  = "CURRENT"
	currentMagic = "SRC1"
	idSize       = 16
)

func (s *Storage) currentPlace() seal.Place {
	return seal.Place{Kind: seal.KindFile, Channel: s.config.Channel, Key: "store/" + s.config.Store + "/" + currentName}
}

func (s *Storage) writeCurrent(manifest int64) error {
	plain := binary.BigEndian.AppendUint64(bytes.Clone(s.id[:]), uint64(manifest))
	content, err := s.config.Keyring.Seal([]byte(currentMagic), plain, s.currentPlace())
	if err != nil {
		return err
	}
	path := s.path(currentName)
	f, err := s.config.FS.OpenFile(path+tempSuffix, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = s.config.FS.Rename(path+tempSuffix, path)
	}
	if err == nil {
		if err = s.config.FS.SyncDir(s.config.Dir); err != nil {
			// CURRENT may name either manifest from now on: goleveldb must not remove one.
			s.mu.Lock()
			s.undecided = fmt.Errorf("folder %s: %w", s.config.Dir, err)
			s.mu.Unlock()
		}
	}
	return err
}

// readCurrent takes over the store's identity and returns the manifest's number;
// os.ErrNotExist when there is none.
func (s *Storage) readCurrent() (int64, error) {
	b, err := disk.ReadFile(s.config.FS, s.path(currentName))
	if err != nil {
		return 0, err
	}
	sealed, ok := bytes.CutPrefix(b, []byte(currentMagic))
	if !ok {
		return 0, s.corrupt(storage.FileDesc{}, s.path(currentName), fmt.Errorf("it does not start with %s", currentMagic))
	}
	plain, err := s.config.Keyring.Open(nil, sealed, s.currentPlace())
	if err != nil {
		return 0, s.classify(storage.FileDesc{}, s.path(currentName), err)
	}
	if len(plain) != idSize+8 {
		return 0, s.corrupt(storage.FileDesc{}, s.path(currentName), fmt.Errorf("it holds %d bytes", len(plain)))
	}
	copy(s.id[:], plain)
	return int64(binary.BigEndian.Uint64(plain[idSize:])), nil
}
