package acl

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"strongroom/policy"
)

// ConnectionSchema is the JSON Schema of the input that the layer connection sees.
//
//go:embed connection.schema.json
var ConnectionSchema []byte

// Call is one gRPC call, of which nothing is known yet but where it comes from.
type Call struct {
	Method      string // in full: "/gateway.Gateway/Submit"
	RemoteAddr  string // of the connection; a port is cut off
	Certificate *x509.Certificate
}

type connectionKey struct {
	method, host string
	tls          [32]byte // zero without a certificate
}

// Connect decides whether a call may be made at all, before a service sees it: the
// layer connection, where it has rules, else yes. The error is as that of Check.
func (g *Guard) Connect(ctx context.Context, c Call) (Decision, error) {
	rs := g.current.Load()
	p := rs.programs[layerIndex(Connection)]
	if p == nil {
		return Decision{Allowed: true}, nil
	}
	var start time.Time
	if g.cfg.Observe != nil || g.cfg.Decisions != nil {
		start = time.Now()
	}
	k := connectionKey{method: c.Method, host: normal(host(c.RemoteAddr))}
	if c.Certificate != nil {
		k.tls = sha256.Sum256(c.Certificate.Raw)
	}
	remember := len(k.method) <= longestKey
	o, ok := (*outcome)(nil), false
	if remember {
		o, ok = rs.connections.Get(k)
	}
	if !ok {
		v, stable := g.ask(ctx, c.Method, Connection, p, connectionInput(k, c.Certificate))
		o = &outcome{allowed: v.Allowed, conditional: len(v.Conditions) > 0, layers: []Verdict{v}, bundle: rs.bundle}
		if remember && stable {
			rs.connections.Add(k, o)
		}
	}
	if o.allowed && o.conditional {
		o = g.conditioned(o, policy.Subject{Address: k.host, Certificate: string(k.tls[:])})
	}
	d := Decision{Allowed: o.allowed, ID: g.cfg.Engine.DecisionID(), Layers: o.layers}
	var kept error
	if g.cfg.Decisions != nil {
		if kept = g.keepCall(ctx, k, c, o, d.ID, start); kept != nil {
			d.Allowed = false
		}
	}
	if g.cfg.Observe != nil {
		g.cfg.Observe(c.Method, string(Connection), d.Allowed, time.Since(start))
	}
	if kept != nil && o.allowed {
		return d, kept
	}
	if d.Allowed {
		return d, nil
	}
	subject := ""
	if c.Certificate != nil {
		subject = c.Certificate.Subject.String()
	}
	g.log.WarnContext(ctx, "call refused", "decision", d.ID, "method", c.Method, "remote", k.host, "tls", subject, "reason", d.Reason())
	return d, &deniedError{id: d.ID}
}

func connectionInput(k connectionKey, certificate *x509.Certificate) ast.Value {
	service, method, _ := strings.Cut(strings.TrimPrefix(k.method, "/"), "/")
	sum := ""
	if certificate != nil {
		sum = hex.EncodeToString(k.tls[:])
	} else {
		certificate = new(x509.Certificate) // its fields are empty
	}
	tls := ast.ObjectTerm(
		pair{ast.StringTerm("sha256"), ast.StringTerm(sum)},
		pair{ast.StringTerm("subject"), text(certificate.Subject.String())},
		pair{ast.StringTerm("name"), text(certificate.Subject.CommonName)},
		pair{ast.StringTerm("issuer"), text(certificate.Issuer.String())},
		pair{ast.StringTerm("ous"), texts(certificate.Subject.OrganizationalUnit)},
		pair{ast.StringTerm("dns_names"), texts(certificate.DNSNames)},
	)
	return ast.NewObject(
		pair{ast.StringTerm("service"), text(service)},
		pair{ast.StringTerm("method"), text(method)},
		pair{keyRemote, ast.ObjectTerm(pair{keyAddress, text(k.host)}, pair{ast.StringTerm("tls"), tls})},
	)
}

func texts(list []string) *ast.Term {
	terms := make([]*ast.Term, len(list))
	for i, s := range list {
		terms[i] = text(s)
	}
	return ast.ArrayTerm(terms...)
}

// Layered tells whether any layer has rules that are asked about requests. Where none
// does, Fabric's own policies are all there is.
func (g *Guard) Layered() bool { return g.current.Load().any }
