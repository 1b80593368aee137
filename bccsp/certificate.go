package bccsp

import (
	"context"
	"crypto"
	_ "crypto/sha256" // the hashes that ecdsaHash names
	_ "crypto/sha512"
	"crypto/x509"
	"fmt"
)

// VerifyCertificate checks a certificate's signature by its issuer's key in the
// token. It says nothing about validity periods, constraints or usages.
func VerifyCertificate(ctx context.Context, v Verifier, certificate, issuer *x509.Certificate) error {
	if err := verifyX509(ctx, v, certificate.RawTBSCertificate, certificate.Signature, certificate.SignatureAlgorithm, issuer); err != nil {
		return fmt.Errorf("certificate %q issued by %q: %w", certificate.Subject, issuer.Subject, err)
	}
	return nil
}

// VerifyRevocationList checks a revocation list's signature by its issuer's key in
// the token.
func VerifyRevocationList(ctx context.Context, v Verifier, list *x509.RevocationList, issuer *x509.Certificate) error {
	if err := verifyX509(ctx, v, list.RawTBSRevocationList, list.Signature, list.SignatureAlgorithm, issuer); err != nil {
		return fmt.Errorf("revocation list issued by %q: %w", issuer.Subject, err)
	}
	return nil
}

func verifyX509(ctx context.Context, v Verifier, signed, signature []byte, algorithm x509.SignatureAlgorithm, issuer *x509.Certificate) error {
	hash, err := ecdsaHash(algorithm)
	if err != nil {
		return err
	}
	key, err := NewPublicKey(issuer.PublicKey)
	if err != nil {
		return err
	}
	h := hash.New()
	h.Write(signed)
	return v.VerifyX509(ctx, key, h.Sum(nil), signature)
}

// ecdsaHash is the hash of an ECDSA signature algorithm (RFC 5758 section 3.2).
func ecdsaHash(algorithm x509.SignatureAlgorithm) (crypto.Hash, error) {
	switch algorithm {
	case x509.ECDSAWithSHA256:
		return crypto.SHA256, nil
	case x509.ECDSAWithSHA384:
		return crypto.SHA384, nil
	case x509.ECDSAWithSHA512:
		return crypto.SHA512, nil
	}
	return 0, fmt.Errorf("signature algorithm %s is not supported: ECDSA with SHA-256, SHA-384 or SHA-512 is needed", algorithm)
}
