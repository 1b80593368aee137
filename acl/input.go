package acl

import (
	_ "embed"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"strongroom/msp"
)

// InputSchema is the JSON Schema of the input that layers see.
//
//go:embed input.schema.json
var InputSchema []byte

var (
	keyResource   = ast.StringTerm("resource")
	keyChannel    = ast.StringTerm("channel")
	keyChaincode  = ast.StringTerm("chaincode")
	keyFunction   = ast.StringTerm("function")
	keyCaller     = ast.StringTerm("caller")
	keyRemote     = ast.StringTerm("remote")
	keyMSPID      = ast.StringTerm("mspid")
	keyName       = ast.StringTerm("name")
	keySubject    = ast.StringTerm("subject")
	keyIssuer     = ast.StringTerm("issuer")
	keyRole       = ast.StringTerm("role")
	keyOUs        = ast.StringTerm("ous")
	keyAttributes = ast.StringTerm("attributes")
	keyAddress    = ast.StringTerm("address")
	keyTLSCert    = ast.StringTerm("tls_cert_sha256")
)

type pair = [2]*ast.Term

func text(s string) *ast.Term { return ast.StringTerm(strings.ToValidUTF8(s, "\uFFFD")) }

// input is what the layers see of a request (input.schema.json).
func input(r *Request, channel string) (ast.Value, error) {
	caller, err := CallerTerm(r.Caller)
	if err != nil {
		return nil, err
	}
	return ast.NewObject(
		pair{keyResource, text(string(r.Resource))},
		pair{keyChannel, text(channel)},
		pair{keyChaincode, text(r.Chaincode)},
		pair{keyFunction, text(r.Function)},
		pair{keyCaller, caller},
		pair{keyRemote, ast.ObjectTerm(
			pair{keyAddress, text(normal(host(r.RemoteAddr)))},
			pair{keyTLSCert, ast.StringTerm(hex.EncodeToString(r.TLSCertHash))},
		)},
	), nil
}

// CallerTerm is what a team's Rego sees of an identity (the schema's "caller"): the
// layers and the endorsement guard see the same.
func CallerTerm(id *msp.Identity) (*ast.Term, error) {
	attributes, err := id.Attributes()
	if err != nil {
		return nil, fmt.Errorf("the caller's attributes: %w", err)
	}
	attrs := ast.NewObject()
	for k, v := range attributes {
		attrs.Insert(text(k), text(v))
	}
	ous := make([]*ast.Term, len(id.OUs))
	for i, ou := range id.OUs {
		ous[i] = text(ou.Name)
	}
	return ast.ObjectTerm(
		pair{keyMSPID, text(string(id.MSPID))},
		pair{keyName, text(id.Certificate.Subject.CommonName)},
		pair{keySubject, text(id.Certificate.Subject.String())},
		pair{keyIssuer, text(id.Certificate.Issuer.String())},
		pair{keyRole, ast.StringTerm(id.Role.String())},
		pair{keyOUs, ast.ArrayTerm(ous...)},
		pair{keyAttributes, ast.NewTerm(attrs)},
	), nil
}

// host is an address without its port.
func host(remote string) string {
	if h, _, err := net.SplitHostPort(remote); err == nil {
		return h
	}
	return remote
}

// normal is a host with an IPv4 address in IPv6 form as IPv4, so that a policy's
// net.cidr_contains sees one form of it.
func normal(host string) string {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().WithZone("").String()
	}
	return host
}
