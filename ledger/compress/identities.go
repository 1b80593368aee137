package compress

import (
	"bytes"
	"cmp"
	"slices"
)

const (
	// keptIdentities bounds how many identities a writer remembers.
	keptIdentities = 256
	// maxIdentity is the longest that is remembered.
	maxIdentity = 8 << 10
	// payback is how many times its length a new dictionary must have been worth.
	payback = 4
)

// identities remembers which identities occurred of late, and how much the present
// dictionary would have saved with those that it lacks.
type identities struct {
	last   map[string]*identity
	missed int // bytes, once for each block that an identity occurred in again
}

type identity struct {
	block  uint64 // in which it occurred last
	known  bool   // the present dictionary has it
	repeat bool   // it occurred in more than one block
}

func newIdentities() *identities { return &identities{last: map[string]*identity{}} }

// note takes in the identities of a block.
func (s *identities) note(number uint64, found [][]byte, dictionary []byte) {
	for _, raw := range found {
		if len(raw) == 0 || len(raw) > maxIdentity {
			continue
		}
		id := s.last[string(raw)]
		if id == nil {
			s.last[string(raw)] = &identity{block: number, known: bytes.Contains(dictionary, raw)}
			continue
		}
		if id.block == number {
			continue
		}
		id.block, id.repeat = number, true
		if !id.known {
			s.missed += len(raw)
		}
	}
	if len(s.last) > keptIdentities {
		for _, raw := range s.newest()[keptIdentities/2:] {
			delete(s.last, raw)
		}
	}
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// newest are the identities, the one that occurred last first, and of those in one
// block first the ones that occurred before, too.
func (s *identities) newest() []string {
	all := make([]string, 0, len(s.last))
	for raw := range s.last {
		all = append(all, raw)
	}
	slices.SortFunc(all, func(a, b string) int {
		x, y := s.last[a], s.last[b]
		return cmp.Or(cmp.Compare(y.block, x.block), compareBool(y.repeat, x.repeat), cmp.Compare(a, b))
	})
	return all
}

// worthwhile is a dictionary to go on with, of the identities that occur again and
// again; nil while the present one does.
func (s *identities) worthwhile(present []byte) []byte {
	if s.missed == 0 {
		return nil
	}
	var chosen []string
	length := 0
	for _, raw := range s.newest() {
		if s.last[raw].repeat && length+len(raw) <= MaxDictionary {
			chosen = append(chosen, raw)
			length += len(raw)
		}
	}
	if length == 0 || s.missed < payback*length {
		return nil
	}
	d := make([]byte, 0, length)
	for _, raw := range slices.Backward(chosen) {
		d = append(d, raw...)
	}
	s.missed = 0
	for raw, id := range s.last {
		id.known = bytes.Contains(d, []byte(raw))
	}
	if bytes.Equal(d, present) {
		return nil
	}
	return d
}
