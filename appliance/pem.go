package appliance

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// parseCertificates reads one or more PEM certificates; name is for errors.
func parseCertificates(name string, data []byte) ([]*x509.Certificate, error) {
	var certificates []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s holds a PEM block %q where a CERTIFICATE is needed", name, block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		certificates = append(certificates, c)
	}
	if len(certificates) == 0 {
		return nil, fmt.Errorf("%s holds no PEM certificate", name)
	}
	return certificates, nil
}
