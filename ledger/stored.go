package ledger

import (
	"encoding/binary"
	"fmt"

	"strongroom/ledger/seal"
	"strongroom/wire"
	"strongroom/wire/commonpb"
)

// storedBlock is a block as it was read back. Where namespaces were shredded it has
// zeros in the place of their values.
type storedBlock struct {
	*commonpb.Block
	shredded []string
}

// whole is an error if a part of the block is gone.
func (b *storedBlock) whole() error {
	if len(b.shredded) == 0 {
		return nil
	}
	return fmt.Errorf("block %d holds values of namespaces %q, which cannot be read any more: %w", b.GetHeader().GetNumber(), b.shredded, seal.ErrShredded)
}

// parse reads the transactions.
func (b *storedBlock) parse() (*parsedBlock, error) {
	out, err := wire.NewBlock(b.Block)
	if err != nil {
		return nil, fmt.Errorf("block %d: %w", b.GetHeader().GetNumber(), err)
	}
	parse := wire.ParseTx
	if len(b.shredded) > 0 {
		parse = wire.ParseWithheld
	}
	for i, envelope := range b.Data.Data {
		out.Txs[i] = parse(i, envelope)
	}
	return &parsedBlock{out, b}, nil
}

// parsedBlock is a stored block with its transactions.
type parsedBlock struct {
	*wire.Block
	stored *storedBlock
}

func (s sealer) outlinePlace(number uint64) seal.Place {
	return seal.Place{Kind: seal.KindOutline, Channel: s.channel, Block: number}
}

func (s sealer) valuesPlace(ns string, number uint64) seal.Place {
	return seal.Place{Kind: seal.KindValues, Channel: s.channel, Namespace: ns, Block: number}
}

// part appends a sealed part to dst, after its length in 4 bytes, big endian.
func (s sealer) part(dst, plain []byte, p seal.Place) ([]byte, error) {
	start := len(dst)
	dst, err := s.keyring.Seal(append(dst, 0, 0, 0, 0), plain, p)
	if err == nil {
		binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-4))
	}
	return dst, err
}

// cutPart is the first of the parts in b, and what follows it.
func cutPart(b []byte) (part, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	length := binary.BigEndian.Uint32(b)
	b = b[4:]
	if uint64(length) > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:length], b[length:], true
}
