package endorser

import (
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"strongroom/chaincode"
	"strongroom/ledger"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
	"strongroom/wire/rwsetpb"
)

// State is a simulator as the chaincode host reads and writes it.
func State(sim *ledger.Simulator) chaincode.State { return simState{sim} }

// simState passes everything on; what it adds are the types of the iterators and
// the first page's place, which the two packages name on their own.
type simState struct{ *ledger.Simulator }

func (s simState) Range(namespace, start, end string) (chaincode.KVIterator, error) {
	return s.Simulator.Range(namespace, start, end)
}

func (s simState) RangePage(namespace, start, end string, pageSize int32) (chaincode.PageIterator, error) {
	it, err := s.Simulator.RangePage(namespace, start, end, pageSize, "")
	if err != nil {
		return nil, err
	}
	return pageIterator{it}, nil
}

func (s simState) History(namespace, key string) (chaincode.HistoryIterator, error) {
	return s.Simulator.History(namespace, key)
}

// simulatorOf finds the simulator that State wrapped.
func simulatorOf(s chaincode.State) (*ledger.Simulator, error) {
	own, ok := s.(simState)
	if !ok {
		return nil, fmt.Errorf("state of the calling chaincode is a %T: calls are possible within a proposal only", s)
	}
	return own.Simulator, nil
}

// results are what a simulation read and wrote.
type results struct {
	public  []byte                     // marshalled rwset.TxReadWriteSet
	private *rwsetpb.TxPvtReadWriteSet // nil without private writes
}

func (r *results) take(sim *ledger.Simulator) (err error) {
	r.public, r.private, err = sim.Results()
	return err
}

func (r *results) parse() (*wire.ReadWriteSet, error) {
	if r.public == nil {
		return &wire.ReadWriteSet{}, nil
	}
	return wire.ParseReadWriteSet(r.public)
}

// interest says which policies the endorsements of a transaction must satisfy, for
// a gateway (protos.ChaincodeInterest; Fabric's buildChaincodeInterest, here in the
// order of the names). It is a hint: no validity depends on it.
func (e *Endorser) interest(r *request, set *wire.ReadWriteSet) (*peerpb.ChaincodeInterest, error) {
	out := &peerpb.ChaincodeInterest{}
	var metadata *ledger.Snapshot
	defer func() {
		if metadata != nil {
			metadata.Release()
		}
	}()
	for i := range set.Namespaces {
		ns := &set.Namespaces[i]
		if e.IsSystem(ns.Namespace) {
			continue
		}
		keys := writtenKeys(ns)
		if len(keys) > 0 && metadata == nil {
			var err error
			if metadata, err = r.channel.Ledger().Snapshot(); err != nil {
				return nil, err
			}
		}
		calls, err := calls(ns, keys, metadata)
		if err != nil {
			return nil, err
		}
		out.Chaincodes = append(out.Chaincodes, calls...)
	}
	return out, nil
}

// writtenKeys are the public keys whose value or metadata a namespace's part writes.
func writtenKeys(ns *wire.NamespaceSet) []string {
	keys := make(map[string]bool, len(ns.KV.GetWrites()))
	for _, w := range ns.KV.GetWrites() {
		keys[w.GetKey()] = true
	}
	for _, w := range ns.KV.GetMetadataWrites() {
		keys[w.GetKey()] = true
	}
	return slices.Sorted(maps.Keys(keys))
}

// metadataReader reads the committed metadata of a key. *ledger.Snapshot is one.
type metadataReader interface {
	GetMetadata(namespace, key string) (map[string][]byte, error)
}

// calls are the entries of one namespace: its own policy with those of its keys,
// and one entry for each collection.
func calls(ns *wire.NamespaceSet, keys []string, metadata metadataReader) ([]*peerpb.ChaincodeCall, error) {
	public := &peerpb.ChaincodeCall{Name: ns.Namespace, DisregardNamespacePolicy: true}
	seen := make(map[string]bool)
	for _, key := range keys {
		entries, err := metadata.GetMetadata(ns.Namespace, key)
		if err != nil {
			return nil, err
		}
		policy, ok := entries[peerpb.MetaDataKeys_VALIDATION_PARAMETER.String()]
		if !ok {
			public.DisregardNamespacePolicy = false
			continue
		}
		if seen[string(policy)] {
			continue
		}
		seen[string(policy)] = true
		var env commonpb.SignaturePolicyEnvelope
		if err := proto.Unmarshal(policy, &env); err != nil {
			return nil, fmt.Errorf("policy of key %q in %q: %w", key, ns.Namespace, err)
		}
		public.KeyPolicies = append(public.KeyPolicies, &env)
	}
	privateWrites := false
	var out []*peerpb.ChaincodeCall
	for i := range ns.Collections {
		c := &ns.Collections[i]
		privateWrites = privateWrites || len(c.Hashed.GetHashedWrites()) > 0 || len(c.Hashed.GetMetadataWrites()) > 0
		out = append(out, &peerpb.ChaincodeCall{
			Name: ns.Namespace, CollectionNames: []string{c.Collection}, NoPrivateReads: len(c.Hashed.GetHashedReads()) == 0,
		})
	}
	switch {
	case len(keys) == 0 && privateWrites:
		return out, nil // the collections' policies are enough
	case len(keys) == 0:
		public.DisregardNamespacePolicy = false // it read, and wrote nothing
	}
	return append([]*peerpb.ChaincodeCall{public}, out...), nil
}
