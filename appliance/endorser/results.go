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

var _ chaincode.State = (*ledger.Simulator)(nil)

// simulatorOf is the simulator behind a chaincode's state.
func simulatorOf(s chaincode.State) (*ledger.Simulator, error) {
	sim, ok := s.(*ledger.Simulator)
	if !ok {
		return nil, fmt.Errorf("state of the calling chaincode is a %T: calls are possible within a proposal only", s)
	}
	return sim, nil
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
// order of the names). It is a hint: no validity depends on it. A nil simulator has
// none.
func (e *Endorser) interest(sim *ledger.Simulator, set *wire.ReadWriteSet) (*peerpb.ChaincodeInterest, error) {
	if sim == nil {
		return nil, nil
	}
	written, err := sim.WrittenMetadata()
	if err != nil {
		return nil, err
	}
	policies := make(map[publicKey][]byte)
	for _, w := range written {
		if p, ok := w.Metadata[peerpb.MetaDataKeys_VALIDATION_PARAMETER.String()]; ok && w.Collection == "" {
			policies[publicKey{w.Namespace, w.Key}] = p
		}
	}
	out := &peerpb.ChaincodeInterest{}
	for i := range set.Namespaces {
		ns := &set.Namespaces[i]
		if e.IsSystem(ns.Namespace) {
			continue
		}
		calls, err := calls(ns, policies, sim.ReadsPrivate)
		if err != nil {
			return nil, err
		}
		out.Chaincodes = append(out.Chaincodes, calls...)
	}
	return out, nil
}

type publicKey struct{ namespace, key string }

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

// calls are the entries of one namespace: its own policy with those of its keys,
// and one entry for each collection.
func calls(ns *wire.NamespaceSet, policies map[publicKey][]byte, readsPrivate func(ns, collection string) bool) ([]*peerpb.ChaincodeCall, error) {
	public := &peerpb.ChaincodeCall{Name: ns.Namespace, DisregardNamespacePolicy: true}
	seen := make(map[string]bool)
	keys := writtenKeys(ns)
	for _, key := range keys {
		policy, ok := policies[publicKey{ns.Namespace, key}]
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
			Name: ns.Namespace, CollectionNames: []string{c.Collection}, NoPrivateReads: !readsPrivate(ns.Namespace, c.Collection),
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
