package softhsmtests

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"strongroom/appliance/client"
	"strongroom/bccsp"
	"strongroom/msp"
)

// userKey is an application user's key in a file: the client's side of the wire.
type userKey struct {
	key *ecdsa.PrivateKey
	pub *bccsp.PublicKey
}

func (u userKey) PublicKey() *bccsp.PublicKey { return u.pub }

// SignDigest signs with low S, as Fabric's clients do.
func (u userKey) SignDigest(_ context.Context, digest []byte) ([]byte, error) {
	r, s, err := ecdsa.Sign(rand.Reader, u.key, digest)
	if err != nil {
		return nil, err
	}
	n := u.key.Params().N
	if s.Cmp(new(big.Int).Rsh(n, 1)) > 0 {
		s.Sub(n, s)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{r, s})
}

// dialUser connects to an organisation's peer as its application user.
func (n network) dialUser(t *testing.T, org string) *client.Client {
	t.Helper()
	file := filepath.Join(n.dir, "gateway-"+org+".json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var g struct{ Endpoint, TLSCACert, ServerName, MspID, ClientCert, ClientKey string }
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	read := func(file string) []byte {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	block, _ := pem.Decode(read(g.ClientKey))
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key := parsed.(*ecdsa.PrivateKey)
	public, err := bccsp.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	identity, err := msp.LoadLocalIdentity(msp.ID(g.MspID), read(g.ClientCert), bccsp.NewSigner(userKey{key, public}))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(read(g.TLSCACert))
	conn, err := grpc.NewClient(g.Endpoint, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: g.ServerName})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return client.New(identity, conn)
}

// call makes an invocation of the example chaincode.
func call(function string, args ...string) client.Invocation {
	inv := client.Invocation{Channel: "main", Chaincode: "asset", Args: [][]byte{[]byte(function)}}
	for _, a := range args {
		inv.Args = append(inv.Args, []byte(a))
	}
	return inv
}
