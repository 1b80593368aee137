package msp

import (
	"bytes"
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"

	_ "crypto/sha1"   // crypto.SHA1, for the CRLs of old CAs
	_ "crypto/sha256" // crypto.SHA256
	_ "crypto/sha512" // crypto.SHA384 and crypto.SHA512

	"strongroom/bccsp"
)

const certificateType = "CERTIFICATE"

var (
	oidSubjectAltName    = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidNameConstraints   = asn1.ObjectIdentifier{2, 5, 29, 30}
	oidPolicyConstraints = asn1.ObjectIdentifier{2, 5, 29, 36}
)

// oneCertificate returns the DER of a PEM text that holds exactly one certificate.
// Text before the block is allowed, as in Fabric; after it only white space is.
func oneCertificate(text []byte) ([]byte, error) {
	block, rest := pem.Decode(text)
	switch {
	case block == nil:
		return nil, errors.New("not a certificate in PEM")
	case block.Type != certificateType:
		return nil, fmt.Errorf("PEM block is of type %q, not CERTIFICATE", block.Type)
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, fmt.Errorf("%d bytes follow the certificate: give exactly one", len(rest))
	}
	return block.Bytes, nil
}

// firstCertificate reads the first PEM block as Fabric does when it reads an
// identity or a configuration: the block's type and what follows are not looked
// at. Being stricter here would make another verdict than Fabric's.
func firstCertificate(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("not a certificate in PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return cert, nil
}

// signatureHash is the hash of an ECDSA signature algorithm. SHA-1 is good for
// revocation lists only, as in crypto/x509.
func signatureHash(algorithm x509.SignatureAlgorithm, forCRL bool) (crypto.Hash, bool) {
	switch algorithm {
	case x509.ECDSAWithSHA256:
		return crypto.SHA256, true
	case x509.ECDSAWithSHA384:
		return crypto.SHA384, true
	case x509.ECDSAWithSHA512:
		return crypto.SHA512, true
	case x509.ECDSAWithSHA1:
		return crypto.SHA1, forCRL
	}
	return 0, false
}

// TokenError says that the token could not answer, or was not waited for. It tells
// nothing about what was asked: neither a configuration nor an identity is at fault.
type TokenError struct{ Err error }

// Error is the token's own error.
func (e *TokenError) Error() string { return e.Err.Error() }

// Unwrap returns the token's own error.
func (e *TokenError) Unwrap() error { return e.Err }

// verifySignature asks the token whether key signed tbs. A false signature, or
// one of an algorithm that cannot be the key's, gives false without an error.
func verifySignature(ctx context.Context, v bccsp.Verifier, key *bccsp.PublicKey, algorithm x509.SignatureAlgorithm, tbs, sig []byte, forCRL bool) (bool, error) {
	hash, ok := signatureHash(algorithm, forCRL)
	if !ok {
		return false, nil
	}
	h := hash.New()
	h.Write(tbs)
	err := v.VerifyX509(ctx, key, h.Sum(nil), sig)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, bccsp.ErrBadSignature):
		return false, nil
	}
	return false, &TokenError{Err: err}
}

type ecdsaSignature struct{ R, S *big.Int }

// withLowS returns the certificate with its signature's S in the lower half of
// the order of the issuer's curve, which is the form in which Fabric compares
// and hashes certificates. A certificate that is in that form is returned itself.
func withLowS(cert *x509.Certificate, issuer elliptic.Curve) (*x509.Certificate, error) {
	var sig ecdsaSignature
	if _, err := asn1.Unmarshal(cert.Signature, &sig); err != nil {
		return nil, fmt.Errorf("certificate's signature: %w", err)
	}
	order := issuer.Params().N
	if sig.S.Cmp(new(big.Int).Rsh(order, 1)) > 0 {
		sig.S = new(big.Int).Sub(order, sig.S)
	}
	low, err := asn1.Marshal(sig)
	if err != nil {
		return nil, fmt.Errorf("certificate's signature: %w", err)
	}
	if bytes.Equal(low, cert.Signature) {
		return cert, nil
	}
	var whole struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(cert.Raw, &whole); err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	whole.Signature = asn1.BitString{Bytes: low, BitLength: len(low) * 8}
	raw, err := asn1.Marshal(whole)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	lowered, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, fmt.Errorf("certificate with low S: %w", err)
	}
	return lowered, nil
}

func hasExtension(cert *x509.Certificate, oid asn1.ObjectIdentifier) bool {
	return extension(cert, oid) != nil
}

func extension(cert *x509.Certificate, oid asn1.ObjectIdentifier) *pkix.Extension {
	for i := range cert.Extensions {
		if cert.Extensions[i].Id.Equal(oid) {
			return &cert.Extensions[i]
		}
	}
	return nil
}
