package msp

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"strongroom/bccsp"
	"strongroom/wire/msppb"
)

// fabricType is the type of msp.MSPConfig for X.509; 1 is idemix.
const fabricType = 0

// provider is one membership service provider: an X.509 MSP of Fabric's version
// 1.4.3, the one of every channel with capability V2_0 or later. It is immutable
// but for its cache.
type provider struct {
	id          ID
	digest      [sha256.Size]byte // of the configuration it was made of
	verifier    bccsp.Verifier
	edwards     bool
	authorities []*authority // roots, then intermediates
	crlFault    string       // what is wrong with a revocation list, for every identity

	enforceOUs                        bool
	client, peer, adminUnit, orderer  *unit
	units                             []unit // the identifiers of which an identity needs one when node OUs are off
	admins                            map[[sha256.Size]byte]bool
	tlsRoots, tlsIntermediates, roots [][]byte

	cache *cache
}

// unit is an organizational unit that the configuration names. Certifiers may be
// empty in a node OU: any chain will do.
type unit OU

func configDigest(c *msppb.MSPConfig, edwards bool) [sha256.Size]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%d %t ", c.GetType(), edwards)
	h.Write(c.GetConfig())
	return [sha256.Size]byte(h.Sum(nil))
}

// newProvider checks one MSP configuration as Fabric's setup does. Its errors name
// the field that is wrong.
func newProvider(ctx context.Context, v bccsp.Verifier, c *msppb.MSPConfig, o options) (*provider, error) {
	conf, err := parseConfig(c)
	if err != nil {
		return nil, err
	}
	m := &provider{id: ID(conf.GetName()), digest: configDigest(c, o.edwards), verifier: v, edwards: o.edwards, cache: newCache(o.cacheSize)}
	steps := []func(context.Context, *msppb.FabricMSPConfig) error{
		m.setAuthorities, m.setRevocations, m.checkIntermediates, m.setTLS, m.setUnits, m.setNodeOUs, m.setAdmins,
	}
	for _, step := range steps {
		if err := step(ctx, conf); err != nil {
			return nil, fmt.Errorf("MSP %q: %w", string(m.id), err)
		}
	}
	return m, nil
}

func parseConfig(c *msppb.MSPConfig) (*msppb.FabricMSPConfig, error) {
	switch c.GetType() {
	case fabricType:
	case 1:
		return nil, errors.New("MSP configuration: type 1 (idemix) is not supported: Strongroom verifies X.509 identities only; remove that organisation's idemix MSP from the channel")
	default:
		return nil, fmt.Errorf("MSP configuration: type %d is unknown: use 0 (X.509)", c.GetType())
	}
	conf := &msppb.FabricMSPConfig{}
	if err := proto.Unmarshal(c.GetConfig(), conf); err != nil {
		return nil, fmt.Errorf("MSP configuration: %w", err)
	}
	if conf.GetName() == "" {
		return nil, errors.New("MSP configuration: name is empty")
	}
	if f := conf.GetCryptoConfig().GetSignatureHashFamily(); f != "" && f != "SHA2" {
		return nil, fmt.Errorf("MSP %q: crypto_config.signature_hash_family is %q: only SHA2 is supported", conf.GetName(), f)
	}
	if f := conf.GetCryptoConfig().GetIdentityIdentifierHashFunction(); f != "" && f != "SHA256" {
		return nil, fmt.Errorf("MSP %q: crypto_config.identity_identifier_hash_function is %q: only SHA256 is supported", conf.GetName(), f)
	}
	return conf, nil
}

// setAuthorities reads the roots, which must have signed themselves, and the
// intermediates, and finds how they hang together.
func (m *provider) setAuthorities(ctx context.Context, conf *msppb.FabricMSPConfig) error {
	if len(conf.GetRootCerts()) == 0 {
		return errors.New("root_certs is empty: give at least one CA certificate")
	}
	var roots, intermediates []*authority
	for i, text := range conf.GetRootCerts() {
		a, err := newAuthority(text)
		if err != nil {
			return fmt.Errorf("root_certs[%d]: %w", i, err)
		}
		ok, err := a.issued(ctx, m.verifier, a.cert)
		if err != nil {
			return fmt.Errorf("root_certs[%d]: %w", i, err)
		}
		if !ok {
			return fmt.Errorf("root_certs[%d]: certificate %q did not sign itself: put it among the intermediates and give its root", i, a.cert.Subject)
		}
		if err := a.lower(a.key.Curve()); err != nil {
			return fmt.Errorf("root_certs[%d]: %w", i, err)
		}
		roots = append(roots, a)
		m.roots = append(m.roots, text)
	}
	for i, text := range conf.GetIntermediateCerts() {
		a, err := newAuthority(text)
		if err != nil {
			return fmt.Errorf("intermediate_certs[%d]: %w", i, err)
		}
		intermediates = append(intermediates, a)
	}
	m.authorities = append(append(m.authorities, roots...), intermediates...)
	if err := m.linkAuthorities(ctx, roots, intermediates); err != nil {
		return fmt.Errorf("intermediate_certs: %w", err)
	}
	for i, a := range intermediates {
		if len(a.paths) == 0 {
			return fmt.Errorf("intermediate_certs[%d]: certificate %q: %w", i, a.cert.Subject, errNoChain)
		}
		if err := a.lower(a.paths[0][1].key.Curve()); err != nil {
			return fmt.Errorf("intermediate_certs[%d]: %w", i, err)
		}
	}
	return nil
}

