package configtx_test

import (
	"slices"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/bccsp/bccsptest"
	"strongroom/channel/configtx"
	"strongroom/wire"
	"strongroom/wire/commonpb"
)

// network is a channel whose keys live in the test's token: two organisations of
// peers and one of orderers.
type network struct {
	orderers, org1, org2   *bccsptest.CA
	orderer                *bccsptest.Identity
	ordererAdmin           *bccsptest.Identity
	admin1, admin2, member *bccsptest.Identity
	description            *configtx.Description
	genesis                *commonpb.Block
	config                 *configtx.Config
}

// shared has the keys, which take a token some time to make, once for all tests.
var shared struct {
	sync.Mutex
	n *network
}

// newNetwork returns a network with a description and a configuration of its own.
func newNetwork(t testing.TB) *network {
	t.Helper()
	shared.Lock()
	if shared.n == nil {
		shared.n = makeNetwork(t)
	}
	n := *shared.n
	shared.Unlock()
	d := *n.description
	n.description = &d
	n.rebuild(t)
	return &n
}

func makeNetwork(t testing.TB) *network {
	t.Helper()
	token := bccsptest.OpenShared(t)
	n := &network{
		orderers: bccsptest.NewCA(t, token, "OrdererMSP"), org1: bccsptest.NewCA(t, token, "Org1MSP"), org2: bccsptest.NewCA(t, token, "Org2MSP"),
	}
	n.orderer, n.ordererAdmin = n.orderers.Issue(t, "orderer", "orderer"), n.orderers.Issue(t, "admin", "admin")
	n.admin1, n.admin2, n.member = n.org1.Issue(t, "admin", "admin"), n.org2.Issue(t, "admin", "admin"), n.org1.Issue(t, "user", "client")
	n.description = &configtx.Description{
		Channel: "main",
		Organizations: []configtx.OrganizationDescription{
			{MSPID: "OrdererMSP", MSPConfig: n.orderers.MSPConfig(), OrdererEndpoints: []string{"orderer.example.com:7050"}},
			{MSPID: "Org1MSP", MSPConfig: n.org1.MSPConfig(), AnchorPeers: []string{"peer0.org1.example.com:7051"}},
			{MSPID: "Org2MSP", MSPConfig: n.org2.MSPConfig()},
		},
		Orderer:     configtx.OrdererDescription{Organizations: []string{"OrdererMSP"}},
		Application: configtx.ApplicationDescription{Organizations: []string{"Org1MSP", "Org2MSP"}, ACLs: map[string]string{"peer/Propose": "Writers", "event/Block": "/Channel/Readers"}},
	}
	return n
}

func (n *network) rebuild(t testing.TB) {
	t.Helper()
	var err error
	if n.genesis, err = configtx.BuildGenesis(n.description); err != nil {
		t.Fatal(err)
	}
	if n.config, err = configtx.FromBlock(t.Context(), deps(t), n.genesis); err != nil {
		t.Fatal(err)
	}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// edit computes the update that a change of the present configuration makes.
func (n *network) edit(t testing.TB, change func(root *commonpb.ConfigGroup)) *commonpb.ConfigUpdate {
	t.Helper()
	updated := proto.CloneOf(n.config.Proto)
	change(updated.GetChannelGroup())
	u, err := configtx.ComputeUpdate(n.config.Proto, updated)
	if err != nil {
		t.Fatal(err)
	}
	u.ChannelId = n.config.ID
	return u
}

// envelope signs an update and puts it into an envelope of the first signer's.
func envelope(t testing.TB, u *commonpb.ConfigUpdate, signers ...*bccsptest.Identity) *commonpb.Envelope {
	t.Helper()
	raw := marshal(t, u)
	ue := &commonpb.ConfigUpdateEnvelope{ConfigUpdate: raw}
	for _, s := range signers {
		header := marshal(t, &commonpb.SignatureHeader{Creator: s.Serialized(), Nonce: []byte(s.Label)})
		sig, err := s.Signer.SignConfigUpdate(t.Context(), header, raw)
		if err != nil {
			t.Fatal(err)
		}
		ue.Signatures = append(ue.Signatures, &commonpb.ConfigSignature{SignatureHeader: header, Signature: sig})
	}
	return &commonpb.Envelope{Payload: marshal(t, &commonpb.Payload{
		Header: &commonpb.Header{ChannelHeader: marshal(t, &commonpb.ChannelHeader{Type: int32(commonpb.HeaderType_CONFIG_UPDATE), ChannelId: u.GetChannelId()})},
		Data:   marshal(t, ue),
	})}
}

// signBlock gives a block the signatures of orderers.
func signBlock(t testing.TB, b *commonpb.Block, signers ...*bccsptest.Identity) {
	t.Helper()
	md := &commonpb.Metadata{Value: marshal(t, &commonpb.OrdererBlockMetadata{LastConfig: &commonpb.LastConfig{}})}
	for _, s := range signers {
		header := marshal(t, &commonpb.SignatureHeader{Creator: s.Serialized(), Nonce: []byte("nonce")})
		sig, err := s.Signer.SignBlock(t.Context(), md.Value, header, wire.HeaderBytes(b.Header))
		if err != nil {
			t.Fatal(err)
		}
		md.Signatures = append(md.Signatures, &commonpb.MetadataSignature{SignatureHeader: header, Signature: sig})
	}
	b.Metadata = &commonpb.BlockMetadata{Metadata: [][]byte{marshal(t, md), nil, nil, nil, nil}}
}

func newBlock(number uint64, data ...[]byte) *commonpb.Block {
	d := &commonpb.BlockData{Data: slices.Clone(data)}
	return &commonpb.Block{Header: &commonpb.BlockHeader{Number: number, PreviousHash: make([]byte, 32), DataHash: wire.DataHash(d)}, Data: d}
}
