package acl

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"strongroom/acl/decisions"
	"strongroom/channel/configtx"
	"strongroom/policy"
)

// access is the record of a check, made in one piece: it is on the way of every request.
type access struct {
	event   decisions.Event
	request Request
	channel string
	outcome *outcome
}

// same is what equal decisions have in common: the outcome, and what the outcome need not
// depend on but its input shows.
type same struct {
	outcome                            *outcome
	channel, chaincode, function, host string
	tls                                string
}

// keep hands the record of a check to the decision log.
func (g *Guard) keep(ctx context.Context, config *configtx.Config, r *Request, o *outcome, id string, start time.Time) error {
	a := &access{request: *r, channel: channelOf(config, r), outcome: o}
	a.event = decisions.Event{
		ID: id, Path: decisions.AccessPath, Time: start, Took: time.Since(start), RequestedBy: r.RemoteAddr,
		Size: len(r.Chaincode) + len(r.Function), Bundle: o.bundle, About: a,
	}
	if o.args {
		for _, arg := range r.Args {
			a.event.Size += len(arg)
		}
	}
	return g.cfg.Decisions.Decided(ctx, &a.event)
}

// connection is the record of the decision about a call.
type connection struct {
	event       decisions.Event
	key         connectionKey
	certificate *x509.Certificate
	outcome     *outcome
}

// keepCall is keep for a call.
func (g *Guard) keepCall(ctx context.Context, k connectionKey, c Call, o *outcome, id string, start time.Time) error {
	r := &connection{key: k, certificate: c.Certificate, outcome: o}
	r.event = decisions.Event{
		ID: id, Path: decisions.ConnectionPath, Time: start, Took: time.Since(start), RequestedBy: c.RemoteAddr,
		Size: len(c.Method), Bundle: o.bundle, About: r,
	}
	return g.cfg.Decisions.Decided(ctx, &r.event)
}

// Input is what the layer saw.
func (r *connection) Input() (ast.Value, error) { return connectionInput(r.key, r.certificate), nil }

// Result is the outcome in the form of a record.
func (r *connection) Result() decisions.Result { return r.outcome.result() }

// Same tells equal decisions by what they depend on.
func (r *connection) Same() any {
	if len(r.key.method) > longestKey {
		return nil
	}
	return sameCall{r.outcome, r.key}
}

type sameCall struct {
	outcome *outcome
	key     connectionKey
}

// Input is what the layers saw, or would have seen.
func (a *access) Input() (ast.Value, error) {
	if a.request.Caller == nil {
		return nil, nil
	}
	return input(&a.request, a.channel, a.outcome.args)
}

// Same tells equal decisions by what they depend on.
func (a *access) Same() any {
	r := &a.request
	if len(r.Chaincode)+len(r.Function) > longestKey {
		return nil
	}
	return same{a.outcome, a.channel, r.Chaincode, r.Function, host(r.RemoteAddr), string(r.TLSCertHash)}
}

// Result is the outcome in the form of a record.
func (a *access) Result() decisions.Result {
	return a.outcome.result()
}

func (o *outcome) result() decisions.Result {
	out := decisions.Result{Allow: o.allowed, Limited: o.limited, Layers: make([]decisions.Layer, len(o.layers))}
	for i, v := range o.layers {
		out.Layers[i] = decisions.Layer{Layer: string(v.Layer), Allow: v.Allowed, Reasons: v.Reasons}
		if v.Policy != (policy.Digest{}) {
			out.Layers[i].Policy = v.Policy.String()
		}
	}
	if !o.allowed && len(o.layers) > 0 {
		out.Deny = o.layers[len(o.layers)-1].Reasons
	}
	return out
}
