package configtx

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/commonpb"
)

// SignUpdate signs a configuration update; update is the marshalled
// common.ConfigUpdate. Any number of administrators sign the same bytes.
func SignUpdate(ctx context.Context, by *msp.LocalIdentity, update []byte) (*commonpb.ConfigSignature, error) {
	header, err := canonical.Marshal(newSignatureHeader(by))
	if err != nil {
		return nil, fmt.Errorf("sign configuration update: %w", err)
	}
	sig, err := by.SignConfigUpdate(ctx, header, update)
	if err != nil {
		return nil, fmt.Errorf("sign configuration update: %w", err)
	}
	return &commonpb.ConfigSignature{SignatureHeader: header, Signature: sig}, nil
}

// UpdateEnvelope makes the CONFIG_UPDATE envelope that is sent to an orderer, signed
// by the one who sends it at the given time.
func UpdateEnvelope(ctx context.Context, by *msp.LocalIdentity, channelID string, update []byte, signatures []*commonpb.ConfigSignature, at time.Time) (*commonpb.Envelope, error) {
	data, err := canonical.Marshal(&commonpb.ConfigUpdateEnvelope{ConfigUpdate: update, Signatures: signatures})
	if err != nil {
		return nil, fmt.Errorf("configuration update of channel %q: %w", channelID, err)
	}
	sh := newSignatureHeader(by)
	env, err := envelope(&commonpb.ChannelHeader{
		Type: int32(commonpb.HeaderType_CONFIG_UPDATE), ChannelId: channelID, Timestamp: timestamppb.New(at),
		TxId: wire.TxID(sh.GetNonce(), sh.GetCreator()),
	}, sh, data)
	if err != nil {
		return nil, fmt.Errorf("configuration update of channel %q: %w", channelID, err)
	}
	if env.Signature, err = by.SignPayload(ctx, env.Payload); err != nil {
		return nil, fmt.Errorf("configuration update of channel %q: %w", channelID, err)
	}
	return env, nil
}

func newSignatureHeader(by *msp.LocalIdentity) *commonpb.SignatureHeader {
	nonce := make([]byte, 24)
	rand.Read(nonce) // never fails (crypto/rand)
	return &commonpb.SignatureHeader{Creator: by.Serialized, Nonce: nonce}
}
