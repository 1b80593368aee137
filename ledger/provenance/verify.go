package provenance

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"strongroom/wire"
	"strongroom/wire/commonpb"
)

// Checked is a statement whose signature and subject were found good.
type Checked struct {
	Statement *Statement
	Digest    [sha256.Size]byte // of the payload: what the next statement calls previous_statement
}

// Verify checks a bundle: its form, its signature by way of check, which gets the
// signed bytes (PAE) and the DER signature, and that it speaks about header. It
// performs no I/O and trusts nothing in the bundle that check did not vouch for.
func Verify(bundle []byte, header *commonpb.BlockHeader, check func(pae, sig []byte) error) (*Checked, error) {
	b, err := ParseBundle(bundle)
	if err != nil {
		return nil, err
	}
	if err := check(PAE(b.Envelope.PayloadType, b.Envelope.Payload), b.Envelope.Signatures[0].Sig); err != nil {
		return nil, fmt.Errorf("statement's signature: %w", err)
	}
	s, err := ParseStatement(b.Envelope.Payload)
	if err != nil {
		return nil, err
	}
	if err := s.checkHeader(header); err != nil {
		return nil, err
	}
	return &Checked{Statement: s, Digest: sha256.Sum256(b.Envelope.Payload)}, nil
}

// checkHeader compares the statement with a block header.
func (s *Statement) checkHeader(header *commonpb.BlockHeader) error {
	p := &s.Predicate
	if p.Number != header.GetNumber() {
		return fmt.Errorf("statement is about block %d, the header is of block %d", p.Number, header.GetNumber())
	}
	if want := hex.EncodeToString(wire.BlockHash(header)); s.Subject[0].Digest["sha256"] != want {
		return fmt.Errorf("statement of block %d has subject %s, the header's hash is %s", p.Number, s.Subject[0].Digest["sha256"], want)
	}
	if p.PreviousHash != hex.EncodeToString(header.GetPreviousHash()) || p.DataHash != hex.EncodeToString(header.GetDataHash()) {
		return fmt.Errorf("statement of block %d: previous_hash or data_hash is not the header's", p.Number)
	}
	return nil
}

// CheckBlock compares the statement with the block as the peer keeps it: header,
// data, metadata, verdicts and commit hash.
func (s *Statement) CheckBlock(b *commonpb.Block) error {
	if err := s.checkHeader(b.GetHeader()); err != nil {
		return err
	}
	p := &s.Predicate
	if got := wire.DataHash(b.GetData()); !bytes.Equal(got, b.GetHeader().GetDataHash()) {
		return fmt.Errorf("block %d: its data has hash %x, its header says %x", p.Number, got, b.GetHeader().GetDataHash())
	}
	if got := hex.EncodeToString(MetadataDigest(b.GetMetadata())); p.MetadataDigest != got {
		return fmt.Errorf("statement of block %d has metadata digest %s, the block's is %s", p.Number, p.MetadataDigest, got)
	}
	if got := hex.EncodeToString(flags(b)); p.Transactions.Flags != got {
		return fmt.Errorf("statement of block %d has flags %s, the block's are %s", p.Number, p.Transactions.Flags, got)
	}
	commit, err := commitHash(b)
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(commit); p.CommitHash != got {
		return fmt.Errorf("statement of block %d has commit hash %s, the block's is %s", p.Number, p.CommitHash, got)
	}
	return nil
}

// Chain follows the statements of one channel: each names the one before it. The
// zero value takes any statement as the first.
type Chain struct{ last *Checked }

// Add checks that c follows the statement added before.
func (ch *Chain) Add(c *Checked) error {
	if ch.last != nil {
		before, now := &ch.last.Statement.Predicate, &c.Statement.Predicate
		switch {
		case now.Channel != before.Channel:
			return fmt.Errorf("statement of channel %q follows one of channel %q", now.Channel, before.Channel)
		case now.Number != before.Number+1:
			return fmt.Errorf("statement of block %d follows the one of block %d", now.Number, before.Number)
		case now.PreviousHash != ch.last.Statement.Subject[0].Digest["sha256"]:
			return fmt.Errorf("block %d names %s as the block before it, which is %s", now.Number, now.PreviousHash, ch.last.Statement.Subject[0].Digest["sha256"])
		case now.PreviousStatement != hex.EncodeToString(ch.last.Digest[:]):
			return fmt.Errorf("statement of block %d names %s as the statement before it, which is %x", now.Number, now.PreviousStatement, ch.last.Digest)
		}
	}
	ch.last = c
	return nil
}

// ErrNotFound says that there is no statement for a block, not yet or not here.
var ErrNotFound = errors.New("no statement for this block")
