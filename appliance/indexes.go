package appliance

import (
	"context"

	"strongroom/appliance/lifecycle"
)

// deployments are what the channels' ledgers learn of the chaincodes that run here.
// The lifecycle is opened after the channels: ready is closed when it is set.
type deployments struct {
	ready     chan struct{}
	lifecycle *lifecycle.Service
}

func newDeployments() *deployments { return &deployments{ready: make(chan struct{})} }

func (d *deployments) set(s *lifecycle.Service) {
	d.lifecycle = s
	close(d.ready)
}

// keepIndexes keeps a channel's indexes of rich queries until ctx ends.
func (d *deployments) keepIndexes(ctx context.Context, channelID string) {
	select {
	case <-ctx.Done():
	case <-d.ready:
		d.lifecycle.KeepIndexes(ctx, channelID)
	}
}
