package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"strongroom/ledger/disk"
	"strongroom/ledger/seal"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// VerifyConfig says what Verify reads.
type VerifyConfig struct {
	// Config is the ledger's; Dir, ChannelID and Keyring count. The keyring may be open
	// for reading alone. Nobody else may have the ledger open.
	Config
	// Scratch is an empty folder in which the ledger is made a second time, to compare.
	// It takes as much room as the ledger, and is the caller's to remove.
	Scratch string
	// ScratchKeyring seals what is in it.
	ScratchKeyring *seal.Keyring
	// Block checks what the caller knows of a block beyond the ledger: signatures,
	// statements. It gets every block that could be read, in order, whole, with what the
	// peer recorded. It returns problems; an error ends everything. It may be nil.
	Block func(ctx context.Context, b *wire.Block) (problems []string, err error)
	// Progress is told now and then how far it is. It may be nil.
	Progress func(what string, done, of uint64)
}

// Problem is something that is not as it was written, or not as the blocks say.
type Problem struct {
	Part  string `json:"part"`            // blocks, index, state, history, private, FORMAT
	Where string `json:"where"`           // file and byte, or the row
	Block *int64 `json:"block,omitempty"` // nil when no one block is meant
	What  string `json:"what"`
}

// String tells the problem in a line.
func (p Problem) String() string { return p.Part + ": " + p.Where + ": " + p.What }

// Verification is what Verify found.
type Verification struct {
	Channel      string    `json:"channel"`
	Height       uint64    `json:"height"` // blocks that were read and follow each other
	Transactions uint64    `json:"transactions"`
	Rows         uint64    `json:"rows"` // of the stores, compared
	Problems     []Problem `json:"problems"`
	More         int       `json:"more,omitempty"` // problems that are not listed
	Notes        []string  `json:"notes,omitempty"`
}

// maxProblems is how many problems are listed.
const maxProblems = 100

// verifier is a running Verify.
type verifier struct {
	config  VerifyConfig
	ledger  *Ledger // for reading
	scratch *Ledger // nil when it cannot follow any more
	found   *Verification
	at      []location // of the blocks read
	last    []byte     // hash of the last block

	shredded bool // a block was read of which values are gone
}

// Verify reads a ledger again as a whole: every byte of every file through its seal; the
// chain of the blocks; and, by committing the blocks once more into an empty ledger, the
// verdicts that need no signatures, the commit hashes, and each row of index, state and
// history. Private values are compared with their hashes. Nothing of the ledger
// changes. The error is not about the ledger but about what kept Verify from its work.
func Verify(ctx context.Context, c VerifyConfig) (_ *Verification, err error) {
	if c.Config.Checkpoints != nil {
		return nil, errors.New("ledger: Checkpoints is set: verifying compares with none")
	}
	l, err := newLedger(c.Config)
	if err != nil {
		return nil, err
	}
	v := &verifier{config: c, ledger: l, found: &Verification{Channel: c.ChannelID}}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if err := readForm(l.config); err != nil {
		v.problem(Problem{Part: "FORMAT", Where: l.formatPath(), What: err.Error()})
		return v.found, nil
	}
	l.records.load = v.readRecord
	if err := v.open(); err != nil {
		return nil, errors.Join(err, l.closeFiles())
	}
	if v.scratch, err = Open(ctx, Config{Dir: c.Scratch, ChannelID: c.ChannelID, Keyring: c.ScratchKeyring}); err != nil {
		return nil, errors.Join(fmt.Errorf("scratch: %w", err), l.closeFiles())
	}
	scratch := v.scratch
	defer func() { err = errors.Join(err, scratch.Close(), l.closeFiles()) }()
	if err := v.blocks(ctx); err != nil {
		return nil, err
	}
	if err := v.stores(ctx); err != nil {
		return nil, err
	}
	return v.found, nil
}

func (v *verifier) problem(p Problem) {
	if len(v.found.Problems) >= maxProblems {
		v.found.More++
		return
	}
	v.found.Problems = append(v.found.Problems, p)
}

func (v *verifier) note(format string, args ...any) {
	v.found.Notes = append(v.found.Notes, fmt.Sprintf(format, args...))
}

