package chaincode

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"strongroom/wire/peerpb"

	"google.golang.org/protobuf/proto"
)

// handler answers one request: its payload in, the payload of RESPONSE out. The
// text of an error reaches the chaincode.
type handler func(tx *transaction, ctx context.Context, payload []byte) ([]byte, error)

// requests are the messages that chaincode may send during a transaction. It is
// filled in init because handlers of nested calls lead back to it.
var requests map[peerpb.ChaincodeMessage_Type]handler

func init() {
	requests = map[peerpb.ChaincodeMessage_Type]handler{
		peerpb.ChaincodeMessage_GET_STATE:             request((*transaction).getState),
		peerpb.ChaincodeMessage_PUT_STATE:             request((*transaction).putState),
		peerpb.ChaincodeMessage_DEL_STATE:             request((*transaction).delState),
		peerpb.ChaincodeMessage_GET_STATE_METADATA:    request((*transaction).getMetadata),
		peerpb.ChaincodeMessage_PUT_STATE_METADATA:    request((*transaction).putMetadata),
		peerpb.ChaincodeMessage_GET_STATE_MULTIPLE:    request((*transaction).getMultiple),
		peerpb.ChaincodeMessage_WRITE_BATCH_STATE:     request((*transaction).writeBatch),
		peerpb.ChaincodeMessage_GET_STATE_BY_RANGE:    request((*transaction).getRange),
		peerpb.ChaincodeMessage_GET_HISTORY_FOR_KEY:   request((*transaction).getHistory),
		peerpb.ChaincodeMessage_QUERY_STATE_NEXT:      request((*transaction).queryNext),
		peerpb.ChaincodeMessage_QUERY_STATE_CLOSE:     request((*transaction).queryClose),
		peerpb.ChaincodeMessage_GET_QUERY_RESULT:      request((*transaction).richQuery),
		peerpb.ChaincodeMessage_GET_PRIVATE_DATA_HASH: request((*transaction).privateHash),
		peerpb.ChaincodeMessage_PURGE_PRIVATE_DATA:    request((*transaction).purgePrivate),
		peerpb.ChaincodeMessage_INVOKE_CHAINCODE:      request((*transaction).invokeChaincode),
	}
}

// request decodes a payload and calls the method for it.
func request[T any, P interface {
	*T
	proto.Message
}](method func(*transaction, context.Context, P) ([]byte, error)) handler {
	return func(tx *transaction, ctx context.Context, payload []byte) ([]byte, error) {
		p := P(new(T))
		if err := proto.Unmarshal(payload, p); err != nil {
			return nil, fmt.Errorf("unmarshal failed: %w", err)
		}
		return method(tx, ctx, p)
	}
}

var errPrivate = errors.New("private data collections are not supported yet; keep the value in the public state, or encrypt it in the client")

// public refuses requests for a private data collection.
func public(collection string) error {
	if collection != "" {
		return fmt.Errorf("collection %q: %w", collection, errPrivate)
	}
	return nil
}

func (tx *transaction) getState(_ context.Context, r *peerpb.GetState) ([]byte, error) {
	if err := public(r.Collection); err != nil {
		return nil, err
	}
	return tx.State.Get(tx.Namespace, r.Key)
}

func (tx *transaction) putState(_ context.Context, r *peerpb.PutState) ([]byte, error) {
	if err := public(r.Collection); err != nil {
		return nil, err
	}
	if err := tx.charge(r.Key, r.Value); err != nil {
		return nil, err
	}
	return nil, tx.State.Put(tx.Namespace, r.Key, r.Value)
}

func (tx *transaction) delState(_ context.Context, r *peerpb.DelState) ([]byte, error) {
	if err := public(r.Collection); err != nil {
		return nil, err
	}
	if err := tx.charge(r.Key, nil); err != nil {
		return nil, err
	}
	return nil, tx.State.Delete(tx.Namespace, r.Key)
}

func (tx *transaction) getMetadata(_ context.Context, r *peerpb.GetStateMetadata) ([]byte, error) {
	if err := public(r.Collection); err != nil {
		return nil, err
	}
	entries, err := tx.State.GetMetadata(tx.Namespace, r.Key)
	if err != nil {
		return nil, err
	}
	var result peerpb.StateMetadataResult
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		result.Entries = append(result.Entries, &peerpb.StateMetadata{Metakey: name, Value: entries[name]})
	}
	return proto.Marshal(&result)
}

// putMetadata replaces all entries of a key by the one given, as Fabric does.
func (tx *transaction) putMetadata(_ context.Context, r *peerpb.PutStateMetadata) ([]byte, error) {
	if err := public(r.Collection); err != nil {
		return nil, err
	}
	if r.Metadata == nil {
		return nil, errors.New("the request has no metadata entry")
	}
	if err := tx.charge(r.Key, r.Metadata.Value); err != nil {
		return nil, err
	}
	return nil, tx.State.SetMetadata(tx.Namespace, r.Key, map[string][]byte{r.Metadata.Metakey: r.Metadata.Value})
}

