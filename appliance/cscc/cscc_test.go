package cscc_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/appliance/cscc"
	"strongroom/appliance/endorser"
	net "strongroom/appliance/endorser/endorsertest"
	"strongroom/bccsp/bccsptest"
	"strongroom/channel/configtx"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// joined records what was joined, and refuses one channel.
type joined struct{ channels []string }

func (j *joined) JoinChannel(_ context.Context, channelID string, genesis *commonpb.Block) error {
	if channelID == "full" {
		return errors.New("the disk is full: free some space")
	}
	if genesis.GetHeader() == nil {
		return errors.New("no block")
	}
	j.channels = append(j.channels, channelID)
	return nil
}

func config(t testing.TB, p *net.Peer, j *joined) cscc.Config {
	t.Helper()
	return cscc.Config{
		Access: p.Guard, Joiner: j, LocalMSP: p.Local, Channels: func() []string { return append([]string{net.ChannelID}, j.channels...) },
		Channel: func(id string) (*configtx.Config, func() (*commonpb.Block, error), bool) {
			return p.Channel.Config(), func() (*commonpb.Block, error) { return p.Channel.Ledger().Block(0) }, id == net.ChannelID
		},
	}
}

func start(t testing.TB, j *joined) *net.Network {
	t.Helper()
	return net.Start(t, func(p *net.Peer, cfg *endorser.Config) {
		c, err := cscc.New(config(t, p, j))
		if err != nil {
			t.Fatal(err)
		}
		cfg.System = append(cfg.System, c)
	}, "Org1MSP")
}

// genesisOf makes another channel's genesis block.
func genesisOf(t testing.TB, n *net.Network, channelID string) []byte {
	t.Helper()
	ca := bccsptest.NewCA(t, n.Token, "OrdererMSP")
	b, err := configtx.BuildGenesis(&configtx.Description{
		Channel: channelID,
		Organizations: []configtx.OrganizationDescription{
			{Name: "o", MSPID: "OrdererMSP", MSPConfig: ca.MSPConfig(), OrdererEndpoints: []string{"o.invalid:1"}},
			{Name: "Org1MSP", MSPID: "Org1MSP", MSPConfig: n.Peers[0].CA.MSPConfig()},
		},
		Orderer:     configtx.OrdererDescription{Organizations: []string{"o"}},
		Application: configtx.ApplicationDescription{Organizations: []string{"Org1MSP"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return net.Marshal(t, b)
}

func TestConfigurerOverNetwork(t *testing.T) {
	j := &joined{}
	n := start(t, j)
	p := n.Peers[0]
	query := func(by *bccsptest.Identity, channelID string, args ...[]byte) *peerpb.Response {
		t.Helper()
		return p.Query(t, by, net.Call{Channel: channelID, Chaincode: "cscc", Args: args})
	}
	if resp := query(p.Admin, "", []byte("JoinChain"), genesisOf(t, n, "second")); resp.GetStatus() != 200 {
		t.Fatalf("join = %v", resp)
	}
	channels := &peerpb.ChannelQueryResponse{}
	resp := query(p.Client, "", []byte("GetChannels"))
	if err := proto.Unmarshal(resp.GetPayload(), channels); err != nil || len(channels.GetChannels()) != 2 || channels.GetChannels()[0].GetChannelId() != "second" {
		t.Errorf("channels = %v, %v", resp, err)
	}
	block := &commonpb.Block{}
	resp = query(p.Client, net.ChannelID, net.Args("GetConfigBlock", net.ChannelID)...)
	if err := proto.Unmarshal(resp.GetPayload(), block); err != nil || block.GetHeader() == nil {
		t.Errorf("configuration block = %v, %v", resp, err)
	}
	resp = query(p.Client, "", net.Args("GetConfigBlock", net.ChannelID)...)
	if resp.GetStatus() != 200 {
		t.Errorf("configuration block without channel = %v", resp)
	}
	cfg := &commonpb.Config{}
	resp = query(p.Client, net.ChannelID, net.Args("GetChannelConfig", net.ChannelID)...)
	if err := proto.Unmarshal(resp.GetPayload(), cfg); err != nil || !proto.Equal(cfg, p.Channel.Config().Proto) {
		t.Errorf("configuration = %v, %v", resp, err)
	}

	notFirst := &commonpb.Block{}
	if err := proto.Unmarshal(genesisOf(t, n, "third"), notFirst); err != nil {
		t.Fatal(err)
	}
	notFirst.Header.Number = 4
	for _, test := range []struct {
		name string
		by   *bccsptest.Identity
		args [][]byte
		want string
	}{
		{"no arguments", p.Admin, net.Args("JoinChain"), "Incorrect number of arguments, 1"},
		{"client may not join", p.Client, [][]byte{[]byte("JoinChain"), genesisOf(t, n, "third")}, "access denied for [JoinChain][third]"},
		{"joined already", p.Admin, [][]byte{[]byte("JoinChain"), genesisOf(t, n, net.ChannelID)}, "ledger [testchannel] already exists"},
		{"join fails", p.Admin, [][]byte{[]byte("JoinChain"), genesisOf(t, n, "full")}, "cannot join channel full: the disk is full"},
		{"empty block", p.Admin, [][]byte{[]byte("JoinChain"), {}}, "Cannot join the channel <nil> configuration block provided"},
		{"garbage", p.Admin, [][]byte{[]byte("JoinChain"), {0xff}}, "Failed to reconstruct the genesis block"},
		{"no genesis block", p.Admin, [][]byte{[]byte("JoinChain"), net.Marshal(t, notFirst)}, "needs the genesis block, this is block 4"},
		{"snapshot", p.Admin, net.Args("JoinChainBySnapshot", "/tmp/x"), "join with the genesis block"},
		{"unknown channel", p.Client, net.Args("GetConfigBlock", "nowhere"), "Unknown channel ID, nowhere"},
		{"unknown function", p.Client, net.Args("Fly", "x"), "Requested function Fly not found."},
	} {
		t.Run(test.name, func(t *testing.T) {
			if resp := query(test.by, "", test.args...); resp.GetStatus() != 500 || !strings.Contains(resp.GetMessage(), test.want) {
				t.Errorf("response = %v, want 500 with %q", resp, test.want)
			}
		})
	}
}

func FuzzInvoke(f *testing.F) {
	j := &joined{}
	n := start(f, j)
	p := n.Peers[0]
	c, err := cscc.New(config(f, p, j))
	if err != nil {
		f.Fatal(err)
	}
	creator, err := p.Local.Identity(f.Context(), p.Client.Serialized())
	if err != nil {
		f.Fatal(err)
	}
	f.Add("JoinChain", genesisOf(f, n, "fuzz"))
	f.Add("GetConfigBlock", []byte(net.ChannelID))
	f.Add("", []byte{0xff})
	f.Fuzz(func(t *testing.T, function string, arg []byte) {
		resp, err := c.Invoke(t.Context(), &endorser.Call{Creator: creator, Args: [][]byte{[]byte(function), arg}})
		if err != nil || resp.GetStatus() != 200 && resp.GetMessage() == "" {
			t.Errorf("response = %v, %v", resp, err)
		}
		if len(j.channels) != 0 {
			t.Errorf("a client joined %v", j.channels)
		}
	})
}