func (v *verifier) progress(what string, done, of uint64) {
	if v.config.Progress != nil && done%100 == 0 {
		v.config.Progress(what, done, of)
	}
}

// readRecord reads a block that was read already.
func (v *verifier) readRecord(number uint64) (record, error) {
	if number >= uint64(len(v.at)) {
		return record{}, fmt.Errorf("block %d: %w", number, ErrNotFound)
	}
	return readRecord(v.ledger.config.FS, v.ledger.blocksDir(), number, v.at[number])
}

// blocks reads the block log from its first byte to its last.
func (v *verifier) blocks(ctx context.Context) error {
	log := &blockLog{fs: v.ledger.config.FS, dir: v.ledger.blocksDir()}
	files, err := log.files()
	if err != nil {
		v.problem(Problem{Part: "blocks", Where: log.dir, What: err.Error()})
		return nil
	}
	for i, file := range files {
		raw, err := disk.ReadFile(v.ledger.config.FS, log.path(file))
		if err != nil {
			v.problem(Problem{Part: "blocks", Where: log.path(file), What: err.Error()})
			return nil
		}
		whole, err := v.file(ctx, file, raw, i == len(files)-1)
		if err != nil || !whole {
			return err
		}
	}
	return nil
}

// file reads a file of the log; false means that what follows cannot be read as a chain.
func (v *verifier) file(ctx context.Context, file uint32, raw []byte, last bool) (bool, error) {
	path := blockFile(v.ledger.blocksDir(), file)
	for offset := 0; offset < len(raw); {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		where := fmt.Sprintf("%s, byte %d", path, offset)
		next := uint64(len(v.at))
		r, err := parseFrame(raw[offset:])
		if err != nil {
			v.badRecord(where, next, err, raw[offset:], last)
			return false, nil
		}
		at := location{File: file, Offset: int64(offset), Length: frameHeader + len(r.sealed)}
		if r.number != next {
			v.blockProblem(where, next, fmt.Sprintf("record holds block %d where block %d should be", r.number, next))
			return false, nil
		}
		v.at = append(v.at, at)
		if err := v.block(ctx, where, r); err != nil {
			return false, err
		}
		v.progress("reading blocks", next, 0)
		offset += at.Length
	}
	return true, nil
}

// badRecord tells damage from the end of a write that a crash tore, which the next
// start cuts.
func (v *verifier) badRecord(where string, next uint64, err error, rest []byte, last bool) {
	after := slices.ContainsFunc(frameStarts(rest[1:]), func(i int) bool { _, err := parseFrame(rest[1+i:]); return err == nil })
	if last && !after {
		v.note("%s: %v, and nothing whole follows: %d bytes that the next start cuts, if no store knows block %d", where, err, len(rest), next)
		return
	}
	v.blockProblem(where, next, err.Error())
}

func frameStarts(b []byte) []int {
	var starts []int
	for i := 0; ; {
		j := bytes.Index(b[i:], []byte(frameMagic))
		if j < 0 {
			return starts
		}
		starts = append(starts, i+j)
		i += j + 1
	}
}

func (v *verifier) blockProblem(where string, number uint64, what string) {
	n := int64(number)
	v.problem(Problem{Part: "blocks", Where: where, Block: &n, What: what})
}

// block checks one block and commits it to the scratch ledger.
func (v *verifier) block(ctx context.Context, where string, r record) error {
	b, flags, err := v.ledger.recorded(r)
	if err != nil {
		v.blockProblem(where, r.number, err.Error())
		v.lost(r.number)
		return nil
	}
	bad := func(format string, args ...any) { v.blockProblem(where, r.number, fmt.Sprintf(format, args...)) }
	if r.number > 0 && v.last == nil {
		v.note("block %d: the block before it cannot be read: its place in the chain is not checked", r.number)
	} else if got := b.Proto.Header.GetPreviousHash(); !bytes.Equal(got, v.last) {
		bad("previous_hash is %x, the block before has %x", got, v.last)
		v.lost(r.number)
	}
	if gone := b.stored.shredded; len(gone) > 0 {
		v.note("block %d: values of namespaces %q are shredded: its hash, its commit hash and those of later blocks, and these values are not checked", r.number, gone)
		v.shredded = true
	} else if got := wire.DataHash(b.Proto.Data); !bytes.Equal(got, b.Proto.Header.GetDataHash()) {
		bad("its transactions have hash %x, its header says %x", got, b.Proto.Header.GetDataHash())
	}
	v.last = b.Hash
	if v.config.Block != nil {
		problems, err := v.config.Block(ctx, b.Block)
		if err != nil {
			return fmt.Errorf("block %d: %w", r.number, err)
		}
		for _, p := range problems {
			bad("%s", p)
		}
	}
	v.found.Height = r.number + 1
	v.found.Transactions += uint64(len(b.Txs))
	return v.again(ctx, b.Block, flags, bad)
}

