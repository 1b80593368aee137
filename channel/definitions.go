package channel

import (
	"sync"

	"strongroom/channel/lifecycle"
	"strongroom/wire"
	"strongroom/wire/peerpb"
)

// definitions remembers committed chaincode definitions until a block writes to
// `_lifecycle`. It is safe for concurrent use.
type definitions struct {
	mu         sync.Mutex // guards the rest
	known      map[string]*lifecycle.Definition
	generation uint64 // one more whenever known was emptied
}

// read finds a definition, remembered or in the state, which must be the newest
// one or older: what is read from a state that became old in the meantime is
// returned and not remembered.
func (d *definitions) read(state lifecycle.State, name string) (*lifecycle.Definition, error) {
	found, generation := d.find(name)
	if found != nil {
		return found, nil
	}
	return d.keep(state, name, generation)
}

func (d *definitions) find(name string) (*lifecycle.Definition, uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.known[name], d.generation
}

// keep reads a definition and remembers it unless the generation has passed. A
// caller must have learnt the generation before it got hold of the state.
func (d *definitions) keep(state lifecycle.State, name string, generation uint64) (*lifecycle.Definition, error) {
	definition, err := lifecycle.ReadDefinition(state, name)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.generation == generation {
		if d.known == nil {
			d.known = map[string]*lifecycle.Definition{}
		}
		d.known[name] = definition
	}
	return definition, nil
}

// committed forgets everything if a valid transaction of the block defined a
// chaincode.
func (d *definitions) committed(block *wire.Block, flags []peerpb.TxValidationCode) {
	for i, tx := range block.Txs {
		if flags[i] == peerpb.TxValidationCode_VALID && tx.Endorsed != nil && defines(tx.Endorsed.ReadWriteSet) {
			d.mu.Lock()
			d.known = nil
			d.generation++
			d.mu.Unlock()
			return
		}
	}
}

func defines(set *wire.ReadWriteSet) bool {
	for i := range set.Namespaces {
		if ns := &set.Namespaces[i]; ns.Namespace == lifecycle.Namespace && len(ns.KV.Writes) > 0 {
			return true
		}
	}
	return false
}
