package pkcs11

import (
	"encoding/hex"
	"fmt"
	"strings"

	p11 "github.com/miekg/pkcs11"
)

// idPrefix begins the name of a key that is found by its CKA_ID, in hex, and not by its
// label: devices exist where a key's label cannot be chosen, or serves several keys.
const idPrefix = "id:"

// maxKeyID bounds a CKA_ID in bytes.
const maxKeyID = 255

func namedByID(name string) bool { return strings.HasPrefix(name, idPrefix) }

// named are the attributes that find a key by its name: a label, or "id:" and the
// CKA_ID in hex.
func named(class uint, name string) ([]*p11.Attribute, error) {
	template := []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, class)}
	text, byID := strings.CutPrefix(name, idPrefix)
	if !byID {
		return append(template, p11.NewAttribute(p11.CKA_LABEL, name)), nil
	}
	id, err := hex.DecodeString(text)
	if err != nil || len(id) == 0 || len(id) > maxKeyID {
		return nil, fmt.Errorf("key name %q: after id: comes a CKA_ID of 1 to %d bytes in hexadecimal", name, maxKeyID)
	}
	return append(template, p11.NewAttribute(p11.CKA_ID, id)), nil
}
