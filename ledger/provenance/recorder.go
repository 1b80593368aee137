package provenance

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"strongroom/bccsp"
	"strongroom/ledger/translog"
)

// StatementSigner is the peer's signing key; *bccsp.Signer is one.
type StatementSigner interface {
	SignStatement(ctx context.Context, payloadType string, body []byte) ([]byte, error)
	SignCheckpoint(ctx context.Context, origin string, size uint64, root [sha256.Size]byte) ([]byte, error)
	PublicKey() *bccsp.PublicKey
}

// Config is what a Recorder needs.
type Config struct {
	Dir     string // of this channel's statements; made if it is not there
	Channel string
	Signer  StatementSigner // nil with Current
	// Peer goes into every statement. An empty HSM.KeyID is filled from the signer.
	Peer Peer
	// Current, when set, answers who signs now, in place of Signer and Peer.Signer: the
	// key and its certificate may change while the recorder is open. It must not block.
	Current func() (StatementSigner, *x509.Certificate)
	Now     func() time.Time // nil means time.Now
}

// Validate names the field that is wrong.
func (c *Config) Validate() error {
	switch {
	case c.Dir == "":
		return errors.New("provenance: Dir is empty: name the folder for the statements")
	case c.Channel == "":
		return errors.New("provenance: Channel is empty")
	case (c.Signer == nil) == (c.Current == nil):
		return errors.New("provenance: set either Signer or Current: the peer's identity")
	}
	return nil
}

// signersAtOnce bounds how many statements of one call are signed at the same time.
const signersAtOnce = 8

// Recorder makes and keeps the statements of one channel, one for each block, in
// order. Record is for one goroutine; everything else is safe at any time.
type Recorder struct {
	cfg Config

	signing sync.Mutex // held while a checkpoint is made; taken before mu

	naming     sync.Mutex        // guards remembered
	remembered *x509.Certificate // the latest that was kept

	mu           sync.RWMutex // guards what follows
	store        *store
	last         [sha256.Size]byte // of the latest payload; meaningless while the store is empty
	log          *translog.Log     // nil until it is opened again after a failure
	note         []byte            // the latest checkpoint of the key in force, nil before the first
	checkpointed uint64            // its size
	origin       string            // its log's
}