func newAuthority(text []byte) (*authority, error) {
	cert, err := firstCertificate(text)
	if err != nil {
		return nil, err
	}
	switch {
	case !cert.IsCA:
		return nil, fmt.Errorf("certificate %q is not a CA's: its basic constraints lack the CA flag", cert.Subject)
	case len(cert.SubjectKeyId) == 0:
		return nil, fmt.Errorf("certificate %q has no subject key identifier", cert.Subject)
	case hasExtension(cert, oidNameConstraints) || hasExtension(cert, oidPolicyConstraints):
		return nil, fmt.Errorf("certificate %q has name or policy constraints, which are not supported: use a CA certificate without them", cert.Subject)
	}
	key, err := bccsp.NewPublicKey(cert.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("certificate %q: %w", cert.Subject, err)
	}
	return &authority{cert: cert, key: key, revoked: map[string]bool{}}, nil
}

func (a *authority) lower(issuer elliptic.Curve) error {
	cert, err := withLowS(a.cert, issuer)
	if err != nil {
		return err
	}
	a.cert = cert
	return nil
}

// setRevocations reads the revocation lists. A list counts for the authorities
// whose subject key identifier it names and who signed it; another is passed over,
// as Fabric does.
func (m *provider) setRevocations(ctx context.Context, conf *msppb.FabricMSPConfig) error {
	for i, raw := range conf.GetRevocationList() {
		der := raw
		if block, _ := pem.Decode(raw); block != nil && block.Type == "X509 CRL" {
			der = block.Bytes
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return fmt.Errorf("revocation_list[%d]: %w", i, err)
		}
		if len(list.AuthorityKeyId) == 0 && m.crlFault == "" {
			m.crlFault = fmt.Sprintf("revocation_list[%d] of the MSP has no authority key identifier", i)
		}
		for _, a := range m.authorities {
			if !bytes.Equal(a.cert.SubjectKeyId, list.AuthorityKeyId) {
				continue
			}
			ok, err := verifySignature(ctx, m.verifier, a.key, list.SignatureAlgorithm, list.RawTBSRevocationList, list.Signature, true)
			if err != nil {
				return fmt.Errorf("revocation_list[%d]: %w", i, err)
			}
			if !ok {
				continue
			}
			for _, entry := range list.RevokedCertificateEntries {
				a.revoked[entry.SerialNumber.String()] = true
			}
		}
	}
	return nil
}

// checkIntermediates validates each intermediate and marks what is above it.
func (m *provider) checkIntermediates(ctx context.Context, conf *msppb.FabricMSPConfig) error {
	first := len(conf.GetRootCerts())
	for i, a := range m.authorities[first:] {
		path, verdict, err := m.chain(ctx, a.cert)
		if err != nil {
			return fmt.Errorf("intermediate_certs[%d]: %w", i, err)
		}
		if verdict == nil {
			verdict = m.revocation(a.cert, path)
		}
		if verdict != nil {
			return fmt.Errorf("intermediate_certs[%d]: certificate %q: %w", i, a.cert.Subject, verdict)
		}
		for _, above := range path {
			above.internal = true
		}
	}
	return nil
}

// setTLS keeps the TLS authorities for those who build TLS configurations. Their
// expiry is not looked at here: it is a matter of the clock.
func (m *provider) setTLS(_ context.Context, conf *msppb.FabricMSPConfig) error {
	check := func(field string, texts [][]byte) error {
		for i, text := range texts {
			cert, err := firstCertificate(text)
			if err != nil {
				return fmt.Errorf("%s[%d]: %w", field, i, err)
			}
			if !cert.IsCA || len(cert.SubjectKeyId) == 0 {
				return fmt.Errorf("%s[%d]: certificate %q lacks the CA flag or a subject key identifier", field, i, cert.Subject)
			}
		}
		return nil
	}
	m.tlsRoots, m.tlsIntermediates = conf.GetTlsRootCerts(), conf.GetTlsIntermediateCerts()
	if err := check("tls_root_certs", m.tlsRoots); err != nil {
		return err
	}
	return check("tls_intermediate_certs", m.tlsIntermediates)
}

