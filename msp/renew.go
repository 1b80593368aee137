package msp

import (
	"fmt"
	"time"
)

// Current is the identity as it was last renewed: l itself until then. Who makes a
// message takes it once and uses it for all of the message, so that creator and
// signature belong together. It is safe for concurrent use.
func (l *LocalIdentity) Current() *LocalIdentity {
	if l.newest == nil {
		return l
	}
	if next := l.newest.Load(); next != nil {
		return next
	}
	return l
}

// Renew puts a newer certificate of the same MSP in force, of the same key or of another:
// from now on Current answers it, and what was begun with the identity before ends with
// it. On an error the identity stays as it was. The new certificate must be valid at
// now; whether a channel takes it is for its Set to say.
func (l *LocalIdentity) Renew(next *LocalIdentity, now time.Time) error {
	if l.newest == nil {
		return fmt.Errorf("local identity of MSP %q was not loaded by LoadLocalIdentity: it cannot be renewed", string(l.MSPID))
	}
	if next.MSPID != l.MSPID {
		return fmt.Errorf("renewed identity is of MSP %q, this node is of %q", string(next.MSPID), string(l.MSPID))
	}
	if c := next.Certificate; now.Before(c.NotBefore) || now.After(c.NotAfter) {
		return fmt.Errorf("renewed certificate %q is valid from %s to %s, and it is %s",
			c.Subject, c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	l.newest.Store(next)
	return nil
}
