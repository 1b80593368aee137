// Package ledgertest has what tests around a ledger need: an empty ledger, blocks
// of unsigned transactions that parse, and Model, a ledger's rules written down a
// second time in the plainest way, to compare with.
package ledgertest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strongroom/ledger"
	"strongroom/ledger/seal/sealtest"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// Open opens an empty ledger in a new folder, with a keyring that needs no token,
// and closes it at the end of the test.
func Open(t testing.TB, channelID string) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(context.Background(), ledger.Config{Dir: t.TempDir(), ChannelID: channelID, Keyring: sealtest.Keyring(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// Envelope is a transaction of a chaincode's results (rwset.TxReadWriteSet), with a
// nonce of its own, and its id. It is well formed but neither signed nor endorsed.
func Envelope(t testing.TB, channelID, chaincode string, results []byte) (envelope []byte, txID string) {
	t.Helper()
	nonce := make([]byte, 24)
	if _, err := rand.Read(nonce); err != nil {
		t.Fatal(err)
	}
	id := &peerpb.ChaincodeID{Name: chaincode, Version: "1.0"}
	creator := []byte("creator of a test")
	txID = wire.TxID(nonce, creator)
	channelHeader := marshal(t, &commonpb.ChannelHeader{
		Type: int32(commonpb.HeaderType_ENDORSER_TRANSACTION), ChannelId: channelID, TxId: txID,
		Timestamp: timestamppb.Now(), Extension: marshal(t, &peerpb.ChaincodeHeaderExtension{ChaincodeId: &peerpb.ChaincodeID{Name: chaincode}}),
	})
	signatureHeader := marshal(t, &commonpb.SignatureHeader{Creator: creator, Nonce: nonce})
	payload := marshal(t, &peerpb.ChaincodeProposalPayload{Input: []byte("input")})
	h := sha256.New()
	for _, part := range [][]byte{channelHeader, signatureHeader, payload} {
		h.Write(part)
	}
	action := marshal(t, &peerpb.ChaincodeActionPayload{
		ChaincodeProposalPayload: payload,
		Action: &peerpb.ChaincodeEndorsedAction{ProposalResponsePayload: marshal(t, &peerpb.ProposalResponsePayload{
			ProposalHash: h.Sum(nil),
			Extension:    marshal(t, &peerpb.ChaincodeAction{Results: results, Response: &peerpb.Response{Status: 200}, ChaincodeId: id}),
		})},
	})
	data := marshal(t, &peerpb.Transaction{Actions: []*peerpb.TransactionAction{{Header: signatureHeader, Payload: action}}})
	return envelopeOf(t, channelHeader, signatureHeader, data), txID
}

// ConfigEnvelope is a CONFIG transaction with a configuration of one group.
func ConfigEnvelope(t testing.TB, channelID string, config *commonpb.Config) []byte {
	t.Helper()
	channelHeader := marshal(t, &commonpb.ChannelHeader{Type: int32(commonpb.HeaderType_CONFIG), ChannelId: channelID})
	signatureHeader := marshal(t, &commonpb.SignatureHeader{Creator: []byte("orderer of a test"), Nonce: []byte("nonce")})
	return envelopeOf(t, channelHeader, signatureHeader, marshal(t, &commonpb.ConfigEnvelope{Config: config}))
}

func envelopeOf(t testing.TB, channelHeader, signatureHeader, data []byte) []byte {
	t.Helper()
	return marshal(t, &commonpb.Envelope{Payload: marshal(t, &commonpb.Payload{
		Header: &commonpb.Header{ChannelHeader: channelHeader, SignatureHeader: signatureHeader}, Data: data,
	})})
}

// Next is the block of some envelopes that comes after the last one of a chain,
// parsed and unsigned. The chain is most often a *ledger.Ledger.
func Next(t testing.TB, chain interface {
	Info() *commonpb.BlockchainInfo
}, envelopes ...[]byte) *wire.Block {
	t.Helper()
	info := chain.Info()
	data := &commonpb.BlockData{Data: envelopes}
	b, err := wire.ParseBlock(&commonpb.Block{
		Header:   &commonpb.BlockHeader{Number: info.Height, PreviousHash: info.CurrentBlockHash, DataHash: wire.DataHash(data)},
		Data:     data,
		Metadata: &commonpb.BlockMetadata{Metadata: [][]byte{{}, {}, {}, {}, {}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Commit commits the next block of some envelopes, all found valid by a validator,
// and returns the final flags.
func Commit(t testing.TB, l *ledger.Ledger, envelopes ...[]byte) []peerpb.TxValidationCode {
	t.Helper()
	b := Next(t, l, envelopes...)
	flags := make([]peerpb.TxValidationCode, len(b.Txs))
	if err := l.Commit(context.Background(), b, flags); err != nil {
		t.Fatal(err)
	}
	return flags
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
