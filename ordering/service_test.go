package ordering

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"strongroom/bccsp/bccsptest"
	"strongroom/channel/configtx"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
)

func TestOrdersAndSigns(t *testing.T) {
	n := sharedNetwork(t)
	s := start(t, n.config(t, t.TempDir()))
	join(t, s, n.genesis(t, "main", nil))
	c := dial(t, serve(t, s, nil))
	var envs []*commonpb.Envelope
	want := names("tx", 9)
	for _, name := range want {
		envs = append(envs, n.tx(t, "main", name))
	}
	order(t, c, envs...)
	blocks := n.blocks(t, c, "main", 0, 3)
	n.verifyChain(t, blocks)
	var got []string
	for _, b := range blocks[1:] {
		if len(b.Data.Data) != 3 {
			t.Errorf("block %d has %d envelopes, MaxMessageCount is 3", b.Header.Number, len(b.Data.Data))
		}
		got = append(got, contents(t, b)...)
		if len(b.Metadata.Metadata) != 5 || len(b.Metadata.Metadata[commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER]) != 0 {
			t.Errorf("block %d: metadata is not an orderer's", b.Header.Number)
		}
		index, err := configtx.LastConfigIndex(b)
		if err != nil || index != 0 {
			t.Errorf("block %d: last configuration is %d, %v", b.Header.Number, index, err)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a stream's order is not kept: %s", diff)
	}
	for i, raw := range blocks[1].Data.Data {
		if diff := cmp.Diff(marshal(t, envs[i]), raw); diff != "" {
			t.Errorf("envelope %d is not as it was sent: %s", i, diff)
		}
	}
	if err := s.Healthy(); err != nil {
		t.Error(err)
	}
}

func TestBatchTimeoutAndBytes(t *testing.T) {
	n := sharedNetwork(t)
	s := start(t, n.config(t, t.TempDir()))
	join(t, s, n.genesis(t, "timed", func(d *configtx.Description) { d.Orderer.BatchTimeout = configtx.Duration(50 * time.Millisecond) }))
	join(t, s, n.genesis(t, "bytes", nil))
	c := dial(t, serve(t, s, nil))
	order(t, c, n.tx(t, "timed", "a"), n.tx(t, "timed", "b"))
	if diff := cmp.Diff([]string{"a", "b"}, contents(t, n.blocks(t, c, "timed", 1, 1)[0])); diff != "" {
		t.Error(diff)
	}
	large := strings.Repeat("x", 65<<10)
	order(t, c, n.tx(t, "bytes", "small"), n.tx(t, "bytes", large))
	blocks := n.blocks(t, c, "bytes", 1, 2)
	if diff := cmp.Diff([][]string{{"small"}, {large}}, [][]string{contents(t, blocks[0]), contents(t, blocks[1])}); diff != "" {
		t.Error(diff)
	}
}

func TestRefusals(t *testing.T) {
	n := sharedNetwork(t)
	expired := n.org.Issue(t, "old", "client", bccsptest.Expired())
	revoked := n.org.Issue(t, "revoked", "client")
	foreign := bccsptest.NewCA(t, n.token, "Org1MSP").Issue(t, "stranger", "client")
	s := start(t, func() Config {
		cfg := n.config(t, t.TempDir())
		cfg.MaxMessageBytes = 2 << 20
		cfg.Access = func(_ context.Context, _ *configtx.Config, a Access) error {
			if a.Caller.Certificate.Subject.CommonName == "barred" {
				return ErrDenied
			}
			return nil
		}
		return cfg
	}())
	conf := n.org.FabricConfig()
	conf.RevocationList = [][]byte{n.org.CRL(t, revoked.Certificate)}
	join(t, s, n.genesis(t, "main", func(d *configtx.Description) {
		d.Organizations[0].MSPConfig = bccsptest.MSPConfig(conf)
	}))
	c := dial(t, serve(t, s, nil))

	falseSignature := n.tx(t, "main", "x")
	falseSignature.Signature = n.tx(t, "main", "y").Signature
	config, err := configtx.FromBlock(t.Context(), n.deps, n.genesis(t, "main", nil))
	if err != nil {
		t.Fatal(err)
	}
	tx := commonpb.HeaderType_ENDORSER_TRANSACTION
	tests := []struct {
		name   string
		env    *commonpb.Envelope
		status commonpb.Status
		info   string
	}{
		{"empty", &commonpb.Envelope{}, commonpb.Status_BAD_REQUEST, "header is missing"},
		{"garbage", &commonpb.Envelope{Payload: []byte("garbage"), Signature: []byte("x")}, commonpb.Status_BAD_REQUEST, "common.Payload"},
		{"unknown channel", n.tx(t, "nowhere", "x"), commonpb.Status_NOT_FOUND, `"nowhere" does not exist`},
		{"no channel", n.tx(t, "", "x"), commonpb.Status_NOT_FOUND, "does not exist"},
		{"too large for the channel", n.tx(t, "main", strings.Repeat("x", 1<<20)), commonpb.Status_REQUEST_ENTITY_TOO_LARGE, "exceeds maximum allowed 1048576 bytes"},
		{"too large for the node", n.tx(t, "main", strings.Repeat("x", 3<<20)), commonpb.Status_REQUEST_ENTITY_TOO_LARGE, "this node takes"},
		{"expired", envelope(t, expired, tx, "main", nil, nil), commonpb.Status_BAD_REQUEST, "broadcast client identity expired"},
		{"revoked", envelope(t, revoked, tx, "main", nil, nil), commonpb.Status_FORBIDDEN, "permission denied"},
		{"foreign CA", envelope(t, foreign, tx, "main", nil, nil), commonpb.Status_FORBIDDEN, "permission denied"},
		{"false signature", falseSignature, commonpb.Status_FORBIDDEN, "permission denied"},
		{"not a writer", envelope(t, n.peer, tx, "main", nil, nil), commonpb.Status_FORBIDDEN, "does not satisfy policy /Channel/Writers"},
		{"access layer", envelope(t, n.org.Issue(t, "barred", "client"), tx, "main", nil, nil), commonpb.Status_FORBIDDEN, "access denied"},
		{"CONFIG", envelope(t, n.admin, commonpb.HeaderType_CONFIG, "main", nil, nil), commonpb.Status_BAD_REQUEST, "cannot be processed directly"},
		{"malformed update", envelope(t, n.admin, commonpb.HeaderType_CONFIG_UPDATE, "main", []byte("x"), nil), commonpb.Status_BAD_REQUEST, "error applying config update"},
		{"unsigned update", n.update(t, config, setBatch(t, 7)), commonpb.Status_BAD_REQUEST, "error applying config update"},
		{"update by others", n.update(t, config, setBatch(t, 7), n.admin), commonpb.Status_BAD_REQUEST, "error applying config update"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			answers := broadcast(t, c, n.tx(t, "main", "good"), tt.env, n.tx(t, "main", "not read any more"))
			if len(answers) != 2 || answers[0].Status != commonpb.Status_SUCCESS {
				t.Fatalf("answers are %v: one SUCCESS and one refusal are due", answers)
			}
			if a := answers[1]; a.Status != tt.status || !strings.Contains(a.Info, tt.info) {
				t.Errorf("got %s %q, want %s with %q", a.Status, a.Info, tt.status, tt.info)
			}
		})
	}
	order(t, c, n.tx(t, "main", "good"), n.tx(t, "main", "good")) // fills up the last batch of three
	for _, b := range n.blocks(t, c, "main", 1, uint64(len(tests)+2)/3) {
		for _, content := range contents(t, b) {
			if content != "good" {
				t.Errorf("%q was ordered", content)
			}
		}
	}
}

