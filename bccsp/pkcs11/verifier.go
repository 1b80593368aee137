package pkcs11

import (
	"context"
	"errors"
	"fmt"

	"strongroom/bccsp"
)

// A token with Config.Verifier only signs. It takes no foreign public keys, or must not
// be believed about them: everything that would be verified in it, proofs of its own
// keys too, is verified by the other token.

// errVerifier means that the other token gave no verdict. It says nothing about this
// token: its module is not started again for it.
var errVerifier = errors.New("the token that verifies for this one gave no answer")

// onlySigns tells whether another token verifies for t.
func (t *Token) onlySigns() bool { return t.cfg.Verifier != nil }

// proveElsewhere has the other token check a signature over proofDigest that t made, as
// C_Sign returned it. A false one gives ErrFalseAnswer.
func (k *privateKey) proveElsewhere(ctx context.Context, sig []byte) error {
	raw, err := k.order.fromToken(sig)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFalseAnswer, err)
	}
	k.order.normalize(&raw)
	err = k.token.cfg.Verifier.Verify(patient(ctx), k.public, proofDigest[:], k.order.der(&raw))
	switch {
	case errors.Is(err, bccsp.ErrBadSignature):
		return fmt.Errorf("%w: it is another key now, or the device errs", ErrFalseAnswer)
	case err != nil:
		return fmt.Errorf("%w: %v", errVerifier, err) // its class is not this token's
	}
	return nil
}

// answers has a token that only signs do something, where there is no key to prove.
func (t *Token) answers(ctx context.Context) error {
	_, err := t.Random(ctx, 16)
	return err
}

// check verifies a signature that t made, before it is given out.
func (t *Token) check(ctx context.Context, k *privateKey, digest []byte, raw rawSignature) error {
	if t.onlySigns() {
		return t.cfg.Verifier.Verify(patient(ctx), k.public, digest, k.order.der(&raw))
	}
	return t.verify(ctx, k.public, k.order, digest, raw)
}
