package channel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/bccsp"
	"strongroom/channel/configtx"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// flaky is a token that is away at every nth call.
type flaky struct {
	bccsp.Verifier
	every int64
	calls atomic.Int64
}

var errGone = errors.New("CKR_DEVICE_REMOVED")

func (f *flaky) Verify(ctx context.Context, key *bccsp.PublicKey, digest, sig []byte) error {
	if every := atomic.LoadInt64(&f.every); every > 0 && f.calls.Add(1)%every == 0 {
		return errGone
	}
	return f.Verifier.Verify(ctx, key, digest, sig)
}

func TestDeviceErrorIsNeverACode(t *testing.T) {
	var token *flaky
	n := newNode(t, func(v bccsp.Verifier) bccsp.Verifier { token = &flaky{Verifier: v}; return token })
	var log bytes.Buffer
	c := n.open(t, func(cfg *Config) {
		cfg.Source = &orderer{t: t}
		cfg.Logger = slog.New(slog.NewTextHandler(&syncWriter{w: &log}, nil))
	})
	atomic.StoreInt64(&token.every, 50)
	follow(t, c, lastBlock+1)
	checkLedger(t, n.ledger)
	if !strings.Contains(log.String(), "the channel is held up") || !strings.Contains(log.String(), "CKR_DEVICE_REMOVED") {
		t.Error("the log does not say that the token was away")
	}
	if h := c.Health(); h.Failure != nil {
		t.Errorf("the channel is held up still: %v", h.Failure)
	}
}

type syncWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (s *syncWriter) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(b)
}

// toldOf is a log that tells when it gets a message.
type toldOf struct {
	slog.Handler
	message string
	told    chan struct{}
	once    sync.Once
}

func (*toldOf) Enabled(context.Context, slog.Level) bool { return true }

func (h *toldOf) Handle(_ context.Context, r slog.Record) error {
	if r.Message == h.message {
		h.once.Do(func() { close(h.told) })
	}
	return nil
}

func TestHealthShowsTheDevice(t *testing.T) {
	var token *flaky
	n := newNode(t, func(v bccsp.Verifier) bccsp.Verifier { token = &flaky{Verifier: v}; return token })
	told := &toldOf{message: "the channel is held up", told: make(chan struct{})}
	c := n.open(t, func(cfg *Config) { cfg.Source, cfg.Logger = &orderer{t: t}, slog.New(told) })
	atomic.StoreInt64(&token.every, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	<-told.told
	if h := c.Health(); !errors.Is(h.Failure, errGone) || h.Height != 1 || !h.Connected {
		t.Errorf("health is %+v", h)
	}
	cancel()
	<-done
	if n.ledger.Height() != 1 {
		t.Errorf("a block was committed while the token was away")
	}
}

// TestBadBlocksAreRefused gives each bad copy of a block once; the next time the
// block comes as it should.
func TestBadBlocksAreRefused(t *testing.T) {
	change := func(number uint64, how func(*commonpb.Block) *commonpb.Block) func(*commonpb.Block) *commonpb.Block {
		once := false
		return func(b *commonpb.Block) *commonpb.Block {
			if b.Header.Number != number || once {
				return b
			}
			once = true
			return how(b)
		}
	}
	for name, alter := range map[string]func(*commonpb.Block) *commonpb.Block{
		"another number": change(4, func(*commonpb.Block) *commonpb.Block { return readBlock(t, 6) }),
		"an old block":   change(4, func(*commonpb.Block) *commonpb.Block { return readBlock(t, 3) }),
		"no header":      change(2, func(b *commonpb.Block) *commonpb.Block { b.Header = nil; return b }),
		"no data":        change(2, func(b *commonpb.Block) *commonpb.Block { b.Data = nil; return b }),
		"nothing":        change(2, func(*commonpb.Block) *commonpb.Block { return nil }),
		"previous hash": change(5, func(b *commonpb.Block) *commonpb.Block {
			b.Header.PreviousHash[3] ^= 1
			return b
		}),
		"a transaction dropped": change(5, func(b *commonpb.Block) *commonpb.Block {
			b.Data.Data = b.Data.Data[1:]
			return b
		}),
		"a transaction dropped, with its hash": change(5, func(b *commonpb.Block) *commonpb.Block {
			b.Data.Data = b.Data.Data[1:]
			b.Header.DataHash = wire.DataHash(b.Data)
			return b
		}),
		"orderer's signature": change(11, func(b *commonpb.Block) *commonpb.Block {
			signed := &commonpb.Metadata{}
			if err := proto.Unmarshal(b.Metadata.Metadata[0], signed); err != nil {
				t.Fatal(err)
			}
			signed.Signatures[0].Signature[20] ^= 1
			b.Metadata.Metadata[0], _ = proto.Marshal(signed)
			return b
		}),
		"no signature": change(7, func(b *commonpb.Block) *commonpb.Block { b.Metadata = nil; return b }),
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, nil)
			source := &orderer{t: t, alter: alter}
			var log bytes.Buffer
			c := n.open(t, func(cfg *Config) {
				cfg.Source = source
				cfg.Logger = slog.New(slog.NewTextHandler(&syncWriter{w: &log}, nil))
			})
			follow(t, c, lastBlock+1)
			checkLedger(t, n.ledger)
			if len(source.asked) != 2 {
				t.Errorf("the source was asked from %v, want twice", source.asked)
			}
			if !strings.Contains(log.String(), "block refused") {
				t.Errorf("the log does not tell of the refusal: %s", log.String())
			}
		})
	}
}