func TestReplayedEnvelopeIsOrderedTwice(t *testing.T) {
	n := sharedNetwork(t)
	s := start(t, n.config(t, t.TempDir()))
	join(t, s, n.genesis(t, "main", nil))
	c := dial(t, serve(t, s, nil))
	env := n.tx(t, "main", "same")
	order(t, c, env, env, env)
	if diff := cmp.Diff([]string{"same", "same", "same"}, contents(t, n.blocks(t, c, "main", 1, 1)[0])); diff != "" {
		t.Error(diff)
	}
}

func TestConfigUpdate(t *testing.T) {
	n := sharedNetwork(t)
	dir := t.TempDir()
	s := start(t, n.config(t, dir))
	genesis := n.genesis(t, "main", nil)
	join(t, s, genesis)
	c := dial(t, serve(t, s, nil))
	cfg, err := configtx.FromBlock(t.Context(), n.deps, genesis)
	if err != nil {
		t.Fatal(err)
	}
	up := n.update(t, cfg, setBatch(t, 2), n.orderAdmin)
	order(t, c, n.tx(t, "main", "before"), up, n.tx(t, "main", "after 1"), n.tx(t, "main", "after 2"))
	blocks := n.blocks(t, c, "main", 0, 3)
	now := n.verifyChain(t, blocks)
	if now.Sequence != 1 || now.BatchSize.MaxMessageCount != 2 {
		t.Errorf("configuration is %d with %d messages", now.Sequence, now.BatchSize.MaxMessageCount)
	}
	if diff := cmp.Diff([]string{"before"}, contents(t, blocks[1])); diff != "" {
		t.Error(diff)
	}
	if !isConfigBlock(blocks[2]) {
		t.Error("block 2 is not the configuration's own")
	}
	if diff := cmp.Diff([]string{"after 1", "after 2"}, contents(t, blocks[3])); diff != "" {
		t.Error(diff)
	}
	for i, want := range map[int]uint64{1: 0, 2: 2, 3: 2} {
		if index, err := configtx.LastConfigIndex(blocks[i]); err != nil || index != want {
			t.Errorf("block %d: last configuration is %d, %v, want %d", i, index, err, want)
		}
	}
	// The same update again is one for an older configuration.
	if a := broadcast(t, c, up); len(a) != 1 || a[0].Status != commonpb.Status_BAD_REQUEST {
		t.Errorf("the same update again gives %v", a)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = start(t, n.config(t, dir))
	c = dial(t, serve(t, s, nil))
	order(t, c, n.tx(t, "main", "restarted 1"), n.tx(t, "main", "restarted 2"))
	n.verifyChain(t, n.blocks(t, c, "main", 0, 4))
}

// TestWriterRemovedByUpdate orders an update that takes away a client's right, and
// behind it an envelope of that client that was checked before.
func TestCheckedAgainUnderNewConfig(t *testing.T) {
	n := sharedNetwork(t)
	s := start(t, n.config(t, t.TempDir()))
	genesis := n.genesis(t, "main", nil)
	join(t, s, genesis)
	c := dial(t, serve(t, s, nil))
	cfg, err := configtx.FromBlock(t.Context(), n.deps, genesis)
	if err != nil {
		t.Fatal(err)
	}
	onlyAdmins := func(g *commonpb.ConfigGroup) {
		org := g.Groups["Application"].Groups["Org1"]
		org.Policies["Writers"].Policy = proto.CloneOf(org.Policies["Admins"].Policy)
	}
	ch, _ := s.chain("main")
	// Submitted as if checked under the old configuration, behind the update.
	var subs []*submission
	for _, env := range []*commonpb.Envelope{n.update(t, cfg, onlyAdmins, n.admin), n.tx(t, "main", "client"),
		envelope(t, n.admin, commonpb.HeaderType_ENDORSER_TRANSACTION, "main", []byte("admin"), nil),
		n.update(t, cfg, setBatch(t, 1), n.orderAdmin)} {
		e, fault := wire.ParseEnvelope(env)
		if fault != nil {
			t.Fatal(fault)
		}
		sub, err := ch.checkNew(t.Context(), env, e, "")
		if err != nil {
			t.Fatal(err)
		}
		subs = append(subs, sub)
	}
	for _, sub := range subs {
		if err := ch.submit(t.Context(), sub); err != nil {
			t.Fatal(err)
		}
	}
	blocks := n.blocks(t, c, "main", 0, 3)
	now := n.verifyChain(t, blocks)
	if diff := cmp.Diff([]string{"admin"}, contents(t, blocks[2])); diff != "" {
		t.Errorf("block behind the update: %s", diff)
	}
	if now.Sequence != 2 || now.BatchSize.MaxMessageCount != 1 {
		t.Errorf("the second update was not made again for the new configuration: sequence %d", now.Sequence)
	}
}

func TestChannelsAreIsolated(t *testing.T) {
	n := sharedNetwork(t)
	other := newNetwork(t, n.token)
	s := start(t, n.config(t, t.TempDir()))
	join(t, s, n.genesis(t, "one", nil))
	// The second channel has the same orderer and another organization.
	join(t, s, n.genesis(t, "two", func(d *configtx.Description) { d.Organizations[0].MSPConfig = other.org.MSPConfig() }))
	c := dial(t, serve(t, s, nil))
	if a := broadcast(t, c, n.tx(t, "two", "x")); a[0].Status != commonpb.Status_FORBIDDEN {
		t.Errorf("a client of one writes to two: %v", a)
	}
	if _, status := deliverAll(t, c, seekEnvelope(t, n.peer, "two", &ordererpb.SeekInfo{Start: oldest, Stop: newest}, nil)); status != commonpb.Status_FORBIDDEN {
		t.Errorf("a peer of one reads two: %s", status)
	}
	order(t, c, n.tx(t, "one", "1"), other.tx(t, "two", "2"), n.tx(t, "one", "1"), other.tx(t, "two", "2"), n.tx(t, "one", "1"), other.tx(t, "two", "2"))
	if diff := cmp.Diff([]string{"1", "1", "1"}, contents(t, n.blocks(t, c, "one", 1, 1)[0])); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"2", "2", "2"}, contents(t, other.blocks(t, c, "two", 1, 1)[0])); diff != "" {
		t.Error(diff)
	}
	infos := s.Channels()
	if len(infos) != 2 || infos[0].ID != "one" || infos[1].ID != "two" || infos[0].Height != 2 {
		t.Errorf("channels are %+v", infos)
	}
}

