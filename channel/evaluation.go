package channel

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// evaluation decides whether one transaction's endorsements allow what it writes to
// one namespace: Fabric's key-level validator with the evaluator of version 2.0
// (core/common/validation/statebased). A key that has a policy of its own needs
// that one; any other key needs its collection's or the chaincode's, each of which
// is evaluated once. A transaction that no policy was asked for, because it writes
// nothing, needs the chaincode's.
type evaluation struct {
	*judge
	tx        int
	namespace string
	rules     *namespaceRules
	signers   []*msp.Identity

	chaincodeAsked  bool
	collectionAsked map[string]bool
	anyAsked        bool
}

// run returns the first fault, nil if the namespace passes.
func (e *evaluation) run(ctx context.Context, set *wire.ReadWriteSet) (*wire.Fault, error) {
	if e.rules.fault != nil {
		return e.rules.fault, nil
	}
	for i := range set.Namespaces {
		if set.Namespaces[i].Namespace != e.namespace {
			continue
		}
		for key := range keysOf(&set.Namespaces[i]) {
			if f, err := e.checkKey(ctx, key); f != nil || err != nil {
				return f, err
			}
		}
	}
	if e.anyAsked {
		return nil, nil
	}
	return e.ask(ctx, e.rules.endorsement, "chaincode")
}

func (e *evaluation) checkKey(ctx context.Context, key stateKey) (*wire.Fault, error) {
	for _, writer := range e.writers[key] {
		if writer >= e.tx {
			break
		}
		if e.passed[writer][e.namespace] {
			return newFault(peerpb.TxValidationCode_ENDORSEMENT_POLICY_FAILURE,
				"transaction %d of the block changes the policy of key %q", writer, key.key), nil
		}
	}
	var metadata map[string][]byte
	var err error
	if key.collection == "" {
		metadata, err = e.state.GetMetadata(key.namespace, key.key)
	} else {
		metadata, err = e.state.PrivateMetadataByKeyHash(key.namespace, key.collection, []byte(key.key))
	}
	if err != nil {
		return nil, fmt.Errorf("policy of key %q: %w", key.key, err)
	}
	if own := metadata[peerpb.MetaDataKeys_VALIDATION_PARAMETER.String()]; len(own) > 0 {
		return e.checkOwn(ctx, key, own)
	}
	return e.checkShared(ctx, key.collection)
}

// checkOwn asks a key's own policy. Fabric stops the channel at one that does not
// parse; here it denies.
func (e *evaluation) checkOwn(ctx context.Context, key stateKey, parameter []byte) (*wire.Fault, error) {
	env := &commonpb.SignaturePolicyEnvelope{}
	if err := proto.Unmarshal(parameter, env); err != nil {
		return newFault(peerpb.TxValidationCode_ENDORSEMENT_POLICY_FAILURE, "the policy of key %q does not parse", key.key), nil
	}
	own, err := settle(e.engine.Signature(e.config.MSPs, env))
	if err != nil {
		return nil, err
	}
	f, err := e.ask(ctx, own, "key")
	e.anyAsked = true
	return f, err
}

// checkShared asks the policy of a collection, or of the chaincode for public keys.
func (e *evaluation) checkShared(ctx context.Context, collection string) (*wire.Fault, error) {
	if collection == "" {
		if e.chaincodeAsked {
			return nil, nil
		}
		e.chaincodeAsked, e.anyAsked = true, true
		return e.ask(ctx, e.rules.endorsement, "chaincode")
	}
	if e.collectionAsked[collection] {
		return nil, nil
	}
	if e.collectionAsked == nil {
		e.collectionAsked = map[string]bool{}
	}
	e.collectionAsked[collection], e.anyAsked = true, true
	c, err := e.collection(e.rules, collection)
	if err != nil {
		return nil, err
	}
	return e.ask(ctx, c, "collection "+collection)
}

func (e *evaluation) ask(ctx context.Context, c compiled, of string) (*wire.Fault, error) {
	if c.policy == nil {
		return newFault(peerpb.TxValidationCode_ENDORSEMENT_POLICY_FAILURE, "policy of %s: %s", of, c.broken), nil
	}
	decision, err := c.policy.Evaluate(ctx, e.signers)
	if err != nil {
		return nil, fmt.Errorf("policy of %s: %w", of, err)
	}
	if !decision.Allowed {
		return newFault(peerpb.TxValidationCode_ENDORSEMENT_POLICY_FAILURE, "policy of %s: %s", of, decision.Reason), nil
	}
	return nil, nil
}
