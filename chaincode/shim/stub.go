package shim

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
	"strongroom/wire/peerpb"

	"google.golang.org/protobuf/proto"
)

// validationParameter is the metadata key of key-level endorsement policies
// (Fabric: peer.MetaDataKeys VALIDATION_PARAMETER).
const validationParameter = "VALIDATION_PARAMETER"

// Stub is a transaction's view of the ledger and of the proposal that it runs
// for. It is valid until Invoke returns. Its methods may be called from several
// goroutines; they take turns.
type Stub struct {
	s        *session
	key      txKey
	input    *peerpb.ChaincodeInput
	proposal *peerpb.SignedProposal
	header   *commonpb.ChannelHeader
	creator  []byte
	trans    map[string][]byte
	answers  chan *peerpb.ChaincodeMessage // one place

	asking sync.Mutex // one request at a time
	event  *peerpb.ChaincodeEvent
	batch  []*peerpb.WriteRecord
	batchy bool
}

// newStub parses the message that starts a transaction. A proposal is absent in
// calls that a peer makes for itself.
func newStub(s *session, m *peerpb.ChaincodeMessage) (*Stub, error) {
	stub := &Stub{s: s, key: txKey{m.ChannelId, m.Txid}, proposal: m.Proposal, input: new(peerpb.ChaincodeInput), answers: make(chan *peerpb.ChaincodeMessage, 1)}
	if err := proto.Unmarshal(m.Payload, stub.input); err != nil {
		return nil, fmt.Errorf("arguments: %w", err)
	}
	if m.Proposal == nil {
		return stub, nil
	}
	var (
		proposal peerpb.Proposal
		header   commonpb.Header
		sigHdr   commonpb.SignatureHeader
		payload  peerpb.ChaincodeProposalPayload
	)
	stub.header = new(commonpb.ChannelHeader)
	for _, part := range []struct {
		name string
		into proto.Message
		from func() []byte
	}{
		{"proposal", &proposal, m.Proposal.GetProposalBytes},
		{"proposal.header", &header, func() []byte { return proposal.Header }},
		{"proposal.header.channel_header", stub.header, func() []byte { return header.ChannelHeader }},
		{"proposal.header.signature_header", &sigHdr, func() []byte { return header.SignatureHeader }},
		{"proposal.payload", &payload, func() []byte { return proposal.Payload }},
	} {
		if err := proto.Unmarshal(part.from(), part.into); err != nil {
			return nil, fmt.Errorf("%s: %w", part.name, err)
		}
	}
	stub.creator, stub.trans = sigHdr.Creator, payload.TransientMap
	return stub, nil
}

// Context ends when the connection to the peer does; the transaction is lost then.
func (s *Stub) Context() context.Context { return s.s.ctx }

// GetTxID is the transaction's id.
func (s *Stub) GetTxID() string { return s.key.tx }

// GetChannelID is the name of the channel.
func (s *Stub) GetChannelID() string { return s.key.channel }

// GetSignedProposal is the proposal as the client signed it; nil if there is none.
func (s *Stub) GetSignedProposal() *peerpb.SignedProposal { return s.proposal }

// GetTransient is what the client sent beside the arguments and what does not go
// into the transaction. The caller must not change it.
func (s *Stub) GetTransient() map[string][]byte { return s.trans }

// GetArgs is the function's name and its arguments as bytes.
func (s *Stub) GetArgs() [][]byte { return s.input.Args }

// GetFunctionAndParameters is the same as strings.
func (s *Stub) GetFunctionAndParameters() (string, []string) {
	if len(s.input.Args) == 0 {
		return "", nil
	}
	params := make([]string, len(s.input.Args)-1)
	for i, a := range s.input.Args[1:] {
		params[i] = string(a)
	}
	return string(s.input.Args[0]), params
}

