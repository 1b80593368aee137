package endorser

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/acl"
	"strongroom/bccsp/bccsptest"
	"strongroom/chaincode"
	"strongroom/channel/configtx"
	state "strongroom/channel/lifecycle"
	"strongroom/ledger"
	"strongroom/ledger/seal/sealtest"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
	"strongroom/wire/peerpb"
)

// kv is the chaincode of the Fabric channel in the ledger's test data, in process.
type kv struct{}

func (kv) Execute(_ context.Context, inv chaincode.Invocation) (*chaincode.Outcome, error) {
	var event *peerpb.ChaincodeEvent
	payload, err := kv{}.call(inv, &event)
	if err != nil {
		return &chaincode.Outcome{Response: &peerpb.Response{Status: 500, Message: err.Error()}}, nil
	}
	return &chaincode.Outcome{Response: &peerpb.Response{Status: 200, Payload: payload}, Event: event}, nil
}

func (kv) call(inv chaincode.Invocation, event **peerpb.ChaincodeEvent) ([]byte, error) {
	args, s, ns := inv.Input.GetArgs(), inv.State, inv.Namespace
	arg := func(i int) string { return string(args[i]) }
	switch arg(0) {
	case "put":
		return nil, s.Put(ns, arg(1), args[2])
	case "get":
		value, err := s.Get(ns, arg(1))
		if err == nil && value == nil {
			err = errors.New("no such key")
		}
		return value, err
	case "del":
		return nil, s.Delete(ns, arg(1))
	case "rmw":
		value, err := s.Get(ns, arg(1))
		if err != nil {
			return nil, err
		}
		return nil, s.Put(ns, arg(1), append(bytes.Clone(value), args[2]...))
	case "putmany":
		n, _ := strconv.Atoi(arg(2))
		size, _ := strconv.Atoi(arg(3))
		value := make([]byte, size)
		for i := range value {
			value[i] = 'a' + byte(i%26)
		}
		for i := range n {
			if err := s.Put(ns, fmt.Sprintf("%s%06d", arg(1), i), value); err != nil {
				return nil, err
			}
		}
		return []byte(strconv.Itoa(n)), nil
	case "range", "rangecount":
		keys, err := keysOf(s, ns, arg(1), arg(2))
		if err != nil {
			return nil, err
		}
		if arg(0) == "rangecount" {
			return nil, s.Put(ns, arg(3), []byte(strconv.Itoa(len(keys))))
		}
		return json.Marshal(keys)
	case "event":
		*event = &peerpb.ChaincodeEvent{ChaincodeId: ns, TxId: inv.TxID, EventName: arg(1), Payload: args[2]}
		return []byte("ok"), s.Put(ns, arg(3), args[4])
	case "keypolicy":
		entries := map[string][]byte{peerpb.MetaDataKeys_VALIDATION_PARAMETER.String(): args[2]}
		return nil, s.SetMetadata(ns, arg(1), entries)
	}
	return nil, fmt.Errorf("unknown function %q", arg(0))
}

func keysOf(s chaincode.State, ns, start, end string) ([]string, error) {
	it, err := s.Range(ns, start, end)
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var keys []string
	for {
		row, err := it.Next()
		if err != nil || row == nil {
			return keys, err
		}
		keys = append(keys, row.GetKey())
	}
}

// committed takes every definition as approved and installed.
type committed struct{ channel *testChannel }

func (c committed) Runnable(_ context.Context, _, name string, sim *ledger.Simulator) (Runnable, error) {
	if _, err := state.ReadSequence(sim, name); err != nil {
		return Runnable{}, err
	}
	snap, err := c.channel.ledger.Snapshot()
	if err != nil {
		return Runnable{}, err
	}
	defer snap.Release()
	d, err := state.ReadDefinition(snap, name)
	if err != nil {
		return Runnable{}, err
	}
	return Runnable{Version: d.Version, InitRequired: d.InitRequired, PackageID: "kv:test", Plugin: d.EndorsementPlugin}, nil
}

type testChannel struct {
	config *configtx.Config
	ledger *ledger.Ledger
}

func (c *testChannel) Config() *configtx.Config { return c.config }
func (c *testChannel) Ledger() *ledger.Ledger   { return c.ledger }

