package bccsp

import "context"

// Checkpoints keeps small records inside a token, out of the reach of whoever can
// only change the disk. It is safe for concurrent use; writers of one name must not
// run beside each other.
type Checkpoints interface {
	// LoadCheckpoints returns the records under a name: none, one, or several when
	// a StoreCheckpoint was interrupted. The caller decides which counts.
	LoadCheckpoints(ctx context.Context, name string) ([][]byte, error)
	// StoreCheckpoint replaces all records under a name by one of at most 4096 bytes. It is in the
	// token when StoreCheckpoint returns. At no moment is there no record.
	StoreCheckpoint(ctx context.Context, name string, record []byte) error
}
