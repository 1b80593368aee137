package ledger

import (
	"crypto/sha256"

	"google.golang.org/protobuf/encoding/protowire"

	"strongroom/ledger/rwset"
)

// commitHash chains over everything a channel's blocks did to its state, as
// Fabric's peers compute it (kv_ledger.go, addBlockCommitHash): SHA-256 over the
// number of flags as a varint, the flags, the updates and the hash before. Equal
// hashes on two peers mean equal state.
//
// The updates are messages of the form (privacyenabledstate/updates.proto)
//
//	namespace = 1, collection = 2, key = 3, isDelete = 4, value = 5, version_bytes = 6
//
// each of them field 1 of an outer message, in the order of their keys; namespace
// and collection stand only where they change. The channel's configuration, in the
// namespace without a name, is left out.
func commitHash(flags []byte, u *updates, keys []stateKey, before []byte) []byte {
	h := sha256.New()
	b := protowire.AppendVarint(nil, uint64(len(flags)))
	h.Write(append(b, flags...))
	var msg []byte
	var last stateKey
	for _, k := range keys {
		if k.ns == "" {
			continue
		}
		up := u.m[k]
		msg = msg[:0]
		if k.ns != last.ns {
			msg = protowire.AppendTag(msg, 1, protowire.BytesType)
			msg = protowire.AppendString(msg, k.ns)
		}
		if k.collection != "" && (k.ns != last.ns || k.collection != last.collection) {
			msg = protowire.AppendTag(msg, 2, protowire.BytesType)
			msg = protowire.AppendString(msg, k.collection)
		}
		if k.key != "" {
			msg = protowire.AppendTag(msg, 3, protowire.BytesType)
			msg = protowire.AppendString(msg, k.key)
		}
		if up.deleted {
			msg = protowire.AppendTag(msg, 4, protowire.VarintType)
			msg = protowire.AppendVarint(msg, 1)
		} else {
			msg = protowire.AppendTag(msg, 5, protowire.BytesType)
			msg = protowire.AppendBytes(msg, up.bytes)
		}
		msg = protowire.AppendTag(msg, 6, protowire.BytesType)
		msg = protowire.AppendBytes(msg, versionBytes(up.version))
		b = protowire.AppendTag(b[:0], 1, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(len(msg)))
		h.Write(b)
		h.Write(msg)
		last = k
	}
	h.Write(before)
	return h.Sum(nil)
}

// versionBytes is a height in Fabric's order-preserving form: of each number its
// length in bytes, then its big-endian bytes without leading zeros.
func versionBytes(v rwset.Height) []byte {
	b := make([]byte, 0, 18)
	for _, n := range [...]uint64{v.Block, v.Tx} {
		length := 0
		for m := n; m > 0; m >>= 8 {
			length++
		}
		b = append(b, byte(length))
		for i := length - 1; i >= 0; i-- {
			b = append(b, byte(n>>(8*i)))
		}
	}
	return b
}
