package rwset

import (
	"crypto/sha256"
	"fmt"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/kvrwsetpb"
)

// MaxDegree is how many results of a range query are recorded one by one. Of more
// than that only a Merkle summary is kept, each node over MaxDegree+1 children.
const MaxDegree = 50

// RangeReads collects the results of a range query while they are read. It is
// not safe for concurrent use. The zero value is not usable.
type RangeReads struct {
	maxDegree int
	pending   []*kvrwsetpb.KVRead
	levels    [][][]byte // levels[0] holds the hashes of level 1
}

// NewRangeReads returns an empty collection that records up to maxDegree results
// one by one. A degree below 2 gives an error: no tree can be built on it.
func NewRangeReads(maxDegree uint32) (*RangeReads, error) {
	if maxDegree < 2 {
		return nil, fmt.Errorf("max_degree of the range query is %d: 2 or more is needed", maxDegree)
	}
	return &RangeReads{maxDegree: int(maxDegree)}, nil
}

// Add records the next result.
func (r *RangeReads) Add(key string, version Height) error {
	r.pending = append(r.pending, &kvrwsetpb.KVRead{Key: key, Version: version.Proto()})
	if len(r.pending) > r.maxDegree {
		return r.hashPending()
	}
	return nil
}

// Summary is the highest level of the tree as it stands. The hashes alias the
// tree's; the slice is valid until the next Add.
func (r *RangeReads) Summary() *kvrwsetpb.QueryReadsMerkleSummary {
	s := &kvrwsetpb.QueryReadsMerkleSummary{MaxDegree: uint32(r.maxDegree), MaxLevel: 1}
	if len(r.levels) > 0 {
		s.MaxLevel = uint32(len(r.levels))
		s.MaxLevelHashes = r.levels[len(r.levels)-1]
	}
	return s
}

// Done closes the collection. It returns either the single results, when there
// were at most maxDegree, or the summary of them; with no result both are nil.
func (r *RangeReads) Done() ([]*kvrwsetpb.KVRead, *kvrwsetpb.QueryReadsMerkleSummary, error) {
	if len(r.levels) == 0 {
		return r.pending, nil, nil
	}
	if len(r.pending) > 0 {
		if err := r.hashPending(); err != nil {
			return nil, nil, err
		}
	}
	r.close()
	return nil, r.Summary(), nil
}

func (r *RangeReads) hashPending() error {
	b, err := proto.Marshal(&kvrwsetpb.QueryReads{KvReads: r.pending})
	if err != nil {
		return fmt.Errorf("kvrwset.QueryReads: %w", err)
	}
	r.pending = nil
	sum := sha256.Sum256(b)
	r.add(0, sum[:])
	return nil
}

// add puts a hash on a level; a level that is full becomes one hash of the next.
func (r *RangeReads) add(level int, hash []byte) {
	for {
		if level == len(r.levels) {
			r.levels = append(r.levels, nil)
		}
		r.levels[level] = append(r.levels[level], hash)
		if len(r.levels[level]) <= r.maxDegree {
			return
		}
		hash = combine(r.levels[level])
		r.levels[level] = nil
		level++
	}
}

// close carries the hashes that are left on lower levels up to the highest one. A
// single hash goes up as it is.
func (r *RangeReads) close() {
	top := len(r.levels) - 1
	for level := 0; level < top; level++ {
		hashes := r.levels[level]
		if len(hashes) == 0 {
			continue
		}
		h := hashes[0]
		if len(hashes) > 1 {
			h = combine(hashes)
		}
		r.levels[level] = nil
		r.levels[level+1] = append(r.levels[level+1], h)
	}
	if len(r.levels[top]) > r.maxDegree {
		r.levels = append(r.levels, [][]byte{combine(r.levels[top])})
		r.levels[top] = nil
	}
}

func combine(hashes [][]byte) []byte {
	h := sha256.New()
	for _, b := range hashes {
		h.Write(b)
	}
	return h.Sum(nil)
}
