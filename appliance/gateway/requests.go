package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc/peer"

	"strongroom/acl"
	"strongroom/appliance/rpcerr"
	"strongroom/bccsp"
	"strongroom/channel/configtx"
	"strongroom/msp"
	"strongroom/ordering/deliver"
)

func refusal(channelID string, decision string, cause error) error {
	return &rpcerr.Refusal{Public: fmt.Sprintf("access denied: channel [%s]", channelID), Decision: decision, Cause: cause}
}

// identify validates the identity in a signed request, and its signature in the token.
func (g *Gateway) identify(ctx context.Context, cfg *configtx.Config, channelID string, identity, request, signature []byte) (*msp.Identity, error) {
	id, err := cfg.Identity(ctx, identity)
	if msp.IsInvalid(err) {
		return nil, g.refused(ctx, refusal(channelID, "", err))
	}
	if err != nil {
		return nil, fmt.Errorf("identity of the request: %w", err)
	}
	if g.cfg.Now().After(id.ExpiresAt()) {
		return nil, g.refused(ctx, refusal(channelID, "", fmt.Errorf("certificate of %s ended at %s", id, id.ExpiresAt())))
	}
	if err := id.Verify(ctx, request, signature); err != nil {
		if errors.Is(err, bccsp.ErrBadSignature) {
			return nil, g.refused(ctx, refusal(channelID, "", err))
		}
		return nil, fmt.Errorf("verify the request's signature: %w", err)
	}
	return id, nil
}

// allowed asks the guard about a resource.
func (g *Gateway) allowed(ctx context.Context, cfg *configtx.Config, resource acl.Resource, channelID string, id *msp.Identity) error {
	return g.permitted(ctx, cfg, acl.Request{Resource: resource, Channel: channelID, Caller: id})
}

// permitted asks the guard about a request, of which it adds the connection.
func (g *Gateway) permitted(ctx context.Context, cfg *configtx.Config, r acl.Request) error {
	r.RemoteAddr, r.TLSCertHash = remoteAddr(ctx), deliver.PeerCertificateHash(ctx)
	decision, err := g.cfg.Access.Check(ctx, cfg, r)
	if errors.Is(err, acl.ErrDenied) {
		return refusal(r.Channel, decision.ID, err) // the guard has logged it
	}
	if err != nil {
		return fmt.Errorf("access to %s: %w", r.Resource, err)
	}
	return nil
}

func (g *Gateway) refused(ctx context.Context, err error) error {
	g.cfg.Logger.WarnContext(ctx, "gateway request refused", "error", rpcerr.Detail(err))
	return err
}

func remoteAddr(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return ""
	}
	if host, _, err := net.SplitHostPort(p.Addr.String()); err == nil {
		return host
	}
	return p.Addr.String()
}
