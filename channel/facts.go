package channel

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"

	"strongroom/bccsp"
	"strongroom/channel/configtx"
	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// Facts is what a block's bytes and one channel configuration say about its
// transactions: which are well formed, whose creator signed them, and who endorsed
// them. It is immutable.
type Facts struct {
	Block  *wire.Block
	Config *configtx.Config // under which they were found

	txs []txFacts
}

// txFacts are the facts of one transaction. Tasks of one batch write to different
// fields of it.
type txFacts struct {
	creator      *wire.Fault       // the creator or its signature is bad
	identity     *msp.Identity     // of the creator, if it is not
	endorsements []endorsementFact // in the order of the transaction
	signers      []*msp.Identity   // endorsers whose signatures are right, each once, in order
}

type endorsementFact struct {
	endorser *msp.Identity // nil when the endorsement counts for nothing
}

// fault is the first fault of the transaction that facts alone decide, up to
// where Fabric looks for duplicates.
func (f *txFacts) fault(tx *wire.Tx) *wire.Fault {
	switch {
	case tx.HeaderFault != nil:
		return tx.HeaderFault
	case f.creator != nil:
		return f.creator
	}
	return tx.BodyFault
}

// Facts parses a block and checks every signature in it, as many at once as the
// validator has workers. It returns an error when the block itself is malformed
// (it wraps ErrBadBlock) or when the token could not answer; a bad transaction
// shows in its facts. It is safe for concurrent use.
func (v *Validator) Facts(ctx context.Context, config *configtx.Config, b *commonpb.Block) (*Facts, error) {
	block, err := v.parse(ctx, b)
	if err != nil {
		return nil, err
	}
	search := newSearch(config, block)
	search.start(ctx, v.pool)
	return search.wait()
}

func (v *Validator) parse(ctx context.Context, b *commonpb.Block) (*wire.Block, error) {
	block, err := wire.NewBlock(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadBlock, err)
	}
	parse := v.pool.batch(ctx)
	parse.each(len(block.Txs), 16, func(_ context.Context, i int) error {
		block.Txs[i] = wire.ParseTx(i, b.Data.Data[i])
		return nil
	})
	return block, parse.wait()
}

// search finds the facts of one parsed block. A check that the token could not
// answer is made again by the next start; those that were answered are not, so
// that a token that fails now and then still gets a large block done.
type search struct {
	facts  *Facts
	checks []check
	batch  *batch
}

type check struct {
	run  func(ctx context.Context) error // writes to a place of its own in the facts
	done bool
}

func newSearch(config *configtx.Config, block *wire.Block) *search {
	facts := &Facts{Block: block, Config: config, txs: make([]txFacts, len(block.Txs))}
	s := &search{facts: facts, checks: make([]check, 0, 3*len(block.Txs))}
	add := func(run func(ctx context.Context) error) { s.checks = append(s.checks, check{run: run}) }
	for i, tx := range block.Txs {
		if tx.HeaderFault != nil {
			continue
		}
		fact := &facts.txs[i]
		add(func(ctx context.Context) (err error) {
			fact.identity, fact.creator, err = checkCreator(ctx, config, tx)
			return err
		})
		if tx.Endorsed == nil || tx.Endorsed.ResultsFault != nil {
			continue // no policy will ask who endorsed it
		}
		fact.endorsements = make([]endorsementFact, len(tx.Endorsed.Endorsements))
		for j, endorsement := range unique(tx.Endorsed.Endorsements) {
			add(func(ctx context.Context) (err error) {
				fact.endorsements[j].endorser, err = checkEndorsement(ctx, config, tx.Endorsed.ResponsePayload, endorsement)
				return err
			})
		}
	}
	return s
}

// start hands the checks that are not done to the pool and returns once the last
// one was taken, so that the checks of the next block come after them. After it
// comes wait.
func (s *search) start(ctx context.Context, p *pool) {
	s.batch = p.batch(ctx)
	for i := range s.checks {
		c := &s.checks[i]
		if c.done {
			continue
		}
		s.batch.do(func(ctx context.Context) error {
			err := c.run(ctx)
			c.done = err == nil
			return err
		})
	}
}

// wait waits for the checks that start handed out. After an error the search can
// be started again.
func (s *search) wait() (*Facts, error) {
	if err := s.batch.wait(); err != nil {
		return nil, err
	}
	for i := range s.facts.txs {
		s.facts.txs[i].collectSigners()
	}
	return s.facts, nil
}

// checkCreator checks that a member of the channel created the envelope and signed
// its payload: checkSignatureFromCreator of Fabric's core/common/validation.
func checkCreator(ctx context.Context, config *configtx.Config, tx *wire.Tx) (*msp.Identity, *wire.Fault, error) {
	bad := func(reason error) *wire.Fault {
		return &wire.Fault{Code: peerpb.TxValidationCode_BAD_CREATOR_SIGNATURE, Reason: reason.Error()}
	}
	if id := tx.ChannelHeader.ChannelId; id != config.ID {
		return nil, bad(fmt.Errorf("the transaction is for channel %q", id)), nil
	}
	creator, err := config.MSPs.Identity(ctx, tx.SignatureHeader.Creator)
	if err != nil {
		if msp.IsInvalid(err) {
			return nil, bad(err), nil
		}
		return nil, nil, fmt.Errorf("creator of transaction %d: %w", tx.Index, err)
	}
	if err := creator.Verify(ctx, tx.Payload, tx.Signature); err != nil {
		if errors.Is(err, bccsp.ErrBadSignature) {
			return nil, bad(err), nil
		}
		return nil, nil, fmt.Errorf("creator of transaction %d: %w", tx.Index, err)
	}
	return creator, nil, nil
}

// checkEndorsement returns the endorser if it is a member of the channel and signed
// the response payload and its own identity; nil if the endorsement is worthless,
// which is no fault of the transaction.
func checkEndorsement(ctx context.Context, config *configtx.Config, payload []byte, e *peerpb.Endorsement) (*msp.Identity, error) {
	endorser, err := config.MSPs.Identity(ctx, e.Endorser)
	if err != nil {
		if msp.IsInvalid(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("endorser: %w", err)
	}
	h := sha256.New()
	h.Write(payload)
	h.Write(e.Endorser)
	if err := endorser.VerifyDigest(ctx, h.Sum(nil), e.Signature); err != nil {
		if errors.Is(err, bccsp.ErrBadSignature) {
			return nil, nil
		}
		return nil, fmt.Errorf("endorsement: %w", err)
	}
	return endorser, nil
}

// unique gives the endorsements that are not the very same as an earlier one, so
// that nobody can make us check one signature many times.
func unique(endorsements []*peerpb.Endorsement) iter.Seq2[int, *peerpb.Endorsement] {
	return func(yield func(int, *peerpb.Endorsement) bool) {
		seen := make(map[string]bool, len(endorsements))
		for i, e := range endorsements {
			key := string(e.Signature) + string(e.Endorser)
			if seen[key] {
				continue
			}
			seen[key] = true
			if !yield(i, e) {
				return
			}
		}
	}
}

// collectSigners keeps each endorser once, at its first good signature. Two
// serializations of one certificate are one endorser.
func (f *txFacts) collectSigners() {
	for _, e := range f.endorsements {
		if e.endorser != nil && !contains(f.signers, e.endorser) {
			f.signers = append(f.signers, e.endorser)
		}
	}
	f.endorsements = nil
}

func contains(identities []*msp.Identity, id *msp.Identity) bool {
	for _, other := range identities {
		if other == id || other.MSPID == id.MSPID && other.CertificateID() == id.CertificateID() {
			return true
		}
	}
	return false
}