// GetTxTimestamp is the time that the client wrote into the proposal: the same on
// all peers, and no more to be trusted than the client.
func (s *Stub) GetTxTimestamp() (time.Time, error) {
	if s.header.GetTimestamp() == nil {
		return time.Time{}, errors.New("the proposal has no timestamp")
	}
	return s.header.Timestamp.AsTime(), nil
}

// GetCreator is who signed the proposal.
func (s *Stub) GetCreator() (*Identity, error) {
	var id msppb.SerializedIdentity
	if len(s.creator) == 0 {
		return nil, errors.New("the proposal has no creator")
	}
	if err := proto.Unmarshal(s.creator, &id); err != nil {
		return nil, fmt.Errorf("creator: %w", err)
	}
	return newIdentity(&id, s.creator)
}

// GetState reads a key as it was committed before the transaction: its own writes
// are not seen. The value is nil if there is none.
func (s *Stub) GetState(key string) ([]byte, error) {
	b, err := s.ask(peerpb.ChaincodeMessage_GET_STATE, &peerpb.GetState{Key: key})
	if len(b) == 0 {
		return nil, err
	}
	return b, err
}

// GetStates reads several keys, in one round trip where the peer can.
func (s *Stub) GetStates(keys ...string) ([][]byte, error) {
	values := make([][]byte, 0, len(keys))
	step := int(s.s.caps.MaxSizeGetMultipleKeys)
	if !s.s.caps.UseGetMultipleKeys || step == 0 {
		for _, k := range keys {
			v, err := s.GetState(k)
			if err != nil {
				return nil, err
			}
			values = append(values, v)
		}
		return values, nil
	}
	for len(keys) > 0 {
		n := min(step, len(keys))
		b, err := s.ask(peerpb.ChaincodeMessage_GET_STATE_MULTIPLE, &peerpb.GetStateMultiple{Keys: keys[:n]})
		if err != nil {
			return nil, err
		}
		var result peerpb.GetStateMultipleResult
		if err := proto.Unmarshal(b, &result); err != nil || len(result.Values) != n {
			return nil, fmt.Errorf("the peer answered %d values for %d keys", len(result.Values), n)
		}
		for _, v := range result.Values {
			if len(v) == 0 {
				v = nil
			}
			values = append(values, v)
		}
		keys = keys[n:]
	}
	return values, nil
}

// PutState writes a key. An empty value deletes it: Fabric knows no empty values.
func (s *Stub) PutState(key string, value []byte) error {
	if key == "" {
		return errors.New("key must not be an empty string")
	}
	if s.collect(&peerpb.WriteRecord{Type: peerpb.WriteRecord_PUT_STATE, Key: key, Value: value}) {
		return nil
	}
	_, err := s.ask(peerpb.ChaincodeMessage_PUT_STATE, &peerpb.PutState{Key: key, Value: value})
	return err
}

// DelState deletes a key; that it is not there is no error.
func (s *Stub) DelState(key string) error {
	if s.collect(&peerpb.WriteRecord{Type: peerpb.WriteRecord_DEL_STATE, Key: key}) {
		return nil
	}
	_, err := s.ask(peerpb.ChaincodeMessage_DEL_STATE, &peerpb.DelState{Key: key})
	return err
}

// BatchWrites collects the writes that follow and sends them together when
// Invoke returns, where the peer can do that. What is wrong with a write then
// fails the whole transaction instead of the call.
func (s *Stub) BatchWrites() { s.batchy = s.s.caps.UseWriteBatch && s.s.caps.MaxSizeWriteBatch > 0 }

func (s *Stub) collect(w *peerpb.WriteRecord) bool {
	if !s.batchy {
		return false
	}
	s.asking.Lock()
	defer s.asking.Unlock()
	s.batch = append(s.batch, w)
	return true
}

// flush sends collected writes.
func (s *Stub) flush() error {
	for len(s.batch) > 0 {
		n := min(int(s.s.caps.MaxSizeWriteBatch), len(s.batch))
		if _, err := s.ask(peerpb.ChaincodeMessage_WRITE_BATCH_STATE, &peerpb.WriteBatchState{Rec: s.batch[:n]}); err != nil {
			return err
		}
		s.batch = s.batch[n:]
	}
	return nil
}

