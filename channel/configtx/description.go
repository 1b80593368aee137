package configtx

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	yaml "go.yaml.in/yaml/v3"

	"strongroom/msp"
	"strongroom/wire/msppb"
)

// Description is a channel that is to be made: what becomes its genesis block. In
// YAML its fields are in camel case; an unknown one is an error. What is left out
// gets the default that its comment says.
type Description struct {
	Channel string `yaml:"channel"`
	// Created is the time in the genesis block; none without it, so that the same
	// description always makes the same block.
	Created       time.Time                 `yaml:"created"`
	Capabilities  DescribedCapabilities     `yaml:"capabilities"`
	Organizations []OrganizationDescription `yaml:"organizations"`
	// Policies of the channel group. Default: Readers and Writers ANY, Admins MAJORITY.
	Policies    map[string]string      `yaml:"policies"`
	Consortium  string                 `yaml:"consortium"` // of former versions; default none
	Orderer     OrdererDescription     `yaml:"orderer"`
	Application ApplicationDescription `yaml:"application"`
}

// DescribedCapabilities names the capability of each group. Default: V2_0, V2_0
// and V2_5.
type DescribedCapabilities struct {
	Channel     string `yaml:"channel"`
	Orderer     string `yaml:"orderer"`
	Application string `yaml:"application"`
	// Rego adds RegoCapability to the application group: chaincode definitions may carry
	// validation rules, and Fabric's own peers cannot join.
	Rego bool `yaml:"rego"`
}

// OrganizationDescription is an organisation of peers, of orderers or of both: the
// groups that name it say which.
type OrganizationDescription struct {
	Name  string `yaml:"name"` // of its group; default the MSP id
	MSPID msp.ID `yaml:"mspID"`
	// MSPDir is a Fabric MSP folder, which Resolve reads; MSP is the configuration
	// itself. Exactly one of them and MSPConfig is given.
	MSPDir    string           `yaml:"mspDir"`
	MSP       *MSPDescription  `yaml:"msp"`
	MSPConfig *msppb.MSPConfig `yaml:"-"`
	// Policies are signature policies such as "OR('Org1MSP.admin')". Default for an
	// organisation of peers: Readers admin, peer, client; Writers admin, client;
	// Admins admin; Endorsement peer. For one of orderers only: Readers and Writers
	// member, Admins admin.
	Policies         map[string]string `yaml:"policies"`
	AnchorPeers      []string          `yaml:"anchorPeers"`      // host:port
	OrdererEndpoints []string          `yaml:"ordererEndpoints"` // host:port
}

// MSPDescription is an MSP with its certificates in PEM.
type MSPDescription struct {
	RootCerts            []string `yaml:"rootCerts"`
	IntermediateCerts    []string `yaml:"intermediateCerts"`
	Admins               []string `yaml:"admins"`
	CRLs                 []string `yaml:"crls"`
	TLSRootCerts         []string `yaml:"tlsRootCerts"`
	TLSIntermediateCerts []string `yaml:"tlsIntermediateCerts"`
	NodeOUs              bool     `yaml:"nodeOUs"` // client, peer, admin and orderer, of any CA of the MSP
}

// OrdererDescription is the orderer group.
type OrdererDescription struct {
	// Type is the consensus: "etcdraft" needs Raft; other types have the bytes of
	// Metadata. Default "solo".
	Type          string           `yaml:"type"`
	Metadata      []byte           `yaml:"-"`
	Raft          *RaftDescription `yaml:"raft"`
	Organizations []string         `yaml:"organizations"` // names
	// Addresses of the channel group, for readers of former versions; default none.
	Addresses    []string             `yaml:"addresses"`
	BatchTimeout Duration             `yaml:"batchTimeout"` // default 2s
	BatchSize    BatchSizeDescription `yaml:"batchSize"`
	MaxChannels  uint64               `yaml:"maxChannels"` // default 0: no bound
	// Policies, default as the channel's and BlockValidation ANY Writers.
	Policies map[string]string `yaml:"policies"`
}

// BatchSizeDescription bounds blocks. Default: 500 messages, 10 MB, 2 MB.
type BatchSizeDescription struct {
	MaxMessageCount   uint32 `yaml:"maxMessageCount"`
	AbsoluteMaxBytes  Size   `yaml:"absoluteMaxBytes"`
	PreferredMaxBytes Size   `yaml:"preferredMaxBytes"`
}

