package deliver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
	"strongroom/wire/ordererpb"
)

// Request is one signed seek request, decoded once. Its slices alias the envelope;
// nothing may change them.
type Request struct {
	ChannelHeader   *commonpb.ChannelHeader
	SignatureHeader *commonpb.SignatureHeader
	Payload         []byte // common.Envelope.payload: what the signer signed
	Signature       []byte
	Seek            *ordererpb.SeekInfo
	RemoteAddr      string    // of the connection, "" if unknown
	Expires         time.Time // when the signer's certificate ends; zero if the creator is no certificate
}

// parseRequest decodes an envelope. Its errors are the client's: BAD_REQUEST.
func parseRequest(env *commonpb.Envelope) (*Request, error) {
	e, fault := wire.ParseEnvelope(env)
	if fault != nil {
		return nil, fault
	}
	r := &Request{
		ChannelHeader:   e.ChannelHeader,
		SignatureHeader: e.SignatureHeader,
		Payload:         e.Payload,
		Signature:       e.Signature,
		Seek:            new(ordererpb.SeekInfo),
	}
	if err := proto.Unmarshal(e.Data, r.Seek); err != nil {
		return nil, fmt.Errorf("seek info does not decode: %w", err)
	}
	r.Expires = CertificateEnd(r.SignatureHeader.Creator)
	return r, nil
}

// CertificateEnd is when the certificate of a serialized identity ends, whether it is
// valid or not, or zero: an identity that is no certificate cannot expire, it can
// only fail to verify.
func CertificateEnd(creator []byte) time.Time {
	var id msppb.SerializedIdentity
	if proto.Unmarshal(creator, &id) != nil {
		return time.Time{}
	}
	block, _ := pem.Decode(id.IdBytes)
	if block == nil {
		return time.Time{}
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}
	}
	return cert.NotAfter
}

// checkFresh refuses a request whose timestamp is further than window from now.
func (r *Request) checkFresh(now time.Time, window time.Duration) error {
	ts := r.ChannelHeader.GetTimestamp()
	if ts == nil {
		return errors.New("channel header has no timestamp")
	}
	if d := now.Sub(ts.AsTime()).Abs(); d > window {
		return fmt.Errorf("timestamp %s is %s from this node's clock, at most %s is allowed: set the clocks right",
			ts.AsTime().Format(time.RFC3339), d.Round(time.Second), window)
	}
	return nil
}

// checkBinding refuses a request that was not made for the TLS connection it came
// over: ChannelHeader.tls_cert_hash is the SHA-256 of the client's TLS certificate.
func (r *Request) checkBinding(hash []byte) error {
	claimed := r.ChannelHeader.GetTlsCertHash()
	switch {
	case len(claimed) == 0:
		return errors.New("channel header has no tls_cert_hash, which mutual TLS needs")
	case len(hash) == 0:
		return errors.New("the connection has no client TLS certificate")
	case !bytes.Equal(claimed, hash):
		return fmt.Errorf("tls_cert_hash is %x, the connection's certificate has %x", claimed, hash)
	}
	return nil
}

// PeerCertificateHash is the SHA-256 of the TLS certificate of the other side of the
// gRPC connection, or nil if it showed none whose chain was verified.
func PeerCertificateHash(ctx context.Context) []byte {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return nil
	}
	sum := sha256.Sum256(info.State.PeerCertificates[0].Raw)
	return sum[:]
}
