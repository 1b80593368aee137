package chaincode_test

import (
	"testing"
	"time"

	"strongroom/chaincode"
	"strongroom/chaincode/chaincodetest"
	"strongroom/wire/peerpb"

	"google.golang.org/protobuf/proto"
)

// FuzzRequest sends one message of any kind and content during a transaction and
// then ends it; a good transaction works afterwards.
func FuzzRequest(f *testing.F) {
	for _, m := range []struct {
		kind    peerpb.ChaincodeMessage_Type
		payload proto.Message
	}{
		{peerpb.ChaincodeMessage_GET_STATE, &peerpb.GetState{Key: "k"}},
		{peerpb.ChaincodeMessage_PUT_STATE, &peerpb.PutState{Key: "k", Value: []byte("v")}},
		{peerpb.ChaincodeMessage_PUT_STATE_METADATA, &peerpb.PutStateMetadata{Key: "k", Metadata: &peerpb.StateMetadata{Metakey: "m"}}},
		{peerpb.ChaincodeMessage_GET_STATE_BY_RANGE, &peerpb.GetStateByRange{StartKey: "a", Metadata: []byte{8, 2}}},
		{peerpb.ChaincodeMessage_WRITE_BATCH_STATE, &peerpb.WriteBatchState{Rec: []*peerpb.WriteRecord{{Type: peerpb.WriteRecord_PUT_STATE_METADATA, Key: "k"}}}},
		{peerpb.ChaincodeMessage_INVOKE_CHAINCODE, &peerpb.ChaincodeSpec{ChaincodeId: &peerpb.ChaincodeID{Name: "a/b"}}},
	} {
		b, err := proto.Marshal(m.payload)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(int32(m.kind), b)
	}
	type sent struct {
		kind    int32
		payload []byte
	}
	next := make(chan sent, 1)
	peer := hostile(f, chaincode.Config{}, each(func(s peerpb.Chaincode_ConnectServer, m *message) error {
		if m.Type != peerpb.ChaincodeMessage_TRANSACTION {
			return nil
		}
		if function(m) == "fuzz" {
			x := <-next
			if err := s.Send(&message{Type: peerpb.ChaincodeMessage_Type(x.kind), Txid: m.Txid, ChannelId: m.ChannelId, Payload: x.payload}); err != nil {
				return err
			}
		}
		return s.Send(completed(m, "good"))
	}))
	f.Fuzz(func(t *testing.T, kind int32, payload []byte) {
		p := &chaincodetest.Peer{T: t, Host: peer.Host, Store: peer.Store, ChannelID: peer.ChannelID, Name: peer.Name, PackageID: peer.PackageID}
		inv := p.Invocation(nil, nil, "fuzz")
		state := p.Store.Simulate(inv.TxID)
		inv.State, inv.Timeout = state, 10*time.Second
		select {
		case <-next: // left over where the connection ended before the script took it
		default:
		}
		next <- sent{kind, payload}
		_, _ = p.Host.Execute(t.Context(), inv) // any outcome but a hang or a crash
		if n := state.OpenIterators(); n != 0 {
			t.Errorf("%d iterators are open", n)
		}
		if out, err := p.Evaluate("good"); err != nil || string(out.Response.Payload) != "good" {
			t.Errorf("after kind %d: %v", kind, err)
		}
	})
}
