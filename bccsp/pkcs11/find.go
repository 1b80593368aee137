package pkcs11

import (
	"errors"
	"fmt"
	"strings"

	p11 "github.com/miekg/pkcs11"
)

// foundToken is a token in a slot.
type foundToken struct {
	slot uint
	info p11.TokenInfo
}

func (f foundToken) String() string {
	return fmt.Sprintf("label %q serial %q on slot %d", text(f.info.Label), text(f.info.SerialNumber), f.slot)
}

// listTokens lists the tokens that are present, initialized or not, and describes
// those that do not answer.
func listTokens(m *module) (tokens []foundToken, faults []string, err error) {
	slots, err := m.ctx.GetSlotList(true)
	if err != nil {
		return nil, nil, tokenError("C_GetSlotList", 0, err)
	}
	for _, slot := range slots {
		info, err := m.ctx.GetTokenInfo(slot)
		if err != nil {
			faults = append(faults, tokenError("C_GetTokenInfo", slot, err).Error())
			continue
		}
		tokens = append(tokens, foundToken{slot, info})
	}
	return tokens, faults, nil
}

// findToken selects an initialized token by label and serial number.
func findToken(m *module, label, serial string) (foundToken, error) {
	tokens, faults, err := listTokens(m)
	if err != nil {
		return foundToken{}, err
	}
	var found []foundToken
	var seen, matches []string
	for _, f := range tokens {
		if f.info.Flags&p11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		seen = append(seen, f.String())
		if (label == "" || text(f.info.Label) == label) && (serial == "" || text(f.info.SerialNumber) == serial) {
			found = append(found, f)
			matches = append(matches, f.String())
		}
	}
	var wanted []string
	if label != "" {
		wanted = append(wanted, fmt.Sprintf("label %q", label))
	}
	if serial != "" {
		wanted = append(wanted, fmt.Sprintf("serial %q", serial))
	}
	what := strings.Join(wanted, " and ")
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return foundToken{}, fmt.Errorf("several tokens with %s in %s: %s: set tokenSerial to one of them", what, m.path, strings.Join(matches, ", "))
	}
	there := "it has none"
	if len(seen) > 0 {
		there = "it has " + strings.Join(seen, ", ")
	}
	if len(faults) > 0 {
		there += "; not readable: " + strings.Join(faults, ", ")
	}
	return foundToken{}, fmt.Errorf("no token with %s in %s: %s: correct tokenLabel or tokenSerial, or connect the device", what, m.path, there)
}

// Tokens describes the initialized tokens that a module has. It opens none.
func Tokens(module string) (infos []Info, err error) {
	m, err := acquireModule(module, "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.release()) }()
	m.enter()
	defer m.leave()
	tokens, faults, err := listTokens(m)
	if err != nil {
		return nil, err
	}
	if len(tokens) == 0 && len(faults) > 0 {
		return nil, fmt.Errorf("no token of %s is readable: %s", m.path, strings.Join(faults, ", "))
	}
	for _, f := range tokens {
		if f.info.Flags&p11.CKF_TOKEN_INITIALIZED != 0 {
			infos = append(infos, tokenInfo(m, f))
		}
	}
	return infos, nil
}

// Find resolves a label, a serial number or both to the one token that bears them, as
// Open does, without opening it.
func Find(module, label, serial string) (info Info, err error) {
	m, err := acquireModule(module, "")
	if err != nil {
		return Info{}, err
	}
	defer func() { err = errors.Join(err, m.release()) }()
	m.enter()
	defer m.leave()
	f, err := findToken(m, label, serial)
	if err != nil {
		return Info{}, err
	}
	return tokenInfo(m, f), nil
}
