package shim

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"strongroom/wire/msppb"
)

// attributesOID is the certificate extension in which Fabric CA puts attributes.
var attributesOID = asn1.ObjectIdentifier{1, 2, 3, 4, 5, 6, 7, 8, 1}

// Identity is who signed the proposal. The peer has checked the certificate and
// the signature before it called the chaincode.
type Identity struct {
	MSPID       string
	Certificate *x509.Certificate
	Serialized  []byte // msp.SerializedIdentity as it stands in the proposal
	attributes  map[string]string
}

func newIdentity(id *msppb.SerializedIdentity, serialized []byte) (*Identity, error) {
	block, _ := pem.Decode(id.IdBytes)
	if block == nil {
		return nil, errors.New("creator: the identity holds no PEM certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("creator: %w", err)
	}
	out := &Identity{MSPID: id.Mspid, Certificate: cert, Serialized: serialized}
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(attributesOID) {
			continue
		}
		var attrs struct {
			Attrs map[string]string `json:"attrs"`
		}
		if err := json.Unmarshal(ext.Value, &attrs); err != nil {
			return nil, fmt.Errorf("creator: attributes of the certificate: %w", err)
		}
		out.attributes = attrs.Attrs
	}
	return out, nil
}

// Attribute is the value of an attribute that the certificate authority wrote
// into the certificate.
func (i *Identity) Attribute(name string) (string, bool) {
	v, ok := i.attributes[name]
	return v, ok
}

// ID names the identity as Fabric's libraries do: base64 of
// x509::subject::issuer. It is unique within the MSP.
func (i *Identity) ID() string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "x509::%s::%s", i.Certificate.Subject, i.Certificate.Issuer))
}
