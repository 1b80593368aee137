package channel

import (
	"iter"

	"strongroom/wire"
)

// written gives the namespaces whose endorsement policies a transaction must
// satisfy: that of the chaincode that was called, whether it writes or not, and
// every other one that the transaction writes to. Fabric goes through them in an
// order that differs from peer to peer; here it is that of the read/write set.
func written(e *wire.Endorsed) iter.Seq[string] {
	return func(yield func(string) bool) {
		if !yield(e.ChaincodeID.Name) {
			return
		}
		for i := range e.ReadWriteSet.Namespaces {
			ns := &e.ReadWriteSet.Namespaces[i]
			if ns.Namespace != e.ChaincodeID.Name && ns.Writes() && !yield(ns.Namespace) {
				return
			}
		}
	}
}

// writtenKeys gives every key that a read/write set writes to, and whether it is
// its metadata that is written.
func writtenKeys(set *wire.ReadWriteSet) iter.Seq2[stateKey, bool] {
	return func(yield func(stateKey, bool) bool) {
		for i := range set.Namespaces {
			for key, metadata := range keysOf(&set.Namespaces[i]) {
				if !yield(key, metadata) {
					return
				}
			}
		}
	}
}

// keysOf is writtenKeys for one namespace, in the order of Fabric's key-level
// validator: public writes, public metadata, hashed writes, hashed metadata.
func keysOf(ns *wire.NamespaceSet) iter.Seq2[stateKey, bool] {
	return func(yield func(stateKey, bool) bool) {
		for _, w := range ns.KV.Writes {
			if !yield(stateKey{namespace: ns.Namespace, key: w.Key}, false) {
				return
			}
		}
		for _, w := range ns.KV.MetadataWrites {
			if !yield(stateKey{namespace: ns.Namespace, key: w.Key}, true) {
				return
			}
		}
		for _, c := range ns.Collections {
			for _, w := range c.Hashed.HashedWrites {
				if !yield(stateKey{ns.Namespace, c.Collection, string(w.KeyHash)}, false) {
					return
				}
			}
		}
		for _, c := range ns.Collections {
			for _, w := range c.Hashed.MetadataWrites {
				if !yield(stateKey{ns.Namespace, c.Collection, string(w.KeyHash)}, true) {
					return
				}
			}
		}
	}
}
