package wire

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// proposalParts are the messages that a proposal is made of, for tests to change.
type proposalParts struct {
	channel    *commonpb.ChannelHeader
	signature  *commonpb.SignatureHeader
	extension  *peerpb.ChaincodeHeaderExtension
	invocation *peerpb.ChaincodeInvocationSpec
	transient  map[string][]byte
}

func newParts() *proposalParts {
	nonce, creator := []byte("24 bytes that are random"), []byte("a serialized identity")
	return &proposalParts{
		channel: &commonpb.ChannelHeader{
			Type: int32(commonpb.HeaderType_ENDORSER_TRANSACTION), ChannelId: "mychannel", TxId: TxID(nonce, creator),
		},
		signature: &commonpb.SignatureHeader{Creator: creator, Nonce: nonce},
		extension: &peerpb.ChaincodeHeaderExtension{ChaincodeId: &peerpb.ChaincodeID{Name: "kv"}},
		invocation: &peerpb.ChaincodeInvocationSpec{ChaincodeSpec: &peerpb.ChaincodeSpec{
			ChaincodeId: &peerpb.ChaincodeID{Name: "kv"},
			Input:       &peerpb.ChaincodeInput{Args: [][]byte{[]byte("put"), []byte("a"), []byte("1")}},
		}},
		transient: map[string][]byte{"secret": []byte("hidden")},
	}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (p *proposalParts) signed(t testing.TB) *peerpb.SignedProposal {
	t.Helper()
	p.channel.Extension = marshal(t, p.extension)
	header := &commonpb.Header{ChannelHeader: marshal(t, p.channel), SignatureHeader: marshal(t, p.signature)}
	payload := &peerpb.ChaincodeProposalPayload{Input: marshal(t, p.invocation), TransientMap: p.transient}
	return &peerpb.SignedProposal{
		ProposalBytes: marshal(t, &peerpb.Proposal{Header: marshal(t, header), Payload: marshal(t, payload)}),
		Signature:     []byte("a signature"),
	}
}

func testProposal(t testing.TB) *peerpb.SignedProposal { return newParts().signed(t) }

func TestParseSignedProposal(t *testing.T) {
	parts := newParts()
	sp := parts.signed(t)
	p, err := ParseSignedProposal(sp)
	if err != nil {
		t.Fatal(err)
	}
	if p.ChannelID() != "mychannel" || p.ChaincodeID.Name != "kv" || string(p.Input.Args[2]) != "1" || string(p.Transient["secret"]) != "hidden" {
		t.Errorf("proposal is %+v", p)
	}
	if bytes.Contains(p.PayloadNoTransient, []byte("hidden")) {
		t.Error("the payload for the transaction has the transient fields")
	}
	h := sha256.New()
	h.Write(marshal(t, parts.channel))
	h.Write(marshal(t, parts.signature))
	h.Write(marshal(t, &peerpb.ChaincodeProposalPayload{Input: marshal(t, parts.invocation)}))
	if !bytes.Equal(p.Hash, h.Sum(nil)) {
		t.Errorf("proposal hash is %x", p.Hash)
	}
}

// TestProposalHashOfRealTransaction rebuilds the proposal of a real transaction: its
// hash must be the one that Fabric's peers signed.
func TestProposalHashOfRealTransaction(t *testing.T) {
	tx := parseBlock(t, 8).Txs[0]
	e := &Envelope{Payload: tx.Payload}
	if f := e.parse(); f != nil {
		t.Fatal(f)
	}
	header := marshal(t, &commonpb.Header{ChannelHeader: e.ChannelHeaderBytes, SignatureHeader: e.SignatureHeaderBytes})
	p, err := ParseSignedProposal(&peerpb.SignedProposal{
		ProposalBytes: marshal(t, &peerpb.Proposal{Header: header, Payload: tx.Endorsed.ProposalPayload}),
		Signature:     []byte("not looked at"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.Hash, tx.Endorsed.ProposalHash) {
		t.Errorf("proposal hash is %x, Fabric's peers signed %x", p.Hash, tx.Endorsed.ProposalHash)
	}
}

func TestParseSignedProposalRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*proposalParts)
		want   string // in the error
	}{
		"type":            {func(p *proposalParts) { p.channel.Type = int32(commonpb.HeaderType_CONFIG_UPDATE) }, "ENDORSER_TRANSACTION"},
		"epoch":           {func(p *proposalParts) { p.channel.Epoch = 1 }, "epoch"},
		"transaction id":  {func(p *proposalParts) { p.channel.TxId = "abc" }, "tx_id"},
		"nonce":           {func(p *proposalParts) { p.signature.Nonce = nil }, "nonce"},
		"creator":         {func(p *proposalParts) { p.signature.Creator = nil }, "creator"},
		"no chaincode":    {func(p *proposalParts) { p.extension.ChaincodeId = nil }, "chaincode_id"},
		"nameless":        {func(p *proposalParts) { p.extension.ChaincodeId.Name = "" }, "chaincode_id.name"},
		"no spec":         {func(p *proposalParts) { p.invocation.ChaincodeSpec = nil }, "chaincode_spec"},
		"no input":        {func(p *proposalParts) { p.invocation.ChaincodeSpec.Input = nil }, "input"},
		"config is taken": {func(p *proposalParts) { p.channel.Type = int32(commonpb.HeaderType_CONFIG) }, ""},
	} {
		parts := newParts()
		test.change(parts)
		_, err := ParseSignedProposal(parts.signed(t))
		if test.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error is %v, want one about %q", name, err, test.want)
		}
	}
	for name, sp := range map[string]*peerpb.SignedProposal{
		"nothing":      nil,
		"empty":        {},
		"no signature": {ProposalBytes: testProposal(t).ProposalBytes},
		"garbage":      {ProposalBytes: []byte{0xff}, Signature: []byte{1}},
		"bad header":   {ProposalBytes: marshal(t, &peerpb.Proposal{Header: []byte{0xff}}), Signature: []byte{1}},
	} {
		if _, err := ParseSignedProposal(sp); err == nil {
			t.Errorf("%s parses", name)
		}
	}
}

func TestParseEnvelopeFaults(t *testing.T) {
	header := func(channel, signature []byte) []byte {
		return marshal(t, &commonpb.Payload{Header: &commonpb.Header{ChannelHeader: channel, SignatureHeader: signature}})
	}
	for name, test := range map[string]struct {
		env  *commonpb.Envelope
		want peerpb.TxValidationCode
	}{
		"nothing":          {nil, peerpb.TxValidationCode_NIL_ENVELOPE},
		"garbage":          {&commonpb.Envelope{Payload: []byte{0xff}}, peerpb.TxValidationCode_BAD_PAYLOAD},
		"no header":        {&commonpb.Envelope{}, peerpb.TxValidationCode_BAD_COMMON_HEADER},
		"channel header":   {&commonpb.Envelope{Payload: header([]byte{0xff}, nil)}, peerpb.TxValidationCode_BAD_COMMON_HEADER},
		"signature header": {&commonpb.Envelope{Payload: header(nil, []byte{0xff})}, peerpb.TxValidationCode_BAD_COMMON_HEADER},
	} {
		e, f := ParseEnvelope(test.env)
		if e != nil || f == nil || f.Code != test.want {
			t.Errorf("%s: envelope %v, fault %v, want %s", name, e, f, test.want)
		}
	}
	if e, f := ParseEnvelope(&commonpb.Envelope{Payload: header(nil, nil)}); f != nil || e.Data != nil {
		t.Errorf("an envelope with empty headers: %v, %v", e, f)
	}
}
