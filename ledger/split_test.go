package ledger

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"strongroom/ledger/seal"
	"strongroom/wire/commonpb"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/peerpb"
	"strongroom/wire/rwsetpb"
)

func mustMarshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := (proto.MarshalOptions{Deterministic: true}).Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// splitTx is the envelope of a transaction that calls chaincode and writes a value to
// each namespace.
func splitTx(t testing.TB, called, secret string, namespaces ...string) []byte {
	t.Helper()
	results := &rwsetpb.TxReadWriteSet{}
	for _, ns := range namespaces {
		results.NsRwset = append(results.NsRwset, &rwsetpb.NsReadWriteSet{Namespace: ns,
			Rwset: mustMarshal(t, &kvrwsetpb.KVRWSet{
				Reads:  []*kvrwsetpb.KVRead{{Key: "read key"}},
				Writes: []*kvrwsetpb.KVWrite{{Key: "written key", Value: []byte("value " + secret + ns)}, {Key: "deleted key", IsDelete: true}},
			}),
			CollectionHashedRwset: []*rwsetpb.CollectionHashedReadWriteSet{{CollectionName: "collection", HashedRwset: mustMarshal(t,
				&kvrwsetpb.HashedRWSet{HashedWrites: []*kvrwsetpb.KVWriteHash{{KeyHash: []byte("hash of a key"), ValueHash: []byte("valuehash " + secret + ns)}}})}},
		})
	}
	action := mustMarshal(t, &peerpb.ChaincodeAction{
		Results:     mustMarshal(t, results),
		Events:      mustMarshal(t, &peerpb.ChaincodeEvent{ChaincodeId: called, EventName: "name " + secret, Payload: []byte("event " + secret)}),
		Response:    &peerpb.Response{Status: 200, Message: "message " + secret, Payload: []byte("answer " + secret)},
		ChaincodeId: &peerpb.ChaincodeID{Name: called},
	})
	tx := mustMarshal(t, &peerpb.Transaction{Actions: []*peerpb.TransactionAction{{Payload: mustMarshal(t, &peerpb.ChaincodeActionPayload{
		ChaincodeProposalPayload: []byte("argument " + secret),
		Action: &peerpb.ChaincodeEndorsedAction{
			ProposalResponsePayload: mustMarshal(t, &peerpb.ProposalResponsePayload{ProposalHash: []byte("hash"), Extension: action}),
			Endorsements:            []*peerpb.Endorsement{{Endorser: []byte("endorser"), Signature: []byte("signature")}},
		},
	})}}})
	header := mustMarshal(t, &commonpb.ChannelHeader{
		Type: int32(commonpb.HeaderType_ENDORSER_TRANSACTION), TxId: "id",
		Extension: mustMarshal(t, &peerpb.ChaincodeHeaderExtension{ChaincodeId: &peerpb.ChaincodeID{Name: called}}),
	})
	payload := mustMarshal(t, &commonpb.Payload{Header: &commonpb.Header{ChannelHeader: header, SignatureHeader: []byte("creator")}, Data: tx})
	return mustMarshal(t, &commonpb.Envelope{Payload: payload, Signature: []byte("signature of the creator")})
}

func splitBlock(t testing.TB, envelopes ...[]byte) []byte {
	t.Helper()
	return mustMarshal(t, &commonpb.Block{
		Header: &commonpb.BlockHeader{Number: 7, DataHash: []byte("data hash")}, Data: &commonpb.BlockData{Data: envelopes},
		Metadata: &commonpb.BlockMetadata{Metadata: [][]byte{[]byte("metadata")}},
	})
}

// Nothing of what a namespace wrote is left in the outline, each piece goes to its
// namespace, and what is not chaincode's stays.
func TestSplitContent(t *testing.T) {
	block := splitBlock(t, splitTx(t, "a", "s1", "a", "b", "_lifecycle"), splitTx(t, "b", "s2", "b"), splitTx(t, "_lifecycle", "s3", "_lifecycle"))
	var s splitter
	out, names, values := s.split(nil, block)
	if !slices.Equal(names, []string{"a", "b"}) {
		t.Fatalf("namespaces are %q", names)
	}
	wantA := "argument s1" + "value s1a" + "valuehash s1a" + "name s1" + "event s1" + "message s1" + "answer s1"
	wantB := "value s1b" + "valuehash s1b" + "argument s2" + "value s2b" + "valuehash s2b" + "name s2" + "event s2" + "message s2" + "answer s2"
	if string(values[0]) != wantA || string(values[1]) != wantB {
		t.Errorf("values are %q and %q", values[0], values[1])
	}
	for _, gone := range []string{"s1a", "s1b", "s2", "event s1", "answer s1"} {
		if bytes.Contains(out, []byte(gone)) {
			t.Errorf("the outline has %q", gone)
		}
	}
	for _, stays := range []string{"written key", "signature", "metadata", "data hash", "value s1_lifecycle", "argument s3", "answer s3"} {
		if !bytes.Contains(out, []byte(stays)) {
			t.Errorf("the outline lacks %q", stays)
		}
	}
	o, rest, err := parseOutline(out)
	if err != nil {
		t.Fatal(err)
	}
	if joined, err := o.join(rest, values); err != nil || !bytes.Equal(joined, block) {
		t.Errorf("joined is %q, %v", joined, err)
	}
	holed, err := o.join(rest, [][]byte{nil, values[1]})
	if err != nil || len(holed) != len(block) || bytes.Contains(holed, []byte("s1a")) || !bytes.Contains(holed, []byte("value s2b")) {
		t.Errorf("without the values of a: %q, %v", holed, err)
	}
	if err := proto.Unmarshal(holed, &commonpb.Block{}); err != nil {
		t.Error(err)
	}
}

