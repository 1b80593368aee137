package appliance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"strongroom/appliance/config"
	"strongroom/appliance/version"
	"strongroom/channel"
	"strongroom/channel/configtx"
	"strongroom/ledger"
	"strongroom/ledger/provenance"
	"strongroom/ledger/seal"
	"strongroom/ordering/client"
	"strongroom/policy"
	"strongroom/wire/commonpb"
)

// joined is one channel that the peer follows.
type joined struct {
	*channel.Channel
	orderers *client.Client
	recorder *provenance.Recorder
	ledger   *ledger.Ledger
}

// channels are the peer's joined channels: one folder each, isolated from each
// other.
type channels struct {
	node    *node
	dir     string
	keyring *seal.Keyring
	// ordering overrides where the channels' ordering service is.
	ordering []config.Remote
	// certificate answers what is shown to ordering nodes that ask for one.
	certificate func() *tls.Certificate
	deployments *deployments

	ctx     context.Context // of the channels' own work
	running sync.WaitGroup

	mu   sync.RWMutex // guards what follows
	open map[string]*joined
	busy map[string]bool // being joined now
}

// openChannels opens every channel that was joined and starts to follow it.
func openChannels(ctx context.Context, n *node, dir string, keyring *seal.Keyring, ordering []config.Remote, certificate func() *tls.Certificate) (*channels, error) {
	c := &channels{node: n, dir: dir, keyring: keyring, ordering: ordering, certificate: certificate, ctx: ctx,
		deployments: newDeployments(), open: map[string]*joined{}, busy: map[string]bool{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	for _, e := range entries {
		if err := c.reopen(ctx, e.Name()); err != nil {
			return nil, errors.Join(fmt.Errorf("channel %q: %w", e.Name(), err), c.close())
		}
	}
	return c, nil
}

// reopen opens a channel's folder. A ledger without a block is what a crash during
// a join left; the join was not acknowledged, and the folder is removed.
func (c *channels) reopen(ctx context.Context, id string) error {
	l, err := c.openLedger(ctx, id)
	if err != nil {
		return err
	}
	if l.Height() == 0 {
		c.node.log.Warn("removing the folder of a channel whose join did not finish", "channel", id)
		return errors.Join(l.Close(), os.RemoveAll(filepath.Join(c.dir, id)))
	}
	return c.follow(ctx, id, l)
}

func (c *channels) openLedger(ctx context.Context, id string) (*ledger.Ledger, error) {
	return ledger.Open(ctx, ledger.Config{
		Dir:       filepath.Join(c.dir, id, "ledger"),
		ChannelID: id,
		Keyring:   c.keyring,
		Logger:    c.node.log.With("channel", id),

		Checkpoints:    c.node.tokens.Keeper,
		CheckpointName: checkpointName(c.node.key, id),

		Observe: func(stage string, took time.Duration) { c.node.metrics.Stage(id, "ledger "+stage, took) },
	})
}

// JoinChannel makes a channel of a genesis block and follows it.
func (c *channels) JoinChannel(ctx context.Context, id string, genesis *commonpb.Block) (err error) {
	if err := c.reserve(id); err != nil {
		return err
	}
	defer c.release(id)
	l, err := c.openLedger(ctx, id)
	if err != nil {
		return err
	}
	if err := channel.Join(ctx, l, c.node.deps(), genesis); err != nil {
		return errors.Join(err, l.Close(), os.RemoveAll(filepath.Join(c.dir, id)))
	}
	if err := c.follow(ctx, id, l); err != nil {
		return err
	}
	c.node.log.Info("joined channel", "channel", id)
	return nil
}

func (c *channels) reserve(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[id] != nil {
		return fmt.Errorf("channel %q is joined already", id)
	}
	if c.busy[id] {
		return fmt.Errorf("channel %q is being joined", id)
	}
	c.busy[id] = true
	return nil
}

func (c *channels) release(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.busy, id)
}

// follow wires a channel's parts together and starts its pipeline. On an error the
// ledger is closed.
func (c *channels) follow(ctx context.Context, id string, l *ledger.Ledger) (err error) {
	j := &joined{ledger: l}
	defer func() {
		if err != nil {
			err = errors.Join(err, j.close())
		}
	}()
	log := c.node.log.With("channel", id)
	peer, err := c.node.describe()
	if err != nil {
		return err
	}
	if j.recorder, err = provenance.Open(provenance.Config{
		Dir: filepath.Join(c.dir, id, "provenance"), Channel: id, Peer: peer, Current: c.node.statementSigner,
	}); err != nil {
		return err
	}
	source := &orderers{}
	if j.Channel, err = channel.Open(ctx, channel.Config{
		Ledger: l, Deps: c.node.deps(), Source: source, Recorder: recorder{j.recorder, c.node.policyBundles}, Logger: log,
		Observe: func(stage channel.Stage, block uint64, _ int, d time.Duration) {
			c.node.metrics.Stage(id, string(stage), d)
			if stage == channel.StagePublish {
				c.node.metrics.Height(id, block+1)
			}
		},
	}); err != nil {
		return err
	}
	endpoints, err := c.endpoints(j.Config())
	if err != nil {
		return fmt.Errorf("ordering service: %w", err)
	}
	if j.orderers, err = client.New(client.Config{
		Endpoints: endpoints, Identity: c.node.identity, Certificate: c.certificate, Logger: log,
		VerifyConnection: verifyChainInToken(c.node.tokens),
	}); err != nil {
		return err
	}
	source.client, source.channel = j.orderers, id
	c.node.metrics.Height(id, l.Height())
	if c.node.ops != nil {
		c.node.ops.AddCheck("channel "+id, j.healthy)
	}
	c.mu.Lock()
	c.open[id] = j
	c.mu.Unlock()
	c.running.Go(func() { c.run(j, log) })
	return nil
}

// run follows the channel until the peer stops, and keeps the addresses of the
// ordering service up to date with the channel's configuration.
func (c *channels) run(j *joined, log *slog.Logger) {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	c.running.Go(func() { c.watchEndpoints(ctx, j, log) })
	c.running.Go(func() { checkpoints(ctx, j, log) })
	c.running.Go(func() { c.deployments.keepIndexes(ctx, j.ID()) })
	if err := j.Run(ctx); err != nil && c.ctx.Err() == nil {
		log.Error("the channel stopped: restart the peer after mending the cause", "error", err)
	}
}

// endpointCheck is how often a changed configuration is looked for.
const endpointCheck = 5 * time.Second

func (c *channels) watchEndpoints(ctx context.Context, j *joined, log *slog.Logger) {
	ticker := time.NewTicker(endpointCheck)
	defer ticker.Stop()
	last := j.Config()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		current := j.Config()
		if current == last {
			continue
		}
		last = current
		endpoints, err := c.endpoints(current)
		if err == nil {
			err = j.orderers.SetEndpoints(endpoints)
		}
		if err != nil {
			log.Error("the channel's new configuration names no usable ordering service: the former addresses stay in use", "error", err)
		}
	}
}

