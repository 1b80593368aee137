package profiles

import (
	"fmt"
	"slices"
)

// use is what a node does with a device.
type use string

const (
	signing   use = "signing"
	verifying use = "verification"
	wrapping  use = "wrapping keys"
)

// bars says, for each check of the conformance suite, what a device must not be used for
// that does not pass it. Where it says nothing, Strongroom closes the gap itself:
//
//	overlong-digest   it cuts digests to the order's size, and refuses what is no digest
//	off-curve-point   it takes no public key that is not on its curve
//	raw-point         it writes DER, and proves a known signature at start
//	gcm…              it uses no encryption of the token
//	attributes        it reads what protects a key whenever it takes the key into use
//	session-limit     it opens all sessions at start
//	logout            it never logs out, and imports nothing private that signs
var bars = map[string][]use{
	"random":            {signing, wrapping},
	"sign-p256":         {},
	"sign-p384":         {}, // one curve is enough; both: see MaySign
	"own-signature":     {verifying},
	"import":            {verifying},
	"known-answer-p256": {verifying},
	"known-answer-p384": {verifying},
	"flipped-bits":      {verifying},
	"twin":              {verifying},
	"leaks":             {verifying}, // it would fill up
	"key-wrap":          {wrapping},
	"key-wrap-tamper":   {wrapping},
	"wrap-refused":      {wrapping},
	"hidden":            {signing, wrapping},
	"shared-handles":    {signing, verifying, wrapping}, // the pool lives by it
	"parallel":          {signing},
	"overlong-digest":   {}, "off-curve-point": {}, "raw-point": {}, "gcm": {}, "gcm-tamper": {}, "gcm-empty-iv": {},
	"attributes": {}, "session-limit": {}, "logout": {},
}

// GapKnown tells whether a check's failure has an answer here.
func GapKnown(check string) bool {
	_, known := bars[check]
	return known
}

// barred refuses a use for the first gap that bars it, by name.
func (p *Profile) barred(u use) error {
	var names []string
	for name := range p.Gaps {
		if slices.Contains(bars[name], u) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return fmt.Errorf("%w %s: %s does not pass the check %s, and must not be used for %s: %s", ErrRefused, p.ID, p.Model, names[0], u, p.Gaps[names[0]])
}

// MaySign tells whether the device can keep a node's keys and sign with them: nil, or an
// error that wraps ErrRefused with the reason.
func (p *Profile) MaySign() error {
	if p.Gaps["sign-p256"] != "" && p.Gaps["sign-p384"] != "" {
		return fmt.Errorf("%w %s: %s makes no ECDSA signatures: %s", ErrRefused, p.ID, p.Model, p.Gaps["sign-p256"])
	}
	return p.barred(signing)
}
