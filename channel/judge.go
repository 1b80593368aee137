package channel

import (
	"context"
	"fmt"

	"strongroom/channel/configtx"
	"strongroom/policy"
	"strongroom/wire"
	"strongroom/wire/peerpb"
)

// judge decides one block. Its maps are filled by prepare and only read by the
// tasks that run after it.
type judge struct {
	engine      *policy.Engine
	definitions *definitions
	regos       *regos
	config      *configtx.Config
	state       State

	verdicts   []*wire.Fault // nil means VALID
	namespaces map[string]*namespaceRules

	// Key-level policies: who in the block changes that of a key, which
	// transactions wait for a verdict on such a one, and which namespaces of a
	// transaction passed. The inner maps of passed belong to their transaction.
	writers  map[stateKey][]int
	deferred []bool
	passed   []map[string]bool
}

// stateKey names a key of the state: a public one, or by its hash one of a
// private collection.
type stateKey struct{ namespace, collection, key string }

// candidate tells whether a transaction reaches the endorsement policies, if it is
// no duplicate.
func candidate(facts *Facts, i int) bool {
	tx := facts.Block.Txs[i]
	return facts.txs[i].fault(tx) == nil && tx.Endorsed != nil && tx.Endorsed.ResultsFault == nil
}

// prepare reads the rules of all namespaces that the block writes to and finds the
// transactions that must be decided in order.
func (j *judge) prepare(facts *Facts) error {
	j.deferred = make([]bool, len(facts.txs))
	j.passed = make([]map[string]bool, len(facts.txs))
	for i, tx := range facts.Block.Txs {
		if !candidate(facts, i) {
			continue
		}
		for namespace := range written(tx.Endorsed) {
			if _, ok := j.namespaces[namespace]; ok {
				continue
			}
			rules, err := j.readRules(namespace)
			if err != nil {
				return fmt.Errorf("definition of chaincode %q: %w", namespace, err)
			}
			j.namespaces[namespace] = rules
		}
		for key, metadata := range writtenKeys(tx.Endorsed.ReadWriteSet) {
			if len(j.writers[key]) > 0 {
				j.deferred[i] = true
			}
			if metadata {
				j.passed[i] = map[string]bool{}
			}
		}
		if j.passed[i] == nil {
			continue
		}
		if j.writers == nil {
			j.writers = map[stateKey][]int{}
		}
		for key, metadata := range writtenKeys(tx.Endorsed.ReadWriteSet) {
			if metadata {
				j.writers[key] = append(j.writers[key], i)
			}
		}
	}
	return nil
}

// decide gives one transaction its verdict, in the order of Fabric's checks.
func (j *judge) decide(ctx context.Context, facts *Facts, i int) error {
	tx := facts.Block.Txs[i]
	if f := facts.txs[i].fault(tx); f != nil {
		j.verdicts[i] = f
		return nil
	}
	if tx.Endorsed == nil {
		return nil // CONFIG
	}
	known, err := j.state.HasTx(tx.TxID())
	if err != nil {
		return fmt.Errorf("transaction %q: %w", tx.TxID(), err)
	}
	if known {
		j.verdicts[i] = newFault(peerpb.TxValidationCode_DUPLICATE_TXID, "transaction %q is in an earlier block", tx.TxID())
		return nil
	}
	if tx.Endorsed.ResultsFault != nil {
		j.verdicts[i] = tx.Endorsed.ResultsFault
		return nil
	}
	for namespace := range written(tx.Endorsed) {
		e := &evaluation{judge: j, tx: i, namespace: namespace, rules: j.namespaces[namespace], signers: facts.txs[i].signers}
		f, err := e.run(ctx, tx.Endorsed.ReadWriteSet)
		if f == nil && err == nil && e.rules.rego != nil {
			f, err = e.askRego(ctx, tx, facts.txs[i].identity)
		}
		if err != nil {
			return fmt.Errorf("transaction %q, namespace %q: %w", tx.TxID(), namespace, err)
		}
		if f != nil && j.verdicts[i] == nil {
			j.verdicts[i] = f
		}
		if j.passed[i] != nil {
			j.passed[i][namespace] = f == nil // others wait for every namespace's verdict
		} else if f != nil {
			return nil
		}
	}
	return nil
}

// markDuplicates lets the first of the transactions with one id stand. Only those
// that are valid so far count.
func (j *judge) markDuplicates(facts *Facts) {
	seen := make(map[string]bool, len(facts.txs))
	for i, tx := range facts.Block.Txs {
		if j.verdicts[i] != nil || tx.Endorsed == nil {
			continue
		}
		if id := tx.TxID(); seen[id] {
			j.verdicts[i] = newFault(peerpb.TxValidationCode_DUPLICATE_TXID, "transaction %q stands earlier in the block", id)
		} else {
			seen[id] = true
		}
	}
}

func (j *judge) judgement() *Judgement {
	out := &Judgement{Verdicts: make([]Verdict, len(j.verdicts)), Policies: map[string]policy.Digest{}}
	for i, f := range j.verdicts {
		if f != nil {
			out.Verdicts[i] = Verdict{Code: f.Code, Reason: f.Reason}
		}
	}
	for namespace, rules := range j.namespaces {
		if rules.endorsement.policy != nil {
			out.Policies[namespace] = rules.endorsement.policy.Digest()
		}
		if rules.rego != nil {
			out.Policies[namespace+regoSuffix] = rules.rego.Digest()
		}
	}
	return out
}

func newFault(code peerpb.TxValidationCode, format string, args ...any) *wire.Fault {
	return &wire.Fault{Code: code, Reason: fmt.Sprintf(format, args...)}
}
