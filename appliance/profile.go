package appliance

import (
	"cmp"
	"errors"
	"fmt"

	"strongroom/appliance/config"
	"strongroom/bccsp/pkcs11"
	profiles "strongroom/firmware-profiles"
)

// obeyProfile sees that the configured device may do what a node does with its token:
// verify signatures of others, unless another token does that, wrap data keys when there
// is a wrapping key, and open so many sessions.
func obeyProfile(c config.Token, verifies bool) error {
	if c.Profile == "" {
		return nil
	}
	p, err := profiles.Load(c.Profile)
	if err != nil {
		return fmt.Errorf("token.profile: %w", err)
	}
	errs := []error{p.MayReserved(c.Reserved), p.MaySign(), p.MaySessions(cmp.Or(c.Sessions, pkcs11.DefaultSessions) + 1)} // one is the anchor
	if verifies {
		errs = append(errs, p.MayVerify())
	}
	if c.WrappingKey != "" {
		errs = append(errs, p.MayWrap())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("token.profile: %w", err)
	}
	return nil
}
