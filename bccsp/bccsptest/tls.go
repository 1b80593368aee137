package bccsptest

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"
)

// IssueTLS makes a TLS certificate for servers and clients, for hosts that are DNS
// names or IP addresses, with its key in the token.
func (c *CA) IssueTLS(t testing.TB, name string, hosts ...string) tls.Certificate {
	t.Helper()
	r := newRequest(name, "", nil)
	r.template.KeyUsage = x509.KeyUsageDigitalSignature
	r.template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			r.template.IPAddresses = append(r.template.IPAddresses, ip)
		} else {
			r.template.DNSNames = append(r.template.DNSNames, host)
		}
	}
	label := newLabel("tls")
	pub := generate(t, c.token, label, r.curve)
	cert, _ := r.sign(t, c.Certificate, pub.ECDSA(), c.key)
	chain := [][]byte{cert.Raw}
	for ca := c; ca.Parent != nil; ca = ca.Parent {
		chain = append(chain, ca.Certificate.Raw)
	}
	return tls.Certificate{Certificate: chain, PrivateKey: rawSigner(t, c.token, label), Leaf: cert}
}

// Pool holds the root of this CA, for tls.Config.
func (c *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.Root().Certificate)
	return pool
}