func (tx *transaction) getMultiple(_ context.Context, r *peerpb.GetStateMultiple) ([]byte, error) {
	if err := public(r.Collection); err != nil {
		return nil, err
	}
	if len(r.Keys) > maxBatch {
		return nil, fmt.Errorf("%d keys in one request; at most %d are allowed", len(r.Keys), maxBatch)
	}
	result := peerpb.GetStateMultipleResult{Values: make([][]byte, len(r.Keys))}
	for i, key := range r.Keys {
		v, err := tx.State.Get(tx.Namespace, key)
		if err != nil {
			return nil, err
		}
		result.Values[i] = v
	}
	return proto.Marshal(&result)
}

func (tx *transaction) writeBatch(ctx context.Context, r *peerpb.WriteBatchState) ([]byte, error) {
	if len(r.Rec) > maxBatch {
		return nil, fmt.Errorf("%d writes in one request; at most %d are allowed", len(r.Rec), maxBatch)
	}
	for i, w := range r.Rec {
		var err error
		switch w.Type {
		case peerpb.WriteRecord_PUT_STATE:
			_, err = tx.putState(ctx, &peerpb.PutState{Key: w.Key, Value: w.Value, Collection: w.Collection})
		case peerpb.WriteRecord_DEL_STATE:
			_, err = tx.delState(ctx, &peerpb.DelState{Key: w.Key, Collection: w.Collection})
		case peerpb.WriteRecord_PUT_STATE_METADATA:
			_, err = tx.putMetadata(ctx, &peerpb.PutStateMetadata{Key: w.Key, Collection: w.Collection, Metadata: w.Metadata})
		case peerpb.WriteRecord_PURGE_PRIVATE_DATA:
			err = errPrivate
		default:
			err = fmt.Errorf("unknown operation type %d", w.Type)
		}
		if err != nil {
			return nil, fmt.Errorf("write %d: %w", i, err)
		}
	}
	return nil, nil
}

func (tx *transaction) privateHash(context.Context, *peerpb.GetState) ([]byte, error) {
	return nil, errPrivate
}

func (tx *transaction) purgePrivate(context.Context, *peerpb.PurgePrivateState) ([]byte, error) {
	return nil, errPrivate
}

// charge counts what the proposal writes and refuses what no block could hold.
func (tx *transaction) charge(key string, value []byte) error {
	*tx.written += len(key) + len(value)
	if *tx.written > tx.host.cfg.MaxWriteBytes {
		return fmt.Errorf("the transaction writes more than %d bytes; split it", tx.host.cfg.MaxWriteBytes)
	}
	return nil
}

// invokeChaincode calls another chaincode on the same channel over the same
// State. Its answer is the callee's message as a whole, as in Fabric; the
// callee's event is dropped, as in Fabric.
func (tx *transaction) invokeChaincode(ctx context.Context, spec *peerpb.ChaincodeSpec) ([]byte, error) {
	// Fabric's form is name[:version][/channel]; the version has no meaning.
	full, channel, _ := strings.Cut(spec.GetChaincodeId().GetName(), "/")
	name, _, _ := strings.Cut(full, ":")
	switch {
	case name == "":
		return nil, errors.New("the name of the chaincode to call is empty")
	case channel != "" && channel != tx.ChannelID:
		return nil, fmt.Errorf("chaincode %q on channel %q cannot be called from channel %q: calls across channels are not supported; let the client query the other channel", name, channel, tx.ChannelID)
	case tx.host.cfg.Resolve == nil:
		return nil, errors.New("calls between chaincodes are not configured on this peer")
	case spec.Input == nil:
		return nil, fmt.Errorf("the call of chaincode %q has no arguments", name)
	}
	target, err := tx.host.cfg.Resolve(ctx, tx.Invocation, name, spec.Input)
	if err != nil {
		return nil, fmt.Errorf("call of chaincode %q: %w", name, err)
	}
	inv := &Invocation{
		ChannelID: tx.ChannelID, TxID: tx.TxID, Namespace: name, PackageID: target.PackageID,
		Input: spec.Input, Proposal: tx.Proposal, State: tx.State, Caller: tx.Invocation,
	}
	var m *peerpb.ChaincodeMessage
	if target.System != nil {
		m, err = systemCall(ctx, target, inv)
	} else {
		m, err = tx.host.call(ctx, inv, tx.written)
	}
	if err != nil {
		return nil, fmt.Errorf("execute failed: %w", err)
	}
	return proto.Marshal(&peerpb.ChaincodeMessage{Type: m.Type, Payload: m.Payload, Txid: tx.TxID, ChannelId: tx.ChannelID})
}

func systemCall(ctx context.Context, target Target, inv *Invocation) (*peerpb.ChaincodeMessage, error) {
	r, err := target.System(ctx, *inv)
	if err != nil {
		return nil, err
	}
	payload, err := proto.Marshal(r)
	if err != nil {
		return nil, err
	}
	return &peerpb.ChaincodeMessage{Type: peerpb.ChaincodeMessage_COMPLETED, Payload: payload}, nil
}
