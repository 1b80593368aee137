package wire

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/rwsetpb"
)

// ParseReadWriteSet reads the results of a chaincode action
// (protos.ChaincodeAction.results). The data model is not looked at, as Fabric
// does not. The result owns its memory.
func ParseReadWriteSet(results []byte) (*ReadWriteSet, error) {
	outer := &rwsetpb.TxReadWriteSet{}
	if err := proto.Unmarshal(results, outer); err != nil {
		return nil, fmt.Errorf("results are not a rwset.TxReadWriteSet: %w", err)
	}
	set := &ReadWriteSet{Namespaces: make([]NamespaceSet, len(outer.NsRwset))}
	for i, in := range outer.NsRwset {
		ns := &set.Namespaces[i]
		ns.Namespace = in.Namespace
		ns.KV = &kvrwsetpb.KVRWSet{}
		if err := proto.Unmarshal(in.Rwset, ns.KV); err != nil {
			return nil, fmt.Errorf("read/write set of namespace %q is not a kvrwset.KVRWSet: %w", in.Namespace, err)
		}
		if len(in.CollectionHashedRwset) == 0 {
			continue
		}
		ns.Collections = make([]CollectionSet, len(in.CollectionHashedRwset))
		for j, coll := range in.CollectionHashedRwset {
			hashed := &kvrwsetpb.HashedRWSet{}
			if err := proto.Unmarshal(coll.HashedRwset, hashed); err != nil {
				return nil, fmt.Errorf("read/write set of collection %q in namespace %q is not a kvrwset.HashedRWSet: %w",
					coll.CollectionName, in.Namespace, err)
			}
			ns.Collections[j] = CollectionSet{Collection: coll.CollectionName, Hashed: hashed, PvtHash: coll.PvtRwsetHash}
		}
	}
	return set, nil
}

// Writes tells whether a transaction writes to the namespace: a public or private
// key, or the metadata of one. Such a namespace's endorsement policy must hold.
func (s *NamespaceSet) Writes() bool {
	if len(s.KV.GetWrites()) > 0 || len(s.KV.GetMetadataWrites()) > 0 {
		return true
	}
	for _, c := range s.Collections {
		if len(c.Hashed.GetHashedWrites()) > 0 || len(c.Hashed.GetMetadataWrites()) > 0 {
			return true
		}
	}
	return false
}