// The drawn bytes of docs/design/block-records.md.
func TestOutlineVector(t *testing.T) {
	block := splitBlock(t, splitTx(t, "a", "s", "a"))
	var s splitter
	out, _, values := s.split(nil, block)
	head := len(out) - (len(block) - len(values[0]))
	if got, want := hex.EncodeToString(out[:head]), outlineVector; got != want {
		t.Errorf("outline starts with %s, want %s", got, want)
	}
	if got, want := string(values[0]), "argument s"+"value sa"+"valuehash sa"+"name s"+"event s"+"message s"+"answer s"; got != want {
		t.Errorf("values are %q", got)
	}
}

const outlineVector = "0101613c073d0a00350800340c00070600020700070900020800"

// Joining gives back the very bytes, of blocks in any form of their messages, of
// blocks of a real channel, and of bytes that are no block.
func TestSplitJoin(t *testing.T) {
	var s splitter
	check := func(t interface{ Fatalf(string, ...any) }, block []byte) {
		out, names, values := s.split(nil, block)
		o, rest, err := parseOutline(out)
		if err != nil || !slices.Equal(o.names, names) {
			t.Fatalf("names are %q, %q, %v", o.names, names, err)
		}
		if joined, err := o.join(rest, values); err != nil || !bytes.Equal(joined, block) {
			t.Fatalf("%x became %x, %v", block, joined, err)
		}
	}
	for n := range uint64(fabricBlocks) {
		check(t, mustMarshal(t, fabricBlock(t, n)))
	}
	whole := splitBlock(t, splitTx(t, "a", "s1", "a", "b"), splitTx(t, "b", "s2", "b"))
	rapid.Check(t, func(rt *rapid.T) {
		block := slices.Clone(whole)
		for range rapid.IntRange(0, 4).Draw(rt, "changes") {
			at := rapid.IntRange(0, len(block)-1).Draw(rt, "at")
			switch rapid.IntRange(0, 3).Draw(rt, "change") {
			case 0:
				block[at] = rapid.Byte().Draw(rt, "byte")
			case 1:
				block = block[:at+1]
			case 2: // fields twice and in another order
				block = append(slices.Clone(block[at:]), block...)
			case 3:
				block = slices.Concat(block, block[:at])
			}
		}
		check(rt, block)
	})
}

func FuzzParseOutline(f *testing.F) {
	var s splitter
	out, _, _ := s.split(nil, splitBlock(f, splitTx(f, "a", "s", "a", "b")))
	f.Add(out)
	f.Add([]byte{0, 0})
	f.Add([]byte{1, 1, 'a', 5, 2, 0, 3, 0, 0, 2, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		o, rest, err := parseOutline(b)
		if err != nil {
			return
		}
		size := len(rest)
		for _, n := range o.lengths {
			size += n
		}
		if size > 1<<20 {
			return
		}
		block, err := o.join(rest, make([][]byte, len(o.names)))
		if err != nil || len(block) != size {
			t.Errorf("%d bytes, want %d, %v", len(block), size, err)
		}
	})
}

// A part of a record that was moved to another namespace, block or place does not open.
func TestRecordParts(t *testing.T) {
	l := newTest(t)
	commitFabric(t, l, fabricBlocks)
	n := uint64(11)
	r, err := l.readRecord(n)
	if err != nil {
		t.Fatal(err)
	}
	outline, values, ok := cutPart(r.sealed)
	if !ok || len(values) == 0 {
		t.Fatal("the block has no values")
	}
	for name, sealed := range map[string][]byte{
		"values gone":     r.sealed[:len(r.sealed)-len(values)],
		"values cut":      r.sealed[:len(r.sealed)-1],
		"more":            append(bytes.Clone(r.sealed), 0),
		"outline twice":   slices.Concat(r.sealed[:4+len(outline)], r.sealed[:4+len(outline)]),
		"nothing":         nil,
		"length too long": slices.Concat([]byte{0xff, 0, 0, 0}, r.sealed[4:]),
	} {
		bad := r
		bad.sealed = sealed
		if b, err := l.records.decode(bad); !errors.Is(err, seal.ErrMalformed) && !errors.Is(err, seal.ErrAltered) || !strings.Contains(err.Error(), "block 11") {
			t.Errorf("%s: %v, %v", name, b, err)
		}
	}
}
