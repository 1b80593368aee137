package auditlog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"strongroom/bccsp"
	"strongroom/ledger/seal"
	"strongroom/ledger/translog"
)

// Defaults and bounds.
const (
	DefaultSegmentBytes = 64 << 20
	maxQueuedBytes      = 64 << 20 // of what queued entries hold, as their callers say
	maxQueued           = 1 << 16  // entries
	frameRecords        = 1024
	frameBytes          = 1 << 20
	linger              = 4 * time.Millisecond // how long a first entry waits for others
	roomWait            = 5 * time.Second      // for a place in the queue
	retryEvery          = time.Second          // after a failed write
	checkpointEvery     = time.Second
	lastCheckpoint      = 5 * time.Second // when the log closes
	recordsDir          = "records"
	checkpointName      = "checkpoint"
)

// ErrUnavailable means that a record cannot be kept: the node must not act on what it
// decided. The text says why and what to do.
var ErrUnavailable = errors.New("audit log: records cannot be kept")

// Signer signs checkpoints; *bccsp.Signer is one.
type Signer interface {
	SignCheckpoint(ctx context.Context, origin string, size uint64, root [sha256.Size]byte) ([]byte, error)
	PublicKey() *bccsp.PublicKey
}

// Config is what a Log needs.
type Config struct {
	Dir     string // of this log; made if it is not there
	Keyring *seal.Keyring
	// Current gives the node's signing key as it is now; it may be another one later.
	Current func() Signer
	// Verifier checks the signature of the checkpoint that was kept.
	Verifier bccsp.Verifier
	// Drop says what happens to decisions that cannot be written, because the disk is
	// full or too slow: they are dropped and counted. Without it Put refuses, so that the
	// node stops deciding. Acts are never dropped.
	Drop bool
	// Strict makes Put wait until its record is on disk. Without it a crash may lose the
	// records of the last few milliseconds.
	Strict       bool
	SegmentBytes int64         // at which a new segment begins; 0: DefaultSegmentBytes
	Keep         time.Duration // after which segments are removed; 0: never
	Logger       *slog.Logger  // nil means silence
	// Observe, if set, is told of records that were written and of decisions that were
	// dropped (kind "dropped"). It must be quick.
	Observe func(kind string, n int)
	Now     func() time.Time // nil means time.Now

	create func(path string) (output, error) // nil means createFile
}

// Validate names the field that is wrong.
func (c *Config) Validate() error {
	switch {
	case c.Dir == "":
		return errors.New("audit log: Dir is empty: name its folder")
	case c.Keyring == nil || c.Current == nil || c.Verifier == nil:
		return errors.New("audit log: Keyring, Current and Verifier are needed")
	case c.SegmentBytes < 0 || c.Keep < 0:
		return errors.New("audit log: SegmentBytes and Keep must not be negative: 0 is the default")
	case c.Keep > 0 && c.Keep < time.Hour:
		return fmt.Errorf("audit log: Keep is %s: an hour is the least", c.Keep)
	}
	return nil
}

// Origin is the name of the log that the node with this key keeps. No channel's log has
// it, since no channel's name begins with an underscore.
func Origin(keyID string) string { return translog.Origin("_audit", keyID) }
