package configtx_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"strongroom/bccsp/bccsptest"
	"strongroom/channel/configtx"
	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
	"strongroom/wire/peerpb"
)

func TestACLs(t *testing.T) {
	c := newNetwork(t).config
	for resource, want := range map[string]string{"peer/Propose": "/Channel/Application/Writers", "event/Block": "/Channel/Readers"} {
		if got, ok := c.PolicyRef(resource); !ok || got != want {
			t.Errorf("%s: %q", resource, got)
		}
	}
	if got, ok := c.PolicyRef("lscc/GetChaincodes"); ok {
		t.Errorf("not set: %q", got)
	}
}

func TestConfigErrors(t *testing.T) {
	n := newNetwork(t)
	type group = commonpb.ConfigGroup
	set := func(path, name string, m proto.Message) func(*group) {
		return func(root *group) {
			g := root
			for _, part := range strings.Split(path, "/") {
				if part != "" {
					g = g.Groups[part]
				}
			}
			g.Values[name] = &commonpb.ConfigValue{Value: marshal(t, m), ModPolicy: "Admins"}
		}
	}
	capability := func(path, name string) func(*group) {
		return set(path, "Capabilities", &commonpb.Capabilities{Capabilities: map[string]*commonpb.Capability{name: {}}})
	}
	size := func(count, absolute, preferred uint32) func(*group) {
		return set("Orderer", "BatchSize", &ordererpb.BatchSize{MaxMessageCount: count, AbsoluteMaxBytes: absolute, PreferredMaxBytes: preferred})
	}
	for want, change := range map[string]func(*group){
		"/Channel/HashingAlgorithm":                                    set("", "HashingAlgorithm", &commonpb.HashingAlgorithm{Name: "SHA3_256"}),
		"/Channel/BlockDataHashingStructure: width 1":                  set("", "BlockDataHashingStructure", &commonpb.BlockDataHashingStructure{Width: 1}),
		"/Channel/Capabilities: the channel has a level below V2_0":    capability("", "V1_4_3"),
		`/Channel/Capabilities: capability "V9_9" is not known`:        capability("", "V9_9"),
		`/Channel/Orderer/Capabilities: capability "V7"`:               capability("Orderer", "V7"),
		"/Channel/Application/Capabilities: the channel has a level":   capability("Application", "V1_3"),
		`/Channel/Application/Capabilities: capability "V2_6"`:         capability("Application", "V2_6"),
		`/Channel: value "Extra" is not allowed`:                       set("", "Extra", &commonpb.Consortium{}),
		"/Channel/Consortiums":                                         func(g *group) { g.Groups["Consortiums"] = &group{} },
		`/Channel: group "Other" is not allowed`:                       func(g *group) { g.Groups["Other"] = &group{} },
		"/Channel/Orderer: the group is missing":                       func(g *group) { delete(g.Groups, "Orderer") },
		"/Channel/Application: the group is missing":                   func(g *group) { delete(g.Groups, "Application") },
		"/Channel/Orderer/Capabilities: the value is missing":          func(g *group) { delete(g.Groups["Orderer"].Values, "Capabilities") },
		"/Channel/Orderer/ConsensusType: type is empty":                func(g *group) { delete(g.Groups["Orderer"].Values, "ConsensusType") },
		"/Channel/Orderer/BatchSize: max_message_count":                size(0, 1, 1),
		"/Channel/Orderer/BatchSize: absolute_max_bytes":               size(1, 0, 1),
		"/Channel/Orderer/BatchSize: preferred_max_bytes is 0":         size(1, 1, 0),
		"/Channel/Orderer/BatchSize: preferred_max_bytes 2 is greater": size(1, 1, 2),
		"/Channel/Orderer/BatchTimeout: time":                          set("Orderer", "BatchTimeout", &ordererpb.BatchTimeout{Timeout: "soon"}),
		"/Channel/Orderer/BatchTimeout: 0s":                            set("Orderer", "BatchTimeout", &ordererpb.BatchTimeout{Timeout: "0s"}),
		"/Channel/Orderer/BatchSize: proto":                            func(g *group) { g.Groups["Orderer"].Values["BatchSize"].Value = []byte{0xff} },
		"/Channel/Application/Org1MSP/MSP: the value is missing":       func(g *group) { delete(g.Groups["Application"].Groups["Org1MSP"].Values, "MSP") },
		`/Channel/Application/Org1MSP: value "Endpoints"`:              set("Application/Org1MSP", "Endpoints", &commonpb.OrdererAddresses{}),
		"/Channel/Application/Org1MSP: an organisation has no groups":  func(g *group) { g.Groups["Application"].Groups["Org1MSP"].Groups = map[string]*group{"x": {}} },
		"is defined differently at /Channel/Application/Org1MSP/MSP": func(g *group) {
			conf := n.org1.FabricConfig()
			conf.TlsRootCerts = nil
			set("Application/Org2MSP", "MSP", bccsptest.MSPConfig(conf))(g)
		},
		"/Channel/OrdererAddresses: not allowed": func(g *group) {
			capability("", "V3_0")(g)
			set("", "OrdererAddresses", &commonpb.OrdererAddresses{Addresses: []string{"a:1"}})(g)
		},
		"/Channel/Orderer/OrdererMSP/Endpoints": func(g *group) {
			capability("", "V3_0")(g)
			delete(g.Groups["Orderer"].Groups["OrdererMSP"].Values, "Endpoints")
		},
		`name "a b" is not allowed`: func(g *group) { g.Policies["a b"] = g.Policies["Readers"] },
		"Application/Readers":       func(g *group) { g.Groups["Application"].Policies["Readers"].Policy.Value = []byte{0xff} },
	} {
		t.Run(want, func(t *testing.T) {
			changed := proto.CloneOf(n.config.Proto)
			change(changed.ChannelGroup)
			if _, err := configtx.New(t.Context(), deps(t), "main", changed); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v", err)
			}
		})
	}
	for _, id := range []string{"", "Main", "1main", "a_b", "a/b", strings.Repeat("a", 250)} {
		if _, err := configtx.New(t.Context(), deps(t), id, n.config.Proto); err == nil || !strings.Contains(err.Error(), "channel id") {
			t.Errorf("channel id %q: %v", id, err)
		}
	}
	if _, err := configtx.New(t.Context(), deps(t), "main", &commonpb.Config{}); err == nil {
		t.Error("no channel group: no error")
	}
}

