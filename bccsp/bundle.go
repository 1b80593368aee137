package bccsp

import (
	"context"
	"crypto/elliptic"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
)

// BundleFile is one file of a policy bundle: its name and the hash of its content, as
// Open Policy Agent's bundle format has them.
type BundleFile struct {
	Name      string `json:"name"`
	Hash      string `json:"hash"`      // lower-case hex
	Algorithm string `json:"algorithm"` // "SHA-256"
}

// BundleClaims is what the signature of a policy bundle says.
type BundleClaims struct {
	Files []BundleFile `json:"files"`
	KeyID string       `json:"keyid,omitempty"`
	Scope string       `json:"scope,omitempty"`
}

// SignBundle signs a policy bundle as Open Policy Agent does: it builds a JSON Web
// Signature in compact form (RFC 7515 section 7.1) over the claims, with ES256 (RFC
// 7518 section 3.4). The key must be on P-256.
func (s *Signer) SignBundle(ctx context.Context, claims BundleClaims) (string, error) {
	if s.PublicKey().Curve() != elliptic.P256() {
		return "", fmt.Errorf("sign a policy bundle: the key is on %s: ES256 needs P-256", s.PublicKey().Curve().Params().Name)
	}
	if len(claims.Files) == 0 || claims.KeyID == "" {
		return "", errors.New("sign a policy bundle: the claims need files and a key id")
	}
	header, err := json.Marshal(map[string]string{"alg": "ES256", "kid": claims.KeyID, "typ": "JWT"})
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	input := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(payload)
	der, err := s.sign(ctx, []byte(input))
	if err != nil {
		return "", err
	}
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) > 0 || sig.R.Sign() <= 0 || sig.S.Sign() <= 0 || sig.R.BitLen() > 256 || sig.S.BitLen() > 256 {
		return "", errors.New("sign a policy bundle: the token's signature is not ECDSA on P-256")
	}
	raw := make([]byte, 64)
	sig.R.FillBytes(raw[:32])
	sig.S.FillBytes(raw[32:])
	return input + "." + base64.RawURLEncoding.EncodeToString(raw), nil
}
