package provenance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"strongroom/ledger/translog"
)

// checkpointName is the file, beside the statements, with the latest checkpoint.
const checkpointName = "checkpoint"

// Origin is the name of this channel's transparency log, which is another when the
// signing key is.
func (r *Recorder) Origin() string { return r.origins(r.signer()) }

func (r *Recorder) origins(by *signer) string {
	return translog.Origin(r.cfg.Channel, by.PublicKey().ID().String())
}

// openLog opens the Merkle tree over the kept statements and holds it against the
// latest checkpoint: statements that were removed or changed since the token signed
// it are found here. It needs r.mu, or nobody else to have r.
func (r *Recorder) openLog() error {
	leaves := r.store.payloads()
	size := r.store.next - r.store.first()
	log, err := translog.Open(r.cfg.Dir, size, leaves)
	if err != nil {
		return fmt.Errorf("transparency log of channel %q: %w", r.cfg.Channel, err)
	}
	by := r.signer()
	note, c, err := r.readCheckpoint(by)
	if err != nil {
		return err
	}
	if c != nil {
		if log, err = r.holds(log, c, leaves); err != nil {
			return err
		}
	}
	r.log, r.note, r.checkpointed, r.origin = log, note, 0, r.origins(by)
	if c != nil {
		r.checkpointed = c.Size
	}
	return nil
}

// readCheckpoint reads the kept checkpoint, if it is one of this log.
func (r *Recorder) readCheckpoint(by *signer) ([]byte, *translog.Checkpoint, error) {
	path := filepath.Join(r.cfg.Dir, checkpointName)
	note, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if !bytes.HasPrefix(note, []byte(r.origins(by)+"\n")) {
		return nil, nil, nil // of the key before: the next checkpoint is this key's first
	}
	c, _, err := translog.ParseNote(note, by.PublicKey().SPKI())
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w: restore it from a backup", path, err)
	}
	return note, c, nil
}

// holds checks that the log continues the checkpoint. If its tiles say otherwise
// they are computed again, once, before the statements are blamed.
func (r *Recorder) holds(log *translog.Log, c *translog.Checkpoint, leaves translog.Leaves) (*translog.Log, error) {
	if c.Size > log.Size() {
		return nil, fmt.Errorf("channel %q has %d statements in %s, its checkpoint was signed over %d: restore them from a backup",
			r.cfg.Channel, log.Size(), r.cfg.Dir, c.Size)
	}
	if root, err := translog.Root(log, c.Size); err == nil && root == c.Root {
		return log, nil
	}
	if err := translog.Discard(r.cfg.Dir); err != nil {
		return nil, err
	}
	log, err := translog.Open(r.cfg.Dir, log.Size(), leaves)
	if err != nil {
		return nil, fmt.Errorf("transparency log of channel %q: %w", r.cfg.Channel, err)
	}
	root, err := translog.Root(log, c.Size)
	if err != nil {
		return nil, err
	}
	if root != c.Root {
		return nil, fmt.Errorf("the statements of channel %q in %s were changed since their checkpoint over %d was signed: restore them from a backup",
			r.cfg.Channel, r.cfg.Dir, c.Size)
	}
	return log, nil
}

// grow adds statements that are durable. If a tile cannot be written the log is
// opened again when it is next asked for: the statements stand all the same.
func (r *Recorder) grow(bundles []*Bundle) {
	for _, b := range bundles {
		if r.log == nil {
			return
		}
		if err := r.log.Append(b.Envelope.Payload); err != nil {
			r.log = nil
		}
	}
}

