package msp

import (
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"strings"
	"sync"
	"time"

	"strongroom/bccsp"
)

// ID names a membership service provider, such as "Org1MSP".
type ID string

// Role is the kind of node or user that an identity's node OU makes it.
type Role uint8

// The roles of node OUs. RoleNone is the role of every identity of an MSP that
// does not enforce node OUs.
const (
	RoleNone Role = iota
	RoleClient
	RolePeer
	RoleAdmin
	RoleOrderer
)

// String is the role's name as policies write it, and "none" for RoleNone.
func (r Role) String() string {
	switch r {
	case RoleClient:
		return "client"
	case RolePeer:
		return "peer"
	case RoleAdmin:
		return "admin"
	case RoleOrderer:
		return "orderer"
	}
	return "none"
}

// OU is an organizational unit of a certificate's subject.
type OU struct {
	Name string
	// Certifiers names the chain that vouches for the unit: the SHA-256 over the
	// certificates from the identity's issuer up to the root.
	Certifiers []byte
}

// InvalidError is the deterministic verdict that bytes are not a valid identity
// of the channel. A failure of the token is never an InvalidError.
type InvalidError struct {
	MSPID  ID // as the bytes claim, "" if they do not parse
	Reason string
}

// Error names the MSP and the reason.
func (e *InvalidError) Error() string {
	return fmt.Sprintf("identity of MSP %q is invalid: %s", string(e.MSPID), e.Reason)
}

// UnsupportedError says that an identity is valid in Fabric but has a key that
// this node's tokens cannot verify. It is not a verdict that may go into a block:
// other peers would come to another one.
type UnsupportedError struct {
	MSPID   ID
	Subject string // of the certificate
	Reason  string
}

// Error names the identity, the reason and the way out.
func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("identity %q of MSP %q is valid but not supported: %s: enrol it with a P-256 or P-384 key", e.Subject, string(e.MSPID), e.Reason)
}

// Identity is a valid member of an MSP of the channel. It is immutable, shared
// and safe for concurrent use; nothing may change its slices.
type Identity struct {
	MSPID       ID
	Serialized  []byte            // msp.SerializedIdentity, as it was received
	Certificate *x509.Certificate // with its signature's S as it was received
	PublicKey   *bccsp.PublicKey
	OUs         []OU
	Role        Role

	id            [sha256.Size]byte
	certificateID [sha256.Size]byte
	issuer        elliptic.Curve // of the issuer's key: says which S is low
	listedAdmin   bool           // in the MSP's list of administrators
	verifier      bccsp.Verifier
	provider      *provider
	attrs         func() (map[string]string, error)
}

// ID is the SHA-256 of Serialized: a key for logs and caches.
func (i *Identity) ID() [sha256.Size]byte { return i.id }

// CertificateID is the SHA-256 of the certificate with low S. Within an MSP it
// tells identities apart as Fabric does (IdentityIdentifier): the same certificate
// in another PEM text has another ID and the same CertificateID.
func (i *Identity) CertificateID() [sha256.Size]byte { return i.certificateID }

// ExpiresAt is the end of the certificate's validity, in UTC. Only the edges
// compare it with a clock: no verdict on a block depends on it.
func (i *Identity) ExpiresAt() time.Time { return i.Certificate.NotAfter }

// Verify checks an ECDSA signature with low S over the SHA-256 of message, in the
// token. It returns an error that wraps bccsp.ErrBadSignature when the signature
// is not this identity's; every other error is the device's.
func (i *Identity) Verify(ctx context.Context, message, sig []byte) error {
	digest := sha256.Sum256(message)
	return i.VerifyDigest(ctx, digest[:], sig)
}

// VerifyDigest is Verify for a message that the caller has hashed with SHA-256.
func (i *Identity) VerifyDigest(ctx context.Context, digest, sig []byte) error {
	if err := i.verifier.Verify(ctx, i.PublicKey, digest, sig); err != nil {
		return fmt.Errorf("signature of %s: %w", i, err)
	}
	return nil
}

// Attributes are those that a Fabric CA wrote into the certificate (extension
// 1.2.3.4.5.6.7.8.1), parsed at the first call; empty without the extension. The
// caller must not change the map. An error says that the extension is malformed.
func (i *Identity) Attributes() (map[string]string, error) { return i.attrs() }

// String names the identity for logs: its MSP and the subject's common name.
func (i *Identity) String() string {
	return fmt.Sprintf("%s/%q", i.MSPID, strings.TrimSpace(i.Certificate.Subject.CommonName))
}

func lazyAttributes(cert *x509.Certificate) func() (map[string]string, error) {
	return sync.OnceValues(func() (map[string]string, error) { return parseAttributes(cert) })
}
