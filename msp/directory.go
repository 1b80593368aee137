package msp

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	yaml "go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"

	"strongroom/wire/msppb"
)

// NewConfig makes the channel's form of an MSP configuration, with deterministic
// bytes. A missing crypto_config is filled with SHA2 and SHA256, as Fabric's tools do.
func NewConfig(conf *msppb.FabricMSPConfig) (*msppb.MSPConfig, error) {
	if conf.GetName() == "" {
		return nil, errors.New("MSP configuration: name is empty")
	}
	conf = proto.CloneOf(conf)
	if conf.CryptoConfig == nil {
		conf.CryptoConfig = &msppb.FabricCryptoConfig{SignatureHashFamily: "SHA2", IdentityIdentifierHashFunction: "SHA256"}
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(conf)
	if err != nil {
		return nil, fmt.Errorf("MSP configuration %q: %w", conf.GetName(), err)
	}
	return &msppb.MSPConfig{Type: fabricType, Config: b}, nil
}

// StandardNodeOUs are node OUs with the names client, peer, admin and orderer, as
// Fabric's tools write them. caPEM is the CA that must certify them; nil means any
// CA of the MSP may.
func StandardNodeOUs(caPEM []byte) *msppb.FabricNodeOUs {
	ou := func(name string) *msppb.FabricOUIdentifier {
		return &msppb.FabricOUIdentifier{Certificate: caPEM, OrganizationalUnitIdentifier: name}
	}
	return &msppb.FabricNodeOUs{
		Enable:             true,
		ClientOuIdentifier: ou("client"), PeerOuIdentifier: ou("peer"), AdminOuIdentifier: ou("admin"), OrdererOuIdentifier: ou("orderer"),
	}
}

// directoryConfig is config.yaml of a Fabric MSP folder.
type directoryConfig struct {
	OrganizationalUnitIdentifiers []directoryOU     `yaml:"OrganizationalUnitIdentifiers"`
	NodeOUs                       *directoryNodeOUs `yaml:"NodeOUs"`
}

type directoryOU struct {
	Certificate                  string `yaml:"Certificate"`
	OrganizationalUnitIdentifier string `yaml:"OrganizationalUnitIdentifier"`
}

type directoryNodeOUs struct {
	Enable              bool         `yaml:"Enable"`
	ClientOUIdentifier  *directoryOU `yaml:"ClientOUIdentifier"`
	PeerOUIdentifier    *directoryOU `yaml:"PeerOUIdentifier"`
	AdminOUIdentifier   *directoryOU `yaml:"AdminOUIdentifier"`
	OrdererOUIdentifier *directoryOU `yaml:"OrdererOUIdentifier"`
}

// LoadDirectory reads the verifying part of a Fabric MSP folder: cacerts, and if
// they are there intermediatecerts, admincerts, crls, tlscacerts,
// tlsintermediatecerts and config.yaml (organizational units and node OUs). Private
// keys and the folder's own identity are not looked at. The result is what
// Fabric's configtxgen puts into a channel for the same folder; NewSet checks it.
func LoadDirectory(dir string, mspID ID) (*msppb.MSPConfig, error) {
	conf := &msppb.FabricMSPConfig{Name: string(mspID)}
	for _, f := range []struct {
		folder string
		needed bool
		to     *[][]byte
	}{
		{"cacerts", true, &conf.RootCerts},
		{"intermediatecerts", false, &conf.IntermediateCerts},
		{"admincerts", false, &conf.Admins},
		{"crls", false, &conf.RevocationList},
		{"tlscacerts", false, &conf.TlsRootCerts},
		{"tlsintermediatecerts", false, &conf.TlsIntermediateCerts},
	} {
		texts, err := readPEMFolder(filepath.Join(dir, f.folder))
		if err != nil {
			return nil, fmt.Errorf("MSP folder of %q: %w", string(mspID), err)
		}
		if f.needed && len(texts) == 0 {
			return nil, fmt.Errorf("MSP folder of %q: no certificate in %s: put the CA's certificate there", string(mspID), filepath.Join(dir, f.folder))
		}
		*f.to = texts
	}
	// Without TLS roots Fabric does not read the intermediates either.
	if len(conf.TlsRootCerts) == 0 {
		conf.TlsIntermediateCerts = nil
	}
	if err := readDirectoryConfig(dir, conf); err != nil {
		return nil, fmt.Errorf("MSP folder of %q: %w", string(mspID), err)
	}
	return NewConfig(conf)
}

// readPEMFolder returns the files of a folder, sorted by name, each of which must
// hold PEM. A missing folder is an empty one.
func readPEMFolder(dir string) ([][]byte, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var texts [][]byte
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path) // follows links: mounted secrets are links
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			continue
		}
		text, err := readPEM(path)
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	return texts, nil
}

func readPEM(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(text); block == nil {
		return nil, fmt.Errorf("%s: no PEM in it: remove the file or put a PEM certificate there", path)
	}
	return text, nil
}

func readDirectoryConfig(dir string, conf *msppb.FabricMSPConfig) error {
	path := filepath.Join(dir, "config.yaml")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var c directoryConfig
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", path, err)
	}
	for i, ou := range c.OrganizationalUnitIdentifiers {
		cert, err := readPEM(filepath.Join(dir, ou.Certificate))
		if err != nil {
			return fmt.Errorf("%s: OrganizationalUnitIdentifiers[%d]: %w", path, i, err)
		}
		conf.OrganizationalUnitIdentifiers = append(conf.OrganizationalUnitIdentifiers,
			&msppb.FabricOUIdentifier{Certificate: cert, OrganizationalUnitIdentifier: ou.OrganizationalUnitIdentifier})
	}
	if c.NodeOUs == nil || !c.NodeOUs.Enable {
		return nil
	}
	nodes := &msppb.FabricNodeOUs{Enable: true}
	for _, f := range []struct {
		field string
		from  *directoryOU
		to    **msppb.FabricOUIdentifier
	}{
		{"ClientOUIdentifier", c.NodeOUs.ClientOUIdentifier, &nodes.ClientOuIdentifier},
		{"PeerOUIdentifier", c.NodeOUs.PeerOUIdentifier, &nodes.PeerOuIdentifier},
		{"AdminOUIdentifier", c.NodeOUs.AdminOUIdentifier, &nodes.AdminOuIdentifier},
		{"OrdererOUIdentifier", c.NodeOUs.OrdererOUIdentifier, &nodes.OrdererOuIdentifier},
	} {
		if f.from == nil || f.from.OrganizationalUnitIdentifier == "" {
			continue
		}
		ou := &msppb.FabricOUIdentifier{OrganizationalUnitIdentifier: f.from.OrganizationalUnitIdentifier}
		if f.from.Certificate != "" {
			if ou.Certificate, err = readPEM(filepath.Join(dir, f.from.Certificate)); err != nil {
				return fmt.Errorf("%s: NodeOUs.%s: %w", path, f.field, err)
			}
		}
		*f.to = ou
	}
	conf.FabricNodeOus = nodes
	return nil
}
