package appliance

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"strongroom/ledger/provenance"
)

const (
	// checkpointEvery is how often the token signs a checkpoint of a channel's
	// transparency log, if there are new statements.
	checkpointEvery = time.Second
	// checkpointLast bounds the last one, when the peer stops.
	checkpointLast = 5 * time.Second
)

// checkpoints signs the channel's log as it grows, and once more at the end.
func checkpoints(ctx context.Context, j *joined, log *slog.Logger) {
	ticker := time.NewTicker(checkpointEvery)
	defer ticker.Stop()
	failing := false
	sign := func(ctx context.Context) {
		_, err := j.recorder.Checkpoint(ctx)
		if err == nil || errors.Is(err, provenance.ErrNotFound) {
			failing = false
			return
		}
		if !failing {
			log.Error("no checkpoint of the transparency log: it is tried again each second", "error", err)
		}
		failing = true
	}
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkpointLast)
			defer cancel()
			sign(last)
			return
		case <-ticker.C:
			sign(ctx)
		}
	}
}
