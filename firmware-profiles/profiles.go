// Package profiles holds one data file for each HSM model and firmware range: what
// Strongroom must know of a device beyond the PKCS #11 standard.
package profiles

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed *.yaml
var files embed.FS

// Schema is the JSON Schema (draft 7 subset) of the files.
//
//go:embed schema.json
var Schema []byte

// maxFile bounds a profile's file in bytes.
const maxFile = 1 << 16

// Answer is yes, no, or unknown; a field that a file leaves out is unknown.
type Answer string

// The answers.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// Profile describes one device model and firmware range. It is read only once loaded.
// A number that is 0 and a text that is empty are not known, unless the field says
// otherwise.
type Profile struct {
	ID       string `yaml:"id"`
	Vendor   string `yaml:"vendor"`
	Model    string `yaml:"model"`
	Firmware string `yaml:"firmware"` // versions that the values hold for
	Client   string `yaml:"client"`   // versions of the client library
	// Token is software when the token is the library itself, in host memory; it
	// protects nothing from the host, and is for tests and development.
	Token string `yaml:"token"` // hardware, service or software

	Modules     []string `yaml:"modules"`     // paths of the PKCS #11 library, most likely first
	Environment string   `yaml:"environment"` // variable that names the library's configuration
	ConfigFiles []string `yaml:"configFiles"`
	Reserved    string   `yaml:"reserved"` // form of the string that C_Initialize needs in pReserved
	Cryptoki    string   `yaml:"cryptoki"`

	Slots      Slots      `yaml:"slots"`
	PIN        PIN        `yaml:"pin"`
	Sessions   Sessions   `yaml:"sessions"`
	Signing    Signing    `yaml:"signing"`
	PublicKeys PublicKeys `yaml:"publicKeys"`
	Verify     Verify     `yaml:"verify"`
	AES        AES        `yaml:"aes"`
	Attributes Attributes `yaml:"attributes"`

	Errors      map[string]string `yaml:"errors"` // class by CK_RV, as "0x30"; what differs from the standard's meaning
	Recovery    string            `yaml:"recovery"`
	HA          string            `yaml:"ha"`
	Fork        string            `yaml:"fork"`
	FIPS        string            `yaml:"fips"` // what FIPS mode changes
	Attestation string            `yaml:"attestation"`
	// Rate is the band of P-256 signatures a second that the source gives: lowest
	// and highest.
	Rate []int `yaml:"rate"`

	// Gaps are the checks of the conformance suite that the device is known not to
	// pass, each with the reason.
	Gaps map[string]string `yaml:"gaps"`
	// Unconfirmed names the fields, as "pin.tries", whose values nobody has
	// measured here or read in the vendor's source or documentation.
	Unconfirmed []string `yaml:"unconfirmed"`
}

// Slots says what a slot of the module stands for and what selects a token.
type Slots struct {
	Model  string   `yaml:"model"`
	Select []string `yaml:"select"` // label, serial
}

// PIN says how to log in.
type PIN struct {
	Form     string `yaml:"form"`
	UserType string `yaml:"userType"` // user, or a vendor's number as "0x80000001"
	Login    string `yaml:"login"`    // required, ignored or absent
	Tries    int    `yaml:"tries"`    // wrong PINs until the token locks; -1: it never does
	OnLock   string `yaml:"onLock"`
}

// Sessions bounds the sessions of one application.
type Sessions struct {
	Max        int    `yaml:"max"`      // really; -1: no limit was met
	Reported   string `yaml:"reported"` // what CK_TOKEN_INFO says, where it differs
	ReadOnly   Answer `yaml:"readOnly"`
	Objects    Answer `yaml:"objects"` // session objects can be made
	Replicated Answer `yaml:"replicated"`
}

// Signing says which keys can sign.
type Signing struct {
	Mechanisms []string `yaml:"mechanisms"`
	Curves     []string `yaml:"curves"`
	Ed25519    string   `yaml:"ed25519"`
}

// PublicKeys says whether public keys made elsewhere can be imported.
type PublicKeys struct {
	Import Answer `yaml:"import"`
	Point  string `yaml:"point"` // der, raw or both
}

// Verify says where C_Verify computes.
type Verify struct {
	Location   string `yaml:"location"` // device, host-library, none or unknown
	NeedsLogin Answer `yaml:"needsLogin"`
	Overlong   string `yaml:"overlong"` // truncates or refuses digests longer than the order
}

