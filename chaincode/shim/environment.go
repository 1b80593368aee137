package shim

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// Start runs chaincode until the context ends, as the process' environment says; env
// is os.Getenv. cfg gives what the environment does not name, its Logger above all.
//
//	CHAINCODE_SERVER_ADDRESS    serves there as a service: host:port
//	CORE_PEER_ADDRESS           else, in development, dials the peer there
//	CORE_CHAINCODE_ID_NAME      the package id; CHAINCODE_ID is accepted instead
//	CHAINCODE_TLS_CERT, _KEY    PEM files; switch TLS on
//	CHAINCODE_CLIENT_CA_CERT    PEM file: peers must show a certificate of this CA
//	CORE_PEER_TLS_ROOTCERT_FILE PEM file: the CA of the peer that is dialled; switches TLS on
//
// The names are those of Fabric's chaincode libraries and samples. Errors name the
// variable that is wrong.
func Start(ctx context.Context, cc Chaincode, cfg Config, env func(string) string) error {
	if id := firstOf(env, "CORE_CHAINCODE_ID_NAME", "CHAINCODE_ID"); id != "" {
		cfg.PackageID = id
	}
	cfg.Address = env("CHAINCODE_SERVER_ADDRESS")
	run := Serve
	if cfg.Address == "" && env("CORE_PEER_ADDRESS") != "" {
		cfg.Address, run = env("CORE_PEER_ADDRESS"), Dial
	}
	if cfg.Address == "" {
		return errors.New("CHAINCODE_SERVER_ADDRESS is not set; give the address to listen on, like 127.0.0.1:9999")
	}
	var err error
	if cfg.TLS, err = tlsFrom(env); err != nil {
		return err
	}
	return run(ctx, cc, cfg)
}

func firstOf(env func(string) string, names ...string) string {
	for _, name := range names {
		if v := env(name); v != "" {
			return v
		}
	}
	return ""
}

// tlsFrom reads the files that the environment names; nil without any.
func tlsFrom(env func(string) string) (*tls.Config, error) {
	certFile, keyFile := env("CHAINCODE_TLS_CERT"), env("CHAINCODE_TLS_KEY")
	clients, err := authorities(env, "CHAINCODE_CLIENT_CA_CERT")
	if err != nil {
		return nil, err
	}
	peers, err := authorities(env, "CORE_PEER_TLS_ROOTCERT_FILE")
	if err != nil {
		return nil, err
	}
	if certFile == "" && keyFile == "" && clients == nil && peers == nil {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: peers}
	if certFile != "" || keyFile != "" || clients != nil {
		if certFile == "" || keyFile == "" {
			return nil, errors.New("CHAINCODE_TLS_CERT and CHAINCODE_TLS_KEY belong together; set both for TLS")
		}
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("CHAINCODE_TLS_CERT, CHAINCODE_TLS_KEY: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	if clients != nil {
		cfg.ClientCAs, cfg.ClientAuth = clients, tls.RequireAndVerifyClientCert
	}
	return cfg, nil
}

// authorities reads the certificates of the PEM file that a variable names; nil if it
// names none.
func authorities(env func(string) string, name string) (*x509.CertPool, error) {
	file := env(name)
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: %s holds no PEM certificate", name, file)
	}
	return pool, nil
}
