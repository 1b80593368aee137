package probe

import (
	"context"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"
)

// Check is one part of the suite.
type Check struct {
	Name string // as profiles name it under gaps
	Asks string // what a good device does
	run  func(b *Bench, quick bool) (detail string, err error)
}

// Suite is the conformance suite in the order of its run. A device passes a check when
// it does what Asks says.
func Suite() []Check {
	return []Check{
		{"random", "two reads of its random generator differ", (*Bench).checkRandom},
		{"sign-p256", "makes signatures of P-256, r and s in range", (*Bench).checkSignP256},
		{"sign-p384", "makes signatures of P-384, r and s in range", (*Bench).checkSignP384},
		{"own-signature", "accepts its own signature and refuses it over another digest", (*Bench).checkOwn},
		{"import", "imports a foreign public key and judges by it", (*Bench).checkImport},
		{"known-answer-p256", "accepts the signature of RFC 6979 A.2.5", (*Bench).checkKnownP256},
		{"known-answer-p384", "accepts the signature of RFC 6979 A.2.6", (*Bench).checkKnownP384},
		{"flipped-bits", "refuses signatures and digests with one bit flipped", (*Bench).checkFlipped},
		{"twin", "gives a verdict on the n-s twin of a signature", (*Bench).checkTwin},
		{"overlong-digest", "refuses a digest that goes on after its end", (*Bench).checkOverlong},
		{"off-curve-point", "refuses a public key that is not on its curve", (*Bench).checkOffCurve},
		{"raw-point", "refuses a raw EC point, or judges by it rightly", (*Bench).checkRawPoint},
		{"gcm", "AES-GCM with associated data equals Go's", (*Bench).checkGCM},
		{"gcm-tamper", "AES-GCM refuses a changed tag", (*Bench).checkGCMTamper},
		{"gcm-empty-iv", "AES-GCM refuses to encrypt without an IV", (*Bench).checkGCMEmptyIV},
		{"key-wrap", "AES key wrap gives RFC 3394's answer, and Go's for random keys", (*Bench).checkKeyWrap},
		{"key-wrap-tamper", "AES key unwrap refuses a changed byte", (*Bench).checkKeyWrapTamper},
		{"hidden", "a private key is sensitive, not extractable, and its value is not readable", (*Bench).checkHidden},
		{"attributes", "a key that is sensitive and not extractable stays so", (*Bench).checkAttributes},
		{"wrap-refused", "a key that is not extractable is not wrapped out", (*Bench).checkWrapRefused},
		{"shared-handles", "a key made in one session can be used in another", (*Bench).checkShared},
		{"session-limit", "as many sessions as the profile says", (*Bench).checkSessions},
		{"parallel", "eight sessions sign at once, rightly", (*Bench).checkParallel},
		{"leaks", "no object is left of imported and destroyed keys", (*Bench).checkLeaks},
		{"logout", "after logout a private key does nothing", (*Bench).checkLogout},
	}
}

// Status is a check's outcome.
type Status string

// The outcomes.
const (
	Pass     Status = "pass"
	Fail     Status = "fail"
	Declared Status = "declared unsupported" // the profile says so, and so it is
	Missing  Status = "unsupported"          // without a profile: the device has not got it
)

// Result is one line of the report.
type Result struct {
	Check  string `json:"check"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
}

// Expectations are what a profile declares of the device.
type Expectations struct {
	Profile     string            // its id; "" when there is none
	Gaps        map[string]string // reason by check
	MaxSessions int               // sessions that must open; 0: not told, -1: no limit
}

// errMissing means that the device does not offer what a check needs.
var errMissing = errors.New("not offered")

// Run runs the suite. Its error is not about the device's answers but about the device
// not being there any more.
func (b *Bench) Run(ctx context.Context, expect Expectations, quick bool) ([]Result, error) {
	known := make(map[string]bool)
	var results []Result
	for _, c := range Suite() {
		known[c.Name] = true
		detail, err := bounded(ctx, func() (string, error) { return c.run(b, quick) })
		if c.Name == "session-limit" && err == nil {
			err = b.enough(detail, expect.MaxSessions, quick)
		}
		results = append(results, judge(c, detail, err, expect))
		if errors.Is(err, errHangs) {
			return results, fmt.Errorf("%s: %w: the rest of the suite cannot be run", c.Name, err)
		}
		b.sweep()
	}
	for gap := range expect.Gaps {
		if !known[gap] {
			return results, fmt.Errorf("profile %s declares the gap %q, which is no check of the suite", expect.Profile, gap)
		}
	}
	return results, nil
}

// judge makes a verdict of a check's outcome and what the profile declares.
func judge(c Check, detail string, err error, expect Expectations) Result {
	reason, gap := expect.Gaps[c.Name]
	r := Result{Check: c.Name, Status: Pass, Detail: detail}
	switch {
	case err == nil && gap:
		r.Status, r.Detail = Fail, "the profile declares a gap that the device does not have: "+reason
	case err == nil:
	case lost(err):
		r.Status, r.Detail = Fail, err.Error()
	case gap:
		r.Status, r.Detail = Declared, fmt.Sprintf("%s (%v)", reason, err)
	case errors.Is(err, errMissing) && expect.Profile == "":
		r.Status, r.Detail = Missing, err.Error()
	default:
		r.Status, r.Detail = Fail, err.Error()
	}
	return r
}

// lost tells whether an error says that the device, not the thing asked for, is missing.
func lost(err error) bool {
	return errors.Is(err, errHangs) || is(err, p11.CKR_DEVICE_ERROR, p11.CKR_DEVICE_REMOVED, p11.CKR_TOKEN_NOT_PRESENT,
		p11.CKR_CRYPTOKI_NOT_INITIALIZED, p11.CKR_SESSION_HANDLE_INVALID)
}

// needs gives errMissing unless the slot lists the mechanism.
func (b *Bench) needs(mechanism uint, name string) error {
	if !b.offers[mechanism] {
		return fmt.Errorf("%w: %s is not in the slot's list of mechanisms", errMissing, name)
	}
	return nil
}

// missing marks an answer that means "I have not got that".
func missing(err error) error {
	if is(err, p11.CKR_MECHANISM_INVALID, p11.CKR_FUNCTION_NOT_SUPPORTED) {
		return fmt.Errorf("%w: %w", errMissing, err)
	}
	return err
}

func (b *Bench) checkRandom(bool) (string, error) {
	one, err := b.module.GenerateRandom(b.session, 32)
	if err != nil {
		return "", call("C_GenerateRandom", err)
	}
	two, err := b.module.GenerateRandom(b.session, 32)
	if err != nil {
		return "", call("C_GenerateRandom", err)
	}
	if len(one) != 32 || len(two) != 32 || string(one) == string(two) || string(one) == string(make([]byte, 32)) {
		return "", errors.New("the random generator repeats itself, or gives no 32 bytes")
	}
	return "", nil
}
