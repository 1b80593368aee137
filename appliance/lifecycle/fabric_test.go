package lifecycle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/acl"
	"strongroom/appliance/endorser"
	"strongroom/appliance/rpcerr"
	"strongroom/bccsp/bccsptest"
	"strongroom/chaincode/ccpackage"
	"strongroom/channel/configtx"
	"strongroom/ledger"
	"strongroom/ledger/seal/sealtest"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/lifecyclepb"
	"strongroom/wire/peerpb"
)

type fabricChannel struct {
	config *configtx.Config
	ledger *ledger.Ledger
}

func (c *fabricChannel) Config() *configtx.Config { return c.config }
func (c *fabricChannel) Ledger() *ledger.Ledger   { return c.ledger }

type noServices struct{}

func (noServices) AddService(string, ccpackage.Connection) error { return nil }

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

// newFabric is `_lifecycle` of a peer of an organisation on a real Fabric channel,
// whose ledger holds nothing yet.
func newFabric(t testing.TB, org msp.ID) (*Service, *fabricChannel) {
	t.Helper()
	ctx := context.Background()
	token := bccsptest.OpenShared(t)
	engine, err := policy.NewEngine(policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := configtx.FromBlock(ctx, configtx.Deps{Verifier: token, Engine: engine}, fabricBlock(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	keyring := sealtest.Keyring(t)
	l, err := ledger.Open(ctx, ledger.Config{Dir: t.TempDir(), ChannelID: config.ID, Keyring: keyring})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	guard, err := acl.New(acl.Config{Engine: engine, Local: config.MSPs, LocalMSPID: org})
	if err != nil {
		t.Fatal(err)
	}
	folder, err := OpenFolder(t.TempDir(), keyring)
	if err != nil {
		t.Fatal(err)
	}
	ch := &fabricChannel{config, l}
	s, err := Open(ctx, Config{
		MSPID: org, LocalMSP: config.MSPs, Access: guard, Packages: folder, Services: noServices{},
		Channels: func() []string { return []string{config.ID} },
		Channel:  func(id string) (Channel, bool) { return ch, id == config.ID },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, ch
}

// TestFabricReadWriteSets makes the approvals and the commit of a Fabric channel
// again: the read/write sets, with the hashes of the private writes, and the
// responses must be those that Fabric's peers signed.
func TestFabricReadWriteSets(t *testing.T) {
	for _, org := range []msp.ID{"Org1MSP", "Org2MSP"} {
		t.Run(string(org), func(t *testing.T) {
			s, ch := newFabric(t, org)
			replayed := 0
			for number := range 4 {
				b, err := wire.ParseBlock(fabricBlock(t, number))
				if err != nil {
					t.Fatal(err)
				}
				for _, tx := range b.Txs {
					if tx.Endorsed == nil || (number == 1 && org != "Org1MSP") || (number == 2 && org != "Org2MSP") {
						continue
					}
					private := replay(t, s, ch, tx)
					if (private != nil) != (number < 3) {
						t.Errorf("block %d: private writes %v", number, private)
					}
					replayed++
				}
				if err := ch.ledger.Commit(t.Context(), b, []peerpb.TxValidationCode{peerpb.TxValidationCode_VALID}); err != nil {
					t.Fatal(err)
				}
			}
			if replayed != 2 {
				t.Errorf("replayed %d transactions, want 2", replayed)
			}
			sim, err := ch.ledger.NewSimulator("x")
			if err != nil {
				t.Fatal(err)
			}
			defer sim.Done()
			_, err = s.Runnable(t.Context(), "mychannel", "kv", sim)
			if err == nil || !strings.Contains(err.Error(), "chaincode is not installed") {
				t.Errorf("Runnable = %v, want that the package is not installed", err)
			}
			if _, err := s.Runnable(t.Context(), "mychannel", "nix", sim); err == nil || err.Error() != "chaincode nix not found" {
				t.Errorf("Runnable of an unknown chaincode = %v", err)
			}
		})
	}
}

// replay simulates a transaction, compares it with what Fabric signed, keeps its
// private writes for the commit, and returns them.
func replay(t *testing.T, s *Service, ch *fabricChannel, tx *wire.Tx) proto.Message {
	t.Helper()
	ctx := t.Context()
	payload := &peerpb.ChaincodeProposalPayload{}
	spec := &peerpb.ChaincodeInvocationSpec{}
	if err := errors.Join(proto.Unmarshal(tx.Endorsed.ProposalPayload, payload), proto.Unmarshal(payload.GetInput(), spec)); err != nil {
		t.Fatal(err)
	}
	creator, err := ch.config.Identity(ctx, tx.SignatureHeader.GetCreator())
	if err != nil {
		t.Fatal(err)
	}
	sim, err := ch.ledger.NewSimulator(tx.TxID())
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Done()
	resp, err := s.Invoke(ctx, &endorser.Call{
		ChannelID: "mychannel", TxID: tx.TxID(), Args: spec.GetChaincodeSpec().GetInput().GetArgs(),
		Creator: creator, Config: ch.config, Simulator: sim,
	})
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(resp, tx.Endorsed.Action.GetResponse()) {
		t.Fatalf("response = %v, want %v", resp, tx.Endorsed.Action.GetResponse())
	}
	public, private, err := sim.Results()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(public, tx.Endorsed.Action.GetResults()) {
		t.Errorf("read/write set of %s differs from Fabric's\n got %x\nwant %x", tx.TxID(), public, tx.Endorsed.Action.GetResults())
	}
	if id := tx.Endorsed.Action.GetChaincodeId(); id.GetName() != "_lifecycle" || id.GetVersion() != endorser.SystemVersion {
		t.Errorf("Fabric signed for %v, we sign for version %q", id, endorser.SystemVersion)
	}
	if private == nil {
		return nil
	}
	if err := ch.ledger.KeepPrivate(tx.TxID(), private); err != nil {
		t.Fatal(err)
	}
	return private
}

func TestCheckCollections(t *testing.T) {
	orgs := orgList{"Org1MSP", "Org2MSP"}
	collection := func(name string, change ...func(*peerpb.StaticCollectionConfig)) *peerpb.CollectionConfigPackage {
		role, err := proto.Marshal(&commonpb.MSPRole{MspIdentifier: "Org1MSP"})
		if err != nil {
			t.Fatal(err)
		}
		c := &peerpb.StaticCollectionConfig{Name: name, MaximumPeerCount: 1, MemberOrgsPolicy: &peerpb.CollectionPolicyConfig{
			Type: &peerpb.CollectionPolicyConfig_SignaturePolicy{SignaturePolicy: &commonpb.SignaturePolicyEnvelope{
				Rule:       &commonpb.SignaturePolicy{Type: &commonpb.SignaturePolicy_SignedBy{SignedBy: 0}},
				Identities: []*commonpb.MSPPrincipal{{Principal: role}},
			}}}}
		for _, f := range change {
			f(c)
		}
		return &peerpb.CollectionConfigPackage{Config: []*peerpb.CollectionConfig{{Payload: &peerpb.CollectionConfig_StaticCollectionConfig{StaticCollectionConfig: c}}}}
	}
	both := func(a, b *peerpb.CollectionConfigPackage) *peerpb.CollectionConfigPackage {
		return &peerpb.CollectionConfigPackage{Config: append(a.GetConfig(), b.GetConfig()...)}
	}
	tests := []struct {
		name                string
		proposed, committed *peerpb.CollectionConfigPackage
		want                string // "" for none
	}{
		{"none", nil, nil, ""},
		{"one", collection("a"), nil, ""},
		{"one more", both(collection("a"), collection("b")), collection("a"), ""},
		{"empty", &peerpb.CollectionConfigPackage{Config: []*peerpb.CollectionConfig{{}}}, nil, "empty or of an unknown type"},
		{"name", collection("_a"), nil, "invalid collection name"},
		{"twice", both(collection("a"), collection("a")), nil, "found duplicate"},
		{"peer counts", collection("a", func(c *peerpb.StaticCollectionConfig) { c.RequiredPeerCount = 2 }), nil, "maximum peer count (1) cannot be less"},
		{"negative", collection("a", func(c *peerpb.StaticCollectionConfig) { c.RequiredPeerCount = -1 }), nil, "cannot be less than zero"},
		{"no policy", collection("a", func(c *peerpb.StaticCollectionConfig) { c.MemberOrgsPolicy = nil }), nil, "member policy is not set"},
		{"and", collection("a", func(c *peerpb.StaticCollectionConfig) {
			c.GetMemberOrgsPolicy().GetSignaturePolicy().Rule = &commonpb.SignaturePolicy{Type: &commonpb.SignaturePolicy_NOutOf_{NOutOf: &commonpb.SignaturePolicy_NOutOf{N: 2}}}
		}), nil, "not an OR concatenation"},
		{"foreign member", collection("a", func(c *peerpb.StaticCollectionConfig) {
			role, err := proto.Marshal(&commonpb.MSPRole{MspIdentifier: "Org9MSP"})
			if err != nil {
				t.Fatal(err)
			}
			c.GetMemberOrgsPolicy().GetSignaturePolicy().Identities[0].Principal = role
		}), nil, "is not part of the channel"},
		{"left out", collection("b"), collection("a"), "existing collection [a] missing"},
		{"all left out", nil, collection("a"), "does not contain previously defined collections"},
		{"other life", collection("a", func(c *peerpb.StaticCollectionConfig) { c.BlockToLive = 5 }), collection("a"), "BlockToLive"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := checkCollections(orgs, test.proposed, test.committed)
			if (test.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("checkCollections = %v, want %q", err, test.want)
			}
		})
	}
}

type orgList []msp.ID

func (o orgList) IDs() []msp.ID { return o }

func TestFolder(t *testing.T) {
	dir, keyring := t.TempDir(), sealtest.Keyring(t)
	ctx := t.Context()
	f, err := OpenFolder(dir, keyring)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Load(ctx, "none"); !errors.Is(err, rpcerr.ErrNotFound) {
		t.Errorf("Load of nothing = %v, want rpcerr.ErrNotFound", err)
	}
	secret := []byte("the address of a chaincode service")
	for _, id := range []string{"b:2", "a:1"} {
		if err := errors.Join(f.Save(ctx, id, secret), f.Save(ctx, id, secret)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "left.tmp"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err = OpenFolder(dir, keyring); err != nil {
		t.Fatal(err)
	}
	ids, err := f.IDs(ctx)
	if err != nil || strings.Join(ids, " ") != "a:1 b:2" {
		t.Errorf("IDs = %v, %v", ids, err)
	}
	if got, err := f.Load(ctx, "a:1"); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("Load = %q, %v", got, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Fatalf("folder holds %v, %v, want two files", entries, err)
	}
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(raw, secret) || bytes.Contains(raw, []byte("a:1")) {
			t.Errorf("%s holds plaintext", e.Name())
		}
	}
	// A file that was moved does not open.
	if err := os.Rename(filepath.Join(dir, fileName("a:1")), filepath.Join(dir, fileName("c:3"))); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Load(ctx, "c:3"); err == nil {
		t.Error("a moved file opened")
	}
}

func FuzzInvoke(f *testing.F) {
	s, ch := newFabric(f, "Org1MSP")
	b, err := wire.ParseBlock(fabricBlock(f, 0))
	if err != nil {
		f.Fatal(err)
	}
	if err := ch.ledger.Commit(context.Background(), b, []peerpb.TxValidationCode{peerpb.TxValidationCode_VALID}); err != nil {
		f.Fatal(err)
	}
	approval, err := wire.ParseBlock(fabricBlock(f, 1))
	if err != nil {
		f.Fatal(err)
	}
	creator, err := ch.config.Identity(context.Background(), approval.Txs[0].SignatureHeader.GetCreator())
	if err != nil {
		f.Fatal(err)
	}
	seed, err := proto.Marshal(&lifecyclepb.CommitChaincodeDefinitionArgs{Sequence: 1, Name: "kv", Version: "1"})
	if err != nil {
		f.Fatal(err)
	}
	for i := range Functions() {
		f.Add(i, seed)
	}
	f.Add(0, []byte{0xff})
	f.Fuzz(func(t *testing.T, function int, input []byte) {
		names := Functions()
		name := names[uint(function)%uint(len(names))]
		sim, err := ch.ledger.NewSimulator("fuzz")
		if err != nil {
			t.Fatal(err)
		}
		defer sim.Done()
		resp, err := s.Invoke(t.Context(), &endorser.Call{
			ChannelID: "mychannel", TxID: "fuzz", Args: [][]byte{[]byte(name), input}, Creator: creator, Config: ch.config, Simulator: sim,
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if resp.GetStatus() != 200 && resp.GetMessage() == "" {
			t.Errorf("%s: response %v says nothing", name, resp)
		}
	})
}

func FuzzSplitPackage(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{3, 'a', ':', '1', 'x'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, plain []byte) {
		id, data, err := splitPackage(plain)
		if err == nil && len(id)+len(data) >= len(plain) {
			t.Errorf("%d bytes gave %d and %d", len(plain), len(id), len(data))
		}
	})
}
