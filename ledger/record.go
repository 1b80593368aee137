package ledger

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"strongroom/ledger/compress"
	"strongroom/ledger/seal"
	"strongroom/wire"
	"strongroom/wire/commonpb"
)

// blockRecords turns blocks into the records of the block log and back. Writing is for
// one goroutine, reading is safe for concurrent use. See docs/design/block-records.md.
type blockRecords struct {
	sealer
	// limit is the size in bytes up to which blocks are compressed.
	limit int
	// load reads the record of an earlier block, for its dictionary.
	load   func(number uint64) (record, error)
	reader *compress.Reader
	writer *compress.Writer // of outlines
	single *compress.Writer // of values: never with a dictionary

	split      splitter
	compressed bool       // the block that was begun
	begun      chan error // gives the outcome of what begin started
	plain      []byte     // scratch: a part of the block
	outline    []byte     // scratch: the outline, but for the metadata
	names      []string   // of the namespaces
	values     [][]byte   // scratch: what is sealed for each
	content    []byte     // scratch: what is sealed of the outline
	frame      []byte     // the record
}

func newBlockRecords(c Config, load func(uint64) (record, error)) (*blockRecords, error) {
	reader, err := compress.NewReader()
	if err != nil {
		return nil, err
	}
	// Half of what can be compressed leaves room for what the commit adds.
	return &blockRecords{sealer: sealer{keyring: c.Keyring, channel: c.ChannelID}, limit: compress.MaxBlock / 2, load: load,
		reader: reader, writer: compress.NewWriter(), single: compress.NewWriter()}, nil
}

// begin starts to cut and compress a block's header and transactions, which no commit
// changes, in a goroutine of its own. Wait or finish must follow.
func (s *blockRecords) begin(b *wire.Block) {
	s.begun = make(chan error, 1)
	s.compressed = proto.Size(b.Proto) <= s.limit
	go func() { s.begun <- s.start(b) }()
}

func (s *blockRecords) start(b *wire.Block) (err error) {
	first := &commonpb.Block{Header: b.Proto.Header, Data: b.Proto.Data}
	if s.plain, err = (proto.MarshalOptions{}).MarshalAppend(s.plain[:0], first); err != nil {
		return fmt.Errorf("common.Block: %w", err)
	}
	var values [][]byte
	s.outline, s.names, values = s.split.split(s.outline[:0], s.plain)
	for len(s.values) < len(values) {
		s.values = append(s.values, nil)
	}
	for i, v := range values {
		if s.values[i], err = s.pack(s.values[i][:0], b.Number(), v); err != nil {
			return err
		}
	}
	if !s.compressed {
		return nil
	}
	return s.writer.Start(b.Number(), s.outline)
}

// notCompressed is the first byte of a part that was not compressed; it differs from
// that of compress's contents.
const notCompressed = 0

// pack appends the values of a namespace to dst as they are sealed.
func (s *blockRecords) pack(dst []byte, number uint64, values []byte) ([]byte, error) {
	if !s.compressed {
		return append(append(dst, notCompressed), values...), nil
	}
	if err := s.single.Start(number, values); err != nil {
		return nil, err
	}
	return s.single.Finish(dst, nil, nil)
}

// wait returns when nothing uses the block that was begun any more.
func (s *blockRecords) wait() error { return <-s.begun }

// finish makes the record of the block that was begun, as it is now, in frame.
func (s *blockRecords) finish(b *wire.Block) error {
	if err := s.wait(); err != nil {
		return err
	}
	content, err := s.packOutline(b)
	if err != nil {
		return err
	}
	frame, err := s.part(startFrame(s.frame[:0]), content, s.outlinePlace(b.Number()))
	for i := 0; err == nil && i < len(s.names); i++ {
		frame, err = s.part(frame, s.values[i], s.valuesPlace(s.names[i], b.Number()))
	}
	if err != nil {
		return err
	}
	s.frame = frame
	return finishFrame(frame, b.Number(), formSplit)
}

// packOutline returns what is to be sealed of the outline.
func (s *blockRecords) packOutline(b *wire.Block) (_ []byte, err error) {
	// The bytes of two messages in a row are those of one with the fields of both.
	rest := &commonpb.Block{Metadata: b.Proto.Metadata}
	rest.ProtoReflect().SetUnknown(b.Proto.ProtoReflect().GetUnknown())
	if s.plain, err = (proto.MarshalOptions{}).MarshalAppend(s.plain[:0], rest); err != nil {
		return nil, fmt.Errorf("common.Block: %w", err)
	}
	if s.compressed {
		s.content, err = s.writer.Finish(s.content[:0], s.plain, blockIdentities(b))
	} else {
		s.content = append(append(append(s.content[:0], notCompressed), s.outline...), s.plain...)
	}
	return s.content, err
}

