package configtx

import (
	"context"
	"crypto/sha256"
	"errors"

	"golang.org/x/sync/errgroup"

	"strongroom/bccsp"
	"strongroom/msp"
)

// Signed is a message and who claims to have signed it.
type Signed struct {
	Message   []byte
	Digest    []byte // SHA-256 of the message, for a caller that has it: Message is not looked at then
	Identity  []byte // msp.SerializedIdentity
	Signature []byte
}

// maxParallel bounds the questions that one call has under way at the token.
const maxParallel = 64

// Verified returns the identities whose signatures are good, in the order of
// Fabric's SignatureSetToValidIdentities: identities that are not valid, and false
// signatures, are dropped; each identity is kept once, at its first good
// signature. Nothing is asked of the token after an identity's first good
// signature, so that repeating one costs nothing. An error is a failure of ours
// (the token's, or ctx's), never a verdict on a signature.
//
// Fabric also keeps an identity whose chain is good but that is revoked or of the
// wrong unit; it satisfies no principal there but ANONYMITY, and a listed
// administrator's own.
func (c *Config) Verified(ctx context.Context, signed []Signed) ([]*msp.Identity, error) {
	if len(signed) == 1 {
		id, err := c.identity(ctx, signed[0].Identity)
		if id == nil || err != nil {
			return nil, err
		}
		good, err := check(ctx, id, &signed[0])
		if err != nil || !good {
			return nil, err
		}
		return []*msp.Identity{id}, nil
	}
	ids, err := c.identities(ctx, signed)
	if err != nil {
		return nil, err
	}
	groups := make(map[signer][]int, len(signed))
	for i, id := range ids {
		if id != nil {
			k := signer{id.MSPID, id.CertificateID()}
			groups[k] = append(groups[k], i)
		}
	}
	good := make([]bool, len(signed))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxParallel)
	for _, indexes := range groups {
		g.Go(func() error {
			for _, i := range indexes {
				ok, err := check(gctx, ids[i], &signed[i])
				if err != nil {
					return err
				}
				if ok {
					good[i] = true
					return nil
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	kept := make([]*msp.Identity, 0, len(groups))
	for i, ok := range good {
		if ok {
			kept = append(kept, ids[i])
		}
	}
	return kept, nil
}

// signer tells identities apart as Fabric does.
type signer struct {
	msp         msp.ID
	certificate [sha256.Size]byte
}

// identities resolves the signers; nil for one that is not valid. Few are as a rule
// known already, so only many are worth goroutines.
func (c *Config) identities(ctx context.Context, signed []Signed) ([]*msp.Identity, error) {
	ids := make([]*msp.Identity, len(signed))
	if len(signed) <= 4 {
		for i := range signed {
			var err error
			if ids[i], err = c.identity(ctx, signed[i].Identity); err != nil {
				return nil, err
			}
		}
		return ids, nil
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxParallel)
	for i := range signed {
		g.Go(func() (err error) {
			ids[i], err = c.identity(gctx, signed[i].Identity)
			return err
		})
	}
	return ids, g.Wait()
}

// identity is nil for one that is not valid.
func (c *Config) identity(ctx context.Context, serialized []byte) (*msp.Identity, error) {
	id, err := c.MSPs.Identity(ctx, serialized)
	if msp.IsInvalid(err) {
		return nil, nil
	}
	return id, err
}

func check(ctx context.Context, id *msp.Identity, s *Signed) (bool, error) {
	var err error
	if s.Digest != nil {
		err = id.VerifyDigest(ctx, s.Digest, s.Signature)
	} else {
		err = id.Verify(ctx, s.Message, s.Signature)
	}
	if errors.Is(err, bccsp.ErrBadSignature) {
		return false, nil
	}
	return err == nil, err
}