// SetStateValidationParameter sets a key's own endorsement policy, a serialized
// protos.ApplicationPolicy or common.SignaturePolicyEnvelope.
func (s *Stub) SetStateValidationParameter(key string, policy []byte) error {
	md := &peerpb.StateMetadata{Metakey: validationParameter, Value: policy}
	if s.collect(&peerpb.WriteRecord{Type: peerpb.WriteRecord_PUT_STATE_METADATA, Key: key, Metadata: md}) {
		return nil
	}
	_, err := s.ask(peerpb.ChaincodeMessage_PUT_STATE_METADATA, &peerpb.PutStateMetadata{Key: key, Metadata: md})
	return err
}

// GetStateValidationParameter is a key's own endorsement policy, nil if it has none.
func (s *Stub) GetStateValidationParameter(key string) ([]byte, error) {
	b, err := s.ask(peerpb.ChaincodeMessage_GET_STATE_METADATA, &peerpb.GetStateMetadata{Key: key})
	if err != nil {
		return nil, err
	}
	var md peerpb.StateMetadataResult
	if err := proto.Unmarshal(b, &md); err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	for _, e := range md.Entries {
		if e.Metakey == validationParameter {
			return e.Value, nil
		}
	}
	return nil, nil
}

// SetEvent sets the transaction's event, which clients get when it is committed.
// A transaction has one; the last call counts.
func (s *Stub) SetEvent(name string, payload []byte) error {
	if name == "" {
		return errors.New("event name must not be an empty string")
	}
	s.asking.Lock()
	defer s.asking.Unlock()
	s.event = &peerpb.ChaincodeEvent{EventName: name, Payload: payload}
	return nil
}

// InvokeChaincode calls another chaincode in the same transaction. An empty
// channel is this one; peers allow no other.
func (s *Stub) InvokeChaincode(name string, args [][]byte, channel string) Response {
	if channel != "" {
		name = name + "/" + channel
	}
	b, err := s.ask(peerpb.ChaincodeMessage_INVOKE_CHAINCODE, &peerpb.ChaincodeSpec{
		ChaincodeId: &peerpb.ChaincodeID{Name: name}, Input: &peerpb.ChaincodeInput{Args: args},
	})
	if err != nil {
		return Error(err.Error())
	}
	var m peerpb.ChaincodeMessage
	if err := proto.Unmarshal(b, &m); err != nil {
		return Error("answer of the called chaincode: " + err.Error())
	}
	if m.Type != peerpb.ChaincodeMessage_COMPLETED {
		return Error(string(m.Payload))
	}
	var r peerpb.Response
	if err := proto.Unmarshal(m.Payload, &r); err != nil {
		return Error("answer of the called chaincode: " + err.Error())
	}
	return Response{Status: r.Status, Message: r.Message, Payload: r.Payload}
}

// ask sends one request and waits for its answer.
func (s *Stub) ask(kind peerpb.ChaincodeMessage_Type, payload proto.Message) ([]byte, error) {
	s.asking.Lock()
	defer s.asking.Unlock()
	b, err := proto.Marshal(payload)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	if len(b) > MaxMessageBytes-1024 {
		return nil, fmt.Errorf("%s: the request has %d bytes; at most %d are allowed", kind, len(b), MaxMessageBytes-1024)
	}
	if err := s.s.send(&peerpb.ChaincodeMessage{Type: kind, Payload: b, Txid: s.key.tx, ChannelId: s.key.channel}); err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	select {
	case m := <-s.answers:
		if m.Type == peerpb.ChaincodeMessage_ERROR {
			return nil, errors.New(strings.ToValidUTF8(string(m.Payload), "?"))
		}
		return m.Payload, nil
	case <-s.s.ctx.Done():
		return nil, fmt.Errorf("%s: the connection to the peer ended", kind)
	}
}