// TestConfigAllowed: what Fabric allows and is easily refused by mistake.
func TestConfigAllowed(t *testing.T) {
	n := newNetwork(t)
	value := func(m proto.Message) *commonpb.ConfigValue {
		return &commonpb.ConfigValue{Value: marshal(t, m), ModPolicy: "Admins"}
	}
	c := proto.CloneOf(n.config.Proto)
	root := c.ChannelGroup
	root.Values["Consortium"] = value(&commonpb.Consortium{Name: "SampleConsortium"})
	root.Values["OrdererAddresses"] = value(&commonpb.OrdererAddresses{Addresses: []string{"old.example.com:7050"}})
	root.Values["Capabilities"] = value(&commonpb.Capabilities{Capabilities: map[string]*commonpb.Capability{"V1_4_3": {}, "V2_0": {}}})
	root.Values["Orderers"] = value(&commonpb.Orderers{})
	root.Groups["Orderer"].Values["KafkaBrokers"] = value(&commonpb.OrdererAddresses{Addresses: []string{"x:1"}})
	root.Groups["Application"].Values["ACLs"] = value(&peerpb.ACLs{Acls: map[string]*peerpb.APIResource{"a": {}, "b": {PolicyRef: "Readers"}}})
	// An organisation that has both peers and orderers.
	both := proto.CloneOf(root.Groups["Application"].Groups["Org1MSP"])
	delete(both.Values, "AnchorPeers")
	root.Groups["Orderer"].Groups["Org1MSP"] = both
	got, err := configtx.New(t.Context(), deps(t), "main", c)
	if err != nil {
		t.Fatal(err)
	}
	if got.Consortium != "SampleConsortium" || got.Capabilities.Channel != configtx.LevelV2_0 || len(got.OrdererOrganizations) != 2 || len(got.MSPs.IDs()) != 3 {
		t.Errorf("read wrongly: %+v", got)
	}
	if diff := cmp.Diff(map[string]string{"b": "/Channel/Application/Readers"}, got.ACLs); diff != "" {
		t.Errorf("ACLs (-want +got):\n%s", diff)
	}
	if len(got.OrdererEndpoints) != 1 || got.OrdererEndpoints[0].Address != "orderer.example.com:7050" {
		t.Errorf("endpoints %v", got.OrdererEndpoints)
	}
	delete(root.Groups["Orderer"].Groups["OrdererMSP"].Values, "Endpoints")
	if got, err = configtx.New(t.Context(), deps(t), "main", c); err != nil {
		t.Fatal(err)
	}
	if len(got.OrdererEndpoints) != 1 || got.OrdererEndpoints[0].Address != "old.example.com:7050" || got.OrdererEndpoints[0].MSPID != "" || len(got.OrdererEndpoints[0].TLSRoots) != 2 {
		t.Errorf("endpoints of the channel group %v", got.OrdererEndpoints)
	}
}