// Checkpoint returns a checkpoint, as a signed note, over all statements there are
// now. It signs one only if there are statements that the latest does not cover, so
// that a key signs at most one for each size. Without a statement it returns
// ErrNotFound. The caller owns the note.
//
// Crash points: the checkpoint is written after its statements were durable; until
// it is, the one before stays.
func (r *Recorder) Checkpoint(ctx context.Context) ([]byte, error) {
	r.signing.Lock()
	defer r.signing.Unlock()
	by := r.signer()
	c, err := r.pending(r.origins(by))
	if err != nil {
		return nil, err
	}
	if c == nil {
		r.mu.RLock()
		defer r.mu.RUnlock()
		return bytes.Clone(r.note), nil
	}
	sig, err := by.SignCheckpoint(ctx, c.Origin, c.Size, c.Root)
	if err != nil {
		return nil, fmt.Errorf("sign checkpoint of channel %q: %w", r.cfg.Channel, err)
	}
	note := c.Note(by.PublicKey().SPKI(), sig)
	if err := translog.WriteFile(filepath.Join(r.cfg.Dir, checkpointName), note); err != nil {
		return nil, fmt.Errorf("keep checkpoint of channel %q: %w", r.cfg.Channel, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note, r.checkpointed, r.origin = note, c.Size, c.Origin
	return bytes.Clone(note), nil
}

// pending is the checkpoint to sign, nil if the latest one of this origin covers everything.
func (r *Recorder) pending(origin string) (*translog.Checkpoint, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.store.empty() {
		return nil, fmt.Errorf("channel %q: %w", r.cfg.Channel, ErrNotFound)
	}
	if err := r.ensureLog(); err != nil {
		return nil, err
	}
	size := r.log.Size()
	if size == r.checkpointed && origin == r.origin {
		return nil, nil
	}
	root, err := translog.Root(r.log, size)
	if err != nil {
		return nil, err
	}
	return &translog.Checkpoint{Origin: origin, Size: size, Root: root}, nil
}

func (r *Recorder) ensureLog() error {
	if r.log != nil {
		return nil
	}
	return r.openLog()
}

// InclusionProof proves that the statement of a block is in the log of a size. It
// returns the statement's index in the log, which is the block's number on a peer
// that recorded the channel from its genesis block on.
func (r *Recorder) InclusionProof(number, size uint64) (index uint64, proof []translog.Hash, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := r.store.first()
	if r.store.empty() || number < first || number >= r.store.next {
		return 0, nil, fmt.Errorf("block %d: %w", number, ErrNotFound)
	}
	if err := r.checkSize(size); err != nil {
		return 0, nil, err
	}
	if number-first >= size {
		return 0, nil, fmt.Errorf("%w: the statement of block %d is not among the first %d", ErrSize, number, size)
	}
	proof, err = translog.InclusionProof(r.log, number-first, size)
	return number - first, proof, err
}

// ConsistencyProof proves that the log of a size begins with the log of an older one.
func (r *Recorder) ConsistencyProof(old, size uint64) ([]translog.Hash, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.checkSize(size); err != nil {
		return nil, err
	}
	if old == 0 || old > size {
		return nil, fmt.Errorf("%w: a log of %d does not continue one of %d", ErrSize, size, old)
	}
	return translog.ConsistencyProof(r.log, old, size)
}

// ErrSize says that a proof was asked for that a log of this size cannot give.
var ErrSize = errors.New("no such proof")

func (r *Recorder) checkSize(size uint64) error {
	if err := r.ensureLog(); err != nil {
		return err
	}
	if size > r.log.Size() {
		return fmt.Errorf("%w: the log has %d statements, not %d", ErrSize, r.log.Size(), size)
	}
	return nil
}

// payloads gives the statements' payloads by their index. It keeps the lines of one
// full file at a time, so that reading in order reads each file once.
func (s *store) payloads() translog.Leaves {
	var cached uint64
	var lines [][]byte
	return func(index uint64) ([]byte, error) {
		number := s.first() + index
		line, err := s.cachedLine(number, &cached, &lines)
		if err != nil {
			return nil, err
		}
		b, err := ParseBundle(line)
		if err != nil {
			return nil, fmt.Errorf("statement of block %d: %w", number, err)
		}
		return b.Envelope.Payload, nil
	}
}

func (s *store) cachedLine(number uint64, cached *uint64, lines *[][]byte) ([]byte, error) {
	last := s.firsts[len(s.firsts)-1]
	if number >= last {
		return s.get(number)
	}
	if len(*lines) == 0 || number < *cached || number-*cached >= uint64(len(*lines)) {
		i := s.fileOf(number)
		data, err := os.ReadFile(filepath.Join(s.dir, fileName(s.firsts[i])))
		if err != nil {
			return nil, err
		}
		*cached, *lines = s.firsts[i], bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))
		if number-*cached >= uint64(len(*lines)) {
			return nil, &CorruptError{File: fileName(s.firsts[i]), Line: len(*lines), Reason: errors.New("the file ends before the statement")}
		}
	}
	return (*lines)[number-*cached], nil
}