// endpoints are the addresses of a channel's ordering service: this peer's
// configuration first, else the channel's.
func (c *channels) endpoints(cfg *configtx.Config) ([]client.Endpoint, error) {
	var endpoints []client.Endpoint
	for _, r := range c.ordering {
		roots, err := certPool(r.TLSCACert)
		if err != nil {
			return nil, fmt.Errorf("ordering.endpoints: %w", err)
		}
		endpoints = append(endpoints, client.Endpoint{Address: r.Address, ServerName: r.ServerName, RootCAs: roots})
	}
	if len(endpoints) > 0 {
		return endpoints, nil
	}
	for _, e := range cfg.OrdererEndpoints {
		roots, err := poolOf("TLS roots of "+string(e.MSPID), e.TLSRoots)
		if err != nil {
			return nil, err
		}
		endpoints = append(endpoints, client.Endpoint{Address: e.Address, RootCAs: roots})
	}
	if len(endpoints) == 0 {
		return nil, errors.New("the channel's configuration names no orderer address: set ordering.endpoints")
	}
	return endpoints, nil
}

// get finds a joined channel.
func (c *channels) get(id string) (*joined, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	j, ok := c.open[id]
	return j, ok
}

// ids lists the joined channels, sorted.
func (c *channels) ids() []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Sorted(maps.Keys(c.open))
}

// all is the joined channels by id.
func (c *channels) all() map[string]*joined {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return maps.Clone(c.open)
}

// close waits for the channels' work, whose context must have ended, and closes
// them.
func (c *channels) close() error {
	c.running.Wait()
	var errs []error
	for id, j := range c.all() {
		if err := j.close(); err != nil {
			errs = append(errs, fmt.Errorf("channel %q: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

func (j *joined) close() error {
	var errs []error
	if j.orderers != nil {
		j.orderers.Close()
	}
	if j.Channel != nil {
		j.Channel.Close()
	}
	if j.recorder != nil {
		errs = append(errs, j.recorder.Close())
	}
	return errors.Join(append(errs, j.ledger.Close())...)
}

// healthy reports what holds the channel up.
func (j *joined) healthy(context.Context) error {
	h := j.Health()
	switch {
	case h.Failure != nil:
		return fmt.Errorf("at height %d: %w", h.Height, h.Failure)
	case h.SourceFailure != nil:
		return fmt.Errorf("at height %d: ordering service: %w", h.Height, h.SourceFailure)
	case j.orderers.State(j.ID()).Connected == "":
		return fmt.Errorf("at height %d: not connected to the ordering service", h.Height)
	}
	return nil
}

// orderers is a channel's source of blocks; the client is set before it is used.
type orderers struct {
	client  *client.Client
	channel string
}

func (o *orderers) Blocks(ctx context.Context, from uint64, emit func(*commonpb.Block) error) error {
	return o.client.Blocks(ctx, o.channel, from, emit)
}

// recorder tells the provenance recorder what the pipeline knows of a block.
type recorder struct {
	*provenance.Recorder
	bundles func() []provenance.PolicyBundle // in force now
}

func (r recorder) Record(ctx context.Context, blocks ...channel.CommittedBlock) error {
	facts, bundles := make([]provenance.Facts, len(blocks)), r.bundles()
	for i, b := range blocks {
		facts[i] = provenance.Facts{Block: b.Block, Policies: map[string]string{}, PolicyBundles: bundles}
		for namespace, digest := range b.Policies {
			facts[i].Policies[namespace] = hex.EncodeToString(digest[:])
		}
	}
	return r.Recorder.Record(ctx, facts...)
}

// describe is what every statement says of this peer.
func (n *node) describe() (provenance.Peer, error) {
	digest, err := version.Digest()
	if err != nil {
		return provenance.Peer{}, err
	}
	info := n.tokens.Own.Info()
	build := version.Read()
	return provenance.Peer{
		Signer:     provenance.Identity{MSPID: string(n.identity.MSPID)},
		HSM:        provenance.HSM{Manufacturer: info.Manufacturer, Model: info.Model, Serial: info.Serial, Firmware: info.Firmware, Profile: n.tokens.Profile},
		Software:   provenance.Software{Name: "strongroom", Version: build.Version, Build: digest},
		OPAVersion: policy.OPAVersion,
	}, nil
}

// statementSigner is this node's identity as it was last renewed.
func (n *node) statementSigner() (provenance.StatementSigner, *x509.Certificate) {
	id := n.identity.Current()
	return id, id.Certificate
}
