package channel

import (
	"context"
	"errors"
	"runtime"

	"strongroom/channel/lifecycle"
	"strongroom/policy"
	"strongroom/wire"
	"strongroom/wire/peerpb"
)

// ErrBadBlock is wrapped by errors that say that a block is not the channel's next:
// another copy of it must be asked for. Nothing of it was committed.
var ErrBadBlock = errors.New("block refused")

// State is what verdicts read: the state of the ledger at the height of the block,
// and which transactions it holds. *ledger.Snapshot and *ledger.Ledger are one
// together. It must be safe for concurrent use.
type State interface {
	lifecycle.State
	GetMetadata(namespace, key string) (map[string][]byte, error)
	PrivateMetadataByKeyHash(namespace, collection string, keyHash []byte) (map[string][]byte, error)
	HasTx(txID string) (bool, error)
}

// Validator gives transactions the codes that Fabric's validator gives them (its
// core/committer/txvalidator/v20): all of them but those that the ledger finds
// (versions, phantoms). It is safe for concurrent use.
type Validator struct {
	engine      *policy.Engine
	pool        *pool
	definitions *definitions
	regos       *regos
}

// NewValidator makes a validator with that many signature checks under way at once;
// 0 means four for each processor. A network HSM wants as many as the token has
// sessions. Close ends it.
func NewValidator(engine *policy.Engine, workers int) *Validator {
	if workers <= 0 {
		workers = 4 * runtime.GOMAXPROCS(0)
	}
	return &Validator{engine: engine, pool: newPool(workers), definitions: &definitions{}, regos: newRegos()}
}

// Close waits for the checks under way. The validator must not be used after it.
func (v *Validator) Close() { v.pool.close() }

// Verdict is the code of one transaction and the reason, for logs.
type Verdict struct {
	Code   peerpb.TxValidationCode
	Reason string // "" for VALID
}

// Judgement is what a Validator says of a block.
type Judgement struct {
	Verdicts []Verdict // one for each transaction
	// Policies are the endorsement policies of the namespaces that it writes to and, under
	// the namespace's name followed by "#rego", their validation rules.
	Policies map[string]policy.Digest
}

// Flags are the codes alone, for the block's transaction filter.
func (j *Judgement) Flags() []peerpb.TxValidationCode {
	flags := make([]peerpb.TxValidationCode, len(j.Verdicts))
	for i, v := range j.Verdicts {
		flags[i] = v.Code
	}
	return flags
}

// Judge decides a block's transactions on the state that the block before it left.
// CONFIG transactions that are well formed and signed are VALID here: whether they
// apply is for configtx. An error is a failure of ours.
func (v *Validator) Judge(ctx context.Context, facts *Facts, state State) (*Judgement, error) {
	j := &judge{
		engine: v.engine, definitions: v.definitions, regos: v.regos, config: facts.Config, state: state,
		verdicts:   make([]*wire.Fault, len(facts.txs)),
		namespaces: map[string]*namespaceRules{},
	}
	if err := j.prepare(facts); err != nil {
		return nil, err
	}
	b := v.pool.batch(ctx)
	b.each(len(facts.txs), 8, func(ctx context.Context, i int) error {
		if j.deferred[i] {
			return nil
		}
		return j.decide(ctx, facts, i)
	})
	if err := b.wait(); err != nil {
		return nil, err
	}
	for i := range facts.txs {
		if j.deferred[i] {
			if err := j.decide(ctx, facts, i); err != nil {
				return nil, err
			}
		}
	}
	j.markDuplicates(facts)
	return j.judgement(), nil
}
