package pkcs11

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	p11 "github.com/miekg/pkcs11"
)

// KeyInfo describes a private or secret key that the token keeps.
type KeyInfo struct {
	Label string
	ID    string // CKA_ID in hex
	Type  string // "P-256", "P-384", "AES-256", or CKA_KEY_TYPE by number
	// Protected tells that the token calls the key sensitive and not extractable.
	Protected bool
}

// maxListed bounds the keys of one class that Keys lists.
const maxListed = 10_000

// Keys lists the private and secret keys that the token keeps, sorted by label and id.
// It reads them one by one: it is for an operator's eyes, not for the hot path.
func (t *Token) Keys(ctx context.Context) ([]KeyInfo, error) {
	var keys []KeyInfo
	err := t.ask(ctx, "list", func(s *session) error {
		keys = nil
		for _, class := range []uint{p11.CKO_PRIVATE_KEY, p11.CKO_SECRET_KEY} {
			found, err := s.find(maxListed, p11.NewAttribute(p11.CKA_CLASS, class), p11.NewAttribute(p11.CKA_TOKEN, true))
			if err != nil {
				return err
			}
			for _, object := range found {
				info, err := s.describe(object)
				if err != nil {
					return err
				}
				keys = append(keys, info)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	slices.SortFunc(keys, func(a, b KeyInfo) int {
		if c := strings.Compare(a.Label, b.Label); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return keys, nil
}

func (s *session) describe(object p11.ObjectHandle) (KeyInfo, error) {
	label, err := s.attribute(object, p11.CKA_LABEL)
	if err != nil {
		return KeyInfo{}, err
	}
	id, err := s.attribute(object, p11.CKA_ID)
	if err != nil {
		return KeyInfo{}, err
	}
	kind, err := s.kindOf(object)
	if err != nil {
		return KeyInfo{}, err
	}
	sensitive, err := s.flag(object, p11.CKA_SENSITIVE)
	if err != nil {
		return KeyInfo{}, err
	}
	extractable, err := s.flag(object, p11.CKA_EXTRACTABLE)
	if err != nil {
		return KeyInfo{}, err
	}
	return KeyInfo{Label: string(label), ID: hex.EncodeToString(id), Type: kind, Protected: sensitive && !extractable}, nil
}

func (s *session) kindOf(object p11.ObjectHandle) (string, error) {
	kind, err := s.number(object, p11.CKA_KEY_TYPE)
	if err != nil {
		return "", err
	}
	switch kind {
	case p11.CKK_EC:
		params, err := s.attribute(object, p11.CKA_EC_PARAMS)
		if err != nil {
			return "", err
		}
		switch string(params) {
		case string(oidP256):
			return "P-256", nil
		case string(oidP384):
			return "P-384", nil
		}
		return "EC", nil
	case p11.CKK_AES:
		size, err := s.number(object, p11.CKA_VALUE_LEN)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("AES-%d", 8*size), nil
	}
	return fmt.Sprintf("0x%X", kind), nil
}
