// Package provision makes keys, certification authorities, certificates, requests and
// revocation lists for operators, on crypto11, whose keys crypto/x509 can use.
//
// It runs in a command's process, never in the peer's: two libraries cannot both
// initialize one PKCS #11 module, so that a Provisioner cannot be open beside a token
// of bccsp/pkcs11 (one after the other is well). It signs in the token only. It checks
// no signatures: the peer does that, in its own token.
package provision

import (
	"crypto"
	"crypto/elliptic"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/ThalesGroup/crypto11"

	"strongroom/bccsp"
	"strongroom/bccsp/pkcs11"
)

var (
	// ErrKeyNotFound means that the token has no key pair with the label.
	ErrKeyNotFound = errors.New("key not found in the token")
	// ErrKeyExists means that a key with this label is in the token already.
	ErrKeyExists = errors.New("key exists in the token")
	// ErrPINRefused means that the token refused the PIN, now or earlier in this
	// process. It is not tried again.
	ErrPINRefused = errors.New("token refused the PIN")
)

// sessions is what a command needs at a time, and one that crypto11 keeps.
const sessions = 3

// Config says which token to use; the fields are those of pkcs11.Config.
type Config struct {
	Module                  string
	TokenLabel, TokenSerial string
	PIN                     pkcs11.PINSource
}

// Validate names the first field that is wrong and how to put it right.
func (c Config) Validate() error {
	return pkcs11.Config{Module: c.Module, TokenLabel: c.TokenLabel, TokenSerial: c.TokenSerial, PIN: c.PIN}.Validate()
}

// Provisioner makes keys and certificates in one token. It is safe for concurrent use.
type Provisioner struct {
	context *crypto11.Context
	random  io.Reader // the token's
	label   string
	making  sync.Mutex // held over "is the label free?" and the making of the key
}

// refused remembers the tokens, by serial number, whose PIN was refused.
var refused sync.Map

// Open finds the token and logs in, once. The caller closes it.
func Open(cfg Config) (*Provisioner, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	// crypto11 takes the first token that has the label: two are found here.
	info, err := pkcs11.Find(cfg.Module, cfg.TokenLabel, cfg.TokenSerial)
	if err != nil {
		return nil, err
	}
	if _, before := refused.Load(info.Serial); before {
		return nil, fmt.Errorf("token %q: %w before: put the right PIN into %s and start again", info.Label, ErrPINRefused, cfg.PIN)
	}
	// crypto11 keeps the PIN as a string for as long as it is open: it cannot be wiped.
	pin, err := cfg.PIN.Read()
	if err != nil {
		return nil, fmt.Errorf("pin: %w", err)
	}
	defer clear(pin)
	context, err := crypto11.Configure(&crypto11.Config{Path: info.Module, TokenSerial: info.Serial, Pin: string(pin), MaxSessions: sessions})
	switch {
	case err == nil:
	case strings.Contains(err.Error(), "CKR_PIN_"):
		refused.Store(info.Serial, true)
		return nil, fmt.Errorf("token %q: %w from %s; it is not tried again: %w", info.Label, ErrPINRefused, cfg.PIN, err)
	case strings.Contains(err.Error(), "CKR_CRYPTOKI_ALREADY_INITIALIZED"):
		return nil, fmt.Errorf("token %q is open in this process by the peer's driver: close it first: %w", info.Label, err)
	default:
		return nil, fmt.Errorf("token %q: %w", info.Label, err)
	}
	random, err := context.NewRandomReader()
	if err != nil {
		return nil, errors.Join(err, context.Close())
	}
	return &Provisioner{context: context, random: random, label: info.Label}, nil
}

// Close ends the session with the token.
func (p *Provisioner) Close() error { return p.context.Close() }

// GenerateKey makes a key pair on P-256 or P-384 in the token: sensitive, not
// extractable, for signatures only. A label in use gives ErrKeyExists. Its CKA_ID is
// random: the one that Fabric's own tools look for is given by pkcs11.GenerateKey.
func (p *Provisioner) GenerateKey(label string, curve elliptic.Curve) (*bccsp.PublicKey, error) {
	if label == "" || len(label) > 255 {
		return nil, fmt.Errorf("key label has %d bytes: give 1 to 255", len(label))
	}
	if curve != elliptic.P256() && curve != elliptic.P384() {
		return nil, errors.New("curve is neither P-256 nor P-384")
	}
	p.making.Lock()
	defer p.making.Unlock()
	key, err := p.generate(label, curve)
	if err != nil {
		return nil, fmt.Errorf("generate key %q: %w", label, err)
	}
	return bccsp.NewPublicKey(key.Public())
}