// TestBFTBlock: with channel capability V3_0 an orderer may name itself by its number.
func TestBFTBlock(t *testing.T) {
	n := newNetwork(t)
	n.description.Capabilities.Channel = "V3_0"
	n.rebuild(t)
	c := proto.CloneOf(n.config.Proto)
	c.ChannelGroup.Groups["Orderer"].Values["Orderers"] = &commonpb.ConfigValue{ModPolicy: "Admins", Value: marshal(t, &commonpb.Orderers{
		ConsenterMapping: []*commonpb.Consenter{{Id: 4, MspId: "OrdererMSP", Identity: n.orderer.CertPEM}},
	})}
	cfg, err := configtx.New(t.Context(), deps(t), "main", c)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(number uint64) *commonpb.Block {
		b := newBlock(1, []byte("x"))
		header := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), number)
		sig, err := n.orderer.Signer.SignBlock(t.Context(), nil, header, wire.HeaderBytes(b.Header))
		if err != nil {
			t.Fatal(err)
		}
		md := &commonpb.Metadata{Signatures: []*commonpb.MetadataSignature{{IdentifierHeader: header, Signature: sig}}}
		b.Metadata = &commonpb.BlockMetadata{Metadata: [][]byte{marshal(t, md)}}
		return b
	}
	if err := configtx.VerifyBlock(t.Context(), cfg, sign(4)); err != nil {
		t.Error(err)
	}
	for name, f := range map[string]func() error{
		"of no consenter": func() error { return configtx.VerifyBlock(t.Context(), cfg, sign(5)) },
		"without V3_0":    func() error { return configtx.VerifyBlock(t.Context(), newNetwork(t).config, sign(4)) },
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), "do not satisfy") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzConfig reads arbitrary configurations, and updates of a good one.
func FuzzConfig(f *testing.F) {
	d := deps(f)
	base, err := configtx.FromBlock(f.Context(), d, fabricBlock(f, 0))
	if err != nil {
		f.Fatal(err)
	}
	_, update, err := configtx.EnvelopeFromBlock(fabricBlock(f, 10))
	if err != nil {
		f.Fatal(err)
	}
	for _, n := range []int{0, 1, 10} {
		f.Add(marshal(f, fabricBlock(f, n)))
	}
	f.Add(marshal(f, base.Proto))
	f.Add(marshal(f, update.GetLastUpdate()))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b := &commonpb.Block{}
		if proto.Unmarshal(raw, b) == nil {
			configtx.LastConfigIndex(b)
			configtx.FromBlock(t.Context(), d, b)
			configtx.VerifyBlock(t.Context(), base, b)
		}
		c := &commonpb.Config{}
		if proto.Unmarshal(raw, c) == nil {
			configtx.New(t.Context(), d, "main", c)
			if u, err := configtx.ComputeUpdate(base.Proto, c); err == nil && u.GetWriteSet() == nil {
				t.Error("an update without write set")
			}
		}
		env := &commonpb.Envelope{}
		if proto.Unmarshal(raw, env) == nil {
			base.ProposeUpdate(t.Context(), env)
		}
	})
}

