package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"strongroom/acl"
	"strongroom/acl/endorsement"
	"strongroom/appliance/config"
	"strongroom/appliance/cscc"
	"strongroom/appliance/deliver"
	"strongroom/appliance/endorser"
	"strongroom/appliance/lifecycle"
	"strongroom/appliance/peers"
	"strongroom/appliance/qscc"
	"strongroom/appliance/statements"
	"strongroom/chaincode"
	"strongroom/channel/configtx"
	"strongroom/ledger/seal"
	"strongroom/msp"
	"strongroom/ordering"
	"strongroom/wire/commonpb"
	"strongroom/wire/discoverypb"
	"strongroom/wire/gatewaypb"
	"strongroom/wire/ordererpb"
	"strongroom/wire/peerpb"
)

// peer is the composition of one peer's parts.
type peer struct {
	*node
	config   *config.Peer
	served   *servedCertificate // the TLS certificate in force
	keyring  *seal.Keyring
	localMSP *msp.Set
	guard    *acl.Guard
	vetoes   *endorsement.Guard
	channels *channels
	ledgers  atomic.Pointer[channels] // channels, for those who began before they were open
	host     *chaincode.Host
	endorser *endorser.Endorser
	agreed   *lifecycle.Service
	ordering *ordering.Service // nil unless it is embedded
	remotes  []*grpc.ClientConn
	others   *peers.Directory
	asking   sync.WaitGroup // what asks the other peers
}

// RunPeer runs a peer until ctx ends.
func RunPeer(ctx context.Context, c *config.Peer, logTo io.Writer) (err error) {
	if err := harden(); err != nil {
		return err
	}
	CollectEarly()
	log := newLogger(c.Log, c.Node.Name, logTo)
	n, err := openNode(ctx, log, c.Node, c.Token, c.Verifiers, c.Operations)
	if err != nil {
		return err
	}
	p := &peer{node: n, config: c}
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		err = errors.Join(err, p.close())
	}()
	creds, served, err := serverTLS(ctx, n.tokens, c.Listen)
	if err != nil {
		return err
	}
	p.served = served
	if p.keyring, err = openKeyring(ctx, n, c.Data); err != nil {
		return err
	}
	if err := n.openAudit(ctx, c.Data, p.keyring, c.Audit, c.Policy, c.Node.Name); err != nil {
		return err
	}
	p.keyring.RotateAfter(seal.Rotation{Seals: c.Keyring.RotateSeals, Bytes: c.Keyring.RotateBytes, Age: time.Duration(c.Keyring.RotateAge)})
	if p.localMSP, err = n.localMSP(ctx, c.Node); err != nil {
		return err
	}
	if p.guard, err = n.newGuard(ctx, c.Node, c.Policy); err != nil {
		return err
	}
	server, healthServer := newServer(c.Listen, creds, p.guard, log)
	if p.vetoes, err = n.newVetoes(ctx, c.Policy); err != nil {
		return err
	}
	onLedger, err := n.openBundle(ctx, c.Data, c.Policy.Bundle, p.guard, p.vetoes, p.policyKey)
	if err != nil {
		return err
	}
	if c.Ordering.Embedded {
		if p.ordering, err = n.newOrdering(ctx, c.Data, p.keyring, p.guard, len(c.Listen.ClientCAs) > 0); err != nil {
			return err
		}
		if err := joinGenesis(ctx, p.ordering, c.Ordering.Genesis); err != nil {
			return err
		}
		ordererpb.RegisterAtomicBroadcastServer(server, p.ordering)
	}
	if err := p.openServices(ctx, server); err != nil {
		return err
	}
	if onLedger != nil {
		p.ledgers.Store(p.channels)
		p.polling.Go(func() { p.watchPolicyKey(ctx, onLedger) })
	}
	n.addDiskCheck(c.Data)
	n.renewals(ctx, c.Node, c.Listen, served, p.localMSP, p.admit)
	waitAdmin, err := p.serveAdmin(ctx)
	if err != nil {
		return err
	}
	err = n.run(ctx, server, healthServer, c.Listen)
	cancel()
	return errors.Join(err, waitAdmin())
}

// close closes what the peer opened, the channels' work first.
func (p *peer) close() error {
	var errs []error
	p.polling.Wait() // what reads the ledgers
	if p.channels != nil {
		errs = append(errs, p.channels.close())
	}
	if p.host != nil {
		errs = append(errs, p.host.Close())
	}
	if p.others != nil {
		p.asking.Wait()
		errs = append(errs, p.others.Close())
	}
	for _, conn := range p.remotes {
		errs = append(errs, conn.Close())
	}
	if p.ordering != nil {
		errs = append(errs, p.ordering.Close())
	}
	errs = append(errs, p.closeAudit())
	if p.keyring != nil {
		errs = append(errs, p.keyring.Close())
	}
	return errors.Join(append(errs, p.node.close())...)
}

