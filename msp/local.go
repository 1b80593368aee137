package msp

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"strongroom/bccsp"
	"strongroom/wire/msppb"
)

// LocalIdentity is this node's identity: a certificate and the key in the token
// that it certifies. Its fields are immutable and it is safe for concurrent use;
// nothing may change its slices. What Renew put in force, Current answers.
type LocalIdentity struct {
	*bccsp.Signer
	MSPID       ID
	Serialized  []byte // msp.SerializedIdentity: the creator and endorser of messages
	Certificate *x509.Certificate

	newest *atomic.Pointer[LocalIdentity] // set by Renew
}

// LoadLocalIdentity binds a certificate, in PEM, to the signer of its key. A
// certificate of another key is refused with an error that names both keys. Only
// a channel's Set can say whether the certificate is valid there.
func LoadLocalIdentity(mspID ID, certPEM []byte, signer *bccsp.Signer) (*LocalIdentity, error) {
	if mspID == "" {
		return nil, errors.New("local identity: the MSP id is empty")
	}
	if signer == nil {
		return nil, errors.New("local identity: no signer given")
	}
	block, err := oneCertificate(certPEM)
	if err != nil {
		return nil, fmt.Errorf("local identity of MSP %q: %w", string(mspID), err)
	}
	cert, err := x509.ParseCertificate(block)
	if err != nil {
		return nil, fmt.Errorf("local identity of MSP %q: certificate: %w", string(mspID), err)
	}
	key, err := bccsp.NewPublicKey(cert.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("local identity of MSP %q: certificate %q: %w", string(mspID), cert.Subject, err)
	}
	if !key.Equal(signer.PublicKey()) {
		return nil, fmt.Errorf("local identity of MSP %q: certificate %q is of key %s, but the token's key is %s: give the certificate that was issued for the token's key",
			string(mspID), cert.Subject, key.ID(), signer.PublicKey().ID())
	}
	serialized, err := Serialize(mspID, pem.EncodeToMemory(&pem.Block{Type: certificateType, Bytes: cert.Raw}))
	if err != nil {
		return nil, err
	}
	return &LocalIdentity{Signer: signer, MSPID: mspID, Serialized: serialized, Certificate: cert, newest: new(atomic.Pointer[LocalIdentity])}, nil
}

// Serialize makes the msp.SerializedIdentity of a certificate in PEM, which goes
// in as it is: identities are told apart by these bytes.
func Serialize(mspID ID, certPEM []byte) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&msppb.SerializedIdentity{Mspid: string(mspID), IdBytes: certPEM})
	if err != nil {
		return nil, fmt.Errorf("serialize identity of MSP %q: %w", string(mspID), err)
	}
	return b, nil
}