func TestJoinRefuses(t *testing.T) {
	n := sharedNetwork(t)
	dir := t.TempDir()
	s := start(t, n.config(t, dir))
	genesis := n.genesis(t, "main", nil)
	join(t, s, genesis)
	if err := s.Join(t.Context(), genesis); !errors.Is(err, ErrChannelExists) {
		t.Errorf("joining twice gives %v", err)
	}
	later := proto.CloneOf(n.genesis(t, "later", nil))
	later.Header.Number = 5
	if err := s.Join(t.Context(), later); err == nil || !strings.Contains(err.Error(), "block 5") {
		t.Errorf("joining at block 5 gives %v", err)
	}
	if err := s.Join(t.Context(), &commonpb.Block{}); err == nil {
		t.Error("an empty block is joined")
	}
	stranger := newNetwork(t, n.token)
	if err := s.Join(t.Context(), stranger.genesis(t, "foreign", nil)); err == nil || !strings.Contains(err.Error(), "this node's identity") {
		t.Errorf("joining a channel whose blocks this node may not sign gives %v", err)
	}
	// A crash in the middle of a join leaves a folder without a block.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "half", blocksDir), 0o700); err != nil {
		t.Fatal(err)
	}
	s = start(t, n.config(t, dir))
	if got := len(s.Channels()); got != 1 {
		t.Errorf("%d channels after the restart", got)
	}
	join(t, s, n.genesis(t, "half", nil))
}

