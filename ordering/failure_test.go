package ordering

import (
	"bytes"
	"context"
	"crypto"
	"crypto/elliptic"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"strongroom/bccsp"
	"strongroom/channel/configtx"
	"strongroom/msp"
	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
)

// switched fails while it is switched off.
type switched struct{ off atomic.Bool }

var errOff = errors.New("CKR_DEVICE_ERROR")

func (s *switched) err() error {
	if s.off.Load() {
		return errOff
	}
	return nil
}

// flakySealer fails for the logs whose name holds part.
type flakySealer struct {
	switched
	part string
}

func (s *flakySealer) Seal(plain, ad []byte) ([]byte, error) {
	if err := s.err(); err != nil && bytes.Contains(ad, []byte(s.part)) {
		return nil, err
	}
	return bytes.Clone(plain), nil
}

func (s *flakySealer) Open(sealed, _ []byte) ([]byte, error) { return sealed, nil }

// flakyKey is a token's key that stops working.
type flakyKey struct {
	switched
	public *bccsp.PublicKey
	key    crypto.Signer
}

func (k *flakyKey) PublicKey() *bccsp.PublicKey { return k.public }

func (k *flakyKey) SignDigest(_ context.Context, digest []byte) ([]byte, error) {
	if err := k.err(); err != nil {
		return nil, err
	}
	return k.key.Sign(nil, digest, crypto.SHA256)
}

// flakyVerifier is a token that stops answering.
type flakyVerifier struct {
	switched
	bccsp.Verifier
}

func (v *flakyVerifier) Verify(ctx context.Context, key *bccsp.PublicKey, digest, sig []byte) error {
	if err := v.err(); err != nil {
		return err
	}
	return v.Verifier.Verify(ctx, key, digest, sig)
}

// TestPendingLogFails: what cannot be made durable is refused, and taken again
// when it can.
func TestPendingLogFails(t *testing.T) {
	n := sharedNetwork(t)
	cfg := n.config(t, t.TempDir())
	sealer := &flakySealer{part: pendingDir}
	cfg.Sealer = sealer
	s := start(t, cfg)
	join(t, s, n.genesis(t, "main", nil))
	c := dial(t, serve(t, s, nil))
	order(t, c, n.tx(t, "main", "a"))
	sealer.off.Store(true)
	if a := broadcast(t, c, n.tx(t, "main", "lost")); len(a) != 1 || a[0].Status != commonpb.Status_SERVICE_UNAVAILABLE || strings.Contains(a[0].Info, "CKR") {
		t.Errorf("answer is %v", a)
	}
	if err := s.Healthy(); err == nil || !strings.Contains(err.Error(), `channel "main"`) || !strings.Contains(err.Error(), "CKR_DEVICE_ERROR") {
		t.Errorf("Healthy says %v", err)
	}
	sealer.off.Store(false)
	order(t, c, n.tx(t, "main", "b"), n.tx(t, "main", "c"))
	if err := s.Healthy(); err != nil {
		t.Error(err)
	}
	if got := contents(t, n.blocks(t, c, "main", 1, 1)[0]); strings.Join(got, "") != "abc" {
		t.Errorf("block holds %q", got)
	}
}

// TestBlockLogFails: acknowledged envelopes wait until their block can be written.
func TestBlockLogFails(t *testing.T) {
	n := sharedNetwork(t)
	cfg := n.config(t, t.TempDir())
	sealer := &flakySealer{part: blocksDir}
	cfg.Sealer = sealer
	failed := make(chan struct{}, 100)
	cfg.Observe = func(_, step string, _ time.Duration, err error) {
		if step == "append" && err != nil {
			failed <- struct{}{}
		}
	}
	s := start(t, cfg)
	join(t, s, n.genesis(t, "main", nil))
	c := dial(t, serve(t, s, nil))
	sealer.off.Store(true)
	order(t, c, n.tx(t, "main", "a"), n.tx(t, "main", "b"), n.tx(t, "main", "c"))
	<-failed
	<-failed
	if err := s.Healthy(); err == nil || !strings.Contains(err.Error(), "append") {
		t.Errorf("Healthy says %v", err)
	}
	sealer.off.Store(false)
	n.verifyChain(t, n.blocks(t, c, "main", 0, 1))
	if err := s.Healthy(); err != nil {
		t.Error(err)
	}
}

