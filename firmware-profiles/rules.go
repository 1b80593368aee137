package profiles

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrRefused means that the device must not be used for what was asked.
var ErrRefused = errors.New("refused by the firmware profile")

// choices are the values that a field may have; "" is unknown.
var choices = []struct {
	field string
	of    func(*Profile) string
	may   []string
}{
	{"token", func(p *Profile) string { return p.Token }, []string{"hardware", "service", "software"}},
	{"pin.login", func(p *Profile) string { return p.PIN.Login }, []string{"", "required", "ignored", "absent"}},
	{"sessions.readOnly", func(p *Profile) string { return string(p.Sessions.ReadOnly) }, answers},
	{"sessions.objects", func(p *Profile) string { return string(p.Sessions.Objects) }, answers},
	{"sessions.replicated", func(p *Profile) string { return string(p.Sessions.Replicated) }, answers},
	{"publicKeys.import", func(p *Profile) string { return string(p.PublicKeys.Import) }, answers},
	{"publicKeys.point", func(p *Profile) string { return p.PublicKeys.Point }, []string{"", "der", "raw", "both"}},
	{"verify.location", func(p *Profile) string { return p.Verify.Location }, []string{"device", "host-library", "none", "unknown"}},
	{"verify.needsLogin", func(p *Profile) string { return string(p.Verify.NeedsLogin) }, answers},
	{"verify.overlong", func(p *Profile) string { return p.Verify.Overlong }, []string{"", "truncates", "refuses"}},
	{"aes.gcm.iv", func(p *Profile) string { return p.AES.GCM.IV },
		[]string{"", "caller", "device-parameter", "device-zero", "device-appended", "vendor-prepended", "none", "unknown"}},
	{"aes.wrap.valueLen", func(p *Profile) string { return string(p.AES.Wrap.ValueLen) }, answers},
	{"aes.wrap.privateKeys", func(p *Profile) string { return string(p.AES.Wrap.PrivateKeys) }, answers},
	{"attributes.idMutable", func(p *Profile) string { return string(p.Attributes.IDMutable) }, answers},
	{"attributes.setAttribute", func(p *Profile) string { return string(p.Attributes.SetAttribute) }, answers},
	{"attributes.copyObject", func(p *Profile) string { return string(p.Attributes.CopyObject) }, answers},
}

var answers = []string{"", "yes", "no", "unknown"}

// classes are what an error code can mean.
var classes = []string{"bad-signature", "reopen", "find-again", "login", "reinitialise", "back-off", "stop", "refusal"}

func (p *Profile) validate() error {
	for _, c := range choices {
		if got := c.of(p); !slices.Contains(c.may, got) {
			return fmt.Errorf("%s is %q: use %s", c.field, got, strings.TrimPrefix(strings.Join(c.may, ", "), ", "))
		}
	}
	switch {
	case p.ID == "" || p.Vendor == "" || p.Model == "" || p.Firmware == "":
		return errors.New("id, vendor, model and firmware are needed")
	case len(p.Modules) == 0:
		return errors.New("modules is empty: give the path of the PKCS #11 library")
	case len(p.Rate) != 0 && (len(p.Rate) != 2 || p.Rate[0] <= 0 || p.Rate[0] > p.Rate[1]):
		return fmt.Errorf("rate is %v: give lowest and highest signatures a second", p.Rate)
	}
	for code, class := range p.Errors {
		if _, err := strconv.ParseUint(strings.TrimPrefix(code, "0x"), 16, 32); err != nil || !strings.HasPrefix(code, "0x") {
			return fmt.Errorf("errors: %q is no code: write it as 0x30", code)
		}
		if !slices.Contains(classes, class) {
			return fmt.Errorf("errors.%s is %q: use %s", code, class, strings.Join(classes, ", "))
		}
	}
	for name, reason := range p.Gaps {
		if reason == "" {
			return fmt.Errorf("gaps.%s has no reason", name)
		}
		if !GapKnown(name) {
			return fmt.Errorf("gaps.%s is no check of the conformance suite: `strongroom token probe` lists them", name)
		}
	}
	return nil
}

