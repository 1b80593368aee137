package provision

import (
	"crypto"
	"crypto/ecdsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
)

// lowSigner makes the signatures of a token's key low in S, which Fabric asks of
// identities' certificates.
type lowSigner struct {
	crypto.Signer
	order, half *big.Int
}

func newLowSigner(key crypto.Signer) (*lowSigner, error) {
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("key is a %T: ECDSA on P-256 or P-384 is needed", key.Public())
	}
	n := public.Params().N
	return &lowSigner{Signer: key, order: n, half: new(big.Int).Rsh(n, 1)}, nil
}

// Sign signs a digest in the token.
func (l *lowSigner) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	der, err := l.Signer.Sign(random, digest, opts)
	if err != nil {
		return nil, err
	}
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) > 0 {
		return nil, errors.New("token's signature is not the DER of r and s")
	}
	if sig.S.Cmp(l.half) <= 0 {
		return der, nil
	}
	sig.S.Sub(l.order, sig.S)
	return asn1.Marshal(sig)
}