// ApplicationDescription is the application group.
type ApplicationDescription struct {
	Organizations []string `yaml:"organizations"` // names
	// Policies, default as the channel's, and Endorsement and LifecycleEndorsement
	// MAJORITY Endorsement.
	Policies map[string]string `yaml:"policies"`
	ACLs     map[string]string `yaml:"acls"` // resource to policy path
}

// LoadDescription reads a description. Files that it names are read by Resolve.
func LoadDescription(text []byte) (*Description, error) {
	d := &Description{}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(d); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("channel description is empty")
		}
		return nil, fmt.Errorf("channel description: %w", err)
	}
	if err := dec.Decode(new(Description)); !errors.Is(err, io.EOF) {
		return nil, errors.New("channel description: more than one YAML document: give one")
	}
	return d, nil
}

// Resolve reads the files that the description names, relative to dir: MSP folders
// and certificates of Raft's consenters.
func (d *Description) Resolve(dir string) error {
	at := func(path string) string {
		if filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(dir, path)
	}
	for i := range d.Organizations {
		o := &d.Organizations[i]
		if o.MSPDir == "" || o.MSPConfig != nil {
			continue
		}
		if o.MSPID == "" {
			return fmt.Errorf("channel description: organizations[%d].mspID is empty", i)
		}
		conf, err := msp.LoadDirectory(at(o.MSPDir), o.MSPID)
		if err != nil {
			return fmt.Errorf("channel description: organizations[%d].mspDir: %w", i, err)
		}
		o.MSPConfig, o.MSPDir = conf, ""
	}
	if d.Orderer.Raft == nil {
		return nil
	}
	for i := range d.Orderer.Raft.Consenters {
		c := &d.Orderer.Raft.Consenters[i]
		for _, f := range []struct {
			field string
			path  *string
			to    *[]byte
		}{{"clientTLSCert", &c.ClientTLSCertFile, &c.ClientTLSCert}, {"serverTLSCert", &c.ServerTLSCertFile, &c.ServerTLSCert}} {
			if *f.path == "" || len(*f.to) > 0 {
				continue
			}
			text, err := os.ReadFile(at(*f.path))
			if err != nil {
				return fmt.Errorf("channel description: orderer.raft.consenters[%d].%s: %w", i, f.field, err)
			}
			*f.to, *f.path = text, ""
		}
	}
	return nil
}

// config is the organisation's MSP configuration.
func (o *OrganizationDescription) config() (*msppb.MSPConfig, error) {
	switch {
	case o.MSPConfig != nil:
		return o.MSPConfig, nil
	case o.MSPDir != "":
		return nil, fmt.Errorf("mspDir %q was not read yet: call Resolve first", o.MSPDir)
	case o.MSP == nil:
		return nil, errors.New("it has neither mspDir nor msp: give one of them")
	}
	pems := func(texts []string) (all [][]byte) {
		for _, t := range texts {
			all = append(all, []byte(t))
		}
		return all
	}
	conf := &msppb.FabricMSPConfig{
		Name:      string(o.MSPID),
		RootCerts: pems(o.MSP.RootCerts), IntermediateCerts: pems(o.MSP.IntermediateCerts), Admins: pems(o.MSP.Admins),
		RevocationList: pems(o.MSP.CRLs), TlsRootCerts: pems(o.MSP.TLSRootCerts), TlsIntermediateCerts: pems(o.MSP.TLSIntermediateCerts),
	}
	if o.MSP.NodeOUs {
		conf.FabricNodeOus = msp.StandardNodeOUs(nil)
	}
	return msp.NewConfig(conf)
}

// splitAddress checks a host:port.
func splitAddress(address string) (host string, port int32, err error) {
	host, text, err := net.SplitHostPort(address)
	if err == nil && host == "" {
		err = errors.New("the host is empty")
	}
	if err != nil {
		return "", 0, fmt.Errorf("address %q: %w: write host:port", address, err)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("address %q: port %q is not one of 1 to 65535", address, text)
	}
	return host, int32(n), nil
}
