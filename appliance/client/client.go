package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"strongroom/msp"
	"strongroom/wire/commonpb"
	"strongroom/wire/gatewaypb"
	"strongroom/wire/lifecyclepb"
	"strongroom/wire/peerpb"
)

// Client asks one peer in one identity's name. It is safe for concurrent use.
type Client struct {
	id       *msp.LocalIdentity
	endorser peerpb.EndorserClient
	gateway  gatewaypb.GatewayClient
}

// New binds an identity to a connection.
func New(id *msp.LocalIdentity, conn grpc.ClientConnInterface) *Client {
	return &Client{id: id, endorser: peerpb.NewEndorserClient(conn), gateway: gatewaypb.NewGatewayClient(conn)}
}

// Call asks a chaincode of the peer and returns the payload of its response; the
// result is not submitted.
func (c *Client) Call(ctx context.Context, inv Invocation) ([]byte, error) {
	proposal, _, err := Propose(ctx, c.id, inv)
	if err != nil {
		return nil, err
	}
	response, err := c.endorser.ProcessProposal(ctx, proposal)
	if err != nil {
		return nil, explain(inv, err)
	}
	if status := response.GetResponse().GetStatus(); status != int32(commonpb.Status_SUCCESS) {
		return nil, fmt.Errorf("%s: status %d: %s", inv, status, response.GetResponse().GetMessage())
	}
	return response.GetResponse().GetPayload(), nil
}

// String names the invocation for errors, without its arguments.
func (i Invocation) String() string {
	name := i.Chaincode
	if len(i.Args) > 0 {
		name += "." + string(i.Args[0])
	}
	if i.Channel != "" {
		name += " on channel " + i.Channel
	}
	return name
}

// Evaluate runs a query through the Gateway service.
func (c *Client) Evaluate(ctx context.Context, inv Invocation) ([]byte, error) {
	proposal, txID, err := Propose(ctx, c.id, inv)
	if err != nil {
		return nil, err
	}
	response, err := c.gateway.Evaluate(ctx, &gatewaypb.EvaluateRequest{
		TransactionId: txID, ChannelId: inv.Channel, ProposedTransaction: proposal,
	})
	if err != nil {
		return nil, explain(inv, err)
	}
	return response.GetResult().GetPayload(), nil
}

// Committed is the outcome of a submitted transaction.
type Committed struct {
	TxID   string                  `json:"txId"`
	Block  uint64                  `json:"block"`
	Code   peerpb.TxValidationCode `json:"-"`
	Result []byte                  `json:"-"`
}

// ErrNotValid is the error for a transaction that was committed as invalid.
var ErrNotValid = errors.New("the transaction is not valid")

// Submit runs a transaction through the Gateway service: endorsed, signed, ordered
// and awaited. Organizations narrows who endorses; empty lets the peer choose.
func (c *Client) Submit(ctx context.Context, inv Invocation, organizations ...string) (*Committed, error) {
	proposal, txID, err := Propose(ctx, c.id, inv)
	if err != nil {
		return nil, err
	}
	endorsed, err := c.gateway.Endorse(ctx, &gatewaypb.EndorseRequest{
		TransactionId: txID, ChannelId: inv.Channel, ProposedTransaction: proposal, EndorsingOrganizations: organizations,
	})
	if err != nil {
		return nil, explain(inv, err)
	}
	envelope := endorsed.GetPreparedTransaction()
	if envelope.Signature, err = c.id.SignPayload(ctx, envelope.GetPayload()); err != nil {
		return nil, fmt.Errorf("sign transaction: %w", err)
	}
	result, err := responseOf(envelope)
	if err != nil {
		return nil, err
	}
	if _, err := c.gateway.Submit(ctx, &gatewaypb.SubmitRequest{TransactionId: txID, ChannelId: inv.Channel, PreparedTransaction: envelope}); err != nil {
		return nil, explain(inv, err)
	}
	outcome := &Committed{TxID: txID, Result: result}
	if outcome.Code, outcome.Block, err = c.CommitStatus(ctx, inv.Channel, txID); err != nil {
		return nil, err
	}
	if outcome.Code != peerpb.TxValidationCode_VALID {
		return outcome, fmt.Errorf("%s: transaction %s in block %d has code %s: %w", inv, txID, outcome.Block, outcome.Code, ErrNotValid)
	}
	return outcome, nil
}

// CommitStatus waits until a transaction is committed.
func (c *Client) CommitStatus(ctx context.Context, channel, txID string) (peerpb.TxValidationCode, uint64, error) {
	request, err := proto.Marshal(&gatewaypb.CommitStatusRequest{TransactionId: txID, ChannelId: channel, Identity: c.id.Serialized})
	if err != nil {
		return 0, 0, err
	}
	signature, err := c.id.SignGatewayRequest(ctx, request)
	if err != nil {
		return 0, 0, fmt.Errorf("sign commit status request: %w", err)
	}
	response, err := c.gateway.CommitStatus(ctx, &gatewaypb.SignedCommitStatusRequest{Request: request, Signature: signature})
	if err != nil {
		return 0, 0, fmt.Errorf("commit status of %s: %w", txID, err)
	}
	return response.GetResult(), response.GetBlockNumber(), nil
}

