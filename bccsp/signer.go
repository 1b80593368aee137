package bccsp

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
)

// DigestSigner is one private key in a token, as a driver offers it to this
// package. Only Signer and TLSKey call it: nothing else in the peer may ask a
// token to sign bytes of its choice.
type DigestSigner interface {
	// SignDigest returns an ASN.1 DER ECDSA signature with low S.
	SignDigest(ctx context.Context, digest []byte) ([]byte, error)
	PublicKey() *PublicKey
}

// Signer is an identity's signing key in a token. Each method builds the bytes of
// one purpose itself, so that none of them can be used as a signing oracle for
// another. It is safe for concurrent use.
type Signer struct{ key DigestSigner }

// NewSigner binds a token's key to the purposes of a Fabric identity.
func NewSigner(key DigestSigner) *Signer { return &Signer{key: key} }

// PublicKey is the key's public half.
func (s *Signer) PublicKey() *PublicKey { return s.key.PublicKey() }

// SignEndorsement signs a proposal response payload as the endorser: the payload
// followed by the endorser's serialized identity (protos.Endorsement.signature).
func (s *Signer) SignEndorsement(ctx context.Context, responsePayload, endorser []byte) ([]byte, error) {
	return s.sign(ctx, responsePayload, endorser)
}

// SignProposal signs protos.SignedProposal.proposal_bytes.
func (s *Signer) SignProposal(ctx context.Context, proposal []byte) ([]byte, error) {
	return s.sign(ctx, proposal)
}

// SignPayload signs common.Envelope.payload: transactions, configuration updates
// and deliver requests.
func (s *Signer) SignPayload(ctx context.Context, payload []byte) ([]byte, error) {
	return s.sign(ctx, payload)
}

// SignGatewayRequest signs the request of a gateway.SignedCommitStatusRequest or a
// gateway.SignedChaincodeEventsRequest.
func (s *Signer) SignGatewayRequest(ctx context.Context, request []byte) ([]byte, error) {
	return s.sign(ctx, request)
}

// SignConfigUpdate signs a configuration update as common.ConfigSignature does:
// the signature header followed by the update.
func (s *Signer) SignConfigUpdate(ctx context.Context, signatureHeader, update []byte) ([]byte, error) {
	return s.sign(ctx, signatureHeader, update)
}

// SignBlock signs a block's metadata as common.MetadataSignature does: the
// metadata value, the signature header and the ASN.1 form of the block header.
func (s *Signer) SignBlock(ctx context.Context, value, signatureHeader, blockHeader []byte) ([]byte, error) {
	return s.sign(ctx, value, signatureHeader, blockHeader)
}

// SignStatement signs a provenance statement: the DSSE pre-authentication
// encoding (PAE) of payloadType and body.
func (s *Signer) SignStatement(ctx context.Context, payloadType string, body []byte) ([]byte, error) {
	head := fmt.Sprintf("DSSEv1 %d %s %d ", len(payloadType), payloadType, len(body))
	return s.sign(ctx, []byte(head), body)
}

// SignCheckpoint signs the text of a transparency log's checkpoint (C2SP
// tlog-checkpoint): origin, size and root, a line each. The origin must begin with
// "strongroom/" and be one line.
func (s *Signer) SignCheckpoint(ctx context.Context, origin string, size uint64, root [sha256.Size]byte) ([]byte, error) {
	if !strings.HasPrefix(origin, "strongroom/") || strings.ContainsAny(origin, "\n\r +") {
		return nil, fmt.Errorf("checkpoint's origin %q does not name a log: it is strongroom/CHANNEL/KEY", origin)
	}
	return s.sign(ctx, fmt.Appendf(nil, "%s\n%d\n%s\n", origin, size, base64.StdEncoding.EncodeToString(root[:])))
}

func (s *Signer) sign(ctx context.Context, parts ...[]byte) ([]byte, error) {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return s.key.SignDigest(ctx, h.Sum(nil))
}

var _ crypto.Signer = (*TLSKey)(nil)
