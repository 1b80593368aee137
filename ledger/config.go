package ledger

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"strongroom/bccsp"
	"strongroom/ledger/disk"
	"strongroom/ledger/seal"
)

// Defaults of Config.
const (
	DefaultBlockFileSize  = 64 << 20
	DefaultCachedBlocks   = 16
	DefaultQueryLimit     = 100_000 // Fabric's totalQueryLimit
	DefaultKeepPrivateFor = 1000    // Fabric's transientstoreMaxBlockRetention
	// DefaultCheckpointEvery is the least time between two checkpoints.
	DefaultCheckpointEvery = 5 * time.Second
)

// Config is what a Ledger needs. Dir, ChannelID and Keyring must be set; the zero
// values of the others stand for their defaults.
type Config struct {
	// Dir is the ledger's folder. It is made when it is not there, belongs to one
	// channel, and one process at a time can have it open.
	Dir string
	// ChannelID is the channel's name, of 1 to 249 bytes.
	ChannelID string
	// Keyring seals what is written. It may serve several ledgers; it must stay
	// open for longer than they do.
	Keyring *seal.Keyring
	// FS is where the files are; nil stands for disk.OS.
	FS disk.FS
	// Logger gets what an operator should know. Nil discards it.
	Logger *slog.Logger
	// BlockFileSize is the size in bytes at which the block log goes on in a new file.
	BlockFileSize int64
	// CachedBlocks is how many of the newest blocks stay in memory.
	CachedBlocks int
	// QueryLimit is how many results one range query of a simulation gives at most.
	QueryLimit int
	// KeepPrivateFor is for how many blocks private writes wait for their transaction.
	KeepPrivateFor uint64
	// Checkpoints remembers, out of the disk's reach, how far the ledger came, so that
	// an older copy of its folder is refused at Open with ErrRolledBack. Nil leaves
	// that out. It must stay open for longer than the ledger.
	Checkpoints bccsp.Checkpoints
	// CheckpointName names this node's ledger of this channel in Checkpoints.
	CheckpointName string
	// CheckpointEvery is the least time between two checkpoints; the last is written by Close.
	CheckpointEvery time.Duration
	// AcceptRollback makes Open take a ledger that is behind its checkpoint, say so in the
	// log and in the checkpoint, and go on from there. It is for an operator's command.
	AcceptRollback bool
	// Observe gets the time that each stage of a commit took. It may be nil.
	Observe func(stage string, took time.Duration)
	// Progress is told how far a recovery is, now and then. It may be nil.
	Progress func(what string, block, of uint64)

	// rebuild has the stores that follow from the block log made beside those that are there.
	rebuild bool

	writeBuffer int // bytes of a store's rows in memory; 0 stands for 8 MiB
}

// Validate names the first field that is wrong and what it should be.
func (c Config) Validate() error {
	switch {
	case c.Dir == "":
		return errors.New("ledger: Dir is empty: name the ledger's folder")
	case c.ChannelID == "" || len(c.ChannelID) > 249:
		return fmt.Errorf("ledger: ChannelID has %d bytes: 1 to 249 are needed", len(c.ChannelID))
	case c.Keyring == nil:
		return errors.New("ledger: Keyring is missing: nothing may be written unsealed")
	case c.BlockFileSize < 0:
		return fmt.Errorf("ledger: BlockFileSize is %d: leave it 0 or give a size in bytes", c.BlockFileSize)
	case c.CachedBlocks < 0:
		return fmt.Errorf("ledger: CachedBlocks is %d: leave it 0 or give a number of blocks", c.CachedBlocks)
	case c.Checkpoints != nil && c.CheckpointName == "":
		return errors.New("ledger: CheckpointName is empty: give the node's ledger of this channel a name in the token")
	case c.CheckpointEvery < 0:
		return fmt.Errorf("ledger: CheckpointEvery is %s: leave it 0 or give a duration", c.CheckpointEvery)
	case c.QueryLimit < 0:
		return fmt.Errorf("ledger: QueryLimit is %d: leave it 0 or give a number of results", c.QueryLimit)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.FS == nil {
		c.FS = disk.OS
	}
	if c.BlockFileSize == 0 {
		c.BlockFileSize = DefaultBlockFileSize
	}
	if c.CachedBlocks == 0 {
		c.CachedBlocks = DefaultCachedBlocks
	}
	if c.QueryLimit == 0 {
		c.QueryLimit = DefaultQueryLimit
	}
	if c.KeepPrivateFor == 0 {
		c.KeepPrivateFor = DefaultKeepPrivateFor
	}
	if c.CheckpointEvery == 0 {
		c.CheckpointEvery = DefaultCheckpointEvery
	}
	if c.Observe == nil {
		c.Observe = func(string, time.Duration) {}
	}
	return c
}
