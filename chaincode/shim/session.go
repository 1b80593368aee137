package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"

	"strongroom/wire/peerpb"

	"google.golang.org/protobuf/proto"
)

// stream is what the two directions of connecting have in common.
type stream interface {
	Send(*peerpb.ChaincodeMessage) error
	Recv() (*peerpb.ChaincodeMessage, error)
}

// session is one connection to a peer: one goroutine reads and hands out what it
// reads, one goroutine for each transaction works.
type session struct {
	ctx    context.Context // ends with the connection
	cancel context.CancelFunc
	cc     Chaincode
	log    *slog.Logger
	caps   peerpb.ChaincodeAdditionalParams // what the peer can do; set before the first transaction

	sending sync.Mutex // guards stream.Send
	stream  stream

	mu  sync.Mutex // guards txs
	txs map[txKey]*Stub
}

type txKey struct{ channel, tx string }

func newSession(ctx context.Context, cc Chaincode, s stream, cfg Config) *session {
	ctx, cancel := context.WithCancel(ctx)
	return &session{ctx: ctx, cancel: cancel, cc: cc, log: cfg.logger(), stream: s, txs: make(map[txKey]*Stub)}
}

func (s *session) send(m *peerpb.ChaincodeMessage) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.stream.Send(m)
}

// run registers and serves until the stream ends; its end is no error.
func (s *session) run(packageID string) error {
	defer s.cancel()
	id, err := proto.Marshal(&peerpb.ChaincodeID{Name: packageID})
	if err != nil {
		return err
	}
	if err := s.send(&peerpb.ChaincodeMessage{Type: peerpb.ChaincodeMessage_REGISTER, Payload: id}); err != nil {
		return err
	}
	registered := false
	for ready := false; ; {
		m, err := s.stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		switch m.Type {
		case peerpb.ChaincodeMessage_KEEPALIVE:
			err = s.send(&peerpb.ChaincodeMessage{Type: peerpb.ChaincodeMessage_KEEPALIVE})
		case peerpb.ChaincodeMessage_REGISTERED:
			registered = true
		case peerpb.ChaincodeMessage_READY:
			if !registered || ready {
				return errors.New("the peer sent READY out of turn")
			}
			if err := proto.Unmarshal(m.Payload, &s.caps); err != nil {
				return fmt.Errorf("READY: %w", err)
			}
			ready = true
			s.log.Info("chaincode is ready", "package", packageID)
		case peerpb.ChaincodeMessage_INIT, peerpb.ChaincodeMessage_TRANSACTION:
			if !ready {
				return fmt.Errorf("the peer sent %s before READY", m.Type)
			}
			err = s.start(m)
		case peerpb.ChaincodeMessage_RESPONSE, peerpb.ChaincodeMessage_ERROR:
			s.answer(m)
		default:
			return fmt.Errorf("the peer sent an unknown message type %d", m.Type)
		}
		if err != nil {
			return err
		}
	}
}

// start runs a transaction in its own goroutine.
func (s *session) start(m *peerpb.ChaincodeMessage) error {
	stub, err := newStub(s, m)
	if err == nil {
		s.mu.Lock()
		if _, ok := s.txs[stub.key]; ok {
			err = errors.New("the transaction is already running in this chaincode")
		} else {
			s.txs[stub.key] = stub
		}
		s.mu.Unlock()
	}
	if err != nil {
		return s.send(&peerpb.ChaincodeMessage{Type: peerpb.ChaincodeMessage_ERROR, Payload: []byte(err.Error()), Txid: m.Txid, ChannelId: m.ChannelId})
	}
	go func() {
		result := s.execute(stub, m.Type)
		s.mu.Lock()
		delete(s.txs, stub.key)
		s.mu.Unlock()
		if err := s.send(result); err != nil {
			s.log.Warn("result was not delivered", "tx", m.Txid, "error", err)
		}
	}()
	return nil
}

// execute runs the chaincode and makes its final message.
func (s *session) execute(stub *Stub, kind peerpb.ChaincodeMessage_Type) *peerpb.ChaincodeMessage {
	m := &peerpb.ChaincodeMessage{Type: peerpb.ChaincodeMessage_COMPLETED, Txid: stub.key.tx, ChannelId: stub.key.channel}
	var resp Response
	if kind == peerpb.ChaincodeMessage_INIT {
		resp = s.guarded(stub, s.cc.Init)
	} else {
		resp = s.guarded(stub, s.cc.Invoke)
	}
	if resp.Status < ErrorThreshold {
		if err := stub.flush(); err != nil {
			resp = Error("send writes: " + err.Error())
		}
	}
	m.ChaincodeEvent = stub.event
	var err error
	if kind == peerpb.ChaincodeMessage_INIT && resp.Status >= ERROR {
		m.Type, m.Payload = peerpb.ChaincodeMessage_ERROR, []byte(resp.Message)
	} else if m.Payload, err = proto.Marshal(&peerpb.Response{Status: resp.Status, Message: resp.Message, Payload: resp.Payload}); err != nil {
		m.Type, m.Payload = peerpb.ChaincodeMessage_ERROR, []byte("response: "+err.Error())
	}
	if n := proto.Size(m); n > MaxMessageBytes {
		m.Type, m.ChaincodeEvent = peerpb.ChaincodeMessage_ERROR, nil
		m.Payload = fmt.Appendf(nil, "the result has %d bytes; at most %d are allowed", n, MaxMessageBytes)
	}
	return m
}

// guarded turns a panic of the chaincode into a failure of its transaction.
func (s *session) guarded(stub *Stub, f func(*Stub) Response) (resp Response) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("chaincode panicked", "tx", stub.key.tx, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			resp = Error("the chaincode panicked; see its log")
			stub.batch = nil
		}
	}()
	return f(stub)
}

// answer hands a response to the stub that waits for it.
func (s *session) answer(m *peerpb.ChaincodeMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stub, ok := s.txs[txKey{m.ChannelId, m.Txid}]; ok {
		select {
		case stub.answers <- m:
		default: // nobody asked
		}
	}
}
