package configtx_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/channel/configtx"
	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
)

func setTimeout(t testing.TB, text string) func(*commonpb.ConfigGroup) {
	return func(root *commonpb.ConfigGroup) {
		root.Groups["Orderer"].Values["BatchTimeout"].Value = marshal(t, &ordererpb.BatchTimeout{Timeout: text})
	}
}

func TestUpdateRoundTrip(t *testing.T) {
	n := newNetwork(t)
	org3 := bccsptest.NewCA(t, bccsptest.OpenShared(t), "Org3MSP")
	for name, c := range map[string]struct {
		change  func(*commonpb.ConfigGroup)
		signers []*bccsptest.Identity
		check   func(*configtx.Config) bool
	}{
		"a value": {
			setTimeout(t, "5s"), []*bccsptest.Identity{n.ordererAdmin},
			func(c *configtx.Config) bool { return c.BatchTimeout == 5*time.Second },
		},
		"an organisation more": {
			func(root *commonpb.ConfigGroup) {
				org := proto.CloneOf(root.Groups["Application"].Groups["Org2MSP"])
				org.Values["MSP"].Value = marshal(t, org3.MSPConfig())
				root.Groups["Application"].Groups["Org3MSP"] = org
			},
			[]*bccsptest.Identity{n.admin1, n.admin2},
			func(c *configtx.Config) bool {
				_, ok := c.Organization("Org3MSP")
				return ok && len(c.Organizations) == 3
			},
		},
		"an organisation less": {
			func(root *commonpb.ConfigGroup) { delete(root.Groups["Application"].Groups, "Org2MSP") },
			[]*bccsptest.Identity{n.admin1, n.admin2},
			func(c *configtx.Config) bool { _, ok := c.Organization("Org2MSP"); return !ok },
		},
		"its own anchor peers": {
			func(root *commonpb.ConfigGroup) {
				delete(root.Groups["Application"].Groups["Org1MSP"].Values, "AnchorPeers")
			},
			[]*bccsptest.Identity{n.admin1},
			func(c *configtx.Config) bool { o, _ := c.Organization("Org1MSP"); return len(o.AnchorPeers) == 0 },
		},
	} {
		t.Run(name, func(t *testing.T) {
			env := envelope(t, n.edit(t, c.change), c.signers...)
			ce, err := n.config.ProposeUpdate(t.Context(), env)
			if err != nil {
				t.Fatal(err)
			}
			// Through the wire, as a peer gets it.
			sent := &commonpb.ConfigEnvelope{}
			if err := proto.Unmarshal(marshal(t, ce), sent); err != nil {
				t.Fatal(err)
			}
			next, err := n.config.Apply(t.Context(), deps(t), sent)
			if err != nil {
				t.Fatal(err)
			}
			if next.Sequence != 1 || !c.check(next) {
				t.Errorf("sequence %d, or the change is not there", next.Sequence)
			}
		})
	}
}

