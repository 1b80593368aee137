package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"strongroom/wire/msppb"
)

// target is what a connection file says: the one peer that is talked to, and as whom.
// `strongroom dev up` writes such files.
type target struct {
	Endpoint   string `json:"endpoint"`
	TLSCACert  string `json:"tlsCACert"` // PEM file
	ServerName string `json:"serverName"`
	MSPID      string `json:"mspId"`
	ClientCert string `json:"clientCert"` // PEM file
	ClientKey  string `json:"clientKey"`  // PEM file, PKCS #8 or SEC 1, P-256
	Channel    string `json:"channel"`
	Chaincode  string `json:"chaincode"`
}

// loadTarget reads a connection file. File names in it are relative to it.
func loadTarget(file string) (*target, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("connection file: %w", err)
	}
	t := &target{}
	if err := json.Unmarshal(raw, t); err != nil {
		return nil, fmt.Errorf("connection file %s: %w", file, err)
	}
	for _, f := range []struct{ name, value string }{
		{"endpoint", t.Endpoint}, {"tlsCACert", t.TLSCACert}, {"mspId", t.MSPID}, {"clientCert", t.ClientCert},
		{"clientKey", t.ClientKey}, {"channel", t.Channel}, {"chaincode", t.Chaincode},
	} {
		if f.value == "" {
			return nil, fmt.Errorf("connection file %s: %s is missing", file, f.name)
		}
	}
	for _, p := range []*string{&t.TLSCACert, &t.ClientCert, &t.ClientKey} {
		if !filepath.IsAbs(*p) {
			*p = filepath.Join(filepath.Dir(file), *p)
		}
	}
	return t, nil
}

// dial makes n connections to the peer.
func (t *target) dial(n int) ([]*grpc.ClientConn, error) {
	raw, err := os.ReadFile(t.TLSCACert)
	if err != nil {
		return nil, fmt.Errorf("tlsCACert: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("tlsCACert: %s holds no certificate", t.TLSCACert)
	}
	var conns []*grpc.ClientConn
	for range n {
		conn, err := grpc.NewClient(t.Endpoint,
			grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: t.ServerName, MinVersion: tls.VersionTLS12})),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(100<<20), grpc.MaxCallSendMsgSize(100<<20)))
		if err != nil {
			return nil, fmt.Errorf("endpoint: %w", err)
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

// user is a client's identity with its key in this process: this tool is a client of
// the peer, and its user's key is a file as with Fabric's own clients.
type user struct {
	creator []byte // msp.SerializedIdentity
	key     *ecdsa.PrivateKey
}

func (t *target) user() (*user, error) {
	certificate, err := os.ReadFile(t.ClientCert)
	if err != nil {
		return nil, fmt.Errorf("clientCert: %w", err)
	}
	block, _ := pem.Decode(certificate)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("clientCert: %s holds no certificate in PEM", t.ClientCert)
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("clientCert: %w", err)
	}
	raw, err := os.ReadFile(t.ClientKey)
	if err != nil {
		return nil, fmt.Errorf("clientKey: %w", err)
	}
	defer clear(raw)
	key, err := parseKey(raw)
	if err != nil {
		return nil, fmt.Errorf("clientKey: %w", err)
	}
	if !key.PublicKey.Equal(parsed.PublicKey) {
		return nil, errors.New("clientKey: it is not the key of clientCert")
	}
	creator, err := proto.Marshal(&msppb.SerializedIdentity{Mspid: t.MSPID, IdBytes: certificate})
	return &user{creator: creator, key: key}, err
}

func parseKey(raw []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, errors.New("the file holds no key in PEM")
	}
	defer clear(block.Bytes)
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		if any, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
			return nil, errors.New("the key is neither PKCS #8 nor SEC 1")
		}
	}
	key, ok := any.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the key is not an ECDSA key on P-256")
	}
	return key, nil
}

// sign makes an ECDSA signature over the message's SHA-256, with low S, as Fabric
// demands (bccsp/utils, ToLowS).
func (u *user) sign(message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	sig, err := ecdsa.SignASN1(rand.Reader, u.key, digest[:])
	if err != nil {
		return nil, err
	}
	var v struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(sig, &v); err != nil {
		return nil, err
	}
	n := u.key.Params().N
	if v.S.Cmp(new(big.Int).Rsh(n, 1)) <= 0 {
		return sig, nil
	}
	v.S.Sub(n, v.S)
	return asn1.Marshal(v)
}
