package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"strongroom/acl"
	"strongroom/appliance/config"
	"strongroom/channel/configtx"
	"strongroom/ledger/seal"
	"strongroom/msp"
	"strongroom/ordering"
	"strongroom/ordering/deliver"
	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
)

// RunOrderer runs an ordering node until ctx ends.
func RunOrderer(ctx context.Context, c *config.Orderer, logTo io.Writer) (err error) {
	if err := harden(); err != nil {
		return err
	}
	CollectEarly()
	log := newLogger(c.Log, c.Node.Name, logTo)
	n, err := openNode(ctx, log, c.Node, c.Token, c.Verifiers, c.Operations)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		err = errors.Join(err, n.close())
	}()

	keyring, err := openKeyring(ctx, n, c.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, keyring.Close()) }()
	defer func() {
		cancel()
		err = errors.Join(err, n.closeAudit())
	}()
	if err := n.openAudit(ctx, c.Data, keyring, c.Audit, c.Policy, c.Node.Name); err != nil {
		return err
	}
	guard, err := n.newGuard(ctx, c.Node, c.Policy)
	if err != nil {
		return err
	}
	if _, err := n.openBundle(ctx, c.Data, c.Policy.Bundle, guard, nil, nil); err != nil {
		return err
	}
	service, err := n.newOrdering(ctx, c.Data, keyring, guard, len(c.Listen.ClientCAs) > 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.Close()) }()
	if err := joinGenesis(ctx, service, c.Genesis); err != nil {
		return err
	}
	n.addDiskCheck(c.Data)
	var local *msp.Set // without node.msp only the channels know the organization
	if c.Node.MSP != "" {
		if local, err = n.localMSP(ctx, c.Node); err != nil {
			return err
		}
	}
	creds, served, err := serverTLS(ctx, n.tokens, c.Listen)
	if err != nil {
		return err
	}
	server, healthServer := newServer(c.Listen, creds, guard, log)
	ordererpb.RegisterAtomicBroadcastServer(server, service)
	n.renewals(ctx, c.Node, c.Listen, served, local, service.Admit)
	return n.run(ctx, server, healthServer, c.Listen)
}

// run serves the node's endpoints until ctx ends.
func (n *node) run(ctx context.Context, server *grpc.Server, healthServer *health.Server, l config.Listen) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	operations := make(chan error, 1)
	if n.ops != nil {
		n.log.Info("operations endpoint", "address", n.ops.Address())
		go func() {
			err := n.ops.Serve(ctx)
			if err != nil {
				err = fmt.Errorf("operations endpoint: %w", err)
				cancel()
			}
			operations <- err
		}()
	} else {
		operations <- nil
	}
	healthServer.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	if err := notify("READY=1"); err != nil {
		n.log.Warn("systemd was not notified", "error", err)
	}
	err := serve(ctx, server, l, n.log)
	cancel()
	_ = notify("STOPPING=1")
	n.log.Info("stopping")
	return errors.Join(err, <-operations)
}

// openKeyring opens the keys under which everything of this node is sealed.
func openKeyring(ctx context.Context, n *node, data string) (*seal.Keyring, error) {
	dir, err := makeDir(data, "keyring")
	if err != nil {
		return nil, err
	}
	keyring, err := seal.OpenKeyring(ctx, dir, n.tokens.Keeper)
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	return keyring, nil
}

// newGuard makes the access control of a node: Fabric's policies, and a team's own
// Rego for the layers that have one.
func (n *node) newGuard(ctx context.Context, id config.Node, p config.Policy) (*acl.Guard, error) {
	c := acl.Config{
		Engine: n.engine, LocalMSPID: msp.ID(id.MSPID), Logger: n.log, Observe: n.metrics.Decision,
		Decisions: n.sink(),
		Layers:    map[acl.Layer]string{},
	}
	for layer, file := range p.Layers {
		c.Layers[acl.Layer(layer)] = file
	}
	if id.MSP != "" {
		set, err := n.localMSP(ctx, id)
		if err != nil {
			return nil, err
		}
		c.Local = set
	}
	return acl.New(c)
}

// newOrdering makes the ordering service over a node's data folder.
func (n *node) newOrdering(ctx context.Context, data string, keyring *seal.Keyring, guard *acl.Guard, mutualTLS bool) (*ordering.Service, error) {
	dir, err := makeDir(data, "ordering")
	if err != nil {
		return nil, err
	}
	service, err := ordering.New(ctx, ordering.Config{
		Dir: dir, Identity: n.identity, Deps: n.deps(), Sealer: recordSealer{keyring}, MutualTLS: mutualTLS, Logger: n.log,
		Checkpoints: orderingCheckpoints(n.tokens.Keeper, n.key, keyring),
		Access: func(ctx context.Context, cfg *configtx.Config, a ordering.Access) error {
			_, err := guard.Check(ctx, cfg, acl.Request{
				Resource: acl.Resource(a.Resource), Channel: cfg.ID, Caller: a.Caller, RemoteAddr: a.RemoteAddr,
				TLSCertHash: deliver.PeerCertificateHash(ctx),
			})
			if errors.Is(err, acl.ErrDenied) {
				return fmt.Errorf("%w: %w", ordering.ErrDenied, err)
			}
			return err
		},
		Observe: func(channel, step string, d time.Duration, err error) {
			n.metrics.Stage(channel, "ordering "+step, d)
			if step == "check" {
				status := "accepted"
				if err != nil {
					status = "refused"
				}
				n.metrics.Broadcast(channel, status)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	if n.ops != nil {
		n.ops.AddCheck("ordering", func(context.Context) error { return service.Healthy() })
	}
	return service, nil
}

// joinGenesis makes the ordering service serve the channels of the genesis blocks;
// those that it serves already stay as they are.
func joinGenesis(ctx context.Context, service *ordering.Service, files []string) error {
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("genesis: %w", err)
		}
		block := &commonpb.Block{}
		if err := proto.Unmarshal(data, block); err != nil {
			return fmt.Errorf("genesis %s is not a block: %w", file, err)
		}
		if err := service.Join(ctx, block); err != nil && !errors.Is(err, ordering.ErrChannelExists) {
			return fmt.Errorf("genesis %s: %w", file, err)
		}
	}
	return nil
}

// recordSealer seals the ordering service's records with a keyring; what binds a
// record to its place is the associated data that the record log gives.
type recordSealer struct{ keyring *seal.Keyring }

func (s recordSealer) Seal(plain, ad []byte) ([]byte, error) {
	return s.keyring.Seal(nil, plain, seal.Place{Kind: seal.KindFile, Key: string(ad)})
}

func (s recordSealer) Open(sealed, ad []byte) ([]byte, error) {
	return s.keyring.Open(nil, sealed, seal.Place{Kind: seal.KindFile, Key: string(ad)})
}
