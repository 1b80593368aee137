package channel

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"

	"strongroom/acl/validation"
	"strongroom/channel/configtx"
	"strongroom/channel/lifecycle"
	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/peerpb"
)

// regoSuffix marks, among the policies of a judgement, the validation rules of a
// namespace: no chaincode's name has it.
const regoSuffix = "#rego"

// regoEntries bounds how many compiled validation rules are kept.
const regoEntries = 128

// regos keeps compiled validation rules by their parameter. It is safe for concurrent use.
type regos struct {
	known *lru.Cache[[sha256.Size]byte, *validation.Rules]
}

func newRegos() *regos {
	known, err := lru.New[[sha256.Size]byte, *validation.Rules](regoEntries)
	if err != nil {
		panic("channel: " + err.Error()) // the size is a constant
	}
	return &regos{known: known}
}

func (r *regos) parse(parameter []byte) (*validation.Rules, error) {
	key := sha256.Sum256(parameter)
	if rules, ok := r.known.Get(key); ok {
		return rules, nil
	}
	rules, err := validation.Parse(parameter)
	if err == nil {
		r.known.Add(key, rules)
	}
	return rules, err
}

// readRego reads the rules of a chaincode whose definition carries Rego. Rules that are
// at fault deny everything, also where a key's own policy would do. Rules for another version of the
// evaluator hold the channel up: what this node would say must not be recorded.
func (j *judge) readRego(d *lifecycle.Definition) (*namespaceRules, error) {
	out := &namespaceRules{definition: d}
	if !j.config.Capabilities.Rego {
		out.fault = newFault(peerpb.TxValidationCode_ENDORSEMENT_POLICY_FAILURE, "validation plugin %q of chaincode %q needs the application capability %s", validation.Plugin, d.Name, configtx.RegoCapability)
		return out, nil
	}
	var err error
	out.rego, err = j.regos.parse(d.ValidationParameter)
	switch {
	case errors.Is(err, validation.ErrInvalid):
		out.fault = newFault(peerpb.TxValidationCode_ENDORSEMENT_POLICY_FAILURE, "chaincode %q: %s", d.Name, err)
		return out, nil
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	out.endorsement, err = j.compile(d.ValidationParameter)
	return out, err
}

// askRego asks the validation rules of the namespace, whose endorsement policy held.
func (e *evaluation) askRego(ctx context.Context, tx *wire.Tx, creator *msp.Identity) (*wire.Fault, error) {
	v, err := e.rules.rego.Judge(ctx, &validation.Transaction{
		ChannelID: e.config.ID, Namespace: e.namespace, TxID: tx.TxID(), Endorsed: tx.Endorsed, Creator: creator, Endorsers: e.signers,
	})
	if err != nil {
		return nil, fmt.Errorf("validation rules: %w", err)
	}
	if !v.Allowed {
		return newFault(peerpb.TxValidationCode_ENDORSEMENT_POLICY_FAILURE, "validation rules of chaincode %q: %v", e.namespace, v.Reasons), nil
	}
	return nil, nil
}
