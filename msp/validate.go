package msp

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"

	"strongroom/bccsp"
)

// validate makes an Identity of a certificate, in the order of Fabric's checks. The
// error is an *InvalidError, an *UnsupportedError or the token's.
func (m *provider) validate(ctx context.Context, serialized, text []byte) (*Identity, error) {
	invalid := func(verdict error) error { return &InvalidError{MSPID: m.id, Reason: verdict.Error()} }
	cert, err := firstCertificate(text)
	if err != nil {
		return nil, invalid(err)
	}
	chain, verdict, err := m.chain(ctx, cert)
	if err != nil {
		return nil, fmt.Errorf("identity of MSP %q: check the certificate chain: %w", string(m.id), err)
	}
	if verdict != nil {
		return nil, invalid(verdict)
	}
	if err := mayBeIdentity(cert, chain); err != nil {
		return nil, invalid(err)
	}
	if err := m.revocation(cert, chain); err != nil {
		return nil, invalid(err)
	}
	ous := unitsOf(cert, chain)
	if err := m.checkUnits(ous); err != nil {
		return nil, invalid(err)
	}
	key, err := m.publicKey(cert)
	if err != nil {
		return nil, err
	}
	low, err := withLowS(cert, chain[0].key.Curve())
	if err != nil {
		return nil, invalid(err)
	}
	id := &Identity{
		MSPID: m.id, Serialized: serialized, Certificate: cert, PublicKey: key, OUs: ous,
		id: sha256.Sum256(serialized), certificateID: sha256.Sum256(low.Raw), issuer: chain[0].key.Curve(),
		verifier: m.verifier, attrs: lazyAttributes(cert), provider: m,
	}
	id.listedAdmin = m.admins[id.certificateID]
	id.Role = m.role(ous)
	return id, nil
}

// publicKey imports an identity's key. What Fabric cannot verify either makes the
// identity invalid; what only we cannot verify is an *UnsupportedError, because a
// verdict that other peers do not share would split the channel.
func (m *provider) publicKey(cert *x509.Certificate) (*bccsp.PublicKey, error) {
	key, err := bccsp.NewPublicKey(cert.PublicKey)
	if err == nil {
		return key, nil
	}
	unsupported := false
	switch cert.PublicKey.(type) {
	case *ecdsa.PublicKey:
		unsupported = true
	case ed25519.PublicKey:
		unsupported = m.edwards
	}
	if unsupported {
		return nil, &UnsupportedError{MSPID: m.id, Subject: cert.Subject.String(), Reason: err.Error()}
	}
	return nil, &InvalidError{MSPID: m.id, Reason: err.Error()}
}

// mayBeIdentity: a CA is nobody's identity, and an authority with an intermediate
// below it does not issue identities.
func mayBeIdentity(cert *x509.Certificate, chain []*authority) error {
	if cert.IsCA {
		return errors.New("a CA's certificate cannot be used as an identity")
	}
	if chain[0].internal {
		return fmt.Errorf("issuer %q has an intermediate CA below it and may not issue identities", chain[0].cert.Subject)
	}
	return nil
}

// revocation looks the certificate up in the lists that its issuer signed. The
// date of a revocation does not matter: it counts once the configuration has it.
func (m *provider) revocation(cert *x509.Certificate, chain []*authority) error {
	if m.crlFault != "" {
		return errors.New(m.crlFault)
	}
	issuer := chain[0]
	if len(issuer.revoked) > 0 && issuer.revoked[cert.SerialNumber.String()] {
		return fmt.Errorf("certificate with serial number %x was revoked by %q", cert.SerialNumber, issuer.cert.Subject)
	}
	return nil
}

func unitsOf(cert *x509.Certificate, chain []*authority) []OU {
	if len(cert.Subject.OrganizationalUnit) == 0 {
		return nil
	}
	certifiers := certifiersID(chain)
	ous := make([]OU, len(cert.Subject.OrganizationalUnit))
	for i, name := range cert.Subject.OrganizationalUnit {
		ous[i] = OU{Name: name, Certifiers: certifiers}
	}
	return ous
}

// checkUnits applies the rules on organizational units. With node OUs the
// certificate must name exactly one role, once, with the right chain; without
// them it needs one of the units that the configuration lists, if it lists any.
func (m *provider) checkUnits(ous []OU) error {
	if !m.enforceOUs {
		return m.checkListedUnits(ous)
	}
	roles := 0
	for _, ou := range ous {
		node := m.nodeUnit(ou.Name)
		if node == nil {
			continue
		}
		if len(node.Certifiers) > 0 && !bytes.Equal(node.Certifiers, ou.Certifiers) {
			return fmt.Errorf("organizational unit %q must be certified by another CA of the MSP", ou.Name)
		}
		roles++
	}
	if roles != 1 {
		return fmt.Errorf("certificate names %d of the MSP's node OUs: exactly one of client, peer, admin and orderer is needed", roles)
	}
	return nil
}

func (m *provider) checkListedUnits(ous []OU) error {
	if len(m.units) == 0 {
		return nil
	}
	for _, ou := range ous {
		for _, u := range m.units {
			if u.Name == ou.Name && bytes.Equal(u.Certifiers, ou.Certifiers) {
				return nil
			}
		}
	}
	return errors.New("certificate names none of the organizational units that the MSP asks for")
}

// nodeUnit is the node OU of a name. Where two roles share a name the later one
// counts, as in Fabric.
func (m *provider) nodeUnit(name string) *unit {
	for _, u := range []*unit{m.orderer, m.adminUnit, m.peer, m.client} {
		if u != nil && u.Name == name {
			return u
		}
	}
	return nil
}

// role is the first role whose node OU the certificate names.
func (m *provider) role(ous []OU) Role {
	if !m.enforceOUs {
		return RoleNone
	}
	switch {
	case hasUnit(ous, m.client):
		return RoleClient
	case hasUnit(ous, m.peer):
		return RolePeer
	case hasUnit(ous, m.adminUnit):
		return RoleAdmin
	case hasUnit(ous, m.orderer):
		return RoleOrderer
	}
	return RoleNone
}

func hasUnit(ous []OU, u *unit) bool {
	if u == nil {
		return false
	}
	for _, ou := range ous {
		if ou.Name == u.Name {
			return true
		}
	}
	return false
}