// TestConfigThatDoesNotApply is a block that an orderer signed although its
// configuration is not one that follows ours: it is refused at the verdict stage.
func TestConfigThatDoesNotApply(t *testing.T) {
	n := newNode(t, nil)
	c := openAt(t, n, 10)
	b := readBlock(t, 10)
	facts, err := c.validator.Facts(t.Context(), c.Config(), b)
	if err != nil {
		t.Fatal(err)
	}
	valid := &Judgement{Verdicts: make([]Verdict, 1)}
	if next, err := c.nextConfig(t.Context(), facts, valid); err != nil || next.Sequence != c.Config().Sequence+1 {
		t.Fatalf("block 10 does not apply: %v", err)
	}
	facts.Block.Txs[0].Config.Config.Sequence++
	if _, err := c.nextConfig(t.Context(), facts, valid); !errors.Is(err, ErrBadBlock) {
		t.Errorf("a wrong configuration gives %v, want %v", err, ErrBadBlock)
	}
	facts.Block.Txs = append(facts.Block.Txs, facts.Block.Txs[0])
	if _, err := c.nextConfig(t.Context(), facts, &Judgement{Verdicts: make([]Verdict, 2)}); !errors.Is(err, ErrBadBlock) {
		t.Errorf("two configurations in a block give %v, want %v", err, ErrBadBlock)
	}
	payload := &commonpb.Payload{}
	if err := proto.Unmarshal(facts.Block.Txs[0].Payload, payload); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		data []byte
		bad  bool
	}{{[]byte{0xff}, true}, {nil, false}} {
		payload.Data = test.data
		envelope := &commonpb.Envelope{Payload: bytesOf(payload)}
		b := &wire.Block{Proto: facts.Block.Proto, Txs: []*wire.Tx{wire.ParseTx(0, bytesOf(envelope))}}
		code := b.Txs[0].BodyFault.Code
		next, err := c.nextConfig(t.Context(), &Facts{Block: b, Config: c.Config()}, &Judgement{Verdicts: []Verdict{{Code: code}}})
		if next != nil || errors.Is(err, ErrBadBlock) != test.bad {
			t.Errorf("a configuration transaction with the data %x gives %v, %v", test.data, next, err)
		}
	}
	invalid := &Judgement{Verdicts: []Verdict{{Code: peerpb.TxValidationCode_BAD_CREATOR_SIGNATURE}}}
	facts.Block.Txs = facts.Block.Txs[:1]
	if next, err := c.nextConfig(t.Context(), facts, invalid); err != nil || next != nil {
		t.Errorf("an invalid configuration transaction gives %v, %v", next, err)
	}
}