// fabricBlock is a block of a real Fabric channel, as its peer delivered it.
func fabricBlock(t testing.TB, number int) *commonpb.Block {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "ledger", "testdata", "fabric", fmt.Sprintf("block-%06d.pb", number)))
	if err != nil {
		t.Fatal(err)
	}
	b := &commonpb.Block{}
	if err := proto.Unmarshal(raw, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// fixture is a peer of Org1 on the Fabric channel, with keys in a SoftHSM token.
type fixture struct {
	*Endorser
	channel *testChannel
	cfg     Config
	own     *bccsptest.Identity
}

func newFixture(t testing.TB, change ...func(*Config)) *fixture {
	t.Helper()
	ctx := context.Background()
	token := bccsptest.OpenShared(t)
	engine, err := policy.NewEngine(policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	deps := configtx.Deps{Verifier: token, Engine: engine}
	config, err := configtx.FromBlock(ctx, deps, fabricBlock(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(ctx, ledger.Config{Dir: t.TempDir(), ChannelID: config.ID, Keyring: sealtest.Keyring(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	ca := bccsptest.NewCA(t, token, "OwnMSP")
	own := ca.Issue(t, "peer0", "peer")
	identity, err := msp.LoadLocalIdentity("OwnMSP", own.CertPEM, own.Signer)
	if err != nil {
		t.Fatal(err)
	}
	local, err := msp.NewSet(ctx, token, []*msppb.MSPConfig{ca.MSPConfig()})
	if err != nil {
		t.Fatal(err)
	}
	guard, err := acl.New(acl.Config{Engine: engine, Local: local, LocalMSPID: "OwnMSP"})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{channel: &testChannel{config: config, ledger: l}, own: own}
	f.cfg = Config{
		Identity: identity, LocalMSP: local, Access: guard, Chaincodes: kv{}, Definitions: committed{f.channel},
		Channels: func(id string) (Channel, bool) { return f.channel, id == config.ID },
	}
	for _, c := range change {
		c(&f.cfg)
	}
	if f.Endorser, err = New(f.cfg); err != nil {
		t.Fatal(err)
	}
	return f
}

// commit puts a block with the flags that Fabric gave it on the ledger.
func (f *fixture) commit(t testing.TB, number int) *wire.Block {
	t.Helper()
	b, err := wire.ParseBlock(fabricBlock(t, number))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.channel.ledger.Commit(context.Background(), b, flagsOf(b)); err != nil {
		t.Fatalf("block %d: %v", number, err)
	}
	return b
}

func flagsOf(b *wire.Block) []peerpb.TxValidationCode {
	raw := b.Proto.GetMetadata().GetMetadata()[commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER]
	flags := make([]peerpb.TxValidationCode, len(raw))
	for i, c := range raw {
		flags[i] = peerpb.TxValidationCode(c)
	}
	return flags
}

// proposalOf makes the proposal again that a transaction came from.
func proposalOf(t testing.TB, tx *wire.Tx) *peerpb.SignedProposal {
	t.Helper()
	payload := &commonpb.Payload{}
	if err := proto.Unmarshal(tx.Payload, payload); err != nil {
		t.Fatal(err)
	}
	marshal := func(m proto.Message) []byte {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	return &peerpb.SignedProposal{
		ProposalBytes: marshal(&peerpb.Proposal{Header: marshal(payload.GetHeader()), Payload: tx.Endorsed.ProposalPayload}),
		Signature:     []byte("the client's signature over the proposal is not on the ledger"),
	}
}

// TestReplayOfFabricTransactions simulates every valid call of kv on the ledger of
// a Fabric channel at the height at which it was committed: the payload must be
// that which Fabric's peers signed, byte for byte.
func TestReplayOfFabricTransactions(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	functions := make(map[string]int)
	for number := range 12 {
		b, err := wire.ParseBlock(fabricBlock(t, number))
		if err != nil {
			t.Fatal(err)
		}
		flags := flagsOf(b)
		for i, tx := range b.Txs {
			if flags[i] != peerpb.TxValidationCode_VALID || tx.Endorsed == nil || tx.Endorsed.ChaincodeID.GetName() != "kv" {
				continue
			}
			signed := proposalOf(t, tx)
			p, err := wire.ParseSignedProposal(signed)
			if err != nil {
				t.Errorf("%d:%d: %v", number, i, err)
				continue
			}
			function := string(p.Input.GetArgs()[0])
			if function == "forged" || forged(tx) || function == "history" {
				continue
			}
			creator, err := f.channel.config.Identity(ctx, p.Creator())
			if err != nil {
				t.Fatalf("%d:%d: %v", number, i, err)
			}
			r := &request{signed: signed, proposal: p, channel: f.channel, config: f.channel.config, creator: creator}
			var o Observation
			resp, err := f.simulateAndEndorse(ctx, r, &o)
			if err != nil {
				t.Errorf("%d:%d %s: %v", number, i, function, err)
				continue
			}
			if !bytes.Equal(resp.GetPayload(), tx.Endorsed.ResponsePayload) {
				t.Errorf("%d:%d %q: payload differs from Fabric's\n got %x\nwant %x\nresponse %v", number, i, p.Input.GetArgs(), resp.GetPayload(), tx.Endorsed.ResponsePayload, resp.GetResponse())
				continue
			}
			if o.Stage != StageEndorsed || resp.GetEndorsement() == nil {
				t.Errorf("%d:%d: stage %s, endorsement %v", number, i, o.Stage, resp.GetEndorsement())
				continue
			}
			message := append(bytes.Clone(resp.GetPayload()), resp.GetEndorsement().GetEndorser()...)
			own, err := f.cfg.LocalMSP.Identity(ctx, resp.GetEndorsement().GetEndorser())
			if err != nil {
				t.Fatal(err)
			}
			if err := own.Verify(ctx, message, resp.GetEndorsement().GetSignature()); err != nil {
				t.Errorf("%d:%d: endorsement: %v", number, i, err)
			}
			functions[function]++
		}
		f.commit(t, number)
	}
	total := 0
	for name, n := range functions {
		total += n
		t.Logf("%s: %d transactions", name, n)
	}
	if total < 30 || len(functions) < 6 {
		t.Errorf("only %d transactions of %d functions were replayed", total, len(functions))
	}
}

// forged tells whether a valid transaction is one of those that the makers of the
// channel endorsed by hand, with an action that no simulation gives.
func forged(tx *wire.Tx) bool {
	a := tx.Endorsed.Action
	return a.GetResponse().GetStatus() != 200 || a.GetChaincodeId().GetVersion() != "1.0"
}