// TestVerifierFails: a device that does not answer is no verdict on the envelope.
func TestVerifierFails(t *testing.T) {
	n := sharedNetwork(t)
	cfg := n.config(t, t.TempDir())
	v := &flakyVerifier{Verifier: n.token}
	cfg.Deps.Verifier = v
	s := start(t, cfg)
	join(t, s, n.genesis(t, "main", nil))
	c := dial(t, serve(t, s, nil))
	v.off.Store(true)
	if a := broadcast(t, c, n.tx(t, "main", "x")); len(a) != 1 || a[0].Status != commonpb.Status_SERVICE_UNAVAILABLE {
		t.Errorf("answer is %v", a)
	}
	if _, status := deliverAll(t, c, seekEnvelope(t, n.peer, "main", &ordererpb.SeekInfo{Start: oldest, Stop: newest}, nil)); status != commonpb.Status_SERVICE_UNAVAILABLE {
		t.Errorf("deliver ends with %s", status)
	}
	v.off.Store(false)
	order(t, c, n.tx(t, "main", "x"))
}

// TestSignerFails: blocks wait for the token that signs them.
func TestSignerFails(t *testing.T) {
	n := sharedNetwork(t)
	// The one kind of key of which a test can have the bare signatures.
	public, err := n.token.GenerateKey(t.Context(), t.Name(), elliptic.P256())
	if err != nil {
		t.Fatal(err)
	}
	bare, err := n.token.TLSKey(t.Context(), t.Name())
	if err != nil {
		t.Fatal(err)
	}
	key := &flakyKey{public: public, key: bare}
	_, cert := n.ord.IssueFor(t, public.ECDSA(), "flaky", "orderer")
	cfg := n.config(t, t.TempDir())
	if cfg.Identity, err = msp.LoadLocalIdentity("OrdererMSP", cert, bccsp.NewSigner(key)); err != nil {
		t.Fatal(err)
	}
	failed := make(chan struct{}, 100)
	cfg.Observe = func(_, step string, _ time.Duration, err error) {
		if step == "sign" && err != nil {
			failed <- struct{}{}
		}
	}
	s := start(t, cfg)
	genesis := n.genesis(t, "main", nil)
	join(t, s, genesis)
	c := dial(t, serve(t, s, nil))
	key.off.Store(true)
	order(t, c, n.tx(t, "main", "a"), n.tx(t, "main", "b"), n.tx(t, "main", "c"))
	<-failed
	<-failed // the first failure is known to Healthy by now
	if err := s.Healthy(); err == nil || !strings.Contains(err.Error(), "sign") {
		t.Errorf("Healthy says %v", err)
	}
	now, err := configtx.FromBlock(t.Context(), n.deps, genesis)
	if err != nil {
		t.Fatal(err)
	}
	if a := broadcast(t, c, n.update(t, now, setBatch(t, 1), n.orderAdmin)); len(a) != 1 || a[0].Status != commonpb.Status_SERVICE_UNAVAILABLE {
		t.Errorf("an update that cannot be signed gives %v", a)
	}
	key.off.Store(false)
	n.verifyChain(t, n.blocks(t, c, "main", 0, 1))
}

// TestRemovedOrderer: a configuration that takes this node's right to sign away is
// written, and is its last block.
func TestRemovedOrderer(t *testing.T) {
	n := sharedNetwork(t)
	cfg := n.config(t, t.TempDir())
	s := start(t, cfg)
	genesis := n.genesis(t, "main", nil)
	join(t, s, genesis)
	c := dial(t, serve(t, s, nil))
	now, err := configtx.FromBlock(t.Context(), n.deps, genesis)
	if err != nil {
		t.Fatal(err)
	}
	order(t, c, n.update(t, now, func(g *commonpb.ConfigGroup) {
		g.Groups["Orderer"].Policies["BlockValidation"].Policy = proto.CloneOf(g.Groups["Orderer"].Groups["OrdererOrg"].Policies["Admins"].Policy)
	}, n.orderAdmin))
	n.verifyChain(t, n.blocks(t, c, "main", 0, 1))
	check := func(s *Service) {
		t.Helper()
		c := dial(t, serve(t, s, nil))
		if a := broadcast(t, c, n.tx(t, "main", "x")); len(a) != 1 || a[0].Status != commonpb.Status_SERVICE_UNAVAILABLE || !strings.Contains(a[0].Info, "may not sign") {
			t.Errorf("answer is %v", a)
		}
		if err := s.Healthy(); err == nil || !strings.Contains(err.Error(), "BlockValidation") {
			t.Errorf("Healthy says %v", err)
		}
	}
	check(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check(start(t, cfg))
}

func TestConfigNamesWhatIsMissing(t *testing.T) {
	n := sharedNetwork(t)
	good := n.config(t, t.TempDir())
	for field, change := range map[string]func(*Config){
		"Dir": func(c *Config) { c.Dir = "" }, "Identity": func(c *Config) { c.Identity = nil },
		"Deps": func(c *Config) { c.Deps.Engine = nil }, "Sealer": func(c *Config) { c.Sealer = nil },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("without %s: %v", field, err)
		}
	}
}
