package acl

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"

	"strongroom/msp"
	"strongroom/policy"
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
// Arguments are in it if args says so: no layer looks at them otherwise.
func input(r *Request, channel string, args bool) (ast.Value, error) {
	caller, err := CallerTerm(r.Caller)
	if err != nil {
		return nil, err
	}
	in := ast.NewObject(
		pair{keyResource, text(string(r.Resource))},
		pair{keyChannel, text(channel)},
		pair{keyChaincode, text(r.Chaincode)},
		pair{keyFunction, text(r.Function)},
		pair{keyCaller, caller},
		pair{keyRemote, ast.ObjectTerm(
			pair{keyAddress, text(normal(host(r.RemoteAddr)))},
			pair{keyTLSCert, ast.StringTerm(hex.EncodeToString(r.TLSCertHash))},
		)},
	)
	if args {
		if err := arguments(in, r.Args); err != nil {
			return nil, err
		}
	}
	return in, nil
}

// maxArgs bounds the arguments that layers look at, in bytes.
const maxArgs = 1 << 20

// arguments adds the arguments; binary_args lists the positions of those that are not
// UTF-8 and stand as base64.
func arguments(in ast.Object, args [][]byte) error {
	size := 0
	terms, positions := make([]*ast.Term, len(args)), []*ast.Term{}
	for i, b := range args {
		if size += len(b); size > maxArgs {
			return fmt.Errorf("the arguments are larger than %d bytes: too much to judge", maxArgs)
		}
		if utf8.Valid(b) {
			terms[i] = ast.StringTerm(string(b))
			continue
		}
		terms[i] = ast.StringTerm(base64.StdEncoding.EncodeToString(b))
		positions = append(positions, ast.IntNumberTerm(i))
	}
	in.Insert(ast.StringTerm("args"), ast.ArrayTerm(terms...))
	in.Insert(ast.StringTerm("binary_args"), ast.ArrayTerm(positions...))
	return nil
}

// hashArgs stands for the arguments in the key of a remembered decision.
func hashArgs(args [][]byte) (sum [32]byte) {
	h := sha256.New()
	var n [8]byte
	for _, a := range args {
		binary.BigEndian.PutUint64(n[:], uint64(len(a)))
		h.Write(n[:])
		h.Write(a)
	}
	h.Sum(sum[:0])
	return sum
}

// subjectOf is who asks, for rates.
func subjectOf(r *Request) policy.Subject {
	id := r.Caller.CertificateID()
	return policy.Subject{
		Caller:  string(r.Caller.MSPID) + "\x00" + string(id[:]),
		Address: normal(host(r.RemoteAddr)), Certificate: string(r.TLSCertHash),
	}
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
