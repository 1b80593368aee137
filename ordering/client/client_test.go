package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"strongroom/bccsp/bccsptest"
	"strongroom/msp"
	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
)

// scripted is an ordering node of a test: it has some blocks, and does what the
// test tells it to.
type scripted struct {
	ordererpb.UnimplementedAtomicBroadcastServer
	addr string
	grpc *grpc.Server

	mu     sync.Mutex // guards what follows
	blocks uint64     // blocks 0 to blocks-1 are there
	grown  chan struct{}
	silent uint64 // no block from this number on is sent to streams that wait; 0 means all are
	wrong  bool   // sends a block twice
	seeks  int
	answer func(env *commonpb.Envelope) *ordererpb.BroadcastResponse
}

func startScripted(t *testing.T, blocks uint64) *scripted {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &scripted{addr: lis.Addr().String(), blocks: blocks, grown: make(chan struct{})}
	s.run(t, lis)
	return s
}

func (s *scripted) run(t *testing.T, lis net.Listener) {
	s.grpc = grpc.NewServer()
	ordererpb.RegisterAtomicBroadcastServer(s.grpc, s)
	g := s.grpc
	go func() { _ = g.Serve(lis) }() // ends with Stop
	t.Cleanup(g.Stop)
}

// restart stops the node and starts it again at the same address.
func (s *scripted) restart(t *testing.T) {
	t.Helper()
	s.grpc.Stop()
	lis, err := net.Listen("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	s.run(t, lis)
}

func (s *scripted) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.grown)
	s.grown = make(chan struct{})
}

func (s *scripted) Deliver(stream ordererpb.AtomicBroadcast_DeliverServer) error {
	env, err := stream.Recv()
	if err != nil {
		return err
	}
	var payload commonpb.Payload
	var seek ordererpb.SeekInfo
	if err := errors.Join(proto.Unmarshal(env.Payload, &payload), proto.Unmarshal(payload.Data, &seek)); err != nil {
		return err
	}
	s.mu.Lock()
	s.seeks++
	s.mu.Unlock()
	wait := seek.Behavior == ordererpb.SeekInfo_BLOCK_UNTIL_READY
	for n := seek.Start.GetSpecified().GetNumber(); n <= seek.Stop.GetSpecified().GetNumber(); {
		s.mu.Lock()
		blocks, grown, silent, wrong := s.blocks, s.grown, s.silent, s.wrong
		s.mu.Unlock()
		if n >= blocks || wait && silent != 0 && n >= silent {
			if !wait {
				return stream.Send(&ordererpb.DeliverResponse{Type: &ordererpb.DeliverResponse_Status{Status: commonpb.Status_NOT_FOUND}})
			}
			select {
			case <-grown:
				continue
			case <-stream.Context().Done():
				return stream.Context().Err()
			}
		}
		number := n
		if wrong && n > 0 {
			number--
		}
		b := &commonpb.Block{Header: &commonpb.BlockHeader{Number: number}, Data: &commonpb.BlockData{Data: [][]byte{[]byte(s.addr)}}}
		if err := stream.Send(&ordererpb.DeliverResponse{Type: &ordererpb.DeliverResponse_Block{Block: b}}); err != nil {
			return err
		}
		n++
	}
	return stream.Send(&ordererpb.DeliverResponse{Type: &ordererpb.DeliverResponse_Status{Status: commonpb.Status_SUCCESS}})
}

func (s *scripted) Broadcast(stream ordererpb.AtomicBroadcast_BroadcastServer) error {
	for {
		env, err := stream.Recv()
		if err != nil {
			return nil
		}
		s.mu.Lock()
		answer := s.answer
		s.mu.Unlock()
		resp := &ordererpb.BroadcastResponse{Status: commonpb.Status_SUCCESS}
		if answer != nil {
			resp = answer(env)
		}
		if resp == nil {
			return errors.New("broken off")
		}
		if err := stream.Send(resp); err != nil || resp.Status != commonpb.Status_SUCCESS {
			return err
		}
	}
}