// MayVerify tells whether signatures of others may be judged by this device: nil, or
// an error that wraps ErrRefused with the reason. A device that hands C_Verify to a
// library on the host, or that takes no foreign public keys, may not. A software token
// may: nothing of it is outside the host anyway.
func (p *Profile) MayVerify() error {
	refuse := func(reason string) error {
		return fmt.Errorf("%w %s: %s: a token that can verify is needed beside it: name it under verifiers", ErrRefused, p.ID, reason)
	}
	if p.PublicKeys.Import == No {
		return refuse(p.Model + " takes no public keys that were made elsewhere (publicKeys.import is no)")
	}
	switch p.Verify.Location {
	case "none":
		return refuse(p.Model + " does not verify (verify.location is none)")
	case "host-library":
		if p.Token != "software" {
			return refuse(p.Model + " verifies in its library on the host, not inside itself (verify.location is host-library)")
		}
	case "unknown":
		return refuse("where " + p.Model + " verifies is not known (verify.location is unknown): ask its vendor, and say it in a profile of your own")
	}
	if p.PublicKeys.Import != Yes {
		return refuse("whether " + p.Model + " takes public keys that were made elsewhere is not known: run `strongroom token probe`, and say it in a profile of your own")
	}
	return p.barred(verifying)
}

// MayWrap tells whether the device can hold the wrapping key of the ledger's data
// keys: nil, or an error that wraps ErrRefused with the reason.
func (p *Profile) MayWrap() error {
	switch {
	case p.AES.Wrap.Mechanism == "CKM_AES_KEY_WRAP" && p.Gaps["key-wrap"] == "" && p.Gaps["wrap-refused"] == "":
		return p.barred(wrapping)
	case p.Gaps["key-wrap"] != "":
		return fmt.Errorf("%w %s: %s has no AES key wrap: %s", ErrRefused, p.ID, p.Model, p.Gaps["key-wrap"])
	case p.Gaps["wrap-refused"] != "":
		return fmt.Errorf("%w %s: a key that must not leave %s can be wrapped out: %s", ErrRefused, p.ID, p.Model, p.Gaps["wrap-refused"])
	}
	return fmt.Errorf("%w %s: %s has no CKM_AES_KEY_WRAP that is known to work (aes.wrap.mechanism is %q)", ErrRefused, p.ID, p.Model, p.AES.Wrap.Mechanism)
}

// MaySessions tells whether the device takes so many sessions of one application.
func (p *Profile) MaySessions(n int) error {
	if p.Sessions.Max > 0 && n > p.Sessions.Max {
		return fmt.Errorf("%w %s: %d sessions are too many: %s takes %d", ErrRefused, p.ID, n, p.Model, p.Sessions.Max)
	}
	return nil
}

// reservedNames are the names that the form of a reserved string gives values to.
var reservedNames = regexp.MustCompile(`([A-Za-z_]+)=`)

// MayReserved tells whether a string for C_Initialize has the form that the library
// wants, and is there when nothing else configures the library.
func (p *Profile) MayReserved(text string) error {
	switch {
	case text == "" && p.Reserved != "" && p.Environment == "" && len(p.ConfigFiles) == 0:
		return fmt.Errorf("%w %s: %s does not start without a string in C_Initialize: set reserved, of the form %s", ErrRefused, p.ID, p.Model, p.Reserved)
	case text != "" && p.Reserved == "":
		return fmt.Errorf("%w %s: %s takes no string in C_Initialize: leave reserved out", ErrRefused, p.ID, p.Model)
	case text == "":
		return nil
	}
	for _, m := range reservedNames.FindAllStringSubmatch(p.Reserved, -1) {
		if !strings.Contains(text, m[0]) {
			return fmt.Errorf("%w %s: reserved does not set %s: write it as %s", ErrRefused, p.ID, m[1], p.Reserved)
		}
	}
	return nil
}