func (p *Provisioner) generate(label string, curve elliptic.Curve) (crypto.Signer, error) {
	found, err := p.context.FindKeyPairs(nil, []byte(label))
	if err != nil {
		return nil, err
	}
	secrets, err := p.context.FindKeys(nil, []byte(label))
	if err != nil {
		return nil, err
	}
	if len(found)+len(secrets) > 0 {
		return nil, fmt.Errorf("%w: choose another label, or delete the old key with the token's own tool", ErrKeyExists)
	}
	id := make([]byte, 32)
	if _, err := io.ReadFull(p.random, id); err != nil {
		return nil, err
	}
	public, private := crypto11.NewAttributeSet(), crypto11.NewAttributeSet()
	for _, a := range []struct {
		set   crypto11.AttributeSet
		kind  crypto11.AttributeType
		value any
	}{
		{public, crypto11.CkaLabel, []byte(label)},
		{public, crypto11.CkaId, id},
		{public, crypto11.CkaVerify, true},
		{public, crypto11.CkaEncrypt, false},
		{public, crypto11.CkaWrap, false},
		{public, crypto11.CkaVerifyRecover, false},
		{private, crypto11.CkaLabel, []byte(label)},
		{private, crypto11.CkaId, id},
		{private, crypto11.CkaPrivate, true},
		{private, crypto11.CkaSensitive, true},
		{private, crypto11.CkaExtractable, false},
		{private, crypto11.CkaSign, true},
		{private, crypto11.CkaDerive, false},
		{private, crypto11.CkaDecrypt, false},
		{private, crypto11.CkaUnwrap, false},
		{private, crypto11.CkaSignRecover, false},
	} {
		if err := a.set.Set(a.kind, a.value); err != nil {
			return nil, err
		}
	}
	key, err := p.context.GenerateECDSAKeyPairWithAttributes(public, private, curve)
	if err != nil && (strings.Contains(err.Error(), "CKR_GENERAL_ERROR") || strings.Contains(err.Error(), "CKR_TEMPLATE_INCONSISTENT")) {
		// tpm2-pkcs11 has one flag for signing and encrypting; EC has no mechanism for these.
		public.Unset(crypto11.CkaEncrypt)
		private.Unset(crypto11.CkaDecrypt)
		key, err = p.context.GenerateECDSAKeyPairWithAttributes(public, private, curve)
	}
	if err != nil {
		return nil, err
	}
	if err := p.checkProtected(key); err != nil {
		return nil, errors.Join(err, key.Delete())
	}
	return key, nil
}

// checkProtected reads back what protects a private key.
func (p *Provisioner) checkProtected(key crypto11.Signer) error {
	for kind, want := range map[crypto11.AttributeType]byte{crypto11.CkaSensitive: 1, crypto11.CkaExtractable: 0} {
		a, err := p.context.GetAttribute(key, kind)
		if err != nil {
			return err
		}
		if a == nil || len(a.Value) != 1 || a.Value[0] != want {
			return errors.New("the key can leave the token (it must be sensitive and not extractable): make a new key")
		}
	}
	return nil
}

// signer finds a key pair by its label: the one with it, protected.
func (p *Provisioner) signer(label string) (crypto.Signer, error) {
	if label == "" {
		return nil, errors.New("key label is empty: name the key")
	}
	found, err := p.context.FindKeyPairs(nil, []byte(label))
	switch {
	case err != nil:
		return nil, fmt.Errorf("key %q: %w", label, err)
	case len(found) == 0:
		return nil, fmt.Errorf("key %q: %w: make it first", label, ErrKeyNotFound)
	case len(found) > 1:
		return nil, fmt.Errorf("key %q: the token has %d key pairs with this label: give each its own", label, len(found))
	}
	if err := p.checkProtected(found[0]); err != nil {
		return nil, fmt.Errorf("key %q: %w", label, err)
	}
	return newLowSigner(found[0])
}

// number returns a certificate's serial number: 127 random bits of the token, never 0.
func (p *Provisioner) number() ([]byte, error) {
	n := make([]byte, 16)
	if _, err := io.ReadFull(p.random, n); err != nil {
		return nil, err
	}
	n[0] = n[0]&0x7f | 0x40 // positive, and of one length (RFC 5280 section 4.1.2.2)
	return n, nil
}
