package main

import (
	"context"
	"crypto/ecdsa"
	"encoding/asn1"
	"fmt"
	"math/big"

	"strongroom/bccsp"
)

// software checks signatures in Go: an auditor needs no HSM of the peer's. It has
// the verdicts of bccsp.Verifier.
type software struct{}

func (software) Verify(_ context.Context, key *bccsp.PublicKey, digest, sig []byte) error {
	var parsed struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(sig, &parsed); err != nil || len(rest) > 0 {
		return fmt.Errorf("%w: not an ASN.1 DER signature", bccsp.ErrBadSignature)
	}
	half := new(big.Int).Rsh(key.Curve().Params().N, 1)
	if parsed.S.Cmp(half) > 0 {
		return fmt.Errorf("%w: S is not low", bccsp.ErrBadSignature)
	}
	return software{}.VerifyX509(context.Background(), key, digest, sig)
}

func (software) VerifyX509(_ context.Context, key *bccsp.PublicKey, digest, sig []byte) error {
	if !ecdsa.VerifyASN1(key.ECDSA(), digest, sig) {
		return bccsp.ErrBadSignature
	}
	return nil
}
