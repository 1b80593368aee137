package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/syndtr/goleveldb/leveldb/iterator"

	"strongroom/ledger/rwset"
	"strongroom/ledger/seal"
)

// store compares a store with the scratch ledger's.
func (v *verifier) store(ctx context.Context, name string, s *store) error {
	if name == privateName {
		return v.privateRows(ctx, s)
	}
	next, err := s.next()
	if err == nil {
		err = s.checkApplied(false)
	}
	if err != nil {
		v.problem(Problem{Part: name, Where: s.dir, What: err.Error()})
		return nil
	}
	switch height := uint64(len(v.at)); {
	case next > height:
		v.problem(Problem{Part: "blocks", Where: v.ledger.blocksDir(),
			What: fmt.Sprintf("the log has %d blocks, store %s holds %d: the log was truncated, or it is an older copy", height, name, next)})
		return nil
	case v.scratch == nil:
		return nil
	case next < height:
		v.note("store %s holds %d of %d blocks; the next start applies the others: its rows are not compared", name, next, height)
		return nil
	}
	if name == "state" {
		if err := v.readIndexes(ctx, s); err != nil {
			v.problem(Problem{Part: name, Where: s.dir, What: err.Error()})
			return nil
		}
	}
	twin := map[string]*store{"index": v.scratch.index.store, "state": v.scratch.state, "history": v.scratch.history}[name]
	return v.compare(ctx, name, s, twin)
}

// compare walks over both stores in the order of their keys.
func (v *verifier) compare(ctx context.Context, name string, s, twin *store) error {
	ours, want := s.NewIterator(nil, nil), twin.NewIterator(nil, nil)
	defer ours.Release()
	defer want.Release()
	more, moreWant := ours.Next(), want.Next()
	for n := uint64(0); more || moreWant; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		v.progress("comparing "+name, n, 0)
		order := order(ours, more, want, moreWant)
		if order <= 0 {
			v.found.Rows++
		}
		var what string
		switch {
		case order < 0:
			what = v.extra(name, ours.Key(), ours.Value())
		case order > 0:
			what = "the row is missing, which the blocks give"
		default:
			what = v.row(name, ours.Key(), ours.Value(), want.Value())
		}
		if what != "" {
			key := ours
			if order > 0 {
				key = want
			}
			v.problem(Problem{Part: name, Where: s.dir + ", " + rowName(name, key.Key()), What: what})
		}
		if order <= 0 {
			more = ours.Next()
		}
		if order >= 0 {
			moreWant = want.Next()
		}
	}
	if err := errors.Join(ours.Error(), want.Error()); err != nil {
		v.problem(Problem{Part: name, Where: s.dir, What: err.Error()})
	}
	return nil
}

// order compares the rows at which two walks are; one that has ended comes last.
func order(a iterator.Iterator, inA bool, b iterator.Iterator, inB bool) int {
	switch {
	case !inB:
		return -1
	case !inA:
		return 1
	}
	return bytes.Compare(a.Key(), b.Key())
}

// extra judges a row that the blocks do not give; "" when it belongs there.
func (v *verifier) extra(name string, key, row []byte) string {
	if name == "state" {
		switch key[0] {
		case rowPrivate:
			return v.privateValue(key, row)
		case rowErased:
			return ""
		case rowIndex:
			_, err := parseIndexRow(key, row)
			return text(err)
		case rowIndexEntry:
			return v.indexEntry(key, row)
		case indexedKey[0]:
			return ""
		}
	}
	return "the row is not one that the blocks give"
}

// row compares the contents of a row that both have.
func (v *verifier) row(name string, key, ours, want []byte) string {
	switch {
	case name == "index" && key[0] == 'n':
		return v.location(key, ours)
	case name == "index" && bytes.Equal(key, savepointKey):
		return v.savepoint(ours, want)
	case name == "state" && (key[0] == rowPublic || key[0] == rowHash):
		return v.value(key, ours, want)
	case !bytes.Equal(ours, want):
		return fmt.Sprintf("it holds %x, the blocks give %x", ours, want)
	}
	return ""
}

// location compares the place of a block in the index with where it was found.
func (v *verifier) location(key, row []byte) string {
	var n [3]uint64
	rest, err := uvarints(row, n[:])
	number := binary.BigEndian.Uint64(key[1:])
	if err != nil || len(rest) != 0 || number >= uint64(len(v.at)) {
		return "it is not readable"
	}
	if got := (location{File: uint32(n[0]), Offset: int64(n[1]), Length: int(n[2])}); got != v.at[number] {
		return fmt.Sprintf("block %d is at %+v, the index says %+v", number, v.at[number], got)
	}
	return ""
}

// savepoint compares the end of the chain; where it lies is the log's own.
func (v *verifier) savepoint(row, want []byte) string {
	var ours, theirs [3]uint64
	hash, err := uvarints(row, ours[:])
	wantHash, wantErr := uvarints(want, theirs[:])
	if err = errors.Join(err, wantErr); err != nil {
		return "it is not readable"
	}
	end := v.at[len(v.at)-1].end()
	if ours[0] != theirs[0] || !bytes.Equal(hash, wantHash) || (location{File: uint32(ours[1]), Offset: int64(ours[2])}) != (location{File: end.File, Offset: end.Offset}) {
		return fmt.Sprintf("it says block %d, hash %x, end at byte %d of file %d; the log has block %d, hash %x, byte %d of file %d",
			ours[0], hash, ours[2], ours[1], theirs[0], wantHash, end.Offset, end.File)
	}
	return ""
}