func TestDeliverSeeks(t *testing.T) {
	n := sharedNetwork(t)
	cfg := n.config(t, t.TempDir())
	s := start(t, cfg)
	join(t, s, n.genesis(t, "main", nil))
	c := dial(t, serve(t, s, nil))
	for range 12 {
		order(t, c, n.tx(t, "main", "x"))
	}
	n.blocks(t, c, "main", 4, 4)

	until, fail := ordererpb.SeekInfo_BLOCK_UNTIL_READY, ordererpb.SeekInfo_FAIL_IF_NOT_READY
	expired := n.org.Issue(t, "old", "peer", bccsptest.Expired())
	falseSignature := seekEnvelope(t, n.peer, "main", &ordererpb.SeekInfo{Start: oldest, Stop: newest}, nil)
	falseSignature.Signature[len(falseSignature.Signature)-1] ^= 1
	at := func(start, stop *ordererpb.SeekPosition, b ordererpb.SeekInfo_SeekBehavior) *commonpb.Envelope {
		return seekEnvelope(t, n.peer, "main", &ordererpb.SeekInfo{Start: start, Stop: stop, Behavior: b}, nil)
	}
	stamp := func(d time.Duration) func(*commonpb.ChannelHeader) {
		return func(h *commonpb.ChannelHeader) { h.Timestamp.Seconds += int64(d / time.Second) }
	}
	seek := &ordererpb.SeekInfo{Start: oldest, Stop: oldest}
	ok := commonpb.Status_SUCCESS
	tests := []struct {
		name   string
		env    *commonpb.Envelope
		blocks []uint64
		status commonpb.Status
	}{
		{"oldest to newest", at(oldest, newest, until), []uint64{0, 1, 2, 3, 4}, ok},
		{"oldest to oldest", at(oldest, oldest, until), []uint64{0}, ok},
		{"newest to newest", at(newest, newest, fail), []uint64{4}, ok},
		{"newest to oldest", at(newest, oldest, fail), []uint64{4}, ok},
		{"specified", at(specified(2), specified(3), until), []uint64{2, 3}, ok},
		{"beyond the end", at(specified(3), specified(9), fail), []uint64{3, 4}, commonpb.Status_NOT_FOUND},
		{"start after the end", at(specified(6), specified(9), until), nil, commonpb.Status_NOT_FOUND},
		{"next commit", at(nextCommit, specified(9), fail), nil, commonpb.Status_NOT_FOUND},
		{"stop before start", at(specified(3), specified(2), until), nil, commonpb.Status_BAD_REQUEST},
		{"no stop", at(oldest, nil, until), nil, commonpb.Status_BAD_REQUEST},
		{"no position", at(&ordererpb.SeekPosition{}, newest, until), nil, commonpb.Status_NOT_FOUND},
		{"unknown channel", seekEnvelope(t, n.peer, "none", seek, nil), nil, commonpb.Status_NOT_FOUND},
		{"too old", seekEnvelope(t, n.peer, "main", seek, stamp(-16*time.Minute)), nil, commonpb.Status_BAD_REQUEST},
		{"from the future", seekEnvelope(t, n.peer, "main", seek, stamp(16*time.Minute)), nil, commonpb.Status_BAD_REQUEST},
		{"just in time", seekEnvelope(t, n.peer, "main", seek, stamp(-14*time.Minute)), []uint64{0}, ok},
		{"no timestamp", seekEnvelope(t, n.peer, "main", seek, func(h *commonpb.ChannelHeader) { h.Timestamp = nil }), nil, commonpb.Status_BAD_REQUEST},
		{"false signature", falseSignature, nil, commonpb.Status_FORBIDDEN},
		{"expired", seekEnvelope(t, expired, "main", seek, nil), nil, commonpb.Status_FORBIDDEN},
		{"empty", &commonpb.Envelope{}, nil, commonpb.Status_BAD_REQUEST},
		{"garbage", &commonpb.Envelope{Payload: []byte("garbage")}, nil, commonpb.Status_BAD_REQUEST},
		{"not a seek info", envelope(t, n.peer, commonpb.HeaderType_DELIVER_SEEK_INFO, "main", []byte("garbage"), nil), nil, commonpb.Status_BAD_REQUEST},
	}
	check := func(t *testing.T, c ordererpb.AtomicBroadcastClient) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				blocks, status := deliverAll(t, c, tt.env)
				var got []uint64
				for _, b := range blocks {
					got = append(got, b.Header.Number)
				}
				if diff := cmp.Diff(tt.blocks, got); diff != "" || status != tt.status {
					t.Errorf("ends with %s, want %s; blocks: %s", status, tt.status, diff)
				}
			})
		}
	}
	check(t, c)

	// Once more with blocks from disk instead of memory.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = start(t, cfg)
	check(t, dial(t, serve(t, s, nil)))
}

