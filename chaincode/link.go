package chaincode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"strongroom/wire/peerpb"

	"google.golang.org/protobuf/proto"
)

const (
	// outboxMessages is how many messages may wait to be sent on a link.
	outboxMessages = 64
	// inboxMessages is how many messages of one transaction may wait. The
	// protocol is one request at a time, and then the result.
	inboxMessages = 4
	// maxAbandoned bounds transactions that the host gave up and the chaincode
	// never answered; with more, the connection is made anew.
	maxAbandoned = 1024
	// maxBatch is how many records chaincode may put into one
	// WRITE_BATCH_STATE or GET_STATE_MULTIPLE, as told in READY.
	maxBatch = 1000
)

// readyPayload tells a shim that knows about it what this peer can do.
var readyPayload = func() []byte {
	b, err := proto.Marshal(&peerpb.ChaincodeAdditionalParams{
		UseWriteBatch: true, MaxSizeWriteBatch: maxBatch,
		UseGetMultipleKeys: true, MaxSizeGetMultipleKeys: maxBatch,
	})
	if err != nil {
		panic(err) // a message of ours with four numbers
	}
	return b
}()

// stream is what the two ways to connect have in common.
type stream interface {
	Send(*peerpb.ChaincodeMessage) error
	Recv() (*peerpb.ChaincodeMessage, error)
}

// txKey identifies a transaction on a link.
type txKey struct{ channel, tx string }

// link is one connected chaincode process. One goroutine receives, one sends;
// the goroutines that execute transactions wait for neither: they hand messages
// over through bounded queues.
type link struct {
	host    *Host
	address string
	out     chan *peerpb.ChaincodeMessage
	done    chan struct{} // closed when the link has failed
	ready   atomic.Bool   // REGISTERED and READY are on their way
	heard   atomic.Int64  // unix nanoseconds of the last message received
	onReady func()        // called once by the receiving goroutine; may be nil

	mu        sync.Mutex // guards what follows
	id        string     // the name it registered with
	err       error      // why the link failed
	txs       map[txKey]*transaction
	abandoned int // entries of txs that nobody waits for
}

func newLink(h *Host, address string) *link {
	return &link{host: h, address: address, out: make(chan *peerpb.ChaincodeMessage, outboxMessages), done: make(chan struct{}), txs: make(map[txKey]*transaction)}
}

// fail ends the link once; later reasons are dropped.
func (l *link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
		close(l.done)
	}
}

func (l *link) failUnlessReady(err error) {
	if !l.ready.Load() {
		l.fail(err)
	}
}

func (l *link) isReady() bool { return l.ready.Load() }

func (l *link) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// name is what the chaincode registered as, "" before it did.
func (l *link) name() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id
}

func (l *link) inFlight() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.txs) - l.abandoned
}

// run serves the stream until it ends and returns why. admit decides on the name
// of REGISTER. The caller cancels the stream afterwards, which ends the
// receiving goroutine.
func (l *link) run(s stream, admit func(id string) error) error {
	go func() { l.fail(l.receive(s, admit)) }()
	l.heard.Store(time.Now().UnixNano())
	var tick <-chan time.Time
	if l.host.cfg.Keepalive > 0 {
		t := time.NewTicker(l.host.cfg.Keepalive)
		defer t.Stop()
		tick = t.C
	}
	sent := make(chan struct{})
	go func() { // sends, so that a chaincode that reads nothing holds up only this goroutine
		defer close(sent)
		for {
			select {
			case m := <-l.out:
				if err := s.Send(m); err != nil {
					if !errors.Is(err, io.EOF) { // io.EOF: Recv knows the reason
						l.fail(fmt.Errorf("send: %w", plain(err)))
					}
					return
				}
			case <-l.done:
				return
			}
		}
	}()
	for {
		select {
		case <-l.done:
			return l.reason()
		case <-tick:
			silent := time.Since(time.Unix(0, l.heard.Load()))
			if silent > 2*l.host.cfg.Keepalive {
				l.fail(fmt.Errorf("no answer to KEEPALIVE for %s", silent.Round(time.Second)))
			} else if l.ready.Load() && silent >= l.host.cfg.Keepalive/2 {
				l.offer(&peerpb.ChaincodeMessage{Type: peerpb.ChaincodeMessage_KEEPALIVE})
			}
		}
	}
}

// receive reads messages until the stream ends.
func (l *link) receive(s stream, admit func(id string) error) error {
	for {
		m, err := s.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("the chaincode closed the connection")
			}
			return fmt.Errorf("receive: %w", plain(err))
		}
		l.heard.Store(time.Now().UnixNano())
		if l.ready.Load() {
			err = l.dispatch(m)
		} else {
			err = l.register(m, admit)
		}
		if err != nil {
			return err
		}
	}
}

