package appliance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"

	"strongroom/appliance/discovery"
	"strongroom/appliance/gateway"
	"strongroom/appliance/lifecycle"
	"strongroom/appliance/peers"
	"strongroom/channel/configtx"
	"strongroom/msp"
	"strongroom/wire/peerpb"
)

// openDirectory makes the directory of the other peers, of the configuration and the
// channels' anchor peers, and has it ask them.
func (p *peer) openDirectory(ctx context.Context) error {
	c := peers.Config{
		Identity: p.identity.Current, Address: p.config.Listen.Reachable(), Logger: p.log,
		Channels: func() map[string]*configtx.Config {
			out := map[string]*configtx.Config{}
			for id, j := range p.channels.all() {
				out[id] = j.Config()
			}
			return out
		},
		Dial: func(address string, roots [][]byte) (peers.Connection, error) { return p.dialAnchor(address, roots) },
	}
	for _, r := range p.config.Peers {
		conn, err := dial(r, p.tokens, p.served.Load)
		if err != nil {
			return fmt.Errorf("peers: %s: %w", r.Address, err)
		}
		p.remotes = append(p.remotes, conn)
		c.Configured = append(c.Configured, peers.Remote{MSPID: msp.ID(r.MSPID), Address: r.Address, Conn: conn})
	}
	var err error
	if p.others, err = peers.New(c); err != nil {
		return err
	}
	p.asking.Go(func() { p.others.Run(ctx) })
	return nil
}

// dialAnchor prepares a connection to an anchor peer: its TLS certificate must come
// from its organisation's CAs in the channel's configuration.
func (p *peer) dialAnchor(address string, roots [][]byte) (*grpc.ClientConn, error) {
	if len(roots) == 0 {
		return nil, errors.New("its organisation has no TLS root certificates in the channel's configuration")
	}
	pool, err := poolOf("TLS roots of the anchor peer's organisation", roots)
	if err != nil {
		return nil, err
	}
	return connect(address, clientTLS(p.tokens, pool, "", p.served.Load))
}

// newGateway makes the Gateway service, which endorses here and on the other peers.
func (p *peer) newGateway() (*gateway.Gateway, error) {
	return gateway.New(gateway.Config{
		Local:     gateway.Endorser{MSPID: p.identity.MSPID, Address: p.config.Listen.Reachable(), Process: p.endorser.ProcessProposal},
		Endorsers: otherEndorsers{p.others},
		Channels:  func(id string) (gateway.Channel, bool) { return find[gateway.Channel](p.channels, id) },
		Orderers: func(id string) (gateway.Orderers, bool) {
			j, ok := p.channels.get(id)
			if !ok {
				return nil, false
			}
			return j.orderers, true
		},
		Access: p.guard, Logger: p.log,
	})
}

// otherEndorsers gives the gateway the peers of the directory.
type otherEndorsers struct{ *peers.Directory }

// Endorsers lists them, those that answered last first.
func (o otherEndorsers) Endorsers(channelID string) []gateway.Endorser {
	known := o.Peers(channelID)
	out := make([]gateway.Endorser, len(known))
	for i, k := range known {
		out[i] = gateway.Remote(k.MSPID, k.Address, k.Client)
	}
	return out
}

// newDiscovery makes the service discovery.
func (p *peer) newDiscovery() (*discovery.Service, error) {
	address := p.config.Listen.Reachable()
	if host, _, err := net.SplitHostPort(address); err == nil && (host == "" || net.ParseIP(host).IsUnspecified()) {
		p.log.Warn("service discovery tells clients an address that they cannot reach: set listen.externalAddress", "address", address)
	}
	return discovery.New(discovery.Config{
		Access: p.guard, LocalMSP: p.localMSP, Identity: p.identity.Current, Address: address, TLS: true, Now: time.Now, Logger: p.log,
		Channels: p.channels.ids,
		Channel: func(id string) (*discovery.Channel, bool) {
			j, ok := p.channels.get(id)
			if !ok {
				return nil, false
			}
			return &discovery.Channel{
				Config: j.Config(), Height: j.Ledger().Height(),
				Peers:      func() []*peers.Peer { return p.others.Peers(id) },
				Chaincodes: func() ([]lifecycle.Chaincode, error) { return p.agreed.Chaincodes(id) },
				Layouts: func(interest *peerpb.ChaincodeInterest, has func(msp.ID) bool) ([]discovery.Layout, error) {
					layouts, err := gateway.Layouts(j, interest, has)
					out := make([]discovery.Layout, len(layouts))
					for i, l := range layouts {
						out[i] = discovery.Layout(l)
					}
					return out, err
				},
			}, true
		},
	})
}
