package appliance

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"strongroom/acl/endorsement"
	"strongroom/appliance/config"
	"strongroom/appliance/endorser"
	"strongroom/appliance/rpcerr"
)

// vetoes asks the team's endorsement guard on the endorser's behalf.
type vetoes struct{ guard *endorsement.Guard }

// MayEndorse turns a refusal into one whose text the endorser hands to the client.
func (v vetoes) MayEndorse(ctx context.Context, r *endorser.Result) error {
	err := v.guard.Check(ctx, &endorsement.Proposal{
		ChannelID: r.ChannelID, TxID: r.TxID, Chaincode: r.Chaincode.GetName(), Version: r.Chaincode.GetVersion(),
		Args: r.Args, Transient: r.Transient, Caller: r.Creator, Response: r.Response, Event: r.Event,
		Set: r.ReadWriteSet, Private: r.Private, RemoteAddr: r.RemoteAddr,
	})
	var refused *endorsement.RefusedError
	if !errors.As(err, &refused) {
		return err
	}
	out := &rpcerr.Refusal{Public: "decision " + refused.Decision, Cause: errors.New(strings.Join(refused.Reasons, "; "))}
	if len(refused.Public) > 0 {
		out.Public, out.Decision = strings.Join(refused.Public, "; "), refused.Decision
	}
	return out
}

// newVetoes makes the endorsement guard of a peer, with the rules of its file if the
// configuration names one.
func (n *node) newVetoes(ctx context.Context, p config.Policy) (*endorsement.Guard, error) {
	g, err := endorsement.New(endorsement.Config{Engine: n.engine, Logger: n.log, Observe: n.metrics.Decision, Decisions: n.sink()})
	if err != nil {
		return nil, err
	}
	if p.Guard != "" {
		if err := g.Load(ctx, p.Guard); err != nil {
			return nil, fmt.Errorf("policy.guard: %w", err)
		}
	}
	return g, nil
}