// Events follows a chaincode's events from a block on, until ctx ends or emit fails.
func (c *Client) Events(ctx context.Context, request *gatewaypb.ChaincodeEventsRequest, emit func(*gatewaypb.ChaincodeEventsResponse) error) error {
	request.Identity = c.id.Serialized
	bytes, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	signature, err := c.id.SignGatewayRequest(ctx, bytes)
	if err != nil {
		return fmt.Errorf("sign chaincode events request: %w", err)
	}
	stream, err := c.gateway.ChaincodeEvents(ctx, &gatewaypb.SignedChaincodeEventsRequest{Request: bytes, Signature: signature})
	if err != nil {
		return err
	}
	for {
		events, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := emit(events); err != nil {
			return err
		}
	}
}

// System asks a system chaincode with messages as argument and, if into is not nil,
// as result.
func (c *Client) System(ctx context.Context, channel, chaincode, function string, argument, into proto.Message) error {
	inv, err := systemInvocation(channel, chaincode, function, argument)
	if err != nil {
		return err
	}
	payload, err := c.Call(ctx, inv)
	if err != nil || into == nil {
		return err
	}
	if err := proto.Unmarshal(payload, into); err != nil {
		return fmt.Errorf("%s: read response: %w", inv, err)
	}
	return nil
}

// SubmitSystem submits a transaction of a system chaincode.
func (c *Client) SubmitSystem(ctx context.Context, channel, chaincode, function string, argument proto.Message, organizations ...string) (*Committed, error) {
	inv, err := systemInvocation(channel, chaincode, function, argument)
	if err != nil {
		return nil, err
	}
	return c.Submit(ctx, inv, organizations...)
}

func systemInvocation(channel, chaincode, function string, argument proto.Message) (Invocation, error) {
	inv := Invocation{Channel: channel, Chaincode: chaincode, Args: [][]byte{[]byte(function)}}
	if argument != nil {
		bytes, err := proto.Marshal(argument)
		if err != nil {
			return inv, err
		}
		inv.Args = append(inv.Args, bytes)
	}
	return inv, nil
}

// Install sends a chaincode package to the peer and returns its package id.
func (c *Client) Install(ctx context.Context, packageBytes []byte) (string, error) {
	result := &lifecyclepb.InstallChaincodeResult{}
	err := c.System(ctx, "", "_lifecycle", "InstallChaincode", &lifecyclepb.InstallChaincodeArgs{ChaincodeInstallPackage: packageBytes}, result)
	return result.GetPackageId(), err
}

// Join makes the peer join the channel of a genesis block.
func (c *Client) Join(ctx context.Context, genesis []byte) error {
	_, err := c.Call(ctx, Invocation{Chaincode: "cscc", Args: [][]byte{[]byte("JoinChain"), genesis}})
	return err
}

// Query asks qscc or cscc with string arguments and decodes the payload.
func (c *Client) Query(ctx context.Context, channel, chaincode, function string, into proto.Message, args ...string) error {
	inv := Invocation{Channel: channel, Chaincode: chaincode, Args: [][]byte{[]byte(function)}}
	for _, a := range args {
		inv.Args = append(inv.Args, []byte(a))
	}
	payload, err := c.Call(ctx, inv)
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(payload, into); err != nil {
		return fmt.Errorf("%s: read response: %w", inv, err)
	}
	return nil
}

// explain puts what endorsers said, which travels in a status' details, into an
// error for people.
func explain(inv Invocation, err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("%s: %w", inv, err)
	}
	var said []string
	for _, d := range st.Details() {
		if detail, ok := d.(*gatewaypb.ErrorDetail); ok {
			said = append(said, fmt.Sprintf("%s (%s): %s", detail.GetAddress(), detail.GetMspId(), detail.GetMessage()))
		}
	}
	if len(said) == 0 {
		return fmt.Errorf("%s: %w", inv, err)
	}
	return fmt.Errorf("%s: %w: %s", inv, err, strings.Join(said, "; "))
}

// responseOf reads the chaincode's answer out of a prepared transaction.
func responseOf(envelope *commonpb.Envelope) ([]byte, error) {
	payload := &commonpb.Payload{}
	tx := &peerpb.Transaction{}
	action := &peerpb.ChaincodeActionPayload{}
	response := &peerpb.ProposalResponsePayload{}
	result := &peerpb.ChaincodeAction{}
	err := errors.Join(
		proto.Unmarshal(envelope.GetPayload(), payload),
		proto.Unmarshal(payload.GetData(), tx),
	)
	if err != nil || len(tx.GetActions()) != 1 {
		return nil, fmt.Errorf("the peer prepared a transaction that does not parse: %w", err)
	}
	err = errors.Join(
		proto.Unmarshal(tx.GetActions()[0].GetPayload(), action),
		proto.Unmarshal(action.GetAction().GetProposalResponsePayload(), response),
		proto.Unmarshal(response.GetExtension(), result),
	)
	if err != nil {
		return nil, fmt.Errorf("the peer prepared a transaction that does not parse: %w", err)
	}
	return result.GetResponse().GetPayload(), nil
}

// MSPID is the organisation in whose name this client asks.
func (c *Client) MSPID() string { return string(c.id.MSPID) }