// register handles messages before READY: REGISTER, and nothing else.
func (l *link) register(m *peerpb.ChaincodeMessage, admit func(id string) error) error {
	if m.Type == peerpb.ChaincodeMessage_KEEPALIVE {
		return nil
	}
	if m.Type != peerpb.ChaincodeMessage_REGISTER {
		return fmt.Errorf("%w: %s came before REGISTER", ErrProtocol, m.Type)
	}
	var id peerpb.ChaincodeID
	if err := proto.Unmarshal(m.Payload, &id); err != nil {
		return fmt.Errorf("%w: REGISTER does not hold a ChaincodeID", ErrProtocol)
	}
	if id.Name == "" || len(id.Name) > 1024 {
		return fmt.Errorf("%w: REGISTER names no chaincode; set CORE_CHAINCODE_ID_NAME (or --chaincode-id) to the package id", ErrProtocol)
	}
	if err := admit(id.Name); err != nil {
		return err
	}
	l.mu.Lock()
	l.id = id.Name
	l.mu.Unlock()
	l.out <- &peerpb.ChaincodeMessage{Type: peerpb.ChaincodeMessage_REGISTERED}
	l.out <- &peerpb.ChaincodeMessage{Type: peerpb.ChaincodeMessage_READY, Payload: readyPayload}
	l.ready.Store(true)
	if l.onReady != nil {
		l.onReady()
	}
	return nil
}

// dispatch gives a message to its transaction. It never blocks. An error ends
// the link.
func (l *link) dispatch(m *peerpb.ChaincodeMessage) error {
	switch m.Type {
	case peerpb.ChaincodeMessage_KEEPALIVE:
		return nil
	case peerpb.ChaincodeMessage_REGISTER:
		return fmt.Errorf("%w: REGISTER came twice", ErrProtocol)
	}
	key := txKey{m.ChannelId, m.Txid}
	result := isResult(m)
	l.mu.Lock()
	defer l.mu.Unlock()
	tx := l.txs[key]
	switch {
	case tx != nil && !tx.abandoned:
		select {
		case tx.inbox <- m:
		default:
			select {
			case tx.flooded <- struct{}{}:
			default:
			}
		}
	case !result:
		l.offer(refusal(m, errNoContext)) // ends the chaincode's wait
	case tx != nil: // late, but it frees the transaction's place
		delete(l.txs, key)
		l.abandoned--
	}
	return nil
}

// errNoContext is Fabric's text for a request of a transaction that does not run.
var errNoContext = errors.New("no ledger context")

// isResult says whether a message ends its transaction.
func isResult(m *peerpb.ChaincodeMessage) bool {
	return m.Type == peerpb.ChaincodeMessage_COMPLETED || m.Type == peerpb.ChaincodeMessage_ERROR
}

// offer queues a message unless the queue is full.
func (l *link) offer(m *peerpb.ChaincodeMessage) {
	select {
	case l.out <- m:
	default:
	}
}

// send queues a message, waiting as long as the context and the link allow.
func (l *link) send(ctx context.Context, m *peerpb.ChaincodeMessage) error {
	select {
	case l.out <- m:
		return nil
	case <-l.done:
		return fmt.Errorf("%w: %w", ErrConnectionLost, l.reason())
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// begin gives a transaction its place on the link.
func (l *link) begin(tx *transaction) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return fmt.Errorf("%w: %w", ErrConnectionLost, l.err)
	}
	if other, ok := l.txs[tx.key]; ok {
		if other.abandoned {
			return fmt.Errorf("%w: transaction %q timed out and still runs in the chaincode; send a new proposal", ErrDuplicateTx, tx.key.tx)
		}
		return fmt.Errorf("%w: transaction %q on channel %q; a chaincode cannot call itself, and a proposal runs once at a time", ErrDuplicateTx, tx.key.tx, tx.key.channel)
	}
	l.txs[tx.key] = tx
	return nil
}

// end frees the transaction's place. One that the chaincode has not answered
// keeps it until the answer comes: the late answer must not be taken for that of
// another run of the same proposal.
func (l *link) end(tx *transaction) {
	l.mu.Lock()
	for waiting := true; waiting; {
		select {
		case m := <-tx.inbox:
			if isResult(m) {
				tx.answered = true
			} else {
				l.offer(refusal(m, errNoContext))
			}
		default:
			waiting = false
		}
	}
	if tx.answered || !tx.sent {
		delete(l.txs, tx.key)
		l.mu.Unlock()
		return
	}
	tx.abandoned = true
	l.abandoned++
	stuck := l.abandoned > maxAbandoned
	l.mu.Unlock()
	if stuck {
		l.fail(fmt.Errorf("%w: %d transactions were never answered; the chaincode hangs", ErrProtocol, maxAbandoned))
	}
}

// refusal is the ERROR message for a request, in Fabric's words.
func refusal(m *peerpb.ChaincodeMessage, err error) *peerpb.ChaincodeMessage {
	return &peerpb.ChaincodeMessage{
		Type:      peerpb.ChaincodeMessage_ERROR,
		Payload:   fmt.Appendf(nil, "%s failed: transaction ID: %s: %v", m.Type, m.Txid, err),
		Txid:      m.Txid,
		ChannelId: m.ChannelId,
	}
}