// blockIdentities are the serialised identities in a block: of creators, endorsers,
// and those who signed the block.
func blockIdentities(b *wire.Block) [][]byte {
	ids := make([][]byte, 0, 3*len(b.Txs)+1)
	for _, tx := range b.Txs {
		ids = append(ids, tx.SignatureHeader.GetCreator())
		if tx.Endorsed == nil {
			continue
		}
		for _, e := range tx.Endorsed.Endorsements {
			ids = append(ids, e.GetEndorser())
		}
	}
	// What cannot be read is nobody's identity; who signed is not decided here.
	m := &commonpb.Metadata{}
	if proto.Unmarshal(metadata(b.Proto, commonpb.BlockMetadataIndex_SIGNATURES), m) != nil {
		return ids
	}
	for _, sig := range m.GetSignatures() {
		h := &commonpb.SignatureHeader{}
		if proto.Unmarshal(sig.GetSignatureHeader(), h) == nil {
			ids = append(ids, h.GetCreator())
		}
	}
	return ids
}

// place is where the block of a record is sealed that holds it whole.
func (s *blockRecords) place(number uint64, form blockForm) seal.Place {
	p := seal.Place{Kind: seal.KindBlock, Channel: s.channel, Block: number}
	if form == formCompressed {
		p.Kind = seal.KindCompressedBlock
	}
	return p
}

// open opens the seal of a record: of its outline, if it was cut.
func (s *blockRecords) open(r record) ([]byte, error) {
	if r.form != formSplit {
		return s.keyring.Open(nil, r.sealed, s.place(r.number, r.form))
	}
	sealed, _, ok := cutPart(r.sealed)
	if !ok {
		return nil, fmt.Errorf("%w: its outline is not complete", seal.ErrMalformed)
	}
	return s.keyring.Open(nil, sealed, s.outlinePlace(r.number))
}

// decode reads the block of a record.
func (s *blockRecords) decode(r record) (*storedBlock, error) {
	plain, shredded, err := s.bytes(r)
	if err != nil {
		return nil, fmt.Errorf("block %d: %w", r.number, err)
	}
	b := &commonpb.Block{}
	if err := proto.Unmarshal(plain, b); err != nil {
		return nil, fmt.Errorf("block %d: %w", r.number, err)
	}
	if got := b.GetHeader().GetNumber(); got != r.number {
		return nil, fmt.Errorf("block %d: its header has number %d", r.number, got)
	}
	return &storedBlock{b, shredded}, nil
}

// bytes reads a record back into the bytes of the block. Namespaces that were
// shredded are named, and have zeros for values.
func (s *blockRecords) bytes(r record) (block []byte, shredded []string, err error) {
	plain, err := s.open(r)
	if err != nil {
		return nil, nil, err
	}
	switch r.form {
	case formMarshalled:
		return plain, nil, nil
	case formCompressed:
		plain, err = s.reader.Block(r.number, plain, s.dictionaryFrom)
		return plain, nil, err
	}
	if plain, err = s.unpack(r.number, plain); err != nil {
		return nil, nil, err
	}
	o, rest, err := parseOutline(plain)
	if err != nil {
		return nil, nil, err
	}
	_, record, _ := cutPart(r.sealed)
	values := make([][]byte, len(o.names))
	for i, ns := range o.names {
		sealed, after, ok := cutPart(record)
		if !ok {
			return nil, nil, fmt.Errorf("%w: its values of namespace %q are not complete", seal.ErrMalformed, ns)
		}
		record = after
		plain, err := s.keyring.Open(nil, sealed, s.valuesPlace(ns, r.number))
		if errors.Is(err, seal.ErrShredded) {
			shredded = append(shredded, ns)
			continue
		}
		if err == nil {
			values[i], err = s.unpack(r.number, plain)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if len(record) > 0 {
		return nil, nil, fmt.Errorf("%w: there is more after its values", seal.ErrMalformed)
	}
	block, err = o.join(rest, values)
	return block, shredded, err
}

// unpack is the reverse of packing a part. It returns no nil.
func (s *blockRecords) unpack(number uint64, content []byte) ([]byte, error) {
	if len(content) > 0 && content[0] == notCompressed {
		return content[1:], nil
	}
	return s.reader.Block(number, content, s.dictionaryFrom)
}

// dictionaryFrom loads the content of an earlier block.
func (s *blockRecords) dictionaryFrom(number uint64) ([]byte, error) {
	r, err := s.load(number)
	if err != nil {
		return nil, err
	}
	if r.form == formMarshalled {
		return nil, fmt.Errorf("block %d: its record is not compressed", number)
	}
	return s.open(r)
}

// resume goes on with the dictionary of the last block's record.
func (s *blockRecords) resume(r record) error {
	if r.form == formMarshalled {
		return nil
	}
	content, err := s.open(r)
	if err != nil {
		return err
	}
	if len(content) > 0 && content[0] == notCompressed {
		return nil
	}
	holder, used, err := compress.Holder(r.number, content)
	if err == nil && used && holder != r.number {
		content, err = s.dictionaryFrom(holder)
	}
	if err != nil || !used {
		return err
	}
	dictionary, err := s.reader.Dictionary(content)
	if err != nil {
		return fmt.Errorf("block %d: %w", holder, err)
	}
	s.writer.Use(holder, dictionary)
	return nil
}