func BenchmarkVerifyBlock(b *testing.B) {
	c, err := configtx.FromBlock(b.Context(), deps(b), fabricBlock(b, 0))
	if err != nil {
		b.Fatal(err)
	}
	block := fabricBlock(b, 4)
	b.ReportAllocs()
	for b.Loop() {
		if err := configtx.VerifyBlock(b.Context(), c, block); err != nil {
			b.Fatal(err)
		}
	}
}

func TestLevels(t *testing.T) {
	for level, want := range map[configtx.Level]string{configtx.LevelNone: "none", configtx.LevelV2_0: "V2_0", configtx.LevelV2_5: "V2_5", configtx.LevelV3_0: "V3_0"} {
		if level.String() != want {
			t.Errorf("%d is %s", level, level)
		}
	}
}

func TestDescriptionErrors(t *testing.T) {
	good, err := os.ReadFile("testdata/fabric.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(string) string{
		"field colour not found":      func(s string) string { return s + "colour: red\n" },
		"more than one YAML document": func(s string) string { return s + "---\nchannel: x\n" },
		"empty":                       func(string) string { return "" },
		`size "16 XB"`:                replace("preferredMaxBytes: 16 MB", "preferredMaxBytes: 16 XB"),
		`size "9 GB"`:                 replace("absoluteMaxBytes: 99 MB", "absoluteMaxBytes: 9 GB"),
		"preferred_max_bytes":         replace("absoluteMaxBytes: 99 MB", "absoluteMaxBytes: 1 MB"),
		`time span "2"`:               replace("batchTimeout: 2s", "batchTimeout: 2"),
		"batchTimeout: -2s":           replace("batchTimeout: 2s", "batchTimeout: -2s"),
		"channel id":                  replace("channel: mychannel", "channel: My"),
		"capabilities.channel":        replace("channel: V2_0", "channel: V1_4"),
		"capabilities.application":    replace("application: V2_5", "application: V2_6"),
		"orderer.addresses: not allowed": func(s string) string {
			return replace("channel: V2_0", "channel: V3_0")(replace("  batchTimeout: 2s", "  addresses: [a:1]")(s))
		},
		"ordererEndpoints is empty": func(s string) string {
			return replace("channel: V2_0", "channel: V3_0")(replace("    ordererEndpoints: [\"127.0.0.1:6050\"]\n", "")(s))
		},
		"mspDir":                         replace("crypto/org1/msp", "crypto/none/msp"),
		"is not among organizations":     replace("organizations: [Org1MSP, Org2MSP]", "organizations: [Org1MSP, Org3MSP]"),
		"is named twice":                 replace("organizations: [Org1MSP, Org2MSP]", "organizations: [Org1MSP, Org1MSP]"),
		"application.organizations is":   replace("organizations: [Org1MSP, Org2MSP]", "organizations: []"),
		"is taken":                       replace("mspID: Org2MSP", "mspID: Org1MSP"),
		"mspID is empty":                 replace("mspID: Org2MSP", "mspID: ''"),
		`address "127.0.0.1"`:            replace(`anchorPeers: ["127.0.0.1:8051"]`, `anchorPeers: ["127.0.0.1"]`),
		`port "0"`:                       replace(`"127.0.0.1:6050"`, `"127.0.0.1:0"`),
		"policies.Admins: implicit meta": replace("MAJORITY Admins", "MOST Admins"),
		"policies: Admins is missing":    replace("  Admins: \"ImplicitMeta: MAJORITY Admins\"\n", ""),
		"policies.Writers: policy expr":  replace("OutOf(0, 'Org1MSP.member')", "OutOf('Org1MSP.member')"),
		"orderer.raft is missing":        func(s string) string { return s[:strings.Index(s, "  raft:")] + s[strings.Index(s, "application:\n"):] },
		"orderer.raft: type":             replace("type: etcdraft", "type: solo"),
		"orderer.raft.consenters[0]":     replace("port: 6050", "port: 0"),
		"BFT channel": func(s string) string {
			return replace("type: etcdraft", "type: BFT")(s[:strings.Index(s, "  raft:")] + s[strings.Index(s, "application:\n"):])
		},
	} {
		t.Run(want, func(t *testing.T) {
			d, err := configtx.LoadDescription([]byte(change(string(good))))
			if err == nil {
				err = d.Resolve("testdata")
			}
			if err == nil {
				_, err = configtx.BuildGenesis(d)
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v", err)
			}
		})
	}
	d, err := configtx.LoadDescription(good)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := configtx.BuildGenesis(d); err == nil || !strings.Contains(err.Error(), "Resolve") {
		t.Errorf("not resolved: %v", err)
	}
}

