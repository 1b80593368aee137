package msp

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"fmt"
)

// attributesOID is the extension in which a Fabric CA writes attributes, as JSON.
var attributesOID = asn1.ObjectIdentifier{1, 2, 3, 4, 5, 6, 7, 8, 1}

func parseAttributes(cert *x509.Certificate) (map[string]string, error) {
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(attributesOID) {
			continue
		}
		var doc struct {
			Attrs map[string]string `json:"attrs"`
		}
		if err := json.Unmarshal(ext.Value, &doc); err != nil {
			return nil, fmt.Errorf("attributes of certificate %q (extension %s): %w", cert.Subject, attributesOID, err)
		}
		if doc.Attrs != nil {
			return doc.Attrs, nil
		}
		break
	}
	return map[string]string{}, nil
}
