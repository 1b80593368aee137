package appliance

import (
	"context"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"strongroom/acl"
	"strongroom/appliance/config"
	network "strongroom/appliance/endorser/endorsertest"
	"strongroom/appliance/operations"
	"strongroom/bccsp/pkcs11"
	"strongroom/policy/bundle"
	"strongroom/wire/peerpb"
)

// TestBundleOnALedger commits a bundle as the value of a key: the peer takes it with the
// block, by its signature alone, and keeps it when a later value is none.
func TestBundleOnALedger(t *testing.T) {
	w := network.Start(t, nil, "Org1MSP")
	w.Deploy(t, "kv")
	first := w.Peers[0]
	signer := first.CA.Issue(t, "security", "client").Signer
	archive := func(revision uint64, mspID string) []byte {
		t.Helper()
		manifest, err := bundle.Manifest(revision)
		if err != nil {
			t.Fatal(err)
		}
		b, err := bundle.Sign(t.Context(), signer, "team", "fabric", bundle.Contents{".manifest": manifest,
			"channel.rego": []byte("package strongroom.acl.channel\n\ndefault allow := false\n\nallow if input.caller.mspid == \"" + mspID + "\"\n")})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	dir := t.TempDir()
	c := config.Bundle{File: filepath.Join(dir, "first.tar.gz"), PublicKey: filepath.Join(dir, "team.pem"), KeyID: "team", Scope: "fabric",
		Poll: config.Duration(time.Hour), Ledger: config.Key{Channel: network.ChannelID, Chaincode: "kv", Key: "bundle"}}
	for name, content := range map[string][]byte{c.File: archive(1, "Org1MSP"), c.PublicKey: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: signer.PublicKey().SPKI()})} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	group, err := pkcs11.NewGroup(w.Token)
	if err != nil {
		t.Fatal(err)
	}
	guard, err := acl.New(acl.Config{Engine: w.Deps.Engine, Local: first.Local, LocalMSPID: first.MSPID})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{log: slog.New(slog.DiscardHandler), metrics: operations.NewMetrics(), engine: w.Deps.Engine, tokens: &Tokens{Group: group, Own: w.Token, Keeper: w.Token}}
	p := &peer{node: n, config: &config.Peer{Policy: config.Policy{Bundle: c}}}
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	defer func() {
		cancel()
		watching.Wait()
		n.polling.Wait()
	}()
	key, err := n.openBundle(ctx, dir, c, guard, nil, p.policyKey)
	if err != nil || key == nil || n.bundle.Current().Revision != 1 {
		t.Fatalf("before there is a ledger: %v, %v", key, err)
	}
	p.channels = &channels{open: map[string]*joined{network.ChannelID: {Channel: first.Channel, ledger: first.Channel.Ledger()}}}
	p.ledgers.Store(p.channels)
	watching.Go(func() { p.watchPolicyKey(ctx, key) })
	put := func(value []byte) {
		t.Helper()
		call := network.Call{Channel: network.ChannelID, Chaincode: "kv", Args: [][]byte{[]byte("put"), []byte("bundle"), value}}
		if code := w.Submit(t, first.Client, call, first); code != peerpb.TxValidationCode_VALID {
			t.Fatal(code)
		}
	}
	await := func(revision uint64) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); n.bundle.Current().Revision != revision; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("revision %d is in force, not %d", n.bundle.Current().Revision, revision)
			}
		}
	}
	allowed := func() bool {
		id, err := first.Channel.Config().MSPs.Identity(t.Context(), first.Client.Serialized())
		if err != nil {
			t.Fatal(err)
		}
		_, err = guard.Check(t.Context(), first.Channel.Config(), acl.Request{Resource: acl.ResourceProposePropose, Caller: id})
		return err == nil
	}
	if !allowed() {
		t.Error("the first bundle does not decide")
	}
	put(archive(2, "Org9MSP"))
	await(2)
	if allowed() {
		t.Error("the committed bundle does not decide")
	}
	put([]byte("anybody may write here"))
	put(archive(3, "Org1MSP"))
	await(3)
	if !allowed() {
		t.Error("the next committed bundle does not decide")
	}
}