// TestFactsOfAnotherConfiguration is invariant 3: facts that were found under
// another configuration are found again.
func TestFactsOfAnotherConfiguration(t *testing.T) {
	n := newNode(t, nil)
	c := openAt(t, n, 11)
	old, err := configtx.FromBlock(t.Context(), n.deps, readBlock(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	facts, err := c.validator.Facts(t.Context(), old, readBlock(t, 11))
	if err != nil {
		t.Fatal(err)
	}
	p := &pending{block: facts.Block, config: old, search: newSearch(old, facts.Block)}
	p.search.start(t.Context(), c.validator.pool)
	again, err := c.awaitFacts(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if again == facts || again.Config != c.Config() {
		t.Error("the facts of the old configuration were used")
	}
}

// book is a Recorder that fails at first and notes what it is told.
type book struct {
	mu     sync.Mutex
	blocks []uint64
	fail   int
	during func()
}

func (b *book) Next() (uint64, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return uint64(len(b.blocks)), len(b.blocks) > 0
}

func (b *book) Record(_ context.Context, blocks ...CommittedBlock) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.during != nil {
		b.during()
	}
	if b.fail > 0 {
		b.fail--
		return errGone
	}
	for _, block := range blocks {
		if number := block.Block.Header.Number; number != uint64(len(b.blocks)) {
			return fmt.Errorf("block %d after %d blocks", number, len(b.blocks))
		}
		if len(filter(block.Block)) != len(block.Block.Data.Data) {
			return fmt.Errorf("block %d has no codes", block.Block.Header.Number)
		}
		b.blocks = append(b.blocks, block.Block.Header.Number)
	}
	return nil
}

func TestRecorderIsToldInOrderBeforeWaiters(t *testing.T) {
	n := newNode(t, nil)
	openAt(t, n, 4) // three blocks from before there was a recorder
	recorder := &book{fail: 3}
	var c *Channel
	recorder.during = func() {
		if published, recorded := c.Height(), uint64(len(recorder.blocks)); published > max(4, recorded) {
			t.Errorf("%d blocks were published, %d are recorded", published, recorded)
		}
	}
	c = n.open(t, func(cfg *Config) { cfg.Source, cfg.Recorder = &orderer{t: t}, recorder })
	follow(t, c, lastBlock+1)
	var want []uint64
	for number := range uint64(lastBlock + 1) {
		want = append(want, number)
	}
	if !slices.Equal(recorder.blocks, want) {
		t.Errorf("recorded %v, want %v", recorder.blocks, want)
	}
}

// TestRunPublishesWhatTheLastRunLeft ends a Run while the recorder is away: what
// was committed by then is recorded and published by the next one.
func TestRunPublishesWhatTheLastRunLeft(t *testing.T) {
	n := newNode(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	recorder := &book{fail: 1 << 30}
	calls := 0
	recorder.during = func() {
		if calls++; calls == 20 {
			cancel()
		}
	}
	c := n.open(t, func(cfg *Config) { cfg.Source, cfg.Recorder = &orderer{t: t}, recorder })
	if err := c.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Run returned %v", err)
	}
	if c.Height() != 1 || len(recorder.blocks) != 0 {
		t.Fatalf("height %d, %d blocks recorded: nothing may be published without its record", c.Height(), len(recorder.blocks))
	}
	recorder.fail, recorder.during = 0, nil
	follow(t, c, lastBlock+1)
	checkLedger(t, n.ledger)
	if len(recorder.blocks) != lastBlock+1 {
		t.Errorf("recorded %v", recorder.blocks)
	}
}

// brokenChain is a ledger that fails at one block.
type brokenChain struct {
	chain
	at uint64
}

var errDisk = errors.New("no space left on device")

func (b brokenChain) Commit(ctx context.Context, block *wire.Block, flags []peerpb.TxValidationCode) error {
	if block.Number() == b.at {
		return errDisk
	}
	return b.chain.Commit(ctx, block, flags)
}

func TestLedgerFailureEndsRun(t *testing.T) {
	n := newNode(t, nil)
	c := n.open(t, func(cfg *Config) { cfg.Source = &orderer{t: t} })
	c.chain = brokenChain{c.chain, 6}
	if err := c.Run(t.Context()); !errors.Is(err, ErrLedger) || !errors.Is(err, errDisk) {
		t.Errorf("Run returned %v", err)
	}
	if c.Height() != 6 {
		t.Errorf("height is %d, want 6", c.Height())
	}
	c = n.open(t, func(cfg *Config) { cfg.Source = &orderer{t: t} })
	follow(t, c, lastBlock+1)
	checkLedger(t, n.ledger)
}

func TestSourceThatEndsIsAskedAgain(t *testing.T) {
	n := newNode(t, nil)
	source := &orderer{t: t, ends: true}
	c := n.open(t, func(cfg *Config) { cfg.Source = source })
	follow(t, c, lastBlock+1)
	checkLedger(t, n.ledger)
}

func TestAwaitTx(t *testing.T) {
	n := newNode(t, nil)
	c := n.open(t, func(cfg *Config) { cfg.Source = &orderer{t: t} })
	want := recordedVerdicts(t)
	var wg sync.WaitGroup
	seen := map[string]bool{}
	for number := uint64(1); number <= lastBlock; number++ {
		block, err := wire.ParseBlock(readBlock(t, number))
		if err != nil {
			t.Fatal(err)
		}
		for i, tx := range block.Txs {
			if id := tx.TxID(); id == "" || seen[id] {
				continue
			}
			seen[tx.TxID()] = true
			for range 2 {
				wg.Go(func() {
					code, at, err := c.AwaitTx(t.Context(), tx.TxID())
					if err != nil || at != number || code.String() != want[number][i] {
						t.Errorf("transaction %d of block %d: %s in block %d (%v), want %s", i, number, code, at, err, want[number][i])
					}
				})
			}
		}
	}
	follow(t, c, lastBlock+1)
	wg.Wait()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errGone)
	if _, _, err := c.AwaitTx(ctx, "none"); !errors.Is(err, errGone) {
		t.Errorf("waiting for nothing gives %v", err)
	}
	if len(c.waiters) != 0 {
		t.Errorf("%d waiters are left", len(c.waiters))
	}
}

func TestReplayTellsDifferences(t *testing.T) {
	n := newNode(t, nil)
	c := n.open(t, nil)
	var got []string
	err := c.Replay(t.Context(), func(yield func(*commonpb.Block, error) bool) {
		for number := range uint64(6) {
			b := readBlock(t, number)
			for len(b.Metadata.Metadata) < 5 {
				b.Metadata.Metadata = append(b.Metadata.Metadata, nil)
			}
			if number == 5 {
				b.Metadata.Metadata[2] = make([]byte, len(b.Data.Data)) // VALID, all of them
				b.Metadata.Metadata[4] = []byte("another")
			}
			if !yield(b, nil) {
				return
			}
		}
	}, func(d Difference) { got = append(got, d.String()) })
	if err != nil {
		t.Fatal(err)
	}
	invalid := 0
	for _, code := range recordedVerdicts(t)[5] {
		if code != "VALID" {
			invalid++
		}
	}
	if len(got) != invalid+1 || got[0] != "block 5 transaction 2: recorded as VALID, ours is MVCC_READ_CONFLICT" || !strings.Contains(got[invalid], "commit hash") {
		t.Errorf("differences: %q", got)
	}
	err = c.Replay(t.Context(), func(yield func(*commonpb.Block, error) bool) { yield(nil, errGone) }, nil)
	if !errors.Is(err, errGone) {
		t.Errorf("a sequence that fails gives %v", err)
	}
}

func TestRunRefusesAtOnce(t *testing.T) {
	n := newNode(t, nil)
	if err := n.open(t, nil).Run(t.Context()); err == nil {
		t.Error("a channel without a source runs")
	}
	for name, cfg := range map[string]Config{
		"no ledger":   {Deps: n.deps},
		"no verifier": {Ledger: n.ledger, Deps: configtx.Deps{Engine: n.deps.Engine}},
		"no engine":   {Ledger: n.ledger, Deps: configtx.Deps{Verifier: n.deps.Verifier}},
		"negative":    {Ledger: n.ledger, Deps: n.deps, Ahead: -1},
	} {
		if _, err := Open(t.Context(), cfg); err == nil {
			t.Errorf("%s: the channel opens", name)
		}
	}
	if err := Join(t.Context(), n.ledger, n.deps, readBlock(t, 0)); err == nil {
		t.Error("a channel is joined twice")
	}
	if err := Join(t.Context(), n.ledger, n.deps, readBlock(t, 4)); err == nil {
		t.Error("block 4 is taken for a genesis block")
	}
}

func TestOldChannelsAreRefused(t *testing.T) {
	if err := supported(&configtx.Config{ID: "old"}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a channel without the capability V2_0 gives %v", err)
	}
	if err := supported(&configtx.Config{Capabilities: configtx.Capabilities{Application: configtx.LevelV2_0}}); err != nil {
		t.Error(err)
	}
}
