package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/gatewaypb"
	"strongroom/wire/peerpb"
)

// client sends one user's work over one connection. It is safe for concurrent use.
type client struct {
	user               *user
	channel, chaincode string
	endorser           peerpb.EndorserClient
	gateway            gatewaypb.GatewayClient
	follower           *follower // nil: each commit is asked for
}

func newClient(t *target, u *user, conn grpc.ClientConnInterface) *client {
	return &client{user: u, channel: t.Channel, chaincode: t.Chaincode,
		endorser: peerpb.NewEndorserClient(conn), gateway: gatewaypb.NewGatewayClient(conn)}
}

// outcome is what became of a piece of work: OK, or the name of a gRPC code, of a
// chaincode's status or of a validation code.
type outcome struct {
	name string // "OK" for success
	said string // what the peer said otherwise
}

var ok = outcome{name: "OK"}

// laps are the times of a submission's steps; zero where a step was not reached.
type laps struct{ endorse, submit, commit time.Duration }

func (c *client) propose(args []string) (*peerpb.SignedProposal, string, error) {
	nonce, err := newNonce()
	if err != nil {
		return nil, "", err
	}
	txID := wire.TxID(nonce, c.user.creator)
	id := &peerpb.ChaincodeID{Name: c.chaincode}
	input := &peerpb.ChaincodeInput{}
	for _, a := range args {
		input.Args = append(input.Args, []byte(a))
	}
	var m marshaler
	header := m.bytes(&commonpb.Header{
		ChannelHeader: m.bytes(&commonpb.ChannelHeader{
			Type: int32(commonpb.HeaderType_ENDORSER_TRANSACTION), Timestamp: timestamppb.Now(), ChannelId: c.channel, TxId: txID,
			Extension: m.bytes(&peerpb.ChaincodeHeaderExtension{ChaincodeId: id}),
		}),
		SignatureHeader: m.bytes(&commonpb.SignatureHeader{Creator: c.user.creator, Nonce: nonce}),
	})
	payload := m.bytes(&peerpb.ChaincodeProposalPayload{Input: m.bytes(&peerpb.ChaincodeInvocationSpec{
		ChaincodeSpec: &peerpb.ChaincodeSpec{Type: peerpb.ChaincodeSpec_GOLANG, ChaincodeId: id, Input: input},
	})})
	proposal := m.bytes(&peerpb.Proposal{Header: header, Payload: payload})
	if m.err != nil {
		return nil, "", m.err
	}
	signature, err := c.user.sign(proposal)
	return &peerpb.SignedProposal{ProposalBytes: proposal, Signature: signature}, txID, err
}

func newNonce() ([]byte, error) {
	nonce := make([]byte, 24) // as Fabric's clients
	_, err := rand.Read(nonce)
	return nonce, err
}

// header is that of a message without transaction id.
func (u *user) header(kind commonpb.HeaderType, channel string) (*commonpb.Header, error) {
	nonce, err := newNonce()
	var m marshaler
	h := &commonpb.Header{
		ChannelHeader:   m.bytes(&commonpb.ChannelHeader{Type: int32(kind), Timestamp: timestamppb.Now(), ChannelId: channel}),
		SignatureHeader: m.bytes(&commonpb.SignatureHeader{Creator: u.creator, Nonce: nonce}),
	}
	return h, errors.Join(err, m.err)
}

// marshaler keeps the first error.
type marshaler struct{ err error }

func (m *marshaler) bytes(msg proto.Message) []byte {
	b, err := proto.Marshal(msg)
	if m.err == nil {
		m.err = err
	}
	return b
}

// endorse has the peer's Endorser service simulate and endorse.
func (c *client) endorse(ctx context.Context, args []string) (outcome, error) {
	proposal, _, err := c.propose(args)
	if err != nil {
		return outcome{}, err
	}
	response, err := c.endorser.ProcessProposal(ctx, proposal)
	if err != nil {
		return refused(err), nil
	}
	if s := response.GetResponse().GetStatus(); s != int32(commonpb.Status_SUCCESS) {
		return outcome{fmt.Sprintf("chaincode status %d", s), response.GetResponse().GetMessage()}, nil
	}
	return ok, nil
}

// evaluate has the peer's Gateway service run a query.
func (c *client) evaluate(ctx context.Context, args []string) (outcome, error) {
	proposal, txID, err := c.propose(args)
	if err != nil {
		return outcome{}, err
	}
	_, err = c.gateway.Evaluate(ctx, &gatewaypb.EvaluateRequest{TransactionId: txID, ChannelId: c.channel, ProposedTransaction: proposal})
	if err != nil {
		return refused(err), nil
	}
	return ok, nil
}

// submit has the peer's Gateway service collect endorsements, signs the transaction,
// and submits it. Done is called once with what became of it when the peer has
// committed it: before submit returns, or by the follower if there is one.
func (c *client) submit(ctx context.Context, args []string, done func(outcome, laps)) error {
	var l laps
	began := time.Now()
	proposal, txID, err := c.propose(args)
	if err != nil {
		return err
	}
	endorsed, err := c.gateway.Endorse(ctx, &gatewaypb.EndorseRequest{TransactionId: txID, ChannelId: c.channel, ProposedTransaction: proposal})
	if err != nil {
		done(refused(err), l)
		return nil
	}
	l.endorse = time.Since(began)
	envelope := endorsed.GetPreparedTransaction()
	if envelope.Signature, err = c.user.sign(envelope.GetPayload()); err != nil {
		return err
	}
	if c.follower != nil {
		// Its step of ordering is not known here: the commit may be seen first.
		if err := c.follower.expect(txID, func(o outcome) { done(o, laps{}) }); err != nil {
			return err
		}
	}
	if _, err = c.gateway.Submit(ctx, &gatewaypb.SubmitRequest{TransactionId: txID, ChannelId: c.channel, PreparedTransaction: envelope}); err != nil {
		if c.follower != nil {
			c.follower.forget(txID)
		}
		done(refused(err), l)
		return nil
	}
	if c.follower != nil {
		return nil
	}
	l.submit = time.Since(began) - l.endorse
	o, err := c.committed(ctx, txID)
	if err != nil {
		return err
	}
	l.commit = time.Since(began) - l.endorse - l.submit
	done(o, l)
	return nil
}

// committed waits for a commit.
func (c *client) committed(ctx context.Context, txID string) (outcome, error) {
	request, err := proto.Marshal(&gatewaypb.CommitStatusRequest{TransactionId: txID, ChannelId: c.channel, Identity: c.user.creator})
	if err != nil {
		return outcome{}, err
	}
	signature, err := c.user.sign(request)
	if err != nil {
		return outcome{}, err
	}
	status, err := c.gateway.CommitStatus(ctx, &gatewaypb.SignedCommitStatusRequest{Request: request, Signature: signature})
	if err != nil {
		return refused(err), nil
	}
	if code := status.GetResult(); code != peerpb.TxValidationCode_VALID {
		return outcome{"committed as " + code.String(), ""}, nil
	}
	return ok, nil
}
