package configtx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"strongroom/bccsp/bccsptest"
	"strongroom/channel/configtx"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/wire"
	"strongroom/wire/commonpb"
)

var engine = sync.OnceValues(func() (*policy.Engine, error) { return policy.NewEngine(policy.Config{}) })

func deps(t testing.TB) configtx.Deps {
	t.Helper()
	e, err := engine()
	if err != nil {
		t.Fatal(err)
	}
	return configtx.Deps{Verifier: bccsptest.OpenShared(t), Engine: e}
}

// fabricBlock is a block of a real Fabric channel, as its orderer serves it.
func fabricBlock(t testing.TB, number int) *commonpb.Block {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "blocks", fmt.Sprintf("block-%06d.pb", number)))
	if err != nil {
		t.Fatal(err)
	}
	b := &commonpb.Block{}
	if err := proto.Unmarshal(raw, b); err != nil {
		t.Fatal(err)
	}
	return b
}

func fabricConfig(t testing.TB) *configtx.Config {
	t.Helper()
	c, err := configtx.FromBlock(t.Context(), deps(t), fabricBlock(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFabricGenesis(t *testing.T) {
	c := fabricConfig(t)
	if c.ID != "mychannel" || c.Sequence != 0 {
		t.Errorf("channel %q at %d", c.ID, c.Sequence)
	}
	if diff := cmp.Diff([]msp.ID{"OrdererMSP", "Org1MSP", "Org2MSP"}, c.MSPs.IDs()); diff != "" {
		t.Errorf("MSPs (-want +got):\n%s", diff)
	}
	if want := (configtx.Capabilities{Channel: configtx.LevelV2_0, Orderer: configtx.LevelV2_0, Application: configtx.LevelV2_5}); c.Capabilities != want {
		t.Errorf("capabilities %v", c.Capabilities)
	}
	if c.Capabilities.BFT() || !c.Capabilities.PurgePrivateData() {
		t.Error("capabilities are read wrongly")
	}
	if want := (configtx.BatchSize{MaxMessageCount: 500, AbsoluteMaxBytes: 99 << 20, PreferredMaxBytes: 16 << 20}); c.BatchSize != want {
		t.Errorf("batch size %v", c.BatchSize)
	}
	if c.BatchTimeout != 2*time.Second || c.ConsensusType != "etcdraft" || len(c.ConsensusMetadata) == 0 || c.MaxChannels != 0 {
		t.Errorf("orderer: %s, %q", c.BatchTimeout, c.ConsensusType)
	}
	if len(c.OrdererEndpoints) != 1 || c.OrdererEndpoints[0].Address != "127.0.0.1:6050" || c.OrdererEndpoints[0].MSPID != "OrdererMSP" || len(c.OrdererEndpoints[0].TLSRoots) != 1 {
		t.Errorf("orderer endpoints %v", c.OrdererEndpoints)
	}
	org, ok := c.Organization("Org2MSP")
	if want := []configtx.AnchorPeer{{Host: "127.0.0.1", Port: 8051}}; !ok || !cmp.Equal(want, org.AnchorPeers) || len(org.TLSRoots) != 1 || len(c.Organizations) != 2 {
		t.Errorf("organisation %v", org)
	}
	if _, ok := c.PolicyRef("peer/Propose"); ok {
		t.Error("the channel sets no ACL")
	}
	if _, err := c.Policies.Policy(configtx.BlockValidationPath); err != nil {
		t.Error(err)
	}
}

// TestFabricBlocks: the signatures of every block are good, and a changed block is
// refused.
func TestFabricBlocks(t *testing.T) {
	c := fabricConfig(t)
	for n := 1; n <= 11; n++ {
		b := fabricBlock(t, n)
		if err := configtx.VerifyBlock(t.Context(), c, b); err != nil {
			t.Errorf("block %d: %v", n, err)
		}
		want := uint64(0)
		if n >= 10 {
			want = 10
		}
		if got, err := configtx.LastConfigIndex(b); err != nil || got != want {
			t.Errorf("block %d: last configuration %d, %v", n, got, err)
		}
	}
	for name, change := range map[string]func(*commonpb.Block){
		"no header":          func(b *commonpb.Block) { b.Header = nil },
		"no data":            func(b *commonpb.Block) { b.Data = nil },
		"changed data":       func(b *commonpb.Block) { b.Data.Data[0][10] ^= 1 },
		"changed header":     func(b *commonpb.Block) { b.Header.Number++ },
		"no metadata":        func(b *commonpb.Block) { b.Metadata = nil },
		"malformed metadata": func(b *commonpb.Block) { b.Metadata.Metadata[0] = []byte{0xff} },
		"no signature":       func(b *commonpb.Block) { b.Metadata.Metadata[0] = nil },
		"other's signature":  func(b *commonpb.Block) { b.Metadata = fabricBlock(t, 2).Metadata },
	} {
		t.Run(name, func(t *testing.T) {
			b := fabricBlock(t, 1)
			change(b)
			var invalid *configtx.InvalidBlockError
			if err := configtx.VerifyBlock(t.Context(), c, b); !errors.As(err, &invalid) {
				t.Errorf("got %v", err)
			}
		})
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var invalid *configtx.InvalidBlockError
	if err := configtx.VerifyBlock(ended, c, fabricBlock(t, 3)); err == nil || errors.As(err, &invalid) {
		t.Errorf("with an ended context: %v", err)
	}
}

// TestFabricUpdate: the configuration transaction of block 10 applies.
func TestFabricUpdate(t *testing.T) {
	c := fabricConfig(t)
	b := fabricBlock(t, 10)
	id, ce, err := configtx.EnvelopeFromBlock(b)
	if err != nil || id != "mychannel" {
		t.Fatalf("%q, %v", id, err)
	}
	next, err := c.Apply(t.Context(), deps(t), ce)
	if err != nil {
		t.Fatal(err)
	}
	if next.Sequence != 1 || next.BatchTimeout != time.Second {
		t.Errorf("sequence %d, batch timeout %s", next.Sequence, next.BatchTimeout)
	}
	proposed, err := c.ProposeUpdate(t.Context(), ce.GetLastUpdate())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ce, proposed, protocmp.Transform()); diff != "" {
		t.Errorf("what the orderer made (-want) and what we make (+got):\n%s", diff)
	}
	for name, change := range map[string]func(*commonpb.ConfigEnvelope){
		"another value": func(ce *commonpb.ConfigEnvelope) {
			ce.Config.ChannelGroup.Groups["Orderer"].Values["BatchTimeout"].Value[0] ^= 1
		},
		"another sequence": func(ce *commonpb.ConfigEnvelope) { ce.Config.Sequence = 7 },
		"no configuration": func(ce *commonpb.ConfigEnvelope) { ce.Config = nil },
		"no update":        func(ce *commonpb.ConfigEnvelope) { ce.LastUpdate = nil },
	} {
		t.Run(name, func(t *testing.T) {
			changed := proto.CloneOf(ce)
			change(changed)
			var invalid *configtx.InvalidUpdateError
			if _, err := c.Apply(t.Context(), deps(t), changed); !errors.As(err, &invalid) {
				t.Errorf("got %v", err)
			}
		})
	}
	var invalid *configtx.InvalidUpdateError
	if _, err := next.Apply(t.Context(), deps(t), ce); !errors.As(err, &invalid) {
		t.Errorf("a second time: %v", err)
	}
}

// TestGenesisEqualsConfigtxgen: a described channel has the configuration that
// Fabric's configtxgen made, and a block of the same form.
func TestGenesisEqualsConfigtxgen(t *testing.T) {
	text, err := os.ReadFile("testdata/fabric.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d, err := configtx.LoadDescription(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Resolve("testdata"); err != nil {
		t.Fatal(err)
	}
	got, err := configtx.BuildGenesis(d)
	if err != nil {
		t.Fatal(err)
	}
	want := fabricBlock(t, 0)
	_, wantEnv, err := configtx.EnvelopeFromBlock(want)
	if err != nil {
		t.Fatal(err)
	}
	id, gotEnv, err := configtx.EnvelopeFromBlock(got)
	if err != nil || id != "mychannel" {
		t.Fatalf("%q, %v", id, err)
	}
	if diff := cmp.Diff(wantEnv, gotEnv, protocmp.Transform()); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want.GetMetadata(), got.GetMetadata(), protocmp.Transform()); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	if got.GetHeader().GetNumber() != 0 || len(got.GetHeader().GetPreviousHash()) != 0 || !bytes.Equal(got.GetHeader().GetDataHash(), wire.DataHash(got.GetData())) {
		t.Errorf("header %v", got.GetHeader())
	}
	again, err := configtx.BuildGenesis(d)
	if err != nil || !proto.Equal(got, again) {
		t.Errorf("a second time it differs, %v", err)
	}
	ours, err := wire.ParseBlock(got)
	if err != nil {
		t.Fatal(err)
	}
	fabrics, err := wire.ParseBlock(want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fabrics.Txs[0].HeaderFault, ours.Txs[0].HeaderFault); diff != "" {
		t.Errorf("as a transaction (-want +got):\n%s", diff)
	}
	if _, err := configtx.FromBlock(t.Context(), deps(t), got); err != nil {
		t.Error(err)
	}
}

func TestFromBlockErrors(t *testing.T) {
	for name, b := range map[string]*commonpb.Block{
		"nothing":           {},
		"no configuration":  fabricBlock(t, 1),
		"many transactions": fabricBlock(t, 4),
		"not an envelope":   {Data: &commonpb.BlockData{Data: [][]byte{{0xff}}}},
	} {
		if _, err := configtx.FromBlock(t.Context(), deps(t), b); err == nil || !strings.Contains(err.Error(), "block") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := configtx.FromBlock(t.Context(), configtx.Deps{}, fabricBlock(t, 0)); err == nil || !strings.Contains(err.Error(), "Deps") {
		t.Errorf("no dependencies: %v", err)
	}
}