func identity(t *testing.T) *msp.LocalIdentity {
	t.Helper()
	ca := bccsptest.NewCA(t, bccsptest.OpenShared(t), "Org1MSP")
	id := ca.Issue(t, "peer0", "peer")
	l, err := msp.LoadLocalIdentity("Org1MSP", id.CertPEM, id.Signer)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newClient(t *testing.T, change func(*Config), nodes ...*scripted) *Client {
	t.Helper()
	cfg := Config{Identity: identity(t), MinBackoff: time.Millisecond, MaxBackoff: 50 * time.Millisecond, ConnectTimeout: 200 * time.Millisecond}
	for _, n := range nodes {
		cfg.Endpoints = append(cfg.Endpoints, Endpoint{Address: n.addr, Plaintext: true})
	}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

var errEnough = errors.New("enough")

// pullTo pulls blocks from..to and returns which node sent each.
func pullTo(t *testing.T, c *Client, from, to uint64, each func(b *commonpb.Block) error) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var senders []string
	next := from
	err := c.Blocks(ctx, "main", from, func(b *commonpb.Block) error {
		if b.Header.Number != next {
			t.Errorf("block %d comes, block %d is due", b.Header.Number, next)
		}
		if each != nil {
			if err := each(b); err != nil {
				return err
			}
		}
		next++
		senders = append(senders, string(b.Data.Data[0]))
		if b.Header.Number == to {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("Blocks ends with %v after %d blocks", err, len(senders))
	}
	return senders
}

func TestBlocksAcrossARestart(t *testing.T) {
	n := startScripted(t, 3)
	c := newClient(t, nil, n)
	pullTo(t, c, 0, 5, func(b *commonpb.Block) error {
		if b.Header.Number == 2 {
			if got := c.State("main").Connected; got != n.addr {
				t.Errorf("connected to %q, not %q", got, n.addr)
			}
			n.restart(t)
			n.set(func() { n.blocks = 6 })
		}
		return nil
	})
	s := c.State("main")
	if s.LastError == nil || s.LastErrorAt.IsZero() {
		t.Errorf("state does not tell of the restart: %+v", s)
	}
}

func TestBlocksRotates(t *testing.T) {
	one, two := startScripted(t, 5), startScripted(t, 5)
	c := newClient(t, nil, one, two)
	var first string
	senders := pullTo(t, c, 0, 9, func(b *commonpb.Block) error {
		if b.Header.Number == 4 {
			first = string(b.Data.Data[0])
			for _, n := range []*scripted{one, two} {
				if n.addr == first {
					n.grpc.Stop()
				} else {
					n.set(func() { n.blocks = 10 })
				}
			}
		}
		return nil
	})
	if last := senders[9]; last == first {
		t.Errorf("the last block comes from %s, which was stopped", last)
	}
}

// TestRejectedBlock: a node whose block does not verify is left, and the same block
// comes from another.
func TestRejectedBlock(t *testing.T) {
	one, two := startScripted(t, 4), startScripted(t, 4)
	c := newClient(t, nil, one, two)
	var bad string
	senders := pullTo(t, c, 0, 3, func(b *commonpb.Block) error {
		sender := string(b.Data.Data[0])
		if b.Header.Number == 2 && (bad == "" || bad == sender) {
			bad = sender
			return fmt.Errorf("signature: %w", ErrRejected)
		}
		if err := c.State("main").LastError; b.Header.Number == 3 && !errors.Is(err, ErrRejected) {
			t.Errorf("last error is %v", err)
		}
		return nil
	})
	if senders[2] == bad {
		t.Errorf("block 2 comes from %s, whose block was rejected", bad)
	}
}

func TestWrongNumber(t *testing.T) {
	bad := startScripted(t, 4)
	bad.set(func() { bad.wrong = true })
	good := startScripted(t, 4)
	c := newClient(t, nil, bad, good)
	for i, s := range pullTo(t, c, 0, 3, nil) {
		if i > 0 && s != good.addr {
			t.Errorf("block %d comes from the node that sends other numbers", i)
		}
	}
}

// TestStall: a node that is silent although others have the next block is left; one
// that is silent because there is none is not.
func TestStall(t *testing.T) {
	one, two := startScripted(t, 5), startScripted(t, 5)
	one.set(func() { one.silent = 3 })
	two.set(func() { two.silent = 3 })
	c := newClient(t, func(cfg *Config) { cfg.StallAfter = 20 * time.Millisecond }, one, two)
	senders := pullTo(t, c, 0, 4, func(b *commonpb.Block) error {
		if b.Header.Number == 2 { // the other node speaks
			for _, n := range []*scripted{one, two} {
				if n.addr != string(b.Data.Data[0]) {
					n.set(func() { n.silent = 0 })
				}
			}
		}
		return nil
	})
	if senders[2] == senders[3] {
		t.Error("block 3 comes from the silent node")
	}

	quiet, third := startScripted(t, 2), startScripted(t, 2)
	c = newClient(t, func(cfg *Config) { cfg.StallAfter = 5 * time.Millisecond }, quiet, third)
	senders = pullTo(t, c, 0, 2, func(b *commonpb.Block) error {
		if b.Header.Number != 1 {
			return nil
		}
		go func() { // the next block comes after some probes
			for probes := 0; probes < 6; {
				quiet.mu.Lock()
				third.mu.Lock()
				probes = quiet.seeks + third.seeks
				third.mu.Unlock()
				quiet.mu.Unlock()
			}
			quiet.set(func() { quiet.blocks = 3 })
			third.set(func() { third.blocks = 3 })
		}()
		return nil
	})
	if senders[1] != senders[2] {
		t.Error("a node without a further block was left")
	}
}

func TestSetEndpoints(t *testing.T) {
	one, two := startScripted(t, 3), startScripted(t, 6)
	c := newClient(t, nil, one)
	senders := pullTo(t, c, 0, 5, func(b *commonpb.Block) error {
		if b.Header.Number == 1 { // a list that still holds the node changes nothing
			return c.SetEndpoints([]Endpoint{{Address: two.addr, Plaintext: true}, {Address: one.addr, Plaintext: true}})
		}
		if b.Header.Number == 2 {
			return c.SetEndpoints([]Endpoint{{Address: two.addr, Plaintext: true}})
		}
		return nil
	})
	if want := []string{one.addr, one.addr, one.addr, two.addr, two.addr, two.addr}; !cmp.Equal(want, senders) {
		t.Errorf("blocks come from %v", senders)
	}
	if err := c.SetEndpoints(nil); err == nil {
		t.Error("an empty list is taken")
	}
}

func TestBlocksEnds(t *testing.T) {
	n := startScripted(t, 1)
	c := newClient(t, nil, n)
	ctx, cancel := context.WithCancel(t.Context())
	err := c.Blocks(ctx, "main", 0, func(*commonpb.Block) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
	err = c.Blocks(t.Context(), "main", 0, func(*commonpb.Block) error { c.Close(); return nil })
	if !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func env(i int) *commonpb.Envelope { return &commonpb.Envelope{Payload: fmt.Appendf(nil, "%d", i)} }

// TestBroadcastMatchesAnswers sends many envelopes at once; each third is refused,
// which ends its stream, and every caller gets the answer to its own envelope.
func TestBroadcastMatchesAnswers(t *testing.T) {
	n := startScripted(t, 0)
	taken := make(map[string]int)
	n.answer = func(e *commonpb.Envelope) *ordererpb.BroadcastResponse {
		n.mu.Lock()
		defer n.mu.Unlock()
		taken[string(e.Payload)]++
		var i int
		if _, err := fmt.Sscan(string(e.Payload), &i); err != nil || i%3 == 0 {
			return &ordererpb.BroadcastResponse{Status: commonpb.Status_FORBIDDEN, Info: string(e.Payload)}
		}
		return &ordererpb.BroadcastResponse{Status: commonpb.Status_SUCCESS}
	}
	c := newClient(t, func(cfg *Config) { cfg.BroadcastStreams = 2 }, n)
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			err := c.Broadcast(t.Context(), env(i))
			var status *StatusError
			switch {
			case i%3 != 0 && err != nil:
				t.Errorf("envelope %d: %v", i, err)
			case i%3 == 0 && (!errors.As(err, &status) || status.Status != commonpb.Status_FORBIDDEN || status.Info != fmt.Sprint(i)):
				t.Errorf("envelope %d gets %v", i, err)
			}
		})
	}
	wg.Wait()
	for name, times := range taken {
		if times != 1 {
			t.Errorf("envelope %s was looked at %d times", name, times)
		}
	}
	if len(taken) != 300 {
		t.Errorf("%d envelopes arrived", len(taken))
	}
}

func TestBroadcastTriesTheNext(t *testing.T) {
	unavailable := func(*commonpb.Envelope) *ordererpb.BroadcastResponse {
		return &ordererpb.BroadcastResponse{Status: commonpb.Status_SERVICE_UNAVAILABLE, Info: "no leader"}
	}
	breaks := func(*commonpb.Envelope) *ordererpb.BroadcastResponse { return nil }
	for name, answer := range map[string]func(*commonpb.Envelope) *ordererpb.BroadcastResponse{"unavailable": unavailable, "breaks off": breaks} {
		t.Run(name, func(t *testing.T) {
			one, two := startScripted(t, 0), startScripted(t, 0)
			one.answer = answer
			c := newClient(t, nil, one, two)
			for i := range 4 {
				if err := c.Broadcast(t.Context(), env(i)); err != nil {
					t.Error(err)
				}
			}
			two.set(func() { two.answer = answer })
			err := c.Broadcast(t.Context(), env(9))
			if err == nil {
				t.Error("no node took it, but Broadcast succeeds")
			}
			if name == "unavailable" {
				var status *StatusError
				if !errors.As(err, &status) || status.Info != "no leader" {
					t.Errorf("error is %v", err)
				}
			}
		})
	}
	gone := startScripted(t, 0)
	gone.grpc.Stop()
	c := newClient(t, nil, gone)
	if err := c.Broadcast(t.Context(), env(1)); err == nil {
		t.Error("Broadcast to a node that is down succeeds")
	}
	ctx, cancel := context.WithCancel(t.Context())
	stuck := startScripted(t, 0)
	stuck.answer = func(*commonpb.Envelope) *ordererpb.BroadcastResponse {
		cancel()
		<-t.Context().Done()
		return nil
	}
	c = newClient(t, nil, stuck)
	if err := c.Broadcast(ctx, env(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that gives up gets %v", err)
	}
}

// TestBroadcastAfterRestart: the one node there is comes back, and the next call
// finds it however long it was away.
func TestBroadcastAfterRestart(t *testing.T) {
	n := startScripted(t, 0)
	c := newClient(t, func(cfg *Config) {
		cfg.MaxBackoff = time.Hour
		cfg.MinBackoff = time.Hour
		cfg.ConnectTimeout = 10 * time.Second
	}, n)
	if err := c.Broadcast(t.Context(), env(1)); err != nil {
		t.Fatal(err)
	}
	n.grpc.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Broadcast(ctx, env(2)); err == nil {
		t.Fatal("a node that is down takes an envelope")
	}
	n.restart(t)
	if err := c.Broadcast(t.Context(), env(3)); err != nil {
		t.Error(err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, endpoints := range map[string][]Endpoint{
		"none": nil, "no address": {{Plaintext: true}}, "no roots": {{Address: "orderer:7050"}},
	} {
		if _, err := New(Config{Endpoints: endpoints}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	c, err := New(Config{Endpoints: []Endpoint{{Address: "orderer:7050", Plaintext: true}}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Blocks(t.Context(), "main", 0, nil); err == nil {
		t.Error("Blocks works without an identity")
	}
}
