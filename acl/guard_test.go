package acl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"strongroom/bccsp/bccsptest"
	"strongroom/channel/configtx"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
)

// network is two organisations whose keys are in a token, and a channel of both.
type network struct {
	engine              *policy.Engine
	set, local          *msp.Set // of the channel; of Org1MSP alone
	config              *configtx.Config
	client, admin, peer *msp.Identity // of Org1MSP
	client2, admin2     *msp.Identity // of Org2MSP
	stranger            *msp.Identity
}

var (
	theNetwork     network // of this test process, made once
	makeTheNetwork sync.Once
)

func newNetwork(t testing.TB) *network {
	t.Helper()
	makeTheNetwork.Do(func() {
		ctx := context.Background()
		token := bccsptest.Open(t)
		org1, org2, org3 := bccsptest.NewCA(t, token, "Org1MSP"), bccsptest.NewCA(t, token, "Org2MSP"), bccsptest.NewCA(t, token, "Org3MSP")
		newSet := func(cas ...*bccsptest.CA) *msp.Set {
			var configs []*msppb.MSPConfig
			for _, ca := range cas {
				configs = append(configs, ca.MSPConfig())
			}
			set, err := msp.NewSet(ctx, token, configs)
			if err != nil {
				t.Fatal(err)
			}
			return set
		}
		n := &theNetwork
		n.set, n.local = newSet(org1, org2), newSet(org1)
		identity := func(set *msp.Set, ca *bccsptest.CA, name, unit string) *msp.Identity {
			id, err := set.Identity(ctx, ca.Issue(t, name, unit).Serialized())
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		n.client, n.admin, n.peer = identity(n.set, org1, "alice", "client"), identity(n.set, org1, "root", "admin"), identity(n.set, org1, "peer0", "peer")
		n.client2, n.admin2 = identity(n.set, org2, "bob", "client"), identity(n.set, org2, "root", "admin")
		n.stranger = identity(newSet(org3), org3, "eve", "admin")
		var err error
		if n.engine, err = policy.NewEngine(policy.Config{}); err != nil {
			t.Fatal(err)
		}
		n.config = n.channel(t, 3, nil)
	})
	if theNetwork.config == nil {
		t.Fatal("the first test could not make the network")
	}
	return &theNetwork
}

// channel is a configuration of the channel "main" with ACLs.
func (n *network) channel(t testing.TB, sequence uint64, acls map[string]string) *configtx.Config {
	t.Helper()
	tree, err := n.engine.Tree(n.set, channelGroup(t))
	if err != nil {
		t.Fatal(err)
	}
	return &configtx.Config{ID: "main", Sequence: sequence, MSPs: n.set, Policies: tree, ACLs: acls}
}

func channelGroup(t testing.TB) *commonpb.ConfigGroup {
	marshal := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	signature := func(mspID string, role commonpb.MSPRole_MSPRoleType) *commonpb.ConfigPolicy {
		return &commonpb.ConfigPolicy{Policy: &commonpb.Policy{Type: int32(commonpb.Policy_SIGNATURE), Value: marshal(&commonpb.SignaturePolicyEnvelope{
			Rule: &commonpb.SignaturePolicy{Type: &commonpb.SignaturePolicy_SignedBy{}},
			Identities: []*commonpb.MSPPrincipal{{PrincipalClassification: commonpb.MSPPrincipal_ROLE,
				Principal: marshal(&commonpb.MSPRole{MspIdentifier: mspID, Role: role})}},
		})}}
	}
	anyOf := func(sub string) *commonpb.ConfigPolicy {
		return &commonpb.ConfigPolicy{Policy: &commonpb.Policy{Type: int32(commonpb.Policy_IMPLICIT_META),
			Value: marshal(&commonpb.ImplicitMetaPolicy{SubPolicy: sub, Rule: commonpb.ImplicitMetaPolicy_ANY})}}
	}
	metas := func() map[string]*commonpb.ConfigPolicy {
		return map[string]*commonpb.ConfigPolicy{"Readers": anyOf("Readers"), "Writers": anyOf("Writers"), "Admins": anyOf("Admins")}
	}
	app := &commonpb.ConfigGroup{Groups: map[string]*commonpb.ConfigGroup{}, Policies: metas()}
	for _, id := range []string{"Org1MSP", "Org2MSP"} {
		app.Groups[id] = &commonpb.ConfigGroup{Policies: map[string]*commonpb.ConfigPolicy{
			"Readers": signature(id, commonpb.MSPRole_MEMBER), "Writers": signature(id, commonpb.MSPRole_CLIENT), "Admins": signature(id, commonpb.MSPRole_ADMIN),
		}}
	}
	return &commonpb.ConfigGroup{Groups: map[string]*commonpb.ConfigGroup{"Application": app}, Policies: metas()}
}

// newGuard makes a guard with layers given as Rego source.
func (n *network) newGuard(t testing.TB, layers map[Layer]string, change func(*Config)) (*Guard, string) {
	t.Helper()
	dir := t.TempDir()
	cfg := Config{Engine: n.engine, Local: n.local, LocalMSPID: "Org1MSP", Layers: map[Layer]string{}}
	for l, source := range layers {
		cfg.Layers[l] = filepath.Join(dir, string(l)+".rego")
		writeFile(t, cfg.Layers[l], source)
	}
	if change != nil {
		change(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g, dir
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, g *Guard, config *configtx.Config, r Request) Decision {
	t.Helper()
	d, err := g.Check(context.Background(), config, r)
	if d.Allowed != (err == nil) || !d.Allowed && !errors.Is(err, ErrDenied) || d.ID == "" || len(d.Layers) == 0 {
		t.Fatalf("%+v: %+v, %v", r, d, err)
	}
	if err != nil && err.Error() != "access denied: decision "+d.ID {
		t.Errorf("a caller is told %q", err)
	}
	if d.Allowed == (d.Reason() != "") {
		t.Errorf("allowed %t for %q", d.Allowed, d.Reason())
	}
	return d
}

func TestFabricPolicies(t *testing.T) {
	n := newNetwork(t)
	g, _ := n.newGuard(t, nil, nil)
	acls := n.channel(t, 4, map[string]string{
		"peer/Propose": "/Channel/Application/Admins", "cscc/JoinChain": "/Channel/Application/Readers",
		"team/Own": "/Channel/Application/Readers", "event/Block": "/Channel/Application/Missing",
	})
	for _, c := range []struct {
		name     string
		config   *configtx.Config
		resource Resource
		caller   *msp.Identity
		allow    bool
		reason   string
	}{
		{"a client proposes", n.config, ResourceProposePropose, n.client, true, ""},
		{"a client of the other organisation proposes", n.config, ResourceProposePropose, n.client2, true, ""},
		{"a peer does not", n.config, ResourceProposePropose, n.peer, false, "fabric: policy /Channel/Application/Writers (ANY Writers) needs 1 of 2"},
		{"a peer reads", n.config, ResourceEventBlock, n.peer, true, ""},
		{"a stranger does not", n.config, ResourceEventBlock, n.stranger, false, "needs 1 of 2"},
		{"nobody does", n.config, ResourceEventBlock, nil, false, "no caller"},
		{"without a channel", nil, ResourceProposePropose, n.client, false, "no channel"},
		{"an ordering node", n.config, ResourceOrdererBroadcast, n.client, true, ""},
		{"unknown", n.config, "peer/Unknown", n.admin, false, "no default policy"},
		{"deploy", n.config, ResourceLSCCDeploy, n.admin, false, "no default policy"},

		{"the ACLs override", acls, ResourceProposePropose, n.client, false, "/Channel/Application/Admins"},
		{"the ACLs override", acls, ResourceProposePropose, n.admin2, true, ""},
		{"the ACLs name their own", acls, "team/Own", n.peer, true, ""},
		{"the ACLs name no policy", acls, ResourceEventBlock, n.admin, false, "no such policy"},
		{"the ACLs leave the rest", acls, ResourceEventFilteredBlock, n.peer, true, ""},

		{"a local administrator", nil, ResourceCSCCJoinChain, n.admin, true, ""},
		{"a local client", nil, ResourceCSCCJoinChain, n.client, false, "needs 1 of 1"},
		{"another's administrator", nil, ResourceCSCCJoinChain, n.admin2, false, "not of the node's own MSP Org1MSP"},
		{"another's administrator with a channel whose ACLs say otherwise", acls, ResourceCSCCJoinChain, n.admin2, false, "not of the node's own MSP"},
		{"a local member", nil, ResourceCSCCGetChannels, n.peer, true, ""},
		{"another's member", nil, ResourceCSCCGetChannels, n.client2, false, "not of the node's own MSP"},
		{"a local administrator on a channel", n.config, ResourceLifecycleApprove, n.admin, true, ""},
		{"a local client on a channel", n.config, ResourceLifecycleApprove, n.client, false, ""},
	} {
		for range 2 {
			d := check(t, g, c.config, Request{Resource: c.resource, Caller: c.caller})
			if d.Allowed != c.allow || !strings.Contains(d.Reason(), c.reason) {
				t.Errorf("%s: %t, %s", c.name, d.Allowed, d.Reason())
			}
		}
	}
	if d := check(t, g, n.config, Request{Resource: ResourceEventBlock, Channel: "other", Caller: n.client}); d.Allowed {
		t.Error("the configuration of another channel decided")
	}
	closed, _ := n.newGuard(t, nil, func(c *Config) { c.Local, c.LocalMSPID = nil, "" })
	if d := check(t, closed, nil, Request{Resource: ResourceCSCCGetChannels, Caller: n.admin}); d.Allowed {
		t.Error("a node without an MSP of its own is open")
	}
}

// TestDefaults holds the defaults against Fabric's tables, and discovery's and the ordering
// service's rules, written down here a second time.
func TestDefaults(t *testing.T) {
	want := map[string]string{"Admins": "", "Members": "", appReaders: "", appWriters: "", "/Channel/Readers": "", "/Channel/Writers": ""}
	for _, r := range Resources() {
		p := r.DefaultPolicy()
		if _, ok := want[p]; !ok {
			t.Errorf("%s: %q", r, p)
		}
		want[p] += " " + string(r)
	}
	for p, names := range map[string]string{
		"Admins":           "_lifecycle/ApproveChaincodeDefinitionForMyOrg _lifecycle/GetInstalledChaincodePackage _lifecycle/InstallChaincode _lifecycle/QueryApprovedChaincodeDefinition _lifecycle/QueryApprovedChaincodeDefinitions _lifecycle/QueryInstalledChaincode _lifecycle/QueryInstalledChaincodes cscc/JoinBySnapshotStatus cscc/JoinChain cscc/JoinChainBySnapshot discovery/Local lscc/GetInstalledChaincodes lscc/Install snapshot/cancelrequest snapshot/listpending snapshot/submitrequest",
		"Members":          "cscc/GetChannels",
		appWriters:         "_lifecycle/CheckCommitReadiness _lifecycle/CommitChaincodeDefinition _lifecycle/QueryChaincodeDefinition _lifecycle/QueryChaincodeDefinitions discovery/Channel peer/ChaincodeToChaincode peer/Propose",
		appReaders:         "cscc/GetChannelConfig cscc/GetConfigBlock event/Block event/FilteredBlock gateway/ChaincodeEvents gateway/CommitStatus lscc/ChaincodeExists lscc/GetChaincodeData lscc/GetCollectionsConfig lscc/GetDeploymentSpec lscc/GetInstantiatedChaincodes qscc/GetBlockByHash qscc/GetBlockByNumber qscc/GetBlockByTxID qscc/GetChainInfo qscc/GetTransactionByID",
		"/Channel/Writers": "gateway/Submit orderer/Broadcast",
		"/Channel/Readers": "orderer/Deliver",
	} {
		if got := strings.TrimSpace(want[p]); got != names {
			t.Errorf("%s: %s", p, got)
		}
	}
	if ResourceLSCCDeploy.DefaultPolicy() != "" || ResourceLSCCUpgrade.DefaultPolicy() != "" {
		t.Error("lscc/Deploy and lscc/Upgrade have no default in Fabric")
	}
	if !ResourceCSCCJoinChain.Local() || ResourceProposePropose.Local() {
		t.Error("Local is wrong")
	}
}

const openLayer = "package strongroom.acl.%s\n\ndefault allow := false\n\nallow if input.caller.mspid\n"

func layer(l Layer, rules string) string {
	return "package " + l.Package() + "\n\ndefault allow := false\n\n" + rules
}

func TestLayers(t *testing.T) {
	n := newNetwork(t)
	var log bytes.Buffer
	seen := map[string]int{}
	g, _ := n.newGuard(t, map[Layer]string{
		Appliance: layer(Appliance, "allow if not startswith(input.remote.address, \"192.0.2.\")\n\ndeny contains \"revoked here\" if input.remote.tls_cert_sha256 == \"0707070707070707070707070707070707070707070707070707070707070707\"\n"),
		Ordering:  layer(Ordering, "allow if input.caller.role == \"peer\"\n"),
		Channel:   layer(Channel, "allow if input.channel == \"main\"\n\ndeny contains concat(\" \", [input.caller.name, \"is locked\"]) if input.caller.name == \"bob\"\n"),
		Chaincode: layer(Chaincode, "allow if input.chaincode in {\"assets\", \"broken\"}\n\ndeny contains \"x\" if { input.chaincode == \"broken\"; to_number(input.function) > 1 }\n"),
		Function:  layer(Function, "allow if input.function in {\"Read\", \"notanumber\"}\n"),
	}, func(c *Config) {
		c.Logger = slog.New(slog.NewJSONHandler(&log, nil))
		c.Observe = func(resource, layer string, allowed bool, _ time.Duration) {
			seen[fmt.Sprint(resource, " ", layer, " ", allowed)]++
		}
	})
	for _, c := range []struct {
		name   string
		r      Request
		allow  bool
		reason string
		layers []Layer
	}{
		{"all agree", Request{Resource: ResourceProposePropose, Chaincode: "assets", Function: "Read", Caller: n.client}, true, "", []Layer{Fabric, Appliance, Channel, Chaincode, Function}},
		{"no function", Request{Resource: ResourceProposePropose, Chaincode: "assets", Caller: n.client}, true, "", []Layer{Fabric, Appliance, Channel, Chaincode}},
		{"no chaincode", Request{Resource: ResourceEventBlock, Caller: n.peer}, true, "", []Layer{Fabric, Appliance, Channel}},
		{"the ordering service", Request{Resource: ResourceOrdererDeliver, Caller: n.peer}, true, "", []Layer{Fabric, Appliance, Ordering, Channel}},
		{"a client of the ordering service", Request{Resource: ResourceOrdererDeliver, Caller: n.client}, false, "ordering: no rule of strongroom.acl.ordering allows it", []Layer{Fabric, Appliance, Ordering}},
		{"Fabric denies before any layer", Request{Resource: ResourceProposePropose, Chaincode: "assets", Function: "Read", Caller: n.peer}, false, "fabric: policy", []Layer{Fabric}},
		{"an address", Request{Resource: ResourceProposePropose, Caller: n.client, RemoteAddr: "192.0.2.9:4711"}, false, "appliance: no rule", []Layer{Fabric, Appliance}},
		{"the same address in IPv6 form", Request{Resource: ResourceProposePropose, Caller: n.client, RemoteAddr: "[::ffff:192.0.2.9]:4711"}, false, "appliance: no rule", []Layer{Fabric, Appliance}},
		{"another address", Request{Resource: ResourceProposePropose, Caller: n.client, RemoteAddr: "192.0.3.9:4711"}, true, "", []Layer{Fabric, Appliance, Channel}},
		{"a certificate", Request{Resource: ResourceProposePropose, Caller: n.client, TLSCertHash: bytes.Repeat([]byte{7}, 32)}, false, "appliance: revoked here", []Layer{Fabric, Appliance}},
		{"another certificate", Request{Resource: ResourceProposePropose, Caller: n.client, TLSCertHash: bytes.Repeat([]byte{8}, 32)}, true, "", []Layer{Fabric, Appliance, Channel}},
		{"deny overrides allow", Request{Resource: ResourceProposePropose, Caller: n.client2}, false, "channel: bob is locked", []Layer{Fabric, Appliance, Channel}},
		{"another chaincode", Request{Resource: ResourceProposePropose, Chaincode: "other", Function: "Read", Caller: n.client}, false, "chaincode: no rule", []Layer{Fabric, Appliance, Channel, Chaincode}},
		{"another function", Request{Resource: ResourceProposePropose, Chaincode: "assets", Function: "Write", Caller: n.client}, false, "function: no rule", []Layer{Fabric, Appliance, Channel, Chaincode, Function}},
		{"an evaluation error", Request{Resource: ResourceProposePropose, Chaincode: "broken", Function: "notanumber", Caller: n.client}, false, "chaincode: strongroom.acl.chaincode: policy evaluation gave no decision", []Layer{Fabric, Appliance, Channel, Chaincode}},
		{"a hash of the wrong length", Request{Resource: ResourceProposePropose, Caller: n.client, TLSCertHash: []byte{1}}, false, "fabric: the TLS", []Layer{Fabric}},
		{"a function that is no text", Request{Resource: ResourceProposePropose, Chaincode: "assets", Function: "\xff\x00" + strings.Repeat("x", 1000), Caller: n.client}, false, "function: no rule", []Layer{Fabric, Appliance, Channel, Chaincode, Function}},
	} {
		for round := range 2 {
			log.Reset()
			d := check(t, g, n.config, c.r)
			var layers []Layer
			for _, v := range d.Layers {
				layers = append(layers, v.Layer)
			}
			if d.Allowed != c.allow || !strings.HasPrefix(d.Reason(), c.reason) || fmt.Sprint(layers) != fmt.Sprint(c.layers) {
				t.Errorf("%s, round %d: %t, %v, %s", c.name, round, d.Allowed, layers, d.Reason())
			}
			if d.Allowed {
				if log.Len() > 0 {
					t.Errorf("%s: logged %s", c.name, &log)
				}
				continue
			}
			var line map[string]any
			if err := json.Unmarshal(log.Bytes(), &line); err != nil {
				t.Fatalf("%s: %v in %s", c.name, err, &log)
			}
			last := d.Layers[len(d.Layers)-1]
			if line["decision"] != d.ID || line["resource"] != string(c.r.Resource) || line["msp"] != string(c.r.Caller.MSPID) ||
				line["layer"] != string(last.Layer) || line["reason"] != d.Reason() || line["channel"] != "main" || line["subject"] != c.r.Caller.Certificate.Subject.String() {
				t.Errorf("%s: logged %s", c.name, &log)
			}
		}
	}
	if seen["peer/Propose decision true"] == 0 || seen["peer/Propose decision false"] == 0 || seen["peer/Propose channel false"] != 1 || seen["orderer/Deliver ordering true"] != 1 {
		t.Errorf("observed %v", seen)
	}
	if seen["peer/Propose chaincode false"] != 3 { // "another chaincode" once, the evaluation error each time
		t.Errorf("a failed evaluation was remembered: %v", seen)
	}
}

// TestDecisionsAreRemembered: the second decision asks nobody; what a decision depends
// on makes it another.
func TestDecisionsAreRemembered(t *testing.T) {
	n := newNetwork(t)
	asked := 0
	g, dir := n.newGuard(t, map[Layer]string{Appliance: layer(Appliance, "allow if input.caller.mspid\n")}, func(c *Config) {
		c.Observe = func(_, layer string, _ bool, _ time.Duration) {
			if layer == string(Appliance) {
				asked++
			}
		}
	})
	next := n.channel(t, 4, nil)
	base := Request{Resource: ResourceProposePropose, Chaincode: "a", Function: "b", Caller: n.client, RemoteAddr: "10.0.0.1:99", TLSCertHash: make([]byte, 32)}
	variants := []func(r *Request) *configtx.Config{
		func(r *Request) *configtx.Config { return n.config },
		func(r *Request) *configtx.Config { return next },
		func(r *Request) *configtx.Config { r.Resource = ResourceEventBlock; return n.config },
		func(r *Request) *configtx.Config { r.Chaincode = "c"; return n.config },
		func(r *Request) *configtx.Config { r.Function = "c"; return n.config },
		func(r *Request) *configtx.Config { r.Caller = n.client2; return n.config },
		func(r *Request) *configtx.Config { r.RemoteAddr = "10.0.0.2:99"; return n.config },
		func(r *Request) *configtx.Config { r.TLSCertHash = bytes.Repeat([]byte{1}, 32); return n.config },
	}
	ids := map[string]bool{}
	for range 3 {
		for _, v := range variants {
			r := base
			ids[check(t, g, v(&r), r).ID] = true
		}
	}
	if asked != len(variants) || len(ids) != 3*len(variants) {
		t.Errorf("asked %d times for %d requests, %d ids", asked, len(variants), len(ids))
	}
	r := base
	r.RemoteAddr = "10.0.0.1:7777"
	if check(t, g, n.config, r); asked != len(variants) {
		t.Error("another port is another decision")
	}
	writeFile(t, filepath.Join(dir, "appliance.rego"), layer(Appliance, "allow if input.function == \"other\"\n"))
	if err := g.Reload(context.Background()); err != nil {
		t.Fatal(err)
	}
	if d := check(t, g, n.config, base); d.Allowed {
		t.Error("a decision outlived its rules")
	}
}

func TestReload(t *testing.T) {
	n := newNetwork(t)
	g, dir := n.newGuard(t, map[Layer]string{
		Channel:  fmt.Sprintf(openLayer, "channel"),
		Function: fmt.Sprintf(openLayer, "function"),
	}, nil)
	r := Request{Resource: ResourceProposePropose, Chaincode: "a", Function: "b", Caller: n.client}
	before := check(t, g, n.config, r)
	if !before.Allowed {
		t.Fatal(before.Reason())
	}
	path := filepath.Join(dir, "function.rego")
	writeFile(t, filepath.Join(dir, "channel.rego"), layer(Channel, "allow if input.channel == \"none\"\n"))
	for name, c := range map[string]struct{ source, want string }{
		"syntax":          {"package strongroom.acl.function\n\nallow {", "function.rego:3"},
		"unknown field":   {layer(Function, "allow if input.user == \"x\"\n"), "function.rego:5"},
		"clock":           {layer(Function, "allow if time.now_ns() > 0\n"), "time.now_ns"},
		"another package": {fmt.Sprintf(openLayer, "channel"), "package strongroom.acl.function has no rule allow"},
		"no default":      {"package strongroom.acl.function\n\nallow if input.resource\n", "default allow := false"},
	} {
		writeFile(t, path, c.source)
		err := g.Reload(context.Background())
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "access layer function") {
			t.Errorf("%s: %v", name, err)
		}
		// Neither the bad file counts nor the good one that was changed with it.
		if d := check(t, g, n.config, r); !d.Allowed {
			t.Errorf("%s: the old rules are no longer in force: %s", name, d.Reason())
		}
	}
	writeFile(t, path, fmt.Sprintf(openLayer, "function"))
	if err := g.Reload(context.Background()); err != nil {
		t.Fatal(err)
	}
	if d := check(t, g, n.config, r); d.Allowed || d.Layers[1].Policy == before.Layers[1].Policy {
		t.Errorf("%+v", d)
	}
}

func TestNewErrors(t *testing.T) {
	n := newNetwork(t)
	for want, cfg := range map[string]Config{
		"Engine is nil":        {},
		"there is no layer":    {Engine: n.engine, Layers: map[Layer]string{"network": "x.rego"}},
		"belong together":      {Engine: n.engine, LocalMSPID: "Org1MSP"},
		"access layer channel": {Engine: n.engine, Layers: map[Layer]string{Channel: filepath.Join(t.TempDir(), "none.rego")}},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestContextEnds: a check whose context has ended denies, and nothing is remembered.
func TestContextEnds(t *testing.T) {
	n := newNetwork(t)
	g, _ := n.newGuard(t, map[Layer]string{Appliance: fmt.Sprintf(openLayer, "appliance")}, nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r := Request{Resource: ResourceProposePropose, Caller: n.client}
	if d, err := g.Check(ctx, n.config, r); !errors.Is(err, ErrDenied) || d.Allowed {
		t.Errorf("%+v, %v", d, err)
	}
	if d := check(t, g, n.config, r); !d.Allowed {
		t.Errorf("the failure was remembered: %s", d.Reason())
	}
}

// TestConcurrent checks while the rules are loaded again, for the race detector: each
// decision is by the rules of before or of after.
func TestConcurrent(t *testing.T) {
	n := newNetwork(t)
	g, _ := n.newGuard(t, map[Layer]string{Function: layer(Function, "allow if input.function != \"no\"\n")}, nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 100 {
				function := []string{"no", "yes", "perhaps"}[i%3]
				d, err := g.Check(context.Background(), n.config, Request{Resource: ResourceProposePropose, Chaincode: "a", Function: function, Caller: n.client})
				if d.Allowed != (function != "no") || d.Allowed != (err == nil) {
					t.Errorf("%s: %+v, %v", function, d, err)
				}
			}
		})
	}
	for range 10 {
		if err := g.Reload(context.Background()); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

// TestInput holds the input that layers see against its schema's fields.
func TestInput(t *testing.T) {
	n := newNetwork(t)
	r := Request{Resource: ResourceProposePropose, Chaincode: "assets", Function: "Read", Caller: n.client, RemoteAddr: "10.1.2.3:5", TLSCertHash: make([]byte, 32)}
	in, err := input(&r, "main", true)
	if err != nil {
		t.Fatal(err)
	}
	var got, schema map[string]any
	if err := json.Unmarshal([]byte(in.String()), &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(InputSchema, &schema); err != nil {
		t.Fatal(err)
	}
	sameFields(t, "input", got, schema)
	caller := got["caller"].(map[string]any)
	if caller["mspid"] != "Org1MSP" || caller["name"] != "alice" || caller["role"] != "client" || got["remote"].(map[string]any)["address"] != "10.1.2.3" {
		t.Errorf("%v", got)
	}
}

// sameFields holds an object against its schema: it has the properties, all of them are
// required and none is missing.
func sameFields(t *testing.T, path string, value, schema map[string]any) {
	t.Helper()
	properties, _ := schema["properties"].(map[string]any)
	required, _ := schema["required"].([]any)
	if len(properties) != len(required) {
		t.Errorf("%s: %d fields, %d required", path, len(properties), len(required))
	}
	for name, s := range properties {
		v, ok := value[name]
		if !ok {
			t.Errorf("%s.%s is not in the input", path, name)
		}
		if object, ok := v.(map[string]any); ok && name != "attributes" {
			sameFields(t, path+"."+name, object, s.(map[string]any))
		}
	}
	for name := range value {
		if properties[name] == nil {
			t.Errorf("%s.%s is not in the schema", path, name)
		}
	}
}

// TestExamples loads the examples as a node does, which runs their tests, and makes
// sure that each has some.
func TestExamples(t *testing.T) {
	n := newNetwork(t)
	cfg := Config{Engine: n.engine, Local: n.local, LocalMSPID: "Org1MSP", Layers: map[Layer]string{}}
	for _, l := range Layers() {
		cfg.Layers[l] = filepath.Join("..", "examples", "policy", string(l)+".rego")
		results, err := policy.TestProgram(context.Background(), testConfig(l, cfg.Layers[l]))
		if err != nil {
			t.Fatal(err)
		}
		if len(results) < 3 {
			t.Errorf("%s: %d tests", l, len(results))
		}
		for _, r := range results {
			if !r.Passed {
				t.Errorf("%s: %s: %s", r.Location, r.Name, r.Detail)
			}
		}
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		r     Request
		allow bool
	}{
		{Request{Resource: ResourceProposePropose, Chaincode: "assets", Function: "ReadAsset", Caller: n.client, RemoteAddr: "192.0.2.1:1"}, true},
		{Request{Resource: ResourceProposePropose, Chaincode: "assets", Function: "TransferAsset", Caller: n.client, RemoteAddr: "192.0.2.1:1"}, false},
		{Request{Resource: ResourceCSCCJoinChain, Chaincode: "cscc", Function: "JoinChain", Caller: n.admin, RemoteAddr: "192.0.2.1:1", TLSCertHash: make([]byte, 32)}, false},
		{Request{Resource: ResourceCSCCJoinChain, Chaincode: "cscc", Function: "JoinChain", Caller: n.admin, RemoteAddr: "127.0.0.1:1", TLSCertHash: make([]byte, 32)}, true},
		{Request{Resource: ResourceCSCCJoinChain, Chaincode: "cscc", Function: "JoinChain", Caller: n.admin, RemoteAddr: "127.0.0.1:1"}, false},
	} {
		if d := check(t, g, n.config, c.r); d.Allowed != c.allow {
			t.Errorf("%s %s: %+v", c.r.Resource, c.r.Function, d)
		}
	}
}

func BenchmarkWarm(b *testing.B) {
	n := newNetwork(b)
	for name, layers := range map[string]map[Layer]string{"fabric": nil, "layers": benchmarkLayers()} {
		b.Run(name, func(b *testing.B) {
			g, _ := n.newGuard(b, layers, nil)
			r := Request{Resource: ResourceProposePropose, Channel: "main", Chaincode: "assets", Function: "Read", Caller: n.client, RemoteAddr: "10.0.0.1:4711", TLSCertHash: make([]byte, 32)}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := g.Check(context.Background(), n.config, r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCold(b *testing.B) {
	n := newNetwork(b)
	g, _ := n.newGuard(b, benchmarkLayers(), nil)
	r := Request{Resource: ResourceProposePropose, Channel: "main", Chaincode: "assets", Function: "Read", Caller: n.client}
	rs := g.current.Load()
	b.ReportAllocs()
	for b.Loop() {
		if o, _ := g.evaluate(context.Background(), rs, n.config, &r); !o.allowed {
			b.Fatal(o)
		}
	}
}

func testConfig(l Layer, path string) policy.ProgramConfig {
	c := l.Program(0)
	c.Path = path
	return c
}

func benchmarkLayers() map[Layer]string {
	layers := map[Layer]string{}
	for _, l := range Layers()[1:] { // connection is asked apart
		layers[l] = fmt.Sprintf(openLayer, l) + "\ndeny contains \"temps\" if \"temps\" in input.caller.ous\n"
	}
	return layers
}