// AES says how the device encrypts and wraps.
type AES struct {
	Mechanisms []string `yaml:"mechanisms"`
	GCM        GCM      `yaml:"gcm"`
	Wrap       Wrap     `yaml:"wrap"`
}

// GCM says who makes the IV.
type GCM struct {
	IV       string `yaml:"iv"` // caller, device-parameter, device-zero, device-appended, vendor-prepended, none or unknown
	MaxBytes int    `yaml:"maxBytes"`
}

// Wrap is RFC 3394 key wrap.
type Wrap struct {
	Mechanism   string `yaml:"mechanism"` // none: it has no key wrap that Strongroom can use
	Number      string `yaml:"number"`    // of a vendor's mechanism, as "0x80000170"
	ValueLen    Answer `yaml:"valueLen"`  // CKA_VALUE_LEN is needed in C_UnwrapKey's template
	PrivateKeys Answer `yaml:"privateKeys"`
}

// Attributes says what may be done to a key's attributes.
type Attributes struct {
	IDMutable    Answer `yaml:"idMutable"`
	SetAttribute Answer `yaml:"setAttribute"`
	CopyObject   Answer `yaml:"copyObject"`
	Notes        string `yaml:"notes"`
}

// Load reads a profile, strictly: by its id, or from a file when the name ends in
// ".yaml" or ".yml". An unknown id gives an error that lists the known.
func Load(name string) (*Profile, error) {
	if ext := filepath.Ext(name); ext == ".yaml" || ext == ".yml" {
		return loadFile(name)
	}
	data, err := files.ReadFile(name + ".yaml")
	if errors.Is(err, fs.ErrNotExist) {
		known, listErr := IDs()
		if listErr != nil {
			return nil, listErr
		}
		return nil, fmt.Errorf("no firmware profile %q: there are %s", name, strings.Join(known, ", "))
	}
	if err != nil {
		return nil, err
	}
	p, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("firmware profile %s: %w", name, err)
	}
	if p.ID != name {
		return nil, fmt.Errorf("firmware profile %s: id is %q, the file's name says %q", name, p.ID, name)
	}
	return p, nil
}

func loadFile(path string) (*Profile, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("firmware profile: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("firmware profile %s: not a file of at most %d bytes", path, maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("firmware profile: %w", err)
	}
	p, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("firmware profile %s: %w", path, err)
	}
	return p, nil
}

// Parse reads a profile's text, strictly: an unknown field is an error.
func Parse(data []byte) (*Profile, error) {
	p := &Profile{}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(p); err != nil {
		return nil, err
	}
	var tree map[string]any
	if err := yaml.Unmarshal(data, &tree); err != nil {
		return nil, err
	}
	return p, errors.Join(p.validate(), p.checkUnconfirmed(tree))
}

// IDs lists the profiles.
func IDs() ([]string, error) {
	names, err := fs.Glob(files, "*.yaml")
	for i := range names {
		names[i] = strings.TrimSuffix(names[i], ".yaml")
	}
	return names, err
}

// checkUnconfirmed sees that each field that is marked is there.
func (p *Profile) checkUnconfirmed(tree map[string]any) error {
	for _, field := range p.Unconfirmed {
		var at any = tree
		for _, name := range strings.Split(field, ".") {
			m, _ := at.(map[string]any)
			at = m[name]
		}
		if at == nil {
			return fmt.Errorf("unconfirmed names %q, which the file does not set: remove it there", field)
		}
	}
	return nil
}

// Confirmed tells whether a field, as "verify.location", was measured or read in the
// vendor's source or documentation.
func (p *Profile) Confirmed(field string) bool {
	for _, u := range p.Unconfirmed {
		if field == u || strings.HasPrefix(field, u+".") {
			return false
		}
	}
	return true
}

// FindModule returns the first of the profile's libraries that is installed.
func (p *Profile) FindModule() (string, error) {
	for _, m := range p.Modules {
		if _, err := os.Stat(m); err == nil {
			return m, nil
		}
	}
	return "", fmt.Errorf("the PKCS #11 library of %s is in none of %s: install it, or name its path", p.Model, strings.Join(p.Modules, ", "))
}