func TestUpdateRefused(t *testing.T) {
	n := newNetwork(t)
	timeout := n.edit(t, setTimeout(t, "5s"))
	change := func(f func(*commonpb.ConfigUpdate)) *commonpb.ConfigUpdate {
		u := proto.CloneOf(timeout)
		f(u)
		return u
	}
	value := func(u *commonpb.ConfigUpdate) *commonpb.ConfigValue {
		return u.WriteSet.Groups["Orderer"].Values["BatchTimeout"]
	}
	admin := n.ordererAdmin
	malformed := envelope(t, timeout, admin)
	malformed.Payload = marshal(t, &commonpb.Payload{Header: &commonpb.Header{}, Data: []byte{0xff}})
	stolen := func() *commonpb.Envelope {
		// The administrator's signature of another update.
		a, b := envelope(t, timeout, admin), envelope(t, n.edit(t, setTimeout(t, "6s")), admin)
		return withSignatures(t, b, a)
	}
	for name, c := range map[string]struct {
		env  *commonpb.Envelope
		want string
	}{
		"nothing":                   {nil, "missing"},
		"another type":              {malformed, "of type"},
		"unsigned":                  {envelope(t, timeout), "not satisfied"},
		"signed by another's admin": {envelope(t, timeout, n.admin1), "not satisfied"},
		"signed by no admin":        {envelope(t, timeout, n.orderer), "not satisfied"},
		"signature of another":      {stolen(), "not satisfied"},
		"one admin of two": {envelope(t, n.edit(t, func(root *commonpb.ConfigGroup) {
			root.Groups["Application"].Policies["Readers"].ModPolicy = "Writers"
		}), n.admin1, n.admin1), "not satisfied"},
		"another channel": {envelope(t, change(func(u *commonpb.ConfigUpdate) { u.ChannelId = "other" }), admin), "for channel"},
		"no change":       {envelope(t, change(func(u *commonpb.ConfigUpdate) { u.WriteSet = u.ReadSet }), admin), "changes nothing"},
		"old read set":    {envelope(t, change(func(u *commonpb.ConfigUpdate) { u.ReadSet.Version = 3 }), admin), "make it again"},
		"read set of what is not": {envelope(t, change(func(u *commonpb.ConfigUpdate) {
			u.ReadSet.Groups["Nothing"] = &commonpb.ConfigGroup{}
		}), admin), "the configuration has not"},
		"a version too far": {envelope(t, change(func(u *commonpb.ConfigUpdate) { value(u).Version = 2 }), admin), "its next is 1"},
		"no mod_policy":     {envelope(t, change(func(u *commonpb.ConfigUpdate) { value(u).ModPolicy = "" }), admin), "mod_policy is not set"},
		"bad mod_policy":    {envelope(t, change(func(u *commonpb.ConfigUpdate) { value(u).ModPolicy = "a//b" }), admin), "mod_policy"},
		"new at version 1": {envelope(t, change(func(u *commonpb.ConfigUpdate) {
			u.WriteSet.Groups["Orderer"].Values["New"] = &commonpb.ConfigValue{Version: 1, ModPolicy: "Admins"}
		}), admin), "must have version 0"},
		"new, and its group does not take it up": {envelope(t, change(func(u *commonpb.ConfigUpdate) {
			u.WriteSet.Groups["Orderer"].Values["KafkaBrokers"] = &commonpb.ConfigValue{ModPolicy: "Admins"}
		}), admin), ""},
		"bad name": {envelope(t, change(func(u *commonpb.ConfigUpdate) {
			u.WriteSet.Groups["Orderer"].Values["a/b"] = &commonpb.ConfigValue{}
		}), admin), "not allowed"},
		"bad result": {envelope(t, n.edit(t, setTimeout(t, "-1s")), admin), "not positive"},
		"another MSP id": {envelope(t, n.edit(t, func(root *commonpb.ConfigGroup) {
			root.Groups["Application"].Groups["Org1MSP"].Values["MSP"].Value = root.Groups["Application"].Groups["Org2MSP"].Values["MSP"].Value
		}), n.admin1), "may not change"},
		"no orderer": {envelope(t, n.edit(t, func(root *commonpb.ConfigGroup) { delete(root.Groups, "Orderer") }), n.admin1, n.admin2, admin), "is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			ce, err := n.config.ProposeUpdate(t.Context(), c.env)
			if name == "new, and its group does not take it up" {
				// As in Fabric the update is good, and the new element is not in the result.
				if err != nil || ce.GetConfig().GetChannelGroup().GetGroups()["Orderer"].GetValues()["KafkaBrokers"] != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			var invalid *configtx.InvalidUpdateError
			if !errors.As(err, &invalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// withSignatures takes the update of one envelope and the signatures of another.
func withSignatures(t testing.TB, update, signatures *commonpb.Envelope) *commonpb.Envelope {
	t.Helper()
	open := func(env *commonpb.Envelope) (*commonpb.Payload, *commonpb.ConfigUpdateEnvelope) {
		p, ue := &commonpb.Payload{}, &commonpb.ConfigUpdateEnvelope{}
		if err := errors.Join(proto.Unmarshal(env.Payload, p), proto.Unmarshal(p.Data, ue)); err != nil {
			t.Fatal(err)
		}
		return p, ue
	}
	p, u := open(update)
	_, s := open(signatures)
	u.Signatures = s.Signatures
	p.Data = marshal(t, u)
	return &commonpb.Envelope{Payload: marshal(t, p)}
}

// TestComputeUpdateEqualsFabrics: from the configurations before and after a real
// update, the same read and write sets come out.
func TestComputeUpdateEqualsFabrics(t *testing.T) {
	c := fabricConfig(t)
	_, ce, err := configtx.EnvelopeFromBlock(fabricBlock(t, 10))
	if err != nil {
		t.Fatal(err)
	}
	got, err := configtx.ComputeUpdate(c.Proto, ce.GetConfig())
	if err != nil {
		t.Fatal(err)
	}
	got.ChannelId = "mychannel"
	p, ue, want := &commonpb.Payload{}, &commonpb.ConfigUpdateEnvelope{}, &commonpb.ConfigUpdate{}
	if err := errors.Join(proto.Unmarshal(ce.GetLastUpdate().GetPayload(), p), proto.Unmarshal(p.GetData(), ue), proto.Unmarshal(ue.GetConfigUpdate(), want)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("update (-want +got):\n%s", diff)
	}
	for name, pair := range map[string][2]*commonpb.Config{
		"equal": {c.Proto, c.Proto}, "no original": {nil, c.Proto}, "no updated": {c.Proto, {}},
	} {
		if _, err := configtx.ComputeUpdate(pair[0], pair[1]); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// broken fails every question, or counts them.
type broken struct {
	bccsp.Verifier
	fail  atomic.Bool
	asked atomic.Int64
}

var errDevice = errors.New("CKR_DEVICE_ERROR")

func (b *broken) Verify(ctx context.Context, key *bccsp.PublicKey, digest, sig []byte) error {
	b.asked.Add(1)
	if b.fail.Load() {
		return errDevice
	}
	return b.Verifier.Verify(ctx, key, digest, sig)
}

func (b *broken) VerifyX509(ctx context.Context, key *bccsp.PublicKey, digest, sig []byte) error {
	if b.fail.Load() {
		return errDevice
	}
	return b.Verifier.VerifyX509(ctx, key, digest, sig)
}

// TestDeviceFailure: a failing token is never a verdict.
func TestDeviceFailure(t *testing.T) {
	n := newNetwork(t)
	d := deps(t)
	token := &broken{Verifier: d.Verifier}
	d.Verifier = token
	c, err := configtx.FromBlock(t.Context(), d, n.genesis)
	if err != nil {
		t.Fatal(err)
	}
	env := envelope(t, n.edit(t, setTimeout(t, "5s")), n.ordererAdmin)
	ce, err := c.ProposeUpdate(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	b := newBlock(1, []byte("x"))
	signBlock(t, b, n.orderer)
	org3 := bccsptest.NewCA(t, bccsptest.OpenShared(t), "Org3MSP")
	more := n.edit(t, func(root *commonpb.ConfigGroup) {
		org := proto.CloneOf(root.Groups["Application"].Groups["Org2MSP"])
		org.Values["MSP"].Value = marshal(t, org3.MSPConfig())
		root.Groups["Application"].Groups["Org3MSP"] = org
	})
	moreEnv := envelope(t, more, n.admin1, n.admin2)
	moreCE, err := c.ProposeUpdate(t.Context(), moreEnv)
	if err != nil {
		t.Fatal(err)
	}
	token.fail.Store(true)
	for name, f := range map[string]func() error{
		"propose":           func() error { _, err := c.ProposeUpdate(t.Context(), env); return err },
		"apply":             func() error { _, err := c.Apply(t.Context(), d, ce); return err },
		"apply with an MSP": func() error { _, err := n.config.Apply(t.Context(), d, moreCE); return err },
		"block":             func() error { return configtx.VerifyBlock(t.Context(), c, b) },
		"new":               func() error { _, err := configtx.FromBlock(t.Context(), d, n.genesis); return err },
	} {
		var update *configtx.InvalidUpdateError
		var block *configtx.InvalidBlockError
		if err := f(); !errors.Is(err, errDevice) || errors.As(err, &update) || errors.As(err, &block) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerified(t *testing.T) {
	n := newNetwork(t)
	d := deps(t)
	token := &broken{Verifier: d.Verifier}
	d.Verifier = token
	c, err := configtx.FromBlock(t.Context(), d, n.genesis)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(id *bccsptest.Identity, message string) configtx.Signed {
		t.Helper()
		sig, err := id.Signer.SignPayload(t.Context(), []byte(message))
		if err != nil {
			t.Fatal(err)
		}
		return configtx.Signed{Message: []byte("m"), Identity: id.Serialized(), Signature: sig}
	}
	good := func(id *bccsptest.Identity) configtx.Signed { return sign(id, "m") }
	bad := func(id *bccsptest.Identity) configtx.Signed { return sign(id, "another") }
	a, b, x := n.admin1, n.admin2, n.member
	stranger := bccsptest.NewCA(t, bccsptest.OpenShared(t), "Org1MSP").Issue(t, "x", "admin")
	// The same certificate in another text is the same identity.
	respelled := good(a)
	respelled.Identity = bccsptest.Serialize("Org1MSP", append([]byte("text\n"), a.CertPEM...))
	for name, tc := range map[string]struct {
		signed []configtx.Signed
		want   []string
		asked  int64
	}{
		"nothing":                          {nil, nil, 0},
		"one":                              {[]configtx.Signed{good(a)}, []string{"admin"}, 1},
		"one bad":                          {[]configtx.Signed{bad(a)}, nil, 1},
		"one stranger":                     {[]configtx.Signed{good(stranger)}, nil, 0},
		"in order":                         {[]configtx.Signed{good(x), good(b), good(a)}, []string{"user", "admin", "admin"}, 3},
		"once each":                        {[]configtx.Signed{good(x), good(b), good(x), respelled, good(a)}, []string{"user", "admin", "admin"}, 3},
		"strangers and bad ones dropped":   {[]configtx.Signed{good(stranger), bad(b), good(x), {Message: []byte("m"), Identity: []byte{1}}}, []string{"user"}, 2},
		"a bad one first":                  {[]configtx.Signed{bad(x), good(a), good(x)}, []string{"admin", "user"}, 3},
		"no work after the first good one": {[]configtx.Signed{good(x), bad(x), bad(x), good(x)}, []string{"user"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			before := token.asked.Load()
			ids, err := c.Verified(t.Context(), tc.signed)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, id := range ids {
				got = append(got, id.Certificate.Subject.CommonName)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("identities (-want +got):\n%s", diff)
			}
			if asked := token.asked.Load() - before; asked != tc.asked {
				t.Errorf("the token was asked %d times, want %d", asked, tc.asked)
			}
		})
	}
	token.fail.Store(true)
	for _, signed := range [][]configtx.Signed{{good(a)}, {good(a), good(b)}} {
		if ids, err := c.Verified(t.Context(), signed); !errors.Is(err, errDevice) || msp.IsInvalid(err) || ids != nil {
			t.Errorf("a failing token: %v", err)
		}
	}
}

func TestVerifyBlock(t *testing.T) {
	n := newNetwork(t)
	for name, c := range map[string]struct {
		signers []*bccsptest.Identity
		want    bool
	}{
		"orderer":        {[]*bccsptest.Identity{n.orderer}, true},
		"two":            {[]*bccsptest.Identity{n.admin1, n.orderer}, true},
		"another's peer": {[]*bccsptest.Identity{n.org1.Issue(t, "peer", "peer")}, false},
		"no one":         {nil, false},
	} {
		b := newBlock(1, []byte("x"))
		signBlock(t, b, c.signers...)
		err := configtx.VerifyBlock(t.Context(), n.config, b)
		var invalid *configtx.InvalidBlockError
		if c.want && err != nil || !c.want && !errors.As(err, &invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSignUpdate: an update signed and sent by local identities is taken, and its
// envelope is one that any orderer reads.
func TestSignUpdate(t *testing.T) {
	n := newNetwork(t)
	local := func(id *bccsptest.Identity) *msp.LocalIdentity {
		t.Helper()
		l, err := msp.LoadLocalIdentity(msp.ID(id.MSPID), id.CertPEM, id.Signer)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	update := marshal(t, n.edit(t, setTimeout(t, "5s")))
	sig, err := configtx.SignUpdate(t.Context(), local(n.ordererAdmin), update)
	if err != nil {
		t.Fatal(err)
	}
	env, err := configtx.UpdateEnvelope(t.Context(), local(n.member), "main", update, []*commonpb.ConfigSignature{sig}, time.Unix(1700000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.config.ProposeUpdate(t.Context(), env); err != nil {
		t.Error(err)
	}
	parsed, fault := wire.ParseEnvelope(env)
	if fault != nil {
		t.Fatal(fault)
	}
	if parsed.ChannelHeader.GetChannelId() != "main" {
		t.Errorf("channel %q", parsed.ChannelHeader.GetChannelId())
	}
	sender, err := n.config.Verified(t.Context(), []configtx.Signed{{Message: env.Payload, Identity: n.member.Serialized(), Signature: env.Signature}})
	if err != nil || len(sender) != 1 {
		t.Errorf("the envelope's signature: %v", err)
	}
}

func BenchmarkVerifiedThree(b *testing.B) {
	n := newNetwork(b)
	var signed []configtx.Signed
	for _, id := range []*bccsptest.Identity{n.admin1, n.admin2, n.member} {
		sig, err := id.Signer.SignPayload(b.Context(), []byte("m"))
		if err != nil {
			b.Fatal(err)
		}
		signed = append(signed, configtx.Signed{Message: []byte("m"), Identity: id.Serialized(), Signature: sig})
	}
	b.ReportAllocs()
	for b.Loop() {
		if ids, err := n.config.Verified(b.Context(), signed); err != nil || len(ids) != 3 {
			b.Fatal(err)
		}
	}
}
