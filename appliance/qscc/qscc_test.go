package qscc_test

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/appliance/endorser"
	net "strongroom/appliance/endorser/endorsertest"
	"strongroom/appliance/qscc"
	"strongroom/bccsp/bccsptest"
	"strongroom/channel/configtx"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

func start(t testing.TB) (*net.Network, *net.Peer) {
	t.Helper()
	n := net.Start(t, func(p *net.Peer, cfg *endorser.Config) {
		q, err := qscc.New(qscc.Config{Access: p.Guard, Channel: func(id string) (qscc.Ledger, *configtx.Config, bool) {
			return p.Channel.Ledger(), p.Channel.Config(), id == net.ChannelID
		}})
		if err != nil {
			t.Fatal(err)
		}
		cfg.System = append(cfg.System, q)
	}, "Org1MSP")
	return n, n.Peers[0]
}

func TestQueriesOverNetwork(t *testing.T) {
	n, p := start(t)
	n.Deploy(t, "kv")
	signed := net.Propose(t, p.Client, net.Call{Channel: net.ChannelID, Chaincode: "kv", Args: net.Args("put", "a", "1")})
	n.SubmitSigned(t, p.Client, signed, p)
	txID := net.TxID(t, signed)
	query := func(by *bccsptest.Identity, args ...[]byte) *peerpb.Response {
		t.Helper()
		return p.Query(t, by, net.Call{Channel: net.ChannelID, Chaincode: "qscc", Args: args})
	}
	text := func(args ...string) [][]byte { return net.Args(args...) }
	parse := func(resp *peerpb.Response, into proto.Message) {
		t.Helper()
		if resp.GetStatus() != 200 {
			t.Fatalf("response = %v", resp)
		}
		if err := proto.Unmarshal(resp.GetPayload(), into); err != nil {
			t.Fatal(err)
		}
	}
	info := &commonpb.BlockchainInfo{}
	parse(query(p.Client, text("GetChainInfo", net.ChannelID)...), info)
	if info.GetHeight() != p.Channel.Ledger().Height() || len(info.GetCurrentBlockHash()) != 32 {
		t.Errorf("info = %v", info)
	}
	genesis := &commonpb.Block{}
	parse(query(p.Client, text("GetBlockByNumber", net.ChannelID, "0")...), genesis)
	if genesis.GetHeader().GetNumber() != 0 || !bytes.Equal(wire.HeaderBytes(genesis.GetHeader()), wire.HeaderBytes(n.Genesis.GetHeader())) {
		t.Errorf("genesis = %v", genesis.GetHeader())
	}
	last := &commonpb.Block{}
	parse(query(p.Client, []byte("GetBlockByHash"), []byte(net.ChannelID), info.GetCurrentBlockHash()), last)
	if !bytes.Equal(wire.BlockHash(last.GetHeader()), info.GetCurrentBlockHash()) {
		t.Errorf("block by hash is %d", last.GetHeader().GetNumber())
	}
	tx := &peerpb.ProcessedTransaction{}
	parse(query(p.Client, text("GetTransactionByID", net.ChannelID, txID)...), tx)
	if tx.GetValidationCode() != 0 || len(tx.GetTransactionEnvelope().GetPayload()) == 0 {
		t.Errorf("transaction = %v", tx)
	}
	of := &commonpb.Block{}
	parse(query(p.Client, text("GetBlockByTxID", net.ChannelID, txID)...), of)
	if of.GetHeader().GetNumber() != info.GetHeight()-1 {
		t.Errorf("block of the transaction is %d", of.GetHeader().GetNumber())
	}

	for _, test := range []struct {
		want string
		args [][]byte
	}{
		{"Incorrect number of arguments, 1", text("GetChainInfo")},
		{"Invalid chain ID, nowhere", text("GetChainInfo", "nowhere")},
		{"missing 3rd argument for GetBlockByNumber", text("GetBlockByNumber", net.ChannelID)},
		{"Failed to parse block number with error", text("GetBlockByNumber", net.ChannelID, "-1")},
		{"Failed to get block number 999, error", text("GetBlockByNumber", net.ChannelID, "999")},
		{"Failed to get block hash 78, error", text("GetBlockByHash", net.ChannelID, "x")},
		{"Failed to get transaction with id none, error", text("GetTransactionByID", net.ChannelID, "none")},
		{"Failed to get block for txID none, error", text("GetBlockByTxID", net.ChannelID, "none")},
		{"Requested function Fly not found.", text("Fly", net.ChannelID)},
	} {
		if resp := query(p.Client, test.args...); resp.GetStatus() != 500 || !strings.Contains(resp.GetMessage(), test.want) {
			t.Errorf("%q: response = %v, want 500 with %q", test.args, resp, test.want)
		}
	}
	t.Run("no chaincode may call it", func(t *testing.T) {
		resp := p.Query(t, p.Client, net.Call{Channel: net.ChannelID, Chaincode: "kv", Args: net.Args("call", "qscc", "GetChainInfo", net.ChannelID)})
		if resp.GetStatus() != 500 || !strings.Contains(resp.GetMessage(), "cannot be called from another chaincode") {
			t.Errorf("response = %v", resp)
		}
	})
	t.Run("a proposal of the local organisation without channel", func(t *testing.T) {
		resp := p.Query(t, p.Client, net.Call{Chaincode: "qscc", Args: net.Args("GetChainInfo", net.ChannelID)})
		if resp.GetStatus() != 200 {
			t.Errorf("response = %v", resp)
		}
	})
}

func FuzzInvoke(f *testing.F) {
	_, p := start(f)
	q, err := qscc.New(qscc.Config{Access: p.Guard, Channel: func(id string) (qscc.Ledger, *configtx.Config, bool) {
		return p.Channel.Ledger(), p.Channel.Config(), id == net.ChannelID
	}})
	if err != nil {
		f.Fatal(err)
	}
	creator, err := p.Channel.Config().Identity(f.Context(), p.Client.Serialized())
	if err != nil {
		f.Fatal(err)
	}
	f.Add("GetBlockByNumber", net.ChannelID, []byte("0"))
	f.Add("GetBlockByHash", net.ChannelID, []byte{1})
	f.Add("", "", []byte(nil))
	f.Fuzz(func(t *testing.T, function, channelID string, arg []byte) {
		resp, err := q.Invoke(t.Context(), &endorser.Call{ChannelID: net.ChannelID, Creator: creator, Args: [][]byte{[]byte(function), []byte(channelID), arg}})
		if err != nil || resp.GetStatus() != 200 && resp.GetMessage() == "" {
			t.Errorf("response = %v, %v", resp, err)
		}
	})
}
