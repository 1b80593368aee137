package ledger

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"strongroom/ledger/compress"
	"strongroom/ledger/seal"
	"strongroom/wire"
	"strongroom/wire/commonpb"
)

// blockRecords turns blocks into the records of the block log and back. Writing is for
// one goroutine, reading is safe for concurrent use.
type blockRecords struct {
	keyring *seal.Keyring
	channel string
	// limit is the size in bytes up to which blocks are compressed.
	limit int
	// load reads the record of an earlier block, for its dictionary.
	load   func(number uint64) (record, error)
	reader *compress.Reader
	writer *compress.Writer

	form    blockForm  // of the record that was begun
	begun   chan error // gives the outcome of what begin started
	plain   []byte     // scratch: a part of the block
	content []byte     // scratch: what is sealed
	frame   []byte     // the record
}

func newBlockRecords(c Config, load func(uint64) (record, error)) (*blockRecords, error) {
	reader, err := compress.NewReader()
	if err != nil {
		return nil, err
	}
	// Half of what can be compressed leaves room for what the commit adds.
	return &blockRecords{keyring: c.Keyring, channel: c.ChannelID, limit: compress.MaxBlock / 2, load: load, reader: reader, writer: compress.NewWriter()}, nil
}

func (s *blockRecords) place(number uint64, form blockForm) seal.Place {
	p := seal.Place{Kind: seal.KindBlock, Channel: s.channel, Block: number}
	if form == formCompressed {
		p.Kind = seal.KindCompressedBlock
	}
	return p
}

// begin starts to compress a block's header and transactions, which no commit
// changes, in a goroutine of its own. Wait or finish must follow.
func (s *blockRecords) begin(b *wire.Block) {
	s.begun = make(chan error, 1)
	if s.form = formCompressed; proto.Size(b.Proto) > s.limit {
		s.form = formMarshalled
		s.begun <- nil
		return
	}
	go func() { s.begun <- s.start(b) }()
}

func (s *blockRecords) start(b *wire.Block) (err error) {
	first := &commonpb.Block{Header: b.Proto.Header, Data: b.Proto.Data}
	if s.plain, err = (proto.MarshalOptions{}).MarshalAppend(s.plain[:0], first); err != nil {
		return fmt.Errorf("common.Block: %w", err)
	}
	return s.writer.Start(b.Number(), s.plain)
}

// wait returns when nothing uses the block that was begun any more.
func (s *blockRecords) wait() error { return <-s.begun }

// finish makes the record of the block that was begun, as it is now, in frame.
func (s *blockRecords) finish(b *wire.Block) error {
	if err := s.wait(); err != nil {
		return err
	}
	content, err := s.pack(b)
	if err != nil {
		return err
	}
	frame, err := s.keyring.Seal(startFrame(s.frame[:0]), content, s.place(b.Number(), s.form))
	if err != nil {
		return err
	}
	s.frame = frame
	return finishFrame(frame, b.Number(), s.form)
}

// pack returns what is to be sealed.
func (s *blockRecords) pack(b *wire.Block) (_ []byte, err error) {
	rest := b.Proto
	if s.form == formCompressed {
		// The bytes of two messages in a row are those of one with the fields of both.
		rest = &commonpb.Block{Metadata: b.Proto.Metadata}
		rest.ProtoReflect().SetUnknown(b.Proto.ProtoReflect().GetUnknown())
	}
	if s.plain, err = (proto.MarshalOptions{}).MarshalAppend(s.plain[:0], rest); err != nil {
		return nil, fmt.Errorf("common.Block: %w", err)
	}
	if s.form == formMarshalled {
		return s.plain, nil
	}
	s.content, err = s.writer.Finish(s.content[:0], s.plain, blockIdentities(b))
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

// open opens the seal of a record.
func (s *blockRecords) open(r record) ([]byte, error) {
	return s.keyring.Open(nil, r.sealed, s.place(r.number, r.form))
}

// decode reads the block of a record.
func (s *blockRecords) decode(r record) (*commonpb.Block, error) {
	plain, err := s.open(r)
	if err == nil && r.form == formCompressed {
		plain, err = s.reader.Block(r.number, plain, s.dictionaryFrom)
	}
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
	return b, nil
}

// dictionaryFrom loads the content of an earlier block.
func (s *blockRecords) dictionaryFrom(number uint64) ([]byte, error) {
	r, err := s.load(number)
	if err != nil {
		return nil, err
	}
	if r.form != formCompressed {
		return nil, fmt.Errorf("block %d: its record is not compressed", number)
	}
	return s.open(r)
}

// resume goes on with the dictionary of the last block's record.
func (s *blockRecords) resume(r record) error {
	if r.form != formCompressed {
		return nil
	}
	content, err := s.open(r)
	if err != nil {
		return err
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