// Open opens or makes the statements of a channel. After a crash it cuts a torn last
// line off; the caller then records again from Next on.
func Open(cfg Config) (*Recorder, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s, err := openStore(cfg.Dir)
	if err != nil {
		return nil, err
	}
	r := &Recorder{cfg: cfg, store: s}
	if !s.empty() {
		var line []byte
		if line, err = s.get(s.next - 1); err == nil {
			err = r.resume(line)
		}
	}
	if err == nil {
		err = r.remember(r.signer())
	}
	if err == nil {
		err = r.openLog()
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return r, nil
}

// resume takes the chain up from the latest statement.
func (r *Recorder) resume(line []byte) error {
	b, err := ParseBundle(line)
	if err != nil {
		return err
	}
	s, err := ParseStatement(b.Envelope.Payload)
	if err != nil {
		return err
	}
	if s.Predicate.Channel != r.cfg.Channel {
		return fmt.Errorf("statements in %s are of channel %q, not %q", r.cfg.Dir, s.Predicate.Channel, r.cfg.Channel)
	}
	r.last = sha256.Sum256(b.Envelope.Payload)
	return nil
}

// Next is the number of the block to record next: any block while there is none.
func (r *Recorder) Next() (number uint64, any bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.store.next, r.store.empty()
}

// Record signs and keeps the statements of committed blocks, in order, with one
// fsync. A block that has its statement already is passed over, a gap is an error.
// After an error none of the new statements is kept and the call can be repeated.
//
// Crash points: before the fsync ends, any of the new statements may be on disk;
// Open keeps the whole ones, and the caller records the rest again. A statement
// that was returned by Get or All is durable.
func (r *Recorder) Record(ctx context.Context, facts ...Facts) error {
	next, first := r.Next()
	previous := ""
	if !first {
		previous = hex.EncodeToString(r.last[:])
	}
	by := r.signer()
	var (
		bundles []*Bundle
		sum     [sha256.Size]byte
		start   uint64
	)
	for i := range facts {
		number := facts[i].Block.GetHeader().GetNumber()
		if first {
			next, first = number, false
		}
		switch {
		case number < next:
			continue
		case number > next:
			return fmt.Errorf("block %d cannot be recorded: block %d of channel %q has no statement yet", number, next, r.cfg.Channel)
		}
		b, err := r.prepare(by, &facts[i], previous)
		if err != nil {
			return err
		}
		if len(bundles) == 0 {
			start = number
		}
		bundles = append(bundles, b)
		sum = sha256.Sum256(b.Envelope.Payload)
		previous = hex.EncodeToString(sum[:])
		next++
	}
	if len(bundles) == 0 {
		return nil
	}
	if err := r.remember(by); err != nil {
		return err
	}
	lines, err := r.sign(ctx, by, bundles)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.store.append(start, lines); err != nil {
		return fmt.Errorf("keep statements of channel %q from block %d on: %w", r.cfg.Channel, start, err)
	}
	r.last = sum
	r.grow(bundles)
	return nil
}

// prepare makes a bundle that lacks its signature.
func (r *Recorder) prepare(by *signer, f *Facts, previous string) (*Bundle, error) {
	p, err := f.predicate(r.cfg.Channel, &by.peer)
	if err != nil {
		return nil, err
	}
	p.PreviousStatement = previous
	p.Time = Time{Value: r.cfg.Now().UTC().Truncate(time.Millisecond), Source: ClockSource}
	payload, err := json.Marshal(&Statement{
		Type:          StatementType,
		Subject:       subject(r.cfg.Channel, f.Block.GetHeader()),
		PredicateType: PredicateType,
		Predicate:     *p,
	})
	if err != nil {
		return nil, fmt.Errorf("statement of block %d: %w", p.Number, err)
	}
	return &Bundle{
		MediaType:            BundleMediaType,
		VerificationMaterial: VerificationMaterial{PublicKey: PublicKeyHint{Hint: by.peer.HSM.KeyID}},
		Envelope:             Envelope{Payload: payload, PayloadType: PayloadType},
	}, nil
}

// sign signs the bundles in parallel and encodes each as one line. The chain of
// statements is over payloads, so no signature waits for another.
func (r *Recorder) sign(ctx context.Context, by *signer, bundles []*Bundle) ([][]byte, error) {
	lines := make([][]byte, len(bundles))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(signersAtOnce)
	for i, b := range bundles {
		g.Go(func() error {
			sig, err := by.SignStatement(ctx, PayloadType, b.Envelope.Payload)
			if err != nil {
				return fmt.Errorf("sign statement of channel %q: %w", r.cfg.Channel, err)
			}
			b.Envelope.Signatures = []Signature{{Sig: sig}}
			line, err := json.Marshal(b)
			if err != nil {
				return err
			}
			lines[i] = append(line, '\n')
			return nil
		})
	}
	return lines, g.Wait()
}

// Get returns the bundle of a block, or ErrNotFound. The caller owns it.
func (r *Recorder) Get(number uint64) ([]byte, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.store.get(number)
}

// All yields the bundles from block from on that are there now, in order. It stops
// after an error.
func (r *Recorder) All(from uint64) iter.Seq2[uint64, Result] {
	return func(yield func(uint64, Result) bool) {
		next, _ := r.Next()
		for n := max(from, r.first()); n < next; n++ {
			b, err := r.Get(n)
			if !yield(n, Result{Bundle: b, Err: err}) || err != nil {
				return
			}
		}
	}
}

// Result is one bundle of All, or why it could not be read.
type Result struct {
	Bundle []byte
	Err    error
}

func (r *Recorder) first() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.store.first()
}

// Close closes the files.
func (r *Recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.store.close()
}
