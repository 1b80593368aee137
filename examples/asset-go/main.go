// Command asset-go is an example chaincode: a register of assets and their
// owners, with the function names of Fabric's asset-transfer samples. It runs as
// a service:
//
//	CHAINCODE_SERVER_ADDRESS=127.0.0.1:9999 CORE_CHAINCODE_ID_NAME=basic_1.0:… asset-go
//
// or, in development, dials the peer at CORE_PEER_ADDRESS. CHAINCODE_ID is
// accepted instead of CORE_CHAINCODE_ID_NAME. CHAINCODE_TLS_CERT and
// CHAINCODE_TLS_KEY name PEM files and switch TLS on; CHAINCODE_CLIENT_CA_CERT
// then makes the peer show a certificate too.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"strongroom/chaincode/shim"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
		fmt.Fprintln(os.Stderr, "asset-go:", err)
		os.Exit(1)
	}
}

// run starts the chaincode as the environment says.
func run(ctx context.Context, env func(string) string, log *slog.Logger) error {
	cfg := shim.Config{Address: env("CHAINCODE_SERVER_ADDRESS"), PackageID: env("CORE_CHAINCODE_ID_NAME"), Logger: log}
	if cfg.PackageID == "" {
		cfg.PackageID = env("CHAINCODE_ID")
	}
	dial := cfg.Address == "" && env("CORE_PEER_ADDRESS") != ""
	if dial {
		cfg.Address = env("CORE_PEER_ADDRESS")
	}
	if cfg.Address == "" {
		return errors.New("CHAINCODE_SERVER_ADDRESS is not set; give the address to listen on, like 127.0.0.1:9999")
	}
	var err error
	if cfg.TLS, err = tlsConfig(env); err != nil {
		return err
	}
	if dial {
		return shim.Dial(ctx, Assets{}, cfg)
	}
	return shim.Serve(ctx, Assets{}, cfg)
}

// tlsConfig reads the files that the environment names; nil without any.
func tlsConfig(env func(string) string) (*tls.Config, error) {
	certFile, keyFile, caFile := env("CHAINCODE_TLS_CERT"), env("CHAINCODE_TLS_KEY"), env("CHAINCODE_CLIENT_CA_CERT")
	if certFile == "" && keyFile == "" && caFile == "" {
		return nil, nil
	}
	if certFile == "" || keyFile == "" {
		return nil, errors.New("CHAINCODE_TLS_CERT and CHAINCODE_TLS_KEY belong together; set both for TLS")
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("CHAINCODE_TLS_CERT, CHAINCODE_TLS_KEY: %w", err)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("CHAINCODE_CLIENT_CA_CERT: %w", err)
		}
		cfg.ClientCAs, cfg.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !cfg.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CHAINCODE_CLIENT_CA_CERT: %s holds no PEM certificate", caFile)
		}
	}
	return cfg, nil
}
