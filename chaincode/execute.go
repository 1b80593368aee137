package chaincode

import (
	"context"
	"errors"
	"fmt"
	"time"

	"strongroom/wire/peerpb"

	"google.golang.org/protobuf/proto"
)

// transaction is one call in progress on one link. The goroutine that called
// Execute owns it, apart from inbox and flooded, which the link writes to, and
// abandoned, which the link's mutex guards.
type transaction struct {
	*Invocation
	host    *Host
	link    *link
	key     txKey
	inbox   chan *peerpb.ChaincodeMessage
	flooded chan struct{} // one place: the inbox was full

	sent      bool // the chaincode may know of it
	answered  bool // COMPLETED or ERROR came
	abandoned bool

	written *int // bytes written so far by the whole proposal, nested calls included
	queries map[string]*query
	nextID  int // of queries
}

// Execute runs one call and returns what the chaincode answered, with any
// status. It returns an error that wraps one of this package's when there is no
// answer; then the State must not be used for an endorsement. It may be called
// from many goroutines, also for the same chaincode.
func (h *Host) Execute(ctx context.Context, inv Invocation) (*Outcome, error) {
	begin := time.Now()
	out, err := h.execute(ctx, &inv)
	if h.cfg.Observe != nil {
		h.cfg.Observe(inv.PackageID, time.Since(begin), err)
	}
	return out, err
}

func (h *Host) execute(ctx context.Context, inv *Invocation) (*Outcome, error) {
	switch {
	case h.ctx.Err() != nil:
		return nil, ErrClosed
	case inv.TxID == "":
		return nil, errors.New("execute chaincode: transaction id is empty")
	case inv.Namespace == "":
		return nil, errors.New("execute chaincode: chaincode name is empty")
	case inv.State == nil:
		return nil, errors.New("execute chaincode: there is no state to simulate on")
	}
	timeout := inv.Timeout
	if timeout <= 0 {
		timeout = h.cfg.ExecuteTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w (limit %s)", ErrTimeout, timeout))
	defer cancel()
	var written int
	m, err := h.call(ctx, inv, &written)
	if err != nil {
		return nil, err
	}
	if m.Type == peerpb.ChaincodeMessage_ERROR {
		return nil, fmt.Errorf("%w: %s", ErrFailed, m.Payload)
	}
	out := &Outcome{Response: new(peerpb.Response), Event: m.ChaincodeEvent}
	if err := proto.Unmarshal(m.Payload, out.Response); err != nil {
		return nil, fmt.Errorf("%w: chaincode %q: COMPLETED does not hold a Response", ErrProtocol, inv.Namespace)
	}
	if out.Event != nil { // what the chaincode says of itself is not believed
		out.Event.ChaincodeId, out.Event.TxId = inv.Namespace, inv.TxID
	}
	return out, nil
}

// call runs one chaincode and returns its COMPLETED or ERROR message.
func (h *Host) call(ctx context.Context, inv *Invocation, written *int) (*peerpb.ChaincodeMessage, error) {
	l, err := h.connected(ctx, inv)
	if err != nil {
		return nil, err
	}
	first, err := h.firstMessage(inv)
	if err != nil {
		return nil, err
	}
	tx := &transaction{
		Invocation: inv, host: h, link: l, key: txKey{inv.ChannelID, inv.TxID}, written: written,
		inbox: make(chan *peerpb.ChaincodeMessage, inboxMessages), flooded: make(chan struct{}, 1),
	}
	if err := l.begin(tx); err != nil {
		return nil, tx.explain(err)
	}
	defer l.end(tx)
	defer tx.closeQueries()
	if err := l.send(ctx, first); err != nil {
		return nil, tx.explain(err)
	}
	tx.sent = true
	m, err := tx.converse(ctx)
	if err != nil {
		return nil, tx.explain(err)
	}
	return m, nil
}

// firstMessage is what starts the call: INIT or TRANSACTION.
func (h *Host) firstMessage(inv *Invocation) (*peerpb.ChaincodeMessage, error) {
	payload, err := proto.Marshal(inv.Input)
	if err != nil {
		return nil, fmt.Errorf("chaincode %q: arguments: %w", inv.Namespace, err)
	}
	m := &peerpb.ChaincodeMessage{Type: peerpb.ChaincodeMessage_TRANSACTION, Payload: payload, Txid: inv.TxID, ChannelId: inv.ChannelID, Proposal: inv.Proposal}
	if inv.IsInit {
		m.Type = peerpb.ChaincodeMessage_INIT
	}
	if n := proto.Size(m); n > h.cfg.MaxMessageBytes {
		return nil, fmt.Errorf("chaincode %q: the proposal makes a message of %d bytes; at most %d are allowed: send less", inv.Namespace, n, h.cfg.MaxMessageBytes)
	}
	return m, nil
}

// converse serves the chaincode's requests until it answers.
func (tx *transaction) converse(ctx context.Context) (*peerpb.ChaincodeMessage, error) {
	for {
		var m *peerpb.ChaincodeMessage
		select {
		case m = <-tx.inbox:
		case <-tx.flooded:
			return nil, fmt.Errorf("%w: it sent requests without waiting for the answers", ErrProtocol)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-tx.link.done:
			// The answer may have come just before the end.
			for {
				select {
				case m = <-tx.inbox:
					if isResult(m) {
						tx.answered = true
						return m, nil
					}
					continue
				default:
				}
				tx.answered = true // the place is of no use any more
				return nil, fmt.Errorf("%w: chaincode stream terminated: %w", ErrConnectionLost, tx.link.reason())
			}
		}
		if isResult(m) {
			tx.answered = true
			return m, nil
		}
		answer, err := tx.serve(ctx, m)
		if err != nil {
			return nil, err
		}
		if err := tx.link.send(ctx, answer); err != nil {
			return nil, err
		}
	}
}

// serve handles one request. What is wrong with the request is told to the
// chaincode; an error ends the transaction.
func (tx *transaction) serve(ctx context.Context, m *peerpb.ChaincodeMessage) (*peerpb.ChaincodeMessage, error) {
	handle, ok := requests[m.Type]
	if !ok {
		return nil, fmt.Errorf("%w: message %s is not a request that a chaincode may send", ErrProtocol, m.Type)
	}
	payload, err := handle(tx, ctx, m.Payload)
	if ended := ctx.Err(); ended != nil {
		return nil, context.Cause(ctx)
	}
	if err == nil && len(payload)+len(m.Txid)+len(m.ChannelId)+64 > tx.host.cfg.MaxMessageBytes {
		err = fmt.Errorf("the answer has %d bytes and does not fit into a message of %d; ask for less, with pagination", len(payload), tx.host.cfg.MaxMessageBytes)
	}
	if err != nil {
		return refusal(m, err), nil
	}
	return &peerpb.ChaincodeMessage{Type: peerpb.ChaincodeMessage_RESPONSE, Payload: payload, Txid: m.Txid, ChannelId: m.ChannelId}, nil
}

// explain names the chaincode and where it runs.
func (tx *transaction) explain(err error) error {
	return fmt.Errorf("chaincode %q (package %q at %s), transaction %q: %w", tx.Namespace, tx.PackageID, tx.link.address, tx.TxID, err)
}
