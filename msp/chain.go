package msp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"strongroom/bccsp"
)

// authority is one CA certificate of an MSP, with low S.
type authority struct {
	cert *x509.Certificate
	key  *bccsp.PublicKey
	// internal: an intermediate of the MSP is below it, so that it may not issue
	// identities itself.
	internal bool
	// paths lead from this authority to a root, itself first; a root has one path
	// of itself.
	paths [][]*authority
	// revoked holds the serial numbers, as decimal text, of the CRLs it signed.
	revoked map[string]bool
}

// mayIssue is the part of a parent's fitness that does not depend on the child:
// basic constraints and key usage as RFC 5280 section 6.1.4 (k) and (n), in the
// form in which crypto/x509 enforces them when it checks a child's signature.
func (a *authority) mayIssue() bool {
	c := a.cert
	if c.Version == 3 && !c.BasicConstraintsValid || c.BasicConstraintsValid && !c.IsCA {
		return false
	}
	return c.KeyUsage == 0 || c.KeyUsage&x509.KeyUsageCertSign != 0
}

// issued asks the token whether a signed child.
func (a *authority) issued(ctx context.Context, v bccsp.Verifier, child *x509.Certificate) (bool, error) {
	if !bytes.Equal(child.RawIssuer, a.cert.RawSubject) || !a.mayIssue() {
		return false, nil
	}
	return verifySignature(ctx, v, a.key, child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature, false)
}

// errNoChain and its like are verdicts; errors of the token are passed through.
var errNoChain = errors.New("no certificate chain leads to a root of the MSP")

// chain finds the one chain from cert to a root: the authorities above cert, in
// order. Fabric sets the time of the check to one second after cert's own
// notBefore, so that expiry does not count, but an authority whose validity does
// not cover that moment does not either. Two chains are an error: it would not be
// clear who owns the identity. The second result is a verdict, the third a
// failure of the token.
func (m *provider) chain(ctx context.Context, cert *x509.Certificate) ([]*authority, error, error) {
	at := cert.NotBefore.Add(time.Second)
	if len(cert.UnhandledCriticalExtensions) > 0 {
		return nil, fmt.Errorf("critical extension %s is unknown", cert.UnhandledCriticalExtensions[0]), nil
	}
	if at.After(cert.NotAfter) {
		return nil, errors.New("certificate's validity ends before it starts"), nil
	}
	if cert.RequireExplicitPolicyZero && len(cert.Policies) == 0 {
		return nil, errors.New("certificate requires a policy and names none"), nil
	}
	if !fitForServer(cert) {
		return nil, errors.New("extended key usage of the certificate allows neither any use nor server authentication, which Fabric asks for"), nil
	}
	var found []*authority
	count := 0
	verdict := errNoChain
	for _, a := range m.authorities {
		if !bytes.Equal(a.cert.RawSubject, cert.RawIssuer) || sameEntity(a.cert, cert) {
			continue
		}
		ok, err := a.issued(ctx, m.verifier, cert)
		if err != nil {
			return nil, nil, err
		}
		if !ok {
			continue
		}
		for _, path := range a.paths {
			if err := pathAllows(path, cert, at); err != nil {
				verdict = err
				continue
			}
			count++
			found = path
		}
	}
	switch count {
	case 0:
		return nil, verdict, nil
	case 1:
		return found, nil, nil
	}
	return nil, fmt.Errorf("%d certificate chains lead to a root of the MSP: there must be one", count), nil
}

// pathAllows checks the rules of RFC 5280 that depend on the whole chain, as
// crypto/x509 applies them: critical extensions, validity at the given time, path
// length, extended key usage, no entity twice.
func pathAllows(path []*authority, cert *x509.Certificate, at time.Time) error {
	for i, a := range path {
		c := a.cert
		switch {
		case len(c.UnhandledCriticalExtensions) > 0:
			return fmt.Errorf("critical extension %s of CA %q is unknown", c.UnhandledCriticalExtensions[0], c.Subject)
		case at.Before(c.NotBefore) || at.After(c.NotAfter):
			return fmt.Errorf("CA %q was not valid at %s, when the certificate's validity starts", c.Subject, at.UTC().Format(time.RFC3339))
		case c.BasicConstraintsValid && c.MaxPathLen >= 0 && i > c.MaxPathLen:
			return fmt.Errorf("CA %q allows %d intermediates below it, there are %d", c.Subject, c.MaxPathLen, i)
		case !fitForServer(c):
			return fmt.Errorf("extended key usage of CA %q allows neither any use nor server authentication, which Fabric asks for", c.Subject)
		case sameEntity(c, cert):
			return fmt.Errorf("CA %q is its own issuer", c.Subject)
		}
	}
	return nil
}

// fitForServer: Fabric leaves the wanted key usage of x509.VerifyOptions empty,
// which means server authentication.
func fitForServer(c *x509.Certificate) bool {
	if len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 0 {
		return true
	}
	return slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
}

// sameEntity tells whether two certificates are of the same subject, key and
// alternative names: such a one may stand in a chain only once.
func sameEntity(a, b *x509.Certificate) bool {
	if !bytes.Equal(a.RawSubject, b.RawSubject) || !bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo) {
		return false
	}
	sanA, sanB := extension(a, oidSubjectAltName), extension(b, oidSubjectAltName)
	if sanA == nil || sanB == nil {
		return sanA == nil && sanB == nil
	}
	return bytes.Equal(sanA.Value, sanB.Value)
}

// linkAuthorities finds every path from an intermediate to a root.
func (m *provider) linkAuthorities(ctx context.Context, roots, intermediates []*authority) error {
	parents := make(map[*authority][]*authority, len(intermediates))
	for _, child := range intermediates {
		for _, parent := range m.authorities {
			if parent == child || sameEntity(parent.cert, child.cert) {
				continue
			}
			ok, err := parent.issued(ctx, m.verifier, child.cert)
			if err != nil {
				return err
			}
			if ok {
				parents[child] = append(parents[child], parent)
			}
		}
	}
	for _, r := range roots {
		r.paths = [][]*authority{{r}}
	}
	for _, a := range intermediates {
		a.paths = climb(a, parents, []*authority{a})
	}
	return nil
}

func climb(a *authority, parents map[*authority][]*authority, below []*authority) [][]*authority {
	if len(below) > maxChain {
		return nil
	}
	var paths [][]*authority
	for _, p := range parents[a] {
		if len(paths) > maxPaths {
			break
		}
		if slices.ContainsFunc(below, func(b *authority) bool { return sameEntity(b.cert, p.cert) }) {
			continue
		}
		path := append(slices.Clone(below), p)
		if len(p.paths) == 1 && len(p.paths[0]) == 1 { // a root
			paths = append(paths, path)
			continue
		}
		paths = append(paths, climb(p, parents, path)...)
	}
	return paths
}

// A configuration of many CAs that sign each other cannot make endless work: more
// than one path is ambiguous already.
const (
	maxChain = 16
	maxPaths = 16
)

// certifiersID is Fabric's certification chain identifier: the SHA-256 over the
// certificates of the chain.
func certifiersID(chain []*authority) []byte {
	h := sha256.New()
	for _, a := range chain {
		h.Write(a.cert.Raw)
	}
	return h.Sum(nil)
}
