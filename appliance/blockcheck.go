package appliance

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"

	"strongroom/bccsp"
	"strongroom/channel/configtx"
	"strongroom/ledger"
	"strongroom/ledger/provenance"
	"strongroom/policy"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// blockCheck checks the blocks of one channel in their order: who signed them, and what
// this peer stated about them.
type blockCheck struct {
	deps configtx.Deps
	key  *bccsp.PublicKey // that signs the statements

	config *configtx.Config // in force; nil from a configuration block that cannot be read
	signed uint64

	next       func() (provenance.Line, error, bool)
	stop       func()
	line       *provenance.Line // that comes next; nil when there is none
	lineErr    error
	chain      provenance.Chain
	statements uint64
	otherKeys  uint64 // statements of them that another key signed
}

func newBlockCheck(v bccsp.Verifier, engine *policy.Engine, key *bccsp.PublicKey, statements string) *blockCheck {
	c := &blockCheck{deps: configtx.Deps{Verifier: v, Engine: engine}, key: key}
	c.next, c.stop = iter.Pull2(provenance.Lines(statements))
	c.advance()
	return c
}

func (c *blockCheck) close() { c.stop() }

func (c *blockCheck) advance() {
	line, err, ok := c.next()
	c.line, c.lineErr = nil, err
	if ok && err == nil {
		c.line = &line
	}
}

// block finds what is wrong with a block. The error is the device's or the disk's.
func (c *blockCheck) block(ctx context.Context, b *wire.Block) (problems []string, err error) {
	if b.Number() > 0 && c.config != nil {
		err := configtx.VerifyBlock(ctx, c.config, b.Proto)
		var invalid *configtx.InvalidBlockError
		switch {
		case errors.As(err, &invalid):
			problems = append(problems, "the orderers' signatures: "+err.Error())
		case err != nil:
			return nil, err
		default:
			c.signed++
		}
	}
	if isConfiguration(b) {
		if c.config, err = configtx.FromBlock(ctx, c.deps, b.Proto); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			problems = append(problems, fmt.Sprintf("its configuration is not readable (%v): the signatures of the blocks after it are not checked", err))
			c.config = nil
		}
	}
	if what := c.statement(ctx, b); what != "" {
		problems = append(problems, what)
	}
	return problems, ctx.Err()
}

// isConfiguration tells whether a block put a configuration in force. A genesis block
// always does; nobody signed it, so that its transaction need not be well formed.
func isConfiguration(b *wire.Block) bool {
	if b.Number() == 0 {
		return true
	}
	filter := b.Proto.GetMetadata().GetMetadata()
	at := int(commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER)
	return len(b.Txs) == 1 && b.Txs[0].Config != nil && len(filter) > at && len(filter[at]) == 1 &&
		filter[at][0] == byte(peerpb.TxValidationCode_VALID)
}

// statement compares a block with the statement about it, if there is one; "" when
// nothing is wrong with it.
func (c *blockCheck) statement(ctx context.Context, b *wire.Block) string {
	line := c.line
	if line == nil || line.Number != b.Number() || line.Torn {
		return ""
	}
	c.advance()
	where := "statement in " + line.File + ": "
	other := c.byOtherKey(line.Bundle)
	checked, err := provenance.Verify(line.Bundle, b.Proto.Header, func(pae, sig []byte) error {
		if other {
			return nil
		}
		digest := sha256.Sum256(pae)
		return c.deps.Verifier.Verify(ctx, c.key, digest[:], sig)
	})
	if err == nil {
		err = checked.Statement.CheckBlock(b.Proto)
	}
	if err == nil {
		err = c.chain.Add(checked)
	}
	if err != nil {
		c.chain = provenance.Chain{} // the next one is a first again
		return where + err.Error()
	}
	c.statements++
	if other {
		c.otherKeys++
	}
	return ""
}

// byOtherKey tells whether a statement says that another key than the node's present one
// signed it, as those before a rotation do. Statements name the one before them, so
// that a later one, signed by the present key, still vouches for it.
func (c *blockCheck) byOtherKey(bundle []byte) bool {
	b, err := provenance.ParseBundle(bundle)
	if err != nil {
		return false
	}
	s, err := provenance.ParseStatement(b.Envelope.Payload)
	return err == nil && s.Predicate.HSM.KeyID != c.key.ID().String()
}

// end adds what is known after the last block.
func (c *blockCheck) end(v *ledger.Verification) {
	switch {
	case c.lineErr != nil:
		v.Problems = append(v.Problems, ledger.Problem{Part: "provenance", Where: "statements", What: c.lineErr.Error()})
	case c.line != nil && c.line.Torn:
		v.Notes = append(v.Notes, c.line.File+": its last line was not written completely; the next start cuts it")
	case c.line != nil:
		v.Problems = append(v.Problems, ledger.Problem{Part: "provenance", Where: c.line.File,
			What: fmt.Sprintf("there is a statement of block %d, which is not in the block log, or lines before it are missing", c.line.Number)})
	}
	if c.otherKeys > 0 {
		v.Notes = append(v.Notes, fmt.Sprintf("%d statements are signed by other keys than the node's present one: their signatures are not checked, "+
			"the statements after them name them by hash", c.otherKeys))
	}
	if missing := v.Height - min(v.Height, c.statements); missing > 0 && c.lineErr == nil {
		v.Notes = append(v.Notes, fmt.Sprintf("%d of %d blocks have no statement that was found good: those after a kill are made at the next start", missing, v.Height))
	}
}
