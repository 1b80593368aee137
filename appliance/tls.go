package appliance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc/credentials"

	"strongroom/appliance/config"
	"strongroom/bccsp"
)

// handshakeTimeout bounds the check of a TLS peer's chain in the token.
const handshakeTimeout = 10 * time.Second

// loadTLS binds a TLS certificate to its key in the token.
func loadTLS(ctx context.Context, token keyHolder, certificateFile, keyLabel string) (*tls.Certificate, error) {
	chain, err := readCertificates(certificateFile)
	if err != nil {
		return nil, err
	}
	return bindTLS(ctx, token, chain, certificateFile, keyLabel)
}

// bindTLS finds the key of a chain's first certificate in the token: by its public half,
// and by the label where the token has it several times. The file's name is for errors.
func bindTLS(ctx context.Context, token keyHolder, chain []*x509.Certificate, certificateFile, keyLabel string) (*tls.Certificate, error) {
	public, err := bccsp.NewPublicKey(chain[0].PublicKey)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certificateFile, err)
	}
	key, err := token.TLSKeyOf(ctx, public, keyLabel)
	if err != nil {
		return nil, fmt.Errorf("%s is of key %s: %w", certificateFile, public.ID(), err)
	}
	certificate := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		certificate.Certificate = append(certificate.Certificate, c.Raw)
	}
	return certificate, nil
}

// serverTLS makes the credentials of a gRPC endpoint. With client CAs it demands a
// client certificate, whose chain is checked in the token too. Without, it asks for
// one and takes any, as Fabric's peers do: requests that are bound to their connection
// name it.
func serverTLS(ctx context.Context, token keyHolder, l config.Listen) (credentials.TransportCredentials, *servedCertificate, error) {
	certificate, err := loadTLS(ctx, token, l.TLSCertificate, l.TLSKey)
	if err != nil {
		return nil, nil, fmt.Errorf("listen.tlsCertificate, listen.tlsKey: %w", err)
	}
	served := &servedCertificate{}
	served.Store(certificate)
	c := &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return served.Load(), nil },
		MinVersion:     tls.VersionTLS12,
	}
	c.ClientAuth = tls.RequestClientCert
	if len(l.ClientCAs) > 0 {
		pool, err := certPool(l.ClientCAs...)
		if err != nil {
			return nil, nil, fmt.Errorf("listen.clientCAs: %w", err)
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
		c.ClientCAs = pool
		c.VerifyConnection = verifyChainInToken(token)
	}
	return credentials.NewTLS(c), served, nil
}

// clientTLS makes the configuration for a connection to another node. certificate, when
// set, answers what to show to a node that asks for one, at each handshake.
func clientTLS(verifier bccsp.Verifier, roots *x509.CertPool, serverName string, certificate func() *tls.Certificate) *tls.Config {
	c := &tls.Config{
		RootCAs:          roots,
		ServerName:       serverName,
		MinVersion:       tls.VersionTLS12,
		VerifyConnection: verifyChainInToken(verifier),
	}
	if certificate != nil {
		c.GetClientCertificate = func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			shown := certificate()
			if r.SupportsCertificate(shown) != nil {
				shown = &tls.Certificate{} // none: the server says whether it does without
			}
			return shown, nil
		}
	}
	return c
}

// verifyChainInToken checks once more, in the token, the chain that crypto/tls
// found: one of the verified chains must hold.
func verifyChainInToken(verifier bccsp.Verifier) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
		defer cancel()
		var err error
		for _, chain := range state.VerifiedChains {
			if err = verifyChain(ctx, verifier, chain); err == nil {
				return nil
			}
		}
		if err == nil {
			err = fmt.Errorf("no verified chain")
		}
		return fmt.Errorf("TLS certificate chain, checked in the token: %w", err)
	}
}

func verifyChain(ctx context.Context, verifier bccsp.Verifier, chain []*x509.Certificate) error {
	for i, certificate := range chain {
		issuer := certificate // a root vouches for itself
		if i+1 < len(chain) {
			issuer = chain[i+1]
		}
		if err := bccsp.VerifyCertificate(ctx, verifier, certificate, issuer); err != nil {
			return err
		}
	}
	return nil
}

func readCertificates(file string) ([]*x509.Certificate, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parseCertificates(file, data)
}

// poolOf makes a pool of certificates in PEM; name is for errors.
func poolOf(name string, pems [][]byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for _, pem := range pems {
		certificates, err := parseCertificates(name, pem)
		if err != nil {
			return nil, err
		}
		for _, certificate := range certificates {
			pool.AddCert(certificate)
		}
	}
	return pool, nil
}

func certPool(files ...string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for _, file := range files {
		certificates, err := readCertificates(file)
		if err != nil {
			return nil, err
		}
		for _, c := range certificates {
			pool.AddCert(c)
		}
	}
	return pool, nil
}
