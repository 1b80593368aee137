package ledger

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"strongroom/ledger/selector"
)

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// readIndexes reads which indexes for rich queries there are.
func (v *verifier) readIndexes(ctx context.Context, s *store) error {
	v.ledger.indexes = indexes{}
	return walk(ctx, s.NewIterator(prefixRange([]byte{rowIndex}, "", ""), nil), func(key, row []byte) error {
		x, err := parseIndexRow(key, row)
		if err == nil {
			v.ledger.indexes[x.ns] = append(v.ledger.indexes[x.ns], x)
		}
		return err
	})
}

// indexed looks for the entries that a value must have in its namespace's indexes.
func (v *verifier) indexed(k stateKey, value *value) string {
	list := v.ledger.indexes[k.ns]
	if len(list) == 0 || k.collection != "" {
		return ""
	}
	for i, row := range v.entries(list, k.key, value) {
		if row == nil || list[i].status != indexReady {
			continue
		}
		if there, err := v.ledger.state.has(row); err != nil || !there {
			return fmt.Sprintf("it is missing in index %s (%v)", list[i].definition, err)
		}
	}
	return ""
}

func (v *verifier) entries(list []*stateIndex, key string, value *value) [][]byte {
	e := encoders.Get().(*selector.Encoder)
	defer encoders.Put(e)
	return entries(list, e, key, value)
}

// indexEntry compares an entry of an index with the value that it stands for. Those of
// an index that is going do no harm.
func (v *verifier) indexEntry(key, row []byte) string {
	ns, rest, err := cutString(key[1:])
	n, size := binary.Uvarint(row)
	if err != nil || size <= 0 || uint64(len(rest)) < 8+n {
		return "an entry of an index is not readable"
	}
	number := binary.BigEndian.Uint64(rest)
	k := stateKey{ns: ns, key: string(rest[uint64(len(rest))-n:])}
	for _, x := range v.ledger.indexes[ns] {
		if x.number != number {
			continue
		}
		if x.status == indexDropping {
			return ""
		}
		stored, err := v.ledger.state.get(k.row(nil))
		if err != nil {
			return err.Error()
		}
		var was *value
		if stored != nil {
			if was, err = v.ledger.sealer.openGone(stored, k); err != nil {
				return "" // the value itself is named
			}
		}
		if !bytes.Equal(v.entries([]*stateIndex{x}, k.key, was)[0], key) {
			return fmt.Sprintf("index %s has an entry of key %q in namespace %q that is not what its value gives", x.definition, k.key, ns)
		}
		return ""
	}
	return "it belongs to no index"
}
