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
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	"strongroom/appliance/client"
	"strongroom/bccsp"
	"strongroom/msp"
	"strongroom/wire/commonpb"
	"strongroom/wire/gatewaypb"
	"strongroom/wire/peerpb"
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

// user is an application user with a connection to its organisation's peer.
type user struct {
	*client.Client
	identity *msp.LocalIdentity
	conn     *grpc.ClientConn
}

// dialUser connects to an organisation's peer as its application user.
func (n network) dialUser(t *testing.T, org string) *user {
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
	conn := dial(t, g.Endpoint, g.TLSCACert)
	return &user{Client: client.New(identity, conn), identity: identity, conn: conn}
}

// at is the same user with a connection to another peer of its organisation.
func (u *user) at(t *testing.T, address, tlsCACert string) *user {
	t.Helper()
	conn := dial(t, address, tlsCACert)
	return &user{Client: client.New(u.identity, conn), identity: u.identity, conn: conn}
}

// dial connects to a node over TLS; one that was killed is asked again at once.
func dial(t *testing.T, address, tlsCACert string) *grpc.ClientConn {
	t.Helper()
	pem, err := os.ReadFile(tlsCACert)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	conn, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "localhost"})),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.2, MaxDelay: 100 * time.Millisecond},
			MinConnectTimeout: 5 * time.Second,
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// call makes an invocation of the example chaincode.
func call(function string, args ...string) client.Invocation {
	inv := client.Invocation{Channel: "main", Chaincode: "asset", Args: [][]byte{[]byte(function)}}
	for _, a := range args {
		inv.Args = append(inv.Args, []byte(a))
	}
	return inv
}

// endorse has the Gateway endorse a proposal and signs the transaction.
func (u *user) endorse(t *testing.T, proposal *peerpb.SignedProposal, txID string) *commonpb.Envelope {
	t.Helper()
	response, err := gatewaypb.NewGatewayClient(u.conn).Endorse(t.Context(), &gatewaypb.EndorseRequest{
		TransactionId: txID, ChannelId: "main", ProposedTransaction: proposal,
	})
	if err != nil {
		t.Fatal(err)
	}
	envelope := response.GetPreparedTransaction()
	if envelope.Signature, err = u.identity.SignPayload(t.Context(), envelope.GetPayload()); err != nil {
		t.Fatal(err)
	}
	return envelope
}

// submit has the Gateway hand a transaction to the ordering service.
func (u *user) submit(t *testing.T, envelope *commonpb.Envelope, txID string) {
	t.Helper()
	if _, err := gatewaypb.NewGatewayClient(u.conn).Submit(t.Context(), &gatewaypb.SubmitRequest{
		TransactionId: txID, ChannelId: "main", PreparedTransaction: envelope,
	}); err != nil {
		t.Fatal(err)
	}
}

// dialOrderer connects to the ordering node.
func (n network) dialOrderer(t *testing.T) *grpc.ClientConn {
	t.Helper()
	return dial(t, fmt.Sprintf("127.0.0.1:%d", n.load(t).Ports.Orderer), filepath.Join(n.dir, "orderer", "msp", "tlscacerts", "tlsca.pem"))
}
