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
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed *.yaml
var files embed.FS

// Profile describes one device model and firmware range.
type Profile struct {
	ID             string   `yaml:"id"`
	Vendor         string   `yaml:"vendor"`
	Model          string   `yaml:"model"`
	Firmware       string   `yaml:"firmware"`
	Modules        []string `yaml:"modules"`        // paths of the PKCS #11 library, most likely first
	Environment    string   `yaml:"environment"`    // variable that names the library's configuration, or ""
	VerifyLocation string   `yaml:"verifyLocation"` // device, host-library, none or unknown
}

// Load reads a profile, strictly. An unknown id gives an error that lists the known.
func Load(id string) (*Profile, error) {
	data, err := files.ReadFile(id + ".yaml")
	if errors.Is(err, fs.ErrNotExist) {
		known, listErr := IDs()
		if listErr != nil {
			return nil, listErr
		}
		return nil, fmt.Errorf("no firmware profile %q: there are %s", id, strings.Join(known, ", "))
	}
	if err != nil {
		return nil, err
	}
	p := &Profile{}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(p); err != nil {
		return nil, fmt.Errorf("firmware profile %s: %w", id, err)
	}
	return p, p.validate(id)
}

// IDs lists the profiles.
func IDs() ([]string, error) {
	names, err := fs.Glob(files, "*.yaml")
	for i := range names {
		names[i] = strings.TrimSuffix(names[i], ".yaml")
	}
	return names, err
}

func (p *Profile) validate(id string) error {
	switch {
	case p.ID != id:
		return fmt.Errorf("firmware profile %s: id is %q, the file's name says %q", id, p.ID, id)
	case p.Vendor == "" || p.Model == "" || p.Firmware == "":
		return fmt.Errorf("firmware profile %s: vendor, model and firmware are needed", id)
	case len(p.Modules) == 0:
		return fmt.Errorf("firmware profile %s: modules is empty", id)
	}
	switch p.VerifyLocation {
	case "device", "host-library", "none", "unknown":
		return nil
	}
	return fmt.Errorf("firmware profile %s: verifyLocation is %q: use device, host-library, none or unknown", id, p.VerifyLocation)
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
