package wire

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// seeds are the envelopes of real blocks, good and malformed.
func seeds(f *testing.F, add func([]byte)) {
	f.Helper()
	for _, number := range []uint64{3, 6, 8, 10} {
		for _, envelope := range readBlock(f, number).Data.Data {
			add(envelope)
		}
	}
}

// FuzzScan holds scan to proto.Unmarshal: the same bytes are accepted, and the
// fields come out the same, empty ones as nil.
func FuzzScan(f *testing.F) {
	seeds(f, func(b []byte) { f.Add(b) })
	f.Add([]byte{0x0a, 0x00})
	f.Add([]byte{0x0a, 0x01, 'a', 0x0a, 0x01, 'b', 0x12, 0x00, 0x18, 0x07})
	f.Add([]byte{0x08, 0x01, 0x13, 0x14})
	f.Fuzz(func(t *testing.T, b []byte) {
		want := &commonpb.Envelope{}
		wantErr := proto.Unmarshal(b, want)
		var payload, signature []byte
		err := scanTwo(b, &payload, &signature)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("scan says %v, proto.Unmarshal %v", err, wantErr)
		}
		if err == nil && (!same(payload, want.Payload) || !same(signature, want.Signature)) {
			t.Errorf("scan finds %x, %x; proto.Unmarshal %x, %x", payload, signature, want.Payload, want.Signature)
		}
	})
}

func same(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

// FuzzParseTx holds the parsed transaction to what full messages say.
func FuzzParseTx(f *testing.F) {
	seeds(f, func(b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		tx := ParseTx(0, b)
		env, payload := &commonpb.Envelope{}, &commonpb.Payload{}
		if err := proto.Unmarshal(b, env); err != nil {
			if tx.HeaderFault == nil || tx.HeaderFault.Code != peerpb.TxValidationCode_INVALID_OTHER_REASON {
				t.Errorf("fault is %v", tx.HeaderFault)
			}
			return
		}
		if err := proto.Unmarshal(env.Payload, payload); err != nil {
			if tx.HeaderFault == nil || tx.HeaderFault.Code != peerpb.TxValidationCode_BAD_PAYLOAD {
				t.Errorf("fault is %v", tx.HeaderFault)
			}
			return
		}
		if tx.HeaderFault != nil {
			return
		}
		channel := &commonpb.ChannelHeader{}
		if err := proto.Unmarshal(payload.Header.ChannelHeader, channel); err != nil || !proto.Equal(channel, tx.ChannelHeader) {
			t.Errorf("channel header is %v, want %v (%v)", tx.ChannelHeader, channel, err)
		}
		if tx.BodyFault != nil || tx.Endorsed == nil {
			return
		}
		message, action := &peerpb.Transaction{}, &peerpb.ChaincodeActionPayload{}
		if err := proto.Unmarshal(payload.Data, message); err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(message.Actions[0].Payload, action); err != nil {
			t.Fatal(err)
		}
		if !same(action.ChaincodeProposalPayload, tx.Endorsed.ProposalPayload) ||
			!bytes.Equal(action.Action.ProposalResponsePayload, tx.Endorsed.ResponsePayload) ||
			len(action.Action.Endorsements) != len(tx.Endorsed.Endorsements) {
			t.Error("the action differs")
			return
		}
		for i, e := range action.Action.Endorsements {
			if !bytes.Equal(e.Endorser, tx.Endorsed.Endorsements[i].Endorser) || !bytes.Equal(e.Signature, tx.Endorsed.Endorsements[i].Signature) {
				t.Errorf("endorsement %d differs", i)
			}
		}
	})
}

func FuzzParseBlock(f *testing.F) {
	for _, number := range []uint64{3, 6} {
		b, err := proto.Marshal(readBlock(f, number))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		block := &commonpb.Block{}
		if proto.Unmarshal(b, block) != nil {
			return
		}
		parsed, err := ParseBlock(block)
		if err == nil && len(parsed.Txs) != len(block.Data.Data) {
			t.Errorf("%d transactions of %d", len(parsed.Txs), len(block.Data.Data))
		}
	})
}

func FuzzParseEnvelope(f *testing.F) {
	seeds(f, func(b []byte) {
		env := &commonpb.Envelope{}
		if proto.Unmarshal(b, env) == nil {
			f.Add(env.Payload)
		}
	})
	f.Fuzz(func(t *testing.T, payload []byte) {
		e, fault := ParseEnvelope(&commonpb.Envelope{Payload: payload})
		if (e == nil) == (fault == nil) {
			t.Errorf("envelope %v, fault %v", e, fault)
		}
		if e != nil && (e.ChannelHeader == nil || e.SignatureHeader == nil) {
			t.Error("an envelope without headers")
		}
	})
}

func FuzzParseReadWriteSet(f *testing.F) {
	for _, number := range []uint64{3, 6, 8} {
		for _, tx := range parseBlock(f, number).Txs {
			if tx.Endorsed != nil && tx.Endorsed.Action != nil {
				f.Add(tx.Endorsed.Action.Results)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		set, err := ParseReadWriteSet(b)
		if err != nil {
			return
		}
		for i := range set.Namespaces {
			if set.Namespaces[i].KV == nil {
				t.Error("a namespace without a set")
			}
			set.Namespaces[i].Writes()
		}
	})
}

func FuzzParseSignedProposal(f *testing.F) {
	f.Add(testProposal(f).ProposalBytes)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseSignedProposal(&peerpb.SignedProposal{ProposalBytes: b, Signature: []byte{1}})
		if (p == nil) == (err == nil) {
			t.Fatalf("proposal %v, error %v", p, err)
		}
		if p != nil && (p.Input == nil || p.ChaincodeID.GetName() == "" || len(p.Hash) != 32) {
			t.Errorf("proposal is incomplete: %+v", p)
		}
	})
}

func BenchmarkParseBlock(b *testing.B) {
	block := readBlock(b, 8)
	good := block.Data.Data[0]
	block.Data.Data = nil
	size := 0
	for range 500 {
		block.Data.Data = append(block.Data.Data, good)
		size += len(good)
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		parsed, err := ParseBlock(block)
		if err != nil || parsed.Txs[499].Endorsed.ReadWriteSet == nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(500*b.N)/b.Elapsed().Seconds(), "tx/s")
}

func TestScanKeepsUnknownFieldsOut(t *testing.T) {
	b := protowire.AppendTag(nil, 9, protowire.VarintType)
	b = protowire.AppendVarint(b, 7)
	b = protowire.AppendTag(b, 1, protowire.VarintType) // field 1 with another type is an unknown field
	b = protowire.AppendVarint(b, 7)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendBytes(b, []byte("two"))
	var one, two []byte
	if err := scanTwo(b, &one, &two); err != nil || one != nil || string(two) != "two" {
		t.Errorf("scan finds %x and %q (%v)", one, two, err)
	}
}