func (m *provider) setUnits(_ context.Context, conf *msppb.FabricMSPConfig) error {
	for i, u := range conf.GetOrganizationalUnitIdentifiers() {
		certifiers, err := m.certifiers(u.GetCertificate())
		if err != nil {
			return fmt.Errorf("organizational_unit_identifiers[%d].certificate: %w", i, err)
		}
		m.units = append(m.units, unit{Name: u.GetOrganizationalUnitIdentifier(), Certifiers: certifiers})
	}
	return nil
}

func (m *provider) setNodeOUs(_ context.Context, conf *msppb.FabricMSPConfig) error {
	n := conf.GetFabricNodeOus()
	m.enforceOUs = n.GetEnable()
	any := false
	for _, f := range []struct {
		field string
		from  *msppb.FabricOUIdentifier
		to    **unit
	}{
		{"client_ou_identifier", n.GetClientOuIdentifier(), &m.client},
		{"peer_ou_identifier", n.GetPeerOuIdentifier(), &m.peer},
		{"admin_ou_identifier", n.GetAdminOuIdentifier(), &m.adminUnit},
		{"orderer_ou_identifier", n.GetOrdererOuIdentifier(), &m.orderer},
	} {
		if f.from == nil {
			continue
		}
		any = true
		u := &unit{Name: f.from.GetOrganizationalUnitIdentifier()}
		if len(f.from.GetCertificate()) > 0 {
			certifiers, err := m.certifiers(f.from.GetCertificate())
			if err != nil {
				return fmt.Errorf("fabric_node_ous.%s.certificate: %w", f.field, err)
			}
			u.Certifiers = certifiers
		}
		*f.to = u
	}
	m.enforceOUs = m.enforceOUs && any
	return nil
}

// certifiers is the chain identifier of one of the MSP's own authorities.
func (m *provider) certifiers(text []byte) ([]byte, error) {
	cert, err := firstCertificate(text)
	if err != nil {
		return nil, err
	}
	for _, a := range m.authorities {
		issuer := a
		if len(a.paths[0]) > 1 {
			issuer = a.paths[0][1]
		}
		low, err := withLowS(cert, issuer.key.Curve())
		if err != nil || !low.Equal(a.cert) {
			continue
		}
		if len(a.paths[0]) > 1 && a.internal {
			return nil, fmt.Errorf("CA %q has an intermediate below it: name a CA that issues identities", cert.Subject)
		}
		return certifiersID(a.paths[0]), nil
	}
	return nil, fmt.Errorf("certificate %q is not among the MSP's root or intermediate certificates", cert.Subject)
}

// setAdmins reads the list of administrators and validates each of them.
func (m *provider) setAdmins(ctx context.Context, conf *msppb.FabricMSPConfig) error {
	m.admins = make(map[[sha256.Size]byte]bool, len(conf.GetAdmins()))
	if len(conf.GetAdmins()) == 0 && (!m.enforceOUs || m.adminUnit == nil) {
		return errors.New("admins is empty and no node OU makes administrators: give an administrator's certificate, or enable fabric_node_ous with an admin_ou_identifier")
	}
	for i, text := range conf.GetAdmins() {
		cert, err := firstCertificate(text)
		if err != nil {
			return fmt.Errorf("admins[%d]: %w", i, err)
		}
		chain, verdict, err := m.chain(ctx, cert)
		if err != nil {
			return fmt.Errorf("admins[%d]: %w", i, err)
		}
		if verdict == nil {
			verdict = m.checkAdmin(cert, chain)
		}
		if verdict != nil {
			return fmt.Errorf("admins[%d]: certificate %q: %w", i, cert.Subject, verdict)
		}
		low, err := withLowS(cert, chain[0].key.Curve())
		if err != nil {
			return fmt.Errorf("admins[%d]: %w", i, err)
		}
		m.admins[sha256.Sum256(low.Raw)] = true
	}
	return nil
}

// checkAdmin: without node OUs an administrator must be a valid identity; with
// them Fabric only asks that it is a client or an admin.
func (m *provider) checkAdmin(cert *x509.Certificate, chain []*authority) error {
	if err := mayBeIdentity(cert, chain); err != nil {
		return err
	}
	ous := unitsOf(cert, chain)
	if m.enforceOUs {
		if !hasUnit(ous, m.client) && !hasUnit(ous, m.adminUnit) {
			return errors.New("node OUs are enabled and it is neither of the client nor of the admin unit")
		}
		return nil
	}
	if err := m.revocation(cert, chain); err != nil {
		return err
	}
	return m.checkUnits(ous)
}