func replace(old, with string) func(string) string {
	return func(s string) string { return strings.Replace(s, old, with, 1) }
}

// TestInlineDescription: certificates inside the description make the channel that
// those in folders make.
func TestInlineDescription(t *testing.T) {
	token := bccsptest.OpenShared(t)
	ca := bccsptest.NewCA(t, token, "Org1MSP")
	indent := func(text []byte) string {
		return strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", "\n          ")
	}
	d, err := configtx.LoadDescription([]byte(`
channel: main
created: 2026-11-23T12:00:00Z
organizations:
  - mspID: Org1MSP
    msp:
      nodeOUs: true
      rootCerts:
        - |
          ` + indent(ca.CertPEM) + `
    ordererEndpoints: [localhost:7050]
    anchorPeers: ["[::1]:7051"]
orderer: {organizations: [Org1MSP], addresses: ["localhost:7050"], maxChannels: 3}
application: {organizations: [Org1MSP], acls: {peer/Propose: /Channel/Application/Readers}}
`))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Resolve("nowhere"); err != nil {
		t.Fatal(err)
	}
	b, err := configtx.BuildGenesis(d)
	if err != nil {
		t.Fatal(err)
	}
	c, err := configtx.FromBlock(t.Context(), deps(t), b)
	if err != nil {
		t.Fatal(err)
	}
	if want := (configtx.BatchSize{MaxMessageCount: 500, AbsoluteMaxBytes: 10 << 20, PreferredMaxBytes: 2 << 20}); c.BatchSize != want || c.ConsensusType != "solo" || c.MaxChannels != 3 {
		t.Errorf("defaults: %v, %s", c.BatchSize, c.ConsensusType)
	}
	if o, ok := c.Organization("Org1MSP"); !ok || o.AnchorPeers[0] != (configtx.AnchorPeer{Host: "::1", Port: 7051}) {
		t.Errorf("anchor peer %v", o.AnchorPeers)
	}
	id, err := c.Identity(t.Context(), ca.Issue(t, "peer", "peer").Serialized())
	if err != nil || id.Role != msp.RolePeer {
		t.Errorf("a peer: %v", err)
	}
	for path, want := range map[string]bool{
		"/Channel/Application/Org1MSP/Endorsement": true, "/Channel/Application/Org1MSP/Writers": false, "/Channel/Readers": true,
		"/Channel/Application/LifecycleEndorsement": true, "/Channel/Orderer/BlockValidation": false,
	} {
		p, err := c.Policies.Policy(path)
		if err != nil {
			t.Fatal(err)
		}
		d, err := p.Evaluate(t.Context(), []*msp.Identity{id})
		if err != nil || d.Allowed != want {
			t.Errorf("%s for a peer: %t, %v", path, d.Allowed, err)
		}
	}
}
