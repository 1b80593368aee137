package translog

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"
)

// HashSize is the length of a Hash.
const HashSize = sha256.Size

// Hash is the hash of a leaf, an inner node or a whole tree.
type Hash [HashSize]byte

// LeafHash is the hash of a leaf with this content (RFC 6962, section 2.1).
func LeafHash(content []byte) Hash {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(content)
	return Hash(h.Sum(nil))
}

// NodeHash is the hash of an inner node over its two children.
func NodeHash(left, right Hash) Hash {
	var b [1 + 2*HashSize]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[1+HashSize:], right[:])
	return sha256.Sum256(b[:])
}

// emptyRoot is the root of the tree without leaves.
var emptyRoot Hash = sha256.Sum256(nil)

// Nodes gives the hashes of complete subtrees.
type Nodes interface {
	// Node returns the root of the complete subtree over the leaves from
	// index<<level up to, not including, (index+1)<<level.
	Node(level int, index uint64) (Hash, error)
}

// Root is the root of the tree of the first size leaves.
func Root(nodes Nodes, size uint64) (Hash, error) {
	if size == 0 {
		return emptyRoot, nil
	}
	return subtree(nodes, 0, size)
}

// split is the largest power of two below n, n > 1.
func split(n uint64) uint64 { return 1 << (bits.Len64(n-1) - 1) }

// subtree is the root over the leaves lo to hi-1. Where RFC 6962 asks for one, lo is
// a multiple of the next power of two.
func subtree(nodes Nodes, lo, hi uint64) (Hash, error) {
	n := hi - lo
	if n&(n-1) == 0 {
		level := bits.TrailingZeros64(n)
		return nodes.Node(level, lo>>level)
	}
	k := split(n)
	left, err := subtree(nodes, lo, lo+k)
	if err != nil {
		return Hash{}, err
	}
	right, err := subtree(nodes, lo+k, hi)
	return NodeHash(left, right), err
}

// InclusionProof proves that the leaf stands in the tree of the first size leaves
// (RFC 6962, section 2.1.1: PATH).
func InclusionProof(nodes Nodes, leaf, size uint64) ([]Hash, error) {
	if leaf >= size {
		return nil, fmt.Errorf("leaf %d is not in a tree of %d", leaf, size)
	}
	var proof []Hash // from the root down
	for lo, hi := uint64(0), size; hi-lo > 1; {
		k := lo + split(hi-lo)
		otherLo, otherHi := k, hi
		if leaf < k {
			hi = k
		} else {
			otherLo, otherHi = lo, k
			lo = k
		}
		h, err := subtree(nodes, otherLo, otherHi)
		if err != nil {
			return nil, err
		}
		proof = append(proof, h)
	}
	reverse(proof)
	return proof, nil
}

// ConsistencyProof proves that the tree of the first size leaves begins with the
// tree of the first old ones (RFC 6962, section 2.1.2: PROOF).
func ConsistencyProof(nodes Nodes, old, size uint64) ([]Hash, error) {
	if old == 0 || old > size {
		return nil, fmt.Errorf("a tree of %d leaves has no consistency proof from one of %d: ask for 1 to %d", size, old, size)
	}
	var proof []Hash // from the root down
	add := func(lo, hi uint64) error {
		h, err := subtree(nodes, lo, hi)
		proof = append(proof, h)
		return err
	}
	lo, hi := uint64(0), size
	for old != hi {
		k := lo + split(hi-lo)
		var err error
		if old <= k {
			err = add(k, hi)
			hi = k
		} else {
			err = add(lo, k)
			lo = k
		}
		if err != nil {
			return nil, err
		}
	}
	if lo > 0 { // otherwise the old root itself, which the verifier has
		if err := add(lo, hi); err != nil {
			return nil, err
		}
	}
	reverse(proof)
	return proof, nil
}

func reverse(h []Hash) {
	for i, j := 0, len(h)-1; i < j; i, j = i+1, j-1 {
		h[i], h[j] = h[j], h[i]
	}
}

// ErrBadProof says that a proof does not lead to the root.
var ErrBadProof = errors.New("the proof does not lead to the tree's root")

// VerifyInclusion checks that the leaf with this hash stands in the tree with this
// size and root (RFC 9162, section 2.1.3.2). It returns ErrBadProof if not.
func VerifyInclusion(proof []Hash, leaf, size uint64, hash, root Hash) error {
	if leaf >= size {
		return fmt.Errorf("leaf %d is not in a tree of %d", leaf, size)
	}
	fn, sn, r := leaf, size-1, hash
	for _, p := range proof {
		if sn == 0 {
			return ErrBadProof
		}
		if fn&1 == 1 || fn == sn {
			r = NodeHash(p, r)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			r = NodeHash(r, p)
		}
		fn, sn = fn>>1, sn>>1
	}
	if sn != 0 || r != root {
		return ErrBadProof
	}
	return nil
}

// VerifyConsistency checks that the tree with this size and root begins with the
// old one (RFC 9162, section 2.1.4.2). It returns ErrBadProof if not.
func VerifyConsistency(proof []Hash, old, size uint64, oldRoot, root Hash) error {
	switch {
	case old == 0 || old > size:
		return fmt.Errorf("a tree of %d leaves cannot continue one of %d", size, old)
	case old == size:
		if len(proof) > 0 || oldRoot != root {
			return ErrBadProof
		}
		return nil
	}
	if old&(old-1) == 0 {
		proof = append([]Hash{oldRoot}, proof...)
	}
	if len(proof) == 0 {
		return ErrBadProof
	}
	fn, sn := old-1, size-1
	for fn&1 == 1 {
		fn, sn = fn>>1, sn>>1
	}
	fr, sr := proof[0], proof[0]
	for _, p := range proof[1:] {
		if sn == 0 {
			return ErrBadProof
		}
		if fn&1 == 1 || fn == sn {
			fr, sr = NodeHash(p, fr), NodeHash(p, sr)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			sr = NodeHash(sr, p)
		}
		fn, sn = fn>>1, sn>>1
	}
	if sn != 0 || fr != oldRoot || sr != root {
		return ErrBadProof
	}
	return nil
}