// lost gives up the scratch ledger: a block is missing from it.
func (v *verifier) lost(number uint64) {
	if v.scratch != nil {
		v.scratch = nil
		v.last = nil
		v.note("from block %d on, verdicts, commit hashes and stores cannot be compared with the blocks", number)
	}
}

// again commits a block to the scratch ledger and compares what comes out.
func (v *verifier) again(ctx context.Context, b *wire.Block, recorded []peerpb.TxValidationCode, bad func(string, ...any)) error {
	if v.scratch == nil {
		return nil
	}
	hash, err := recordedCommitHash(b.Proto)
	if err != nil {
		bad("%v", err)
	}
	flags := withoutConflicts(recorded)
	// The commit writes into the metadata.
	b.Proto.Metadata = &commonpb.BlockMetadata{Metadata: slices.Clone(b.Proto.Metadata.GetMetadata())}
	switch err := v.scratch.Commit(ctx, b, flags); {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		bad("it cannot be committed: %v", err)
		v.lost(b.Number())
		return nil
	}
	for i := range flags {
		if flags[i] != recorded[i] {
			bad("transaction %d is recorded as %s, the ledger's rules give %s", i, recorded[i], flags[i])
		}
	}
	if got := v.scratch.CommitHash(); !v.shredded && !bytes.Equal(got, hash) {
		bad("commit hash %x is recorded, the ledger's rules give %x", hash, got)
	}
	return nil
}

// withoutConflicts are flags before the ledger looked for what only the state can tell.
func withoutConflicts(recorded []peerpb.TxValidationCode) []peerpb.TxValidationCode {
	flags := slices.Clone(recorded)
	for i, f := range flags {
		if f == peerpb.TxValidationCode_MVCC_READ_CONFLICT || f == peerpb.TxValidationCode_PHANTOM_READ_CONFLICT {
			flags[i] = peerpb.TxValidationCode_VALID
		}
	}
	return flags
}

// open opens the four stores. One that is damaged stays nil.
func (v *verifier) open() error {
	for i, into := range []**store{&v.ledger.index.store, &v.ledger.state, &v.ledger.history, &v.ledger.private.store} {
		name := storeNames[i]
		s, cut, err := openUnchanged(v.ledger.config, name)
		if errors.Is(err, seal.ErrInUse) {
			return err
		}
		if errors.Is(err, fs.ErrNotExist) && name != privateName {
			v.note("store %s is not there, as in a backup: the next start makes it from the blocks", name)
			continue
		}
		if err != nil {
			v.problem(Problem{Part: name, Where: filepath.Join(v.config.Dir, name), What: err.Error()})
			continue
		}
		*into = s
		for _, c := range cut {
			v.note("store %s: %s: an end that was not written completely; the next start cuts it", name, c)
		}
	}
	return nil
}

// stores reads the stores and compares those that follow from the blocks.
func (v *verifier) stores(ctx context.Context) error {
	for i, s := range []*store{v.ledger.index.store, v.ledger.state, v.ledger.history, v.ledger.private.store} {
		name := storeNames[i]
		if s == nil {
			continue
		}
		bad := s.readFiles()
		for _, path := range sortedKeys(bad) {
			v.problem(Problem{Part: name, Where: path, What: bad[path].Error()})
		}
		if len(bad) == 0 {
			if err := v.store(ctx, name, s); err != nil {
				return err
			}
		}
	}
	return nil
}
