package endorser

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"strongroom/wire/peerpb"
)

// TestGoldenPayload holds what is signed to bytes that are put together here by field
// numbers, without the generated messages: ProposalResponsePayload{proposal_hash 1,
// extension 2}, in it ChaincodeAction{results 1, events 2, response 3, chaincode_id 4}.
func TestGoldenPayload(t *testing.T) {
	nested := func(number protowire.Number, parts ...[]byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), bytes.Join(parts, nil))
	}
	text := func(number protowire.Number, s string) []byte { return nested(number, []byte(s)) }
	status := func(v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), v)
	}
	hash := bytes.Repeat([]byte{0xab}, 32)
	id := &peerpb.ChaincodeID{Name: "kv", Version: "1.0"}
	named := nested(4, text(2, "kv"), text(3, "1.0")) // ChaincodeID{path 1, name 2, version 3}
	for _, test := range []struct {
		reason   string
		response *peerpb.Response
		results  []byte
		event    *peerpb.ChaincodeEvent
		want     []byte
	}{
		{"success without a payload is a status alone", &peerpb.Response{Status: 200}, []byte("set"), nil,
			nested(2, text(1, "set"), nested(3, status(200)), named)},
		{"message and payload follow the status", &peerpb.Response{Status: 200, Message: "m", Payload: []byte("p")}, []byte("set"), nil,
			nested(2, text(1, "set"), nested(3, status(200), text(2, "m"), text(3, "p")), named)},
		{"an event without a payload has none", &peerpb.Response{Status: 200}, []byte("set"), &peerpb.ChaincodeEvent{ChaincodeId: "kv", TxId: "1", EventName: "e"},
			nested(2, text(1, "set"), nested(2, text(1, "kv"), text(2, "1"), text(3, "e")), nested(3, status(200)), named)},
		{"an event with one", &peerpb.Response{Status: 200}, []byte("set"), &peerpb.ChaincodeEvent{ChaincodeId: "kv", TxId: "1", EventName: "e", Payload: []byte{0}},
			nested(2, text(1, "set"), nested(2, text(1, "kv"), text(2, "1"), text(3, "e"), text(4, "\x00")), nested(3, status(200)), named)},
		{"nothing read and nothing written leaves the results out", &peerpb.Response{Status: 200}, nil, nil,
			nested(2, nested(3, status(200)), named)},
	} {
		event, err := marshalEvent(test.event)
		if err != nil {
			t.Fatal(err)
		}
		got, err := marshalPayload(hash, test.response, test.results, event, id)
		if err != nil {
			t.Fatal(err)
		}
		if want := append(nested(1, hash), test.want...); !bytes.Equal(got, want) {
			t.Errorf("%s:\n got %x\nwant %x", test.reason, got, want)
		}
	}
}