// openServices opens the channels and registers the peer's services.
func (p *peer) openServices(ctx context.Context, server *grpc.Server) error {
	dir, err := makeDir(p.config.Data, "channels")
	if err != nil {
		return err
	}
	if p.channels, err = openChannels(ctx, p.node, dir, p.keyring, p.config.Ordering.Endpoints, p.served.Load); err != nil {
		return err
	}
	p.host = chaincode.New(p.hostConfig())
	if p.endorser, err = p.newEndorser(ctx); err != nil {
		return err
	}
	peerpb.RegisterEndorserServer(server, p.endorser)
	if p.config.Chaincode.DevMode {
		p.log.Warn("development mode: chaincode that dials in is accepted from anyone who reaches this port")
		peerpb.RegisterChaincodeSupportServer(server, p.host)
	}
	if err := p.openDirectory(ctx); err != nil {
		return err
	}
	g, err := p.newGateway()
	if err != nil {
		return err
	}
	gatewaypb.RegisterGatewayServer(server, g)
	told, err := p.newDiscovery()
	if err != nil {
		return err
	}
	discoverypb.RegisterDiscoveryServer(server, told)
	d, err := deliver.New(deliver.Config{
		Channels: func(id string) (deliver.Channel, bool) { return find[deliver.Channel](p.channels, id) },
		Access:   p.guard, MutualTLS: len(p.config.Listen.ClientCAs) > 0, Logger: p.log,
	})
	if err != nil {
		return err
	}
	peerpb.RegisterDeliverServer(server, d)
	return nil
}

// admit checks that every channel of the peer, and of the ordering service in it, takes an
// identity as this peer's.
func (p *peer) admit(ctx context.Context, id *msp.LocalIdentity) error {
	var errs []error
	for name, j := range p.channels.all() {
		if _, err := j.Config().MSPs.Identity(ctx, id.Serialized); err != nil {
			errs = append(errs, fmt.Errorf("channel %q does not take it: %w", name, err))
		}
	}
	if p.ordering != nil {
		errs = append(errs, p.ordering.Admit(ctx, id))
	}
	return errors.Join(errs...)
}

// find gives a joined channel as the interface that a service wants; a channel that
// is not joined gives a true nil.
func find[T any](c *channels, id string) (T, bool) {
	var none T
	j, ok := c.get(id)
	if !ok {
		return none, false
	}
	return any(j).(T), true
}

func (p *peer) hostConfig() chaincode.Config {
	c := chaincode.Config{
		ExecuteTimeout:    time.Duration(p.config.Chaincode.ExecuteTimeout),
		ClientCertificate: p.served.Load,
		Logger:            p.log,
		// The endorser is made after the host and set before it serves.
		Resolve: func(ctx context.Context, caller *chaincode.Invocation, name string, input *peerpb.ChaincodeInput) (chaincode.Target, error) {
			return p.endorser.Resolve(ctx, caller, name, input)
		},
	}
	if p.config.Chaincode.DevMode {
		c.AdmitDialIn = func(context.Context, string) error { return nil }
	}
	return c
}

// newEndorser makes the endorser with the peer's system chaincodes.
func (p *peer) newEndorser(ctx context.Context) (*endorser.Endorser, error) {
	dir, err := makeDir(p.config.Data, "packages")
	if err != nil {
		return nil, err
	}
	packages, err := lifecycle.OpenFolder(dir, p.keyring)
	if err != nil {
		return nil, err
	}
	p.agreed, err = lifecycle.Open(ctx, lifecycle.Config{
		MSPID: p.identity.MSPID, LocalMSP: p.localMSP, Access: p.guard, Packages: packages, Services: p.host, Logger: p.log, Trail: p.trailOf(),
		Channels: p.channels.ids,
		Channel:  func(id string) (lifecycle.Channel, bool) { return find[lifecycle.Channel](p.channels, id) },
	})
	if err != nil {
		return nil, err
	}
	p.channels.deployments.set(p.agreed)
	queries, err := qscc.New(qscc.Config{Access: p.guard, Logger: p.log,
		Channel: func(id string) (qscc.Ledger, *configtx.Config, bool) {
			j, ok := p.channels.get(id)
			if !ok {
				return nil, nil, false
			}
			return j.Ledger(), j.Config(), true
		},
	})
	if err != nil {
		return nil, err
	}
	configurer, err := cscc.New(cscc.Config{
		Access: p.guard, Joiner: p.channels, LocalMSP: p.localMSP, Channels: p.channels.ids, Logger: p.log, Trail: p.trailOf(),
		Channel: func(id string) (*configtx.Config, func() (*commonpb.Block, error), bool) {
			j, ok := p.channels.get(id)
			if !ok {
				return nil, nil, false
			}
			return j.Config(), j.configBlock, true
		},
	})
	if err != nil {
		return nil, err
	}
	provenance := statements.New(statements.Config{
		Access: p.guard,
		Signer: func() []byte { return p.identity.Current().Serialized },
		Channel: func(id string) (statements.Statements, bool) {
			j, ok := p.channels.get(id)
			if !ok {
				return nil, false
			}
			return j.recorder, true
		},
	})
	return endorser.New(endorser.Config{
		Identity: p.identity, LocalMSP: p.localMSP, Access: p.guard, Chaincodes: p.host, Definitions: p.agreed, Logger: p.log,
		Guard:    vetoes{p.vetoes},
		Channels: func(id string) (endorser.Channel, bool) { return find[endorser.Channel](p.channels, id) },
		System:   []endorser.SystemChaincode{p.agreed, queries, configurer, provenance},
		Observe: func(o endorser.Observation) {
			p.metrics.Proposal(string(o.Stage), o.Total)
		},
	})
}

// configBlock is the block that set the channel's configuration in force.
func (j *joined) configBlock() (*commonpb.Block, error) {
	last, err := j.ledger.Outline(j.ledger.Height() - 1)
	if err != nil {
		return nil, err
	}
	index := uint64(0)
	if last.GetHeader().GetNumber() > 0 {
		if index, err = configtx.LastConfigIndex(last); err != nil {
			return nil, err
		}
	}
	return j.ledger.Block(index)
}