func TestDeliverWaitsAndFollows(t *testing.T) {
	n := sharedNetwork(t)
	s := start(t, n.config(t, t.TempDir()))
	genesis := n.genesis(t, "main", func(d *configtx.Description) { d.Orderer.BatchSize.MaxMessageCount = 1 })
	join(t, s, genesis)
	c := dial(t, serve(t, s, nil))
	stream, err := c.Deliver(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(seekEnvelope(t, n.peer, "main", &ordererpb.SeekInfo{Start: specified(1), Stop: specified(1 << 40)}, nil)); err != nil {
		t.Fatal(err)
	}
	recv := func() *ordererpb.DeliverResponse {
		t.Helper()
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	for i := range 3 {
		order(t, c, n.tx(t, "main", "x"))
		if got := recv().GetBlock().GetHeader().GetNumber(); got != uint64(i+1) {
			t.Fatalf("block %d comes, block %d is due", got, i+1)
		}
	}
	// A configuration that takes the reader's right away ends the stream.
	cfg, err := configtx.FromBlock(t.Context(), n.deps, genesis)
	if err != nil {
		t.Fatal(err)
	}
	order(t, c, n.update(t, cfg, func(g *commonpb.ConfigGroup) {
		org := g.Groups["Application"].Groups["Org1"]
		org.Policies["Readers"].Policy = proto.CloneOf(org.Policies["Admins"].Policy)
	}, n.admin))
	if resp := recv(); resp.GetStatus() != commonpb.Status_FORBIDDEN {
		t.Errorf("after the update comes %v, want FORBIDDEN", resp)
	}

	// Streams end when the service does.
	stream, err = c.Deliver(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(seekEnvelope(t, n.admin, "main", &ordererpb.SeekInfo{Start: newest, Stop: specified(1 << 40)}, nil)); err != nil {
		t.Fatal(err)
	}
	recv()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if resp := recv(); resp.GetStatus() != commonpb.Status_SERVICE_UNAVAILABLE {
		t.Errorf("after Close comes %v", resp)
	}
	if a := broadcast(t, c, n.tx(t, "main", "x")); len(a) != 1 || a[0].Status != commonpb.Status_NOT_FOUND {
		t.Errorf("after Close, Broadcast answers %v", a)
	}
}

func TestDeliverHeaders(t *testing.T) {
	n := sharedNetwork(t)
	s := start(t, n.config(t, t.TempDir()))
	join(t, s, n.genesis(t, "main", nil))
	c := dial(t, serve(t, s, nil))
	order(t, c, n.tx(t, "main", "a"), n.tx(t, "main", "b"), n.tx(t, "main", "c"))
	n.blocks(t, c, "main", 1, 1)
	got, status := deliverAll(t, c, seekEnvelope(t, n.peer, "main", &ordererpb.SeekInfo{
		Start: oldest, Stop: newest, ContentType: ordererpb.SeekInfo_HEADER_WITH_SIG,
	}, nil))
	if status != commonpb.Status_SUCCESS || len(got) != 2 {
		t.Fatalf("%d blocks, %s", len(got), status)
	}
	if len(got[0].GetData().GetData()) != 1 {
		t.Error("the configuration block comes without its data")
	}
	if got[1].Data != nil || len(got[1].Metadata.Metadata) == 0 {
		t.Error("a block of transactions comes with its data, or without its metadata")
	}
}

func TestSessionEndsWithCertificate(t *testing.T) {
	n := sharedNetwork(t)
	clock := newClock()
	cfg := n.config(t, t.TempDir())
	cfg.Now = clock.now
	s := start(t, cfg)
	join(t, s, n.genesis(t, "main", func(d *configtx.Description) { d.Orderer.BatchSize.MaxMessageCount = 1 }))
	c := dial(t, serve(t, s, nil))
	stream, err := c.Deliver(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(seekEnvelope(t, n.peer, "main", &ordererpb.SeekInfo{Start: oldest, Stop: specified(9)}, nil)); err != nil {
		t.Fatal(err)
	}
	if resp, err := stream.Recv(); err != nil || resp.GetBlock() == nil {
		t.Fatalf("%v, %v", resp, err)
	}
	// The certificate of the client lasts longer than that of the peer would.
	clock.set(n.peer.Certificate.NotAfter.Add(time.Second))
	late := n.org.Issue(t, "late", "client", bccsptest.Valid(n.client.Certificate.NotBefore, n.peer.Certificate.NotAfter.Add(time.Hour)))
	order(t, c, envelope(t, late, commonpb.HeaderType_ENDORSER_TRANSACTION, "main", []byte("x"), nil))
	if resp, err := stream.Recv(); err != nil || resp.GetStatus() != commonpb.Status_FORBIDDEN {
		t.Errorf("a session outlives its certificate: %v, %v", resp, err)
	}
}
