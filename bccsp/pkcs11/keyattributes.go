package pkcs11

import (
	"context"
	"fmt"

	p11 "github.com/miekg/pkcs11"
)

// privateFlags are the flags of a private key that KeyAttributes reads (PKCS #11
// section 4.9).
var privateFlags = map[string]uint{
	"CKA_TOKEN": p11.CKA_TOKEN, "CKA_PRIVATE": p11.CKA_PRIVATE, "CKA_MODIFIABLE": p11.CKA_MODIFIABLE,
	"CKA_SENSITIVE": p11.CKA_SENSITIVE, "CKA_ALWAYS_SENSITIVE": p11.CKA_ALWAYS_SENSITIVE,
	"CKA_EXTRACTABLE": p11.CKA_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE": p11.CKA_NEVER_EXTRACTABLE, "CKA_LOCAL": p11.CKA_LOCAL,
	"CKA_SIGN": p11.CKA_SIGN, "CKA_DERIVE": p11.CKA_DERIVE, "CKA_DECRYPT": p11.CKA_DECRYPT, "CKA_UNWRAP": p11.CKA_UNWRAP,
}

// KeyAttributes reads back from the token the flags of the private key with a label, by
// their PKCS #11 names. A flag that the token does not know is left out.
func (t *Token) KeyAttributes(ctx context.Context, label string) (map[string]bool, error) {
	var flags map[string]bool
	err := t.pool.do(ctx, "attributes", func(s *session) error {
		found, err := s.find(2, p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), p11.NewAttribute(p11.CKA_LABEL, label))
		if err != nil {
			return err
		}
		if len(found) != 1 {
			return fmt.Errorf("the token has %d private keys with this label: %w", len(found), ErrKeyNotFound)
		}
		flags = make(map[string]bool)
		for name, kind := range privateFlags {
			v, err := s.flag(found[0], kind)
			if hasCode(err, p11.CKR_ATTRIBUTE_TYPE_INVALID) {
				continue
			}
			if err != nil {
				return err
			}
			flags[name] = v
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("attributes of key %q: %w", label, err)
	}
	return flags, nil
}
