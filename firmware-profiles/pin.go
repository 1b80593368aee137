package profiles

import (
	"fmt"
	"regexp"
	"strconv"
)

// pinForm is a form of PIN that bounds its length: "6 to 16 digits", "4 to 255 bytes".
var pinForm = regexp.MustCompile(`^(\d+) to (\d+) (bytes|digits)\b`)

// MayChangePIN says why a PIN cannot become this device's user PIN: it has none, or
// pin.form, where it bounds PINs, does not allow it. It never shows the PIN.
func (p *Profile) MayChangePIN(pin []byte) error {
	if p.PIN.Login == "ignored" || p.PIN.Login == "absent" {
		return fmt.Errorf("profile %s: the device's login is %s: it has no PIN to change", p.ID, p.PIN.Login)
	}
	form := pinForm.FindStringSubmatch(p.PIN.Form)
	if form == nil {
		return nil
	}
	least, err := strconv.Atoi(form[1])
	if err != nil {
		return fmt.Errorf("profile %s: pin.form: %w", p.ID, err)
	}
	most, err := strconv.Atoi(form[2])
	if err != nil {
		return fmt.Errorf("profile %s: pin.form: %w", p.ID, err)
	}
	if len(pin) < least || len(pin) > most {
		return fmt.Errorf("profile %s: the new PIN has %d bytes, the device takes %s", p.ID, len(pin), p.PIN.Form)
	}
	for _, c := range pin {
		if form[3] == "digits" && (c < '0' || c > '9') {
			return fmt.Errorf("profile %s: the new PIN is not of digits alone, the device takes %s", p.ID, p.PIN.Form)
		}
	}
	return nil
}