// stateKeyOf reads the key of a row that holds a value.
func stateKeyOf(row []byte) (k stateKey, err error) {
	kind, rest := row[0], row[1:]
	if k.ns, rest, err = cutString(rest); err == nil && kind != rowPublic {
		k.collection, rest, err = cutString(rest)
	}
	k.key = string(rest)
	return k, err
}

// value opens a value of both ledgers, each under its own seal.
func (v *verifier) value(key, ours, want []byte) string {
	k, err := stateKeyOf(key)
	if err != nil {
		return "its key is not readable"
	}
	was, err := v.ledger.sealer.openGone(ours, k)
	if err != nil {
		return err.Error()
	}
	if was.gone && !v.config.Keyring.IsShredded(v.config.ChannelID, k.ns) {
		return "its value is gone, but its namespace was not shredded"
	}
	is, err := v.scratch.sealer.open(want, k)
	if err != nil {
		return "scratch: " + err.Error()
	}
	switch {
	case was.version != is.version:
		return fmt.Sprintf("it has version %s, the blocks give %s", was.version, is.version)
	case !was.gone && !bytes.Equal(was.bytes, is.bytes) || !bytes.Equal(was.metadata, is.metadata):
		return fmt.Sprintf("its value or metadata (%d and %d bytes) is not what the blocks give (%d and %d bytes)",
			len(was.bytes), len(was.metadata), len(is.bytes), len(is.metadata))
	}
	return v.indexed(k, was)
}

// privateValue compares a private value with its hash, which the blocks gave.
func (v *verifier) privateValue(key, row []byte) string {
	sk, err := stateKeyOf(key)
	if err != nil {
		return "its key is not readable"
	}
	k := privateKey(sk)
	value, err := v.ledger.sealer.openPrivate(row, k)
	if errors.Is(err, seal.ErrShredded) {
		return ""
	}
	if err != nil {
		return err.Error()
	}
	hashed := sha256.Sum256([]byte(k.key))
	hk := stateKey{k.ns, k.collection, string(hashed[:])}
	hashRow, err := v.ledger.state.get(hk.row(nil))
	if err != nil {
		return err.Error()
	}
	if hashRow == nil {
		return "its hash is missing"
	}
	h, err := v.ledger.sealer.open(hashRow, hk)
	if errors.Is(err, seal.ErrShredded) {
		return "" // only the metadata was written since
	}
	if err != nil {
		return err.Error()
	}
	if sum := sha256.Sum256(value.bytes); !bytes.Equal(sum[:], h.bytes) || value.version != h.version {
		return fmt.Sprintf("it has hash %x and version %s, the blocks give %x and %s", sum, value.version, h.bytes, h.version)
	}
	return ""
}

// privateRows opens everything in the private store.
func (v *verifier) privateRows(ctx context.Context, s *store) error {
	err := walk(ctx, s.NewIterator(nil, nil), func(key, row []byte) error {
		v.found.Rows++
		if err := v.ledger.private.checkRow(key, row); err != nil {
			v.problem(Problem{Part: privateName, Where: s.dir + ", " + rowName(privateName, key), What: err.Error()})
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		v.problem(Problem{Part: privateName, Where: s.dir, What: err.Error()})
		return nil
	}
	return err
}

// checkRow opens a row of the private store.
func (s private) checkRow(key, row []byte) error {
	switch {
	case len(key) == 13 && key[0] == rowCommitted:
		at := rwset.Height{Block: binary.BigEndian.Uint64(key[1:]), Tx: uint64(binary.BigEndian.Uint32(key[9:]))}
		_, err := s.open(row, s.committedPlace(at))
		return err
	case len(key) > 9 && key[0] == rowKept:
		id, _, err := cutString(key[1:])
		if err != nil {
			return errors.New("its key is not readable")
		}
		height, n := binary.Uvarint(row)
		if n <= 0 {
			return errors.New("its height is not readable")
		}
		_, err = s.open(row[n:], s.keptPlace(id, height))
		return err
	case len(key) > 9 && key[0] == rowExpiry:
		return nil
	}
	return errors.New("the row is of no known kind")
}

// rowName names a row for an operator, by key where there is one.
func rowName(store string, key []byte) string {
	switch {
	case len(key) == 0:
		return "row without a key"
	case store == "state" && (key[0] == rowPublic || key[0] == rowHash || key[0] == rowPrivate):
		if k, err := stateKeyOf(key); err == nil {
			if k.collection == "" {
				return fmt.Sprintf("namespace %q key %q", k.ns, k.key)
			}
			return fmt.Sprintf("namespace %q collection %q key %q", k.ns, k.collection, k.key)
		}
	case store == "index" && key[0] == 'n' && len(key) == 9:
		return fmt.Sprintf("row of block %d", binary.BigEndian.Uint64(key[1:]))
	case store == "history" && key[0] == rowHistory && len(key) > historyHeight:
		if ns, rest, err := cutString(key[1:]); err == nil {
			if k, at, err := cutString(rest); err == nil && len(at) == historyHeight {
				return fmt.Sprintf("namespace %q key %q at %d:%d", ns, k, binary.BigEndian.Uint64(at), binary.BigEndian.Uint32(at[8:]))
			}
		}
	}
	return "row " + hex.EncodeToString(key)
}
