package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"strongroom/appliance/client"
	"strongroom/channel/configtx"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// ask asks a peer for the height of its ledger (qscc GetChainInfo, which readers of
// the channel may ask) and returns what is known of it now.
func (d *Directory) ask(ctx context.Context, cfg *configtx.Config, p *Peer) *Peer {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	now := *p
	identity, height, err := d.chainInfo(ctx, cfg, p)
	now.Failure = err
	if err == nil {
		now.Identity, now.Height, now.Answered = identity, height, d.cfg.Now()
	}
	if (err == nil) != (p.Failure == nil && !p.Answered.IsZero()) {
		if err != nil {
			d.cfg.Logger.Warn("a peer does not answer", "channel", cfg.ID, "msp", string(p.MSPID), "address", p.Address, "error", err)
		} else {
			d.cfg.Logger.Info("a peer answers", "channel", cfg.ID, "msp", string(p.MSPID), "address", p.Address, "height", height)
		}
	}
	return &now
}

// chainInfo returns who answered, proven by a signature that the token checked, and
// the height of its ledger.
func (d *Directory) chainInfo(ctx context.Context, cfg *configtx.Config, p *Peer) ([]byte, uint64, error) {
	signed, _, err := client.Propose(ctx, d.cfg.Identity(), client.Invocation{
		Channel: cfg.ID, Chaincode: "qscc", Args: [][]byte{[]byte("GetChainInfo"), []byte(cfg.ID)},
	})
	if err != nil {
		return nil, 0, err
	}
	asked, err := wire.ParseSignedProposal(signed)
	if err != nil {
		return nil, 0, err
	}
	resp, err := p.Client.ProcessProposal(ctx, signed)
	if err != nil {
		return nil, 0, err
	}
	if st := resp.GetResponse().GetStatus(); st != 200 {
		return nil, 0, fmt.Errorf("the peer answers with status %d: %.200q", st, resp.GetResponse().GetMessage())
	}
	serialized := resp.GetEndorsement().GetEndorser()
	id, err := cfg.Identity(ctx, serialized)
	if err != nil {
		return nil, 0, fmt.Errorf("who answers: %w", err)
	}
	if id.MSPID != p.MSPID {
		return nil, 0, fmt.Errorf("the peer is of %s: the configuration says %s", id.MSPID, p.MSPID)
	}
	if err := id.Verify(ctx, append(bytes.Clone(resp.GetPayload()), serialized...), resp.GetEndorsement().GetSignature()); err != nil {
		return nil, 0, fmt.Errorf("signature of the answer: %w", err)
	}
	payload, action, info := &peerpb.ProposalResponsePayload{}, &peerpb.ChaincodeAction{}, &commonpb.BlockchainInfo{}
	if err := errors.Join(proto.Unmarshal(resp.GetPayload(), payload), proto.Unmarshal(payload.GetExtension(), action),
		proto.Unmarshal(action.GetResponse().GetPayload(), info)); err != nil {
		return nil, 0, fmt.Errorf("the answer does not parse: %w", err)
	}
	if !bytes.Equal(payload.GetProposalHash(), asked.Hash) {
		return nil, 0, errors.New("the answer is to another question")
	}
	return serialized, info.GetHeight(), nil
}
