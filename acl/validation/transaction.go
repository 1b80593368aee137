package validation

import (
	"context"
	_ "embed"
	"errors"

	"github.com/open-policy-agent/opa/v1/ast"
	"google.golang.org/protobuf/proto"

	"strongroom/acl"
	"strongroom/acl/endorsement"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/wire"
	"strongroom/wire/peerpb"
)

// InputSchema is the JSON Schema of the input that the rules see.
//
//go:embed input.schema.json
var InputSchema []byte

// Transaction is what a verdict is about: a transaction whose creator and endorsers
// were verified. Nothing may change it during a verdict.
type Transaction struct {
	ChannelID string
	Namespace string // of the chaincode whose rules are asked
	TxID      string
	Endorsed  *wire.Endorsed
	Creator   *msp.Identity
	Endorsers []*msp.Identity // each once, in the order of their signatures
}

// Judge asks the rules. An error says that this node could not decide.
func (r *Rules) Judge(ctx context.Context, t *Transaction) (policy.LedgerVerdict, error) {
	if t.Creator == nil || t.Endorsed == nil || t.Endorsed.ReadWriteSet == nil {
		return policy.LedgerVerdict{}, errors.New("validation rules: the transaction has no creator or no results")
	}
	in, err := input(t)
	if err != nil { // what the transaction holds cannot be shown: every peer finds that
		return policy.LedgerVerdict{Reasons: []string{err.Error()}}, nil
	}
	return r.program.Judge(ctx, in)
}

// unseen are fields of the endorsement guard's input that nobody knows at commit: they
// are not in a block.
var unseen = map[string]bool{"transient": true, "private_writes": true, "private_metadata_writes": true}

func input(t *Transaction) (ast.Value, error) {
	args, err := arguments(t.Endorsed.ProposalPayload)
	if err != nil {
		return nil, err
	}
	all, err := endorsement.Document(&endorsement.Proposal{
		ChannelID: t.ChannelID, TxID: t.TxID, Chaincode: t.Endorsed.ChaincodeID.GetName(), Version: t.Endorsed.Action.GetChaincodeId().GetVersion(),
		Args: args, Caller: t.Creator, Response: t.Endorsed.Action.GetResponse(), Event: t.Endorsed.Event, Set: t.Endorsed.ReadWriteSet,
	})
	if err != nil {
		return nil, err
	}
	endorsers := make([]*ast.Term, len(t.Endorsers))
	for i, e := range t.Endorsers {
		if endorsers[i], err = acl.CallerTerm(e); err != nil {
			return nil, err
		}
	}
	out := ast.NewObject(
		[2]*ast.Term{ast.StringTerm("namespace"), ast.StringTerm(t.Namespace)},
		[2]*ast.Term{ast.StringTerm("endorsers"), ast.ArrayTerm(endorsers...)},
	)
	all.Foreach(func(k, v *ast.Term) {
		if name, ok := k.Value.(ast.String); !ok || !unseen[string(name)] {
			out.Insert(k, v)
		}
	})
	return out, nil
}

// arguments reads those of the proposal out of what the transaction keeps of it.
func arguments(payload []byte) ([][]byte, error) {
	p, spec := &peerpb.ChaincodeProposalPayload{}, &peerpb.ChaincodeInvocationSpec{}
	if proto.Unmarshal(payload, p) != nil || proto.Unmarshal(p.GetInput(), spec) != nil {
		return nil, errors.New("the transaction's proposal does not parse")
	}
	return spec.GetChaincodeSpec().GetInput().GetArgs(), nil
}
