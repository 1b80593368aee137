package msp

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
)

// maxCombined bounds how deep combined principals may be nested. Fabric has no
// bound of its own but those of its protobuf parser.
const maxCombined = 1000

// Satisfies tells whether an identity of this set satisfies a principal, with
// Fabric's meaning:
//
//   - ROLE: of that MSP, and MEMBER: valid; ADMIN: listed as an administrator, or
//     of the admin node OU; CLIENT, PEER, ORDERER: of that node OU;
//   - ORGANIZATION_UNIT: of that MSP and unit, certified by that chain;
//   - IDENTITY: the same certificate, its signature's S taken as low;
//   - ANONYMITY: NOMINAL is satisfied by every identity, ANONYMOUS by none;
//   - COMBINED: all of the principals in it.
//
// The answer is a pure function of the configuration and the principal. An error
// says that the principal is malformed; Fabric counts it as not satisfied.
func (s *Set) Satisfies(id *Identity, p *commonpb.MSPPrincipal) (bool, error) {
	if id == nil {
		return false, errors.New("principal: no identity given")
	}
	return satisfies(id, p, 0)
}

func satisfies(id *Identity, p *commonpb.MSPPrincipal, depth int) (bool, error) {
	switch class := p.GetPrincipalClassification(); class {
	case commonpb.MSPPrincipal_ROLE:
		return satisfiesRole(id, p.GetPrincipal())
	case commonpb.MSPPrincipal_ORGANIZATION_UNIT:
		return satisfiesUnit(id, p.GetPrincipal())
	case commonpb.MSPPrincipal_IDENTITY:
		return satisfiesIdentity(id, p.GetPrincipal())
	case commonpb.MSPPrincipal_ANONYMITY:
		return satisfiesAnonymity(p.GetPrincipal())
	case commonpb.MSPPrincipal_COMBINED:
		return satisfiesCombined(id, p.GetPrincipal(), depth)
	default:
		return false, fmt.Errorf("principal: classification %d is unknown", class)
	}
}

func satisfiesRole(id *Identity, b []byte) (bool, error) {
	role := &commonpb.MSPRole{}
	if err := proto.Unmarshal(b, role); err != nil {
		return false, fmt.Errorf("principal: MSPRole: %w", err)
	}
	if ID(role.GetMspIdentifier()) != id.MSPID {
		return false, nil
	}
	m := id.provider
	switch role.GetRole() {
	case commonpb.MSPRole_MEMBER:
		return true, nil
	case commonpb.MSPRole_ADMIN:
		return id.listedAdmin || m.enforceOUs && hasUnit(id.OUs, m.adminUnit), nil
	case commonpb.MSPRole_CLIENT:
		return m.enforceOUs && hasUnit(id.OUs, m.client), nil
	case commonpb.MSPRole_PEER:
		return m.enforceOUs && hasUnit(id.OUs, m.peer), nil
	case commonpb.MSPRole_ORDERER:
		return m.enforceOUs && hasUnit(id.OUs, m.orderer), nil
	}
	return false, fmt.Errorf("principal: role %d is unknown", role.GetRole())
}

func satisfiesUnit(id *Identity, b []byte) (bool, error) {
	want := &commonpb.OrganizationUnit{}
	if err := proto.Unmarshal(b, want); err != nil {
		return false, fmt.Errorf("principal: OrganizationUnit: %w", err)
	}
	if ID(want.GetMspIdentifier()) != id.MSPID {
		return false, nil
	}
	for _, ou := range id.OUs {
		if ou.Name == want.GetOrganizationalUnitIdentifier() && bytes.Equal(ou.Certifiers, want.GetCertifiersIdentifier()) {
			return true, nil
		}
	}
	return false, nil
}

func satisfiesIdentity(id *Identity, b []byte) (bool, error) {
	sid := &msppb.SerializedIdentity{}
	if err := proto.Unmarshal(b, sid); err != nil {
		return false, fmt.Errorf("principal: SerializedIdentity: %w", err)
	}
	if ID(sid.GetMspid()) != id.MSPID {
		return false, nil
	}
	cert, err := firstCertificate(sid.GetIdBytes())
	if err != nil {
		return false, fmt.Errorf("principal: SerializedIdentity: %w", err)
	}
	if !bytes.Equal(cert.RawTBSCertificate, id.Certificate.RawTBSCertificate) {
		return false, nil
	}
	// Only a certificate of the same content is looked at further, so the issuer's
	// curve is the same.
	low, err := withLowS(cert, id.issuer)
	if err != nil {
		return false, fmt.Errorf("principal: SerializedIdentity: %w", err)
	}
	return sha256.Sum256(low.Raw) == id.certificateID, nil
}

func satisfiesAnonymity(b []byte) (bool, error) {
	anonymity := &commonpb.MSPIdentityAnonymity{}
	if err := proto.Unmarshal(b, anonymity); err != nil {
		return false, fmt.Errorf("principal: MSPIdentityAnonymity: %w", err)
	}
	switch anonymity.GetAnonymityType() {
	case commonpb.MSPIdentityAnonymity_NOMINAL:
		return true, nil
	case commonpb.MSPIdentityAnonymity_ANONYMOUS:
		return false, nil
	}
	return false, fmt.Errorf("principal: anonymity %d is unknown", anonymity.GetAnonymityType())
}

// satisfiesCombined looks at every part, so that a malformed one is found whatever
// stands before it: Fabric collects all parts first.
func satisfiesCombined(id *Identity, b []byte, depth int) (bool, error) {
	if depth >= maxCombined {
		return false, fmt.Errorf("principal: combined more than %d levels deep", maxCombined)
	}
	combined := &commonpb.CombinedPrincipal{}
	if err := proto.Unmarshal(b, combined); err != nil {
		return false, fmt.Errorf("principal: CombinedPrincipal: %w", err)
	}
	if len(combined.GetPrincipals()) == 0 {
		return false, errors.New("principal: CombinedPrincipal is empty")
	}
	all := true
	for _, p := range combined.GetPrincipals() {
		ok, err := satisfies(id, p, depth+1)
		if err != nil {
			return false, err
		}
		all = all && ok
	}
	return all, nil
}
