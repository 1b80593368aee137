package appliance

import (
	"context"
	"fmt"
	"os"

	"strongroom/appliance/config"
	"strongroom/bccsp"
	"strongroom/msp"
)

// keyHolder finds signing keys: a token, or a group of them.
type keyHolder interface {
	bccsp.Verifier
	SignerOf(ctx context.Context, public *bccsp.PublicKey, label string) (*bccsp.Signer, error)
	TLSKeyOf(ctx context.Context, public *bccsp.PublicKey, label string) (*bccsp.TLSKey, error)
}

// LoadIdentity finds the key of a node's certificate in the token and proves that they
// belong together. The certificate names the key by its public half; node.key, the label
// of the node's first key, decides where the token has that key several times.
func LoadIdentity(ctx context.Context, token keyHolder, n config.Node) (*msp.LocalIdentity, error) {
	certificate, err := os.ReadFile(n.Certificate)
	if err != nil {
		return nil, fmt.Errorf("node.certificate: %w", err)
	}
	identity, err := bindIdentity(ctx, token, n, certificate)
	if err != nil {
		return nil, fmt.Errorf("node.certificate, node.key: %w", err)
	}
	return identity, nil
}

// bindIdentity is LoadIdentity with the certificate's PEM.
func bindIdentity(ctx context.Context, token keyHolder, n config.Node, certificate []byte) (*msp.LocalIdentity, error) {
	chain, err := parseCertificates(n.Certificate, certificate)
	if err != nil {
		return nil, err
	}
	public, err := bccsp.NewPublicKey(chain[0].PublicKey)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.Certificate, err)
	}
	signer, err := token.SignerOf(ctx, public, n.Key)
	if err != nil {
		return nil, fmt.Errorf("%s is of key %s: %w", n.Certificate, public.ID(), err)
	}
	return msp.LoadLocalIdentity(msp.ID(n.MSPID), certificate, signer)
}
