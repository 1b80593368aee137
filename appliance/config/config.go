// Package config is the configuration of Strongroom's processes: one YAML file for
// each, decoded strictly, overridden by the environment.
//
// Every scalar field can be set by an environment variable whose name is
// STRONGROOM and the field's YAML names in capitals, joined by underscores:
// node.mspId is STRONGROOM_NODE_MSPID. Paths in a file are relative to its folder.
package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Peer configures `strongroom peer`.
type Peer struct {
	Node       Node       `yaml:"node"`
	Token      Token      `yaml:"token"`
	Verifiers  []Token    `yaml:"verifiers"` // further tokens that verify, and sign where they have the node's key
	Listen     Listen     `yaml:"listen"`
	Operations Operations `yaml:"operations"`
	Data       string     `yaml:"data"`
	Keyring    Keyring    `yaml:"keyring"`
	Ordering   Ordering   `yaml:"ordering"`
	Peers      []Remote   `yaml:"peers"`
	Chaincode  Chaincode  `yaml:"chaincode"`
	Policy     Policy     `yaml:"policy"`
	Audit      Audit      `yaml:"audit"`
	Log        Log        `yaml:"log"`
}

// Keyring says when the data keys of namespaces and channels are replaced, whichever
// comes first; 0 is no limit. Every start replaces them.
type Keyring struct {
	RotateAge   Duration `yaml:"rotateAge"`   // since the key was made
	RotateBytes uint64   `yaml:"rotateBytes"` // sealed with it
	RotateSeals uint64   `yaml:"rotateSeals"` // values sealed with it
}

// Orderer configures `strongroom orderer`.
type Orderer struct {
	Node       Node       `yaml:"node"`
	Token      Token      `yaml:"token"`
	Verifiers  []Token    `yaml:"verifiers"` // further tokens that verify, and sign where they have the node's key
	Listen     Listen     `yaml:"listen"`
	Operations Operations `yaml:"operations"`
	Data       string     `yaml:"data"`
	// Genesis blocks of the channels to serve; each is joined once.
	Genesis []string `yaml:"genesis"`
	Policy  Policy   `yaml:"policy"`
	Audit   Audit    `yaml:"audit"`
	Log     Log      `yaml:"log"`
}

// Client configures the commands that talk to a peer: who asks, and whom.
type Client struct {
	Node      Node    `yaml:"node"`
	Token     Token   `yaml:"token"`
	Verifiers []Token `yaml:"verifiers"` // as a peer's
	Peer      Remote  `yaml:"peer"`
	Orderer   Remote  `yaml:"orderer"`
}

// Node is an identity: a certificate and the label of its private key in the token.
type Node struct {
	Name        string `yaml:"name"`
	MSPID       string `yaml:"mspId"`
	MSP         string `yaml:"msp"`         // folder of the organisation's MSP (cacerts, config.yaml, …)
	Certificate string `yaml:"certificate"` // PEM file
	Key         string `yaml:"key"`         // label of the first private key in the token; the certificate decides which one signs
}

// Token selects a PKCS#11 token and says how to log in.
type Token struct {
	// URI is a PKCS #11 URI (RFC 7512) in place of label and serial, and, where it says
	// them, of module (module-path) and pin (pin-source).
	URI         string   `yaml:"uri"`
	Module      string   `yaml:"module"`
	Profile     string   `yaml:"profile"`  // firmware profile: an id, or a YAML file; without one nothing is known of the device
	Reserved    string   `yaml:"reserved"` // the string that some libraries want in C_Initialize, as NSS softokn; the profile shows its form
	Label       string   `yaml:"label"`
	Serial      string   `yaml:"serial"`
	PIN         PIN      `yaml:"pin"`
	Sessions    int      `yaml:"sessions"`
	KeyCache    int      `yaml:"keyCache"`
	CallTimeout Duration `yaml:"callTimeout"`
	WrappingKey string   `yaml:"wrappingKey"`
	// CheckSignatures has the token verify what it signed, at half the rate.
	CheckSignatures bool              `yaml:"checkSignatures"`
	Environment     map[string]string `yaml:"environment"` // set before the module is loaded, for example SOFTHSM2_CONF
}

// PIN says where the token's PIN comes from: exactly one of the three.
type PIN struct {
	File       string `yaml:"file"`
	Env        string `yaml:"env"`
	Credential string `yaml:"credential"` // name of a systemd credential
}

// Listen is a gRPC endpoint. TLS is always on; its key is in the token.
type Listen struct {
	Address         string   `yaml:"address"`
	ExternalAddress string   `yaml:"externalAddress"` // host:port at which others reach this peer, told to clients; without it address
	TLSCertificate  string   `yaml:"tlsCertificate"`
	TLSKey          string   `yaml:"tlsKey"` // label of the first private key in the token; the certificate decides which one signs
	ClientCAs       []string `yaml:"clientCAs"`
	MaxMessageBytes int      `yaml:"maxMessageBytes"`
	MaxConcurrent   int      `yaml:"maxConcurrent"` // calls at once on one connection
	Networks        []string `yaml:"networks"`      // from where connections are taken, as 10.0.0.0/8; all if left out
}

// Operations is the HTTP endpoint for health, metrics and version.
type Operations struct {
	Address string `yaml:"address"`
	Pprof   bool   `yaml:"pprof"` // serve Go's profiles, too
}

// Ordering lets a peer run an embedded ordering service, or overrides where the
// ordering service of its channels is.
type Ordering struct {
	Embedded  bool     `yaml:"embedded"`
	Genesis   []string `yaml:"genesis"`
	Endpoints []Remote `yaml:"endpoints"`
}

// Remote is another node's gRPC endpoint.
type Remote struct {
	MSPID      string `yaml:"mspId"`
	Address    string `yaml:"address"`
	TLSCACert  string `yaml:"tlsCACert"`
	ServerName string `yaml:"serverName"`
}

// Chaincode bounds the execution of chaincode.
type Chaincode struct {
	ExecuteTimeout Duration `yaml:"executeTimeout"`
	DevMode        bool     `yaml:"devMode"` // accept chaincode that dials in
}

// Policy names a security team's own Rego.
type Policy struct {
	Layers map[string]string `yaml:"layers"` // connection, appliance, ordering, channel, chaincode, function: a Rego file each
	Guard  string            `yaml:"guard"`  // the endorsement guard's Rego: a file or a folder; peers only
	Mask   string            `yaml:"mask"`   // Rego of package system.log: what of a decision's record nobody shall read
	Bundle Bundle            `yaml:"bundle"` // instead of both: a signed bundle of them
}

// Bundle names a signed Open Policy Agent bundle, and who may sign it.
type Bundle struct {
	File      string   `yaml:"file"`      // the archive; or
	Folder    string   `yaml:"folder"`    // a folder, of whose *.tar.gz files the last by name counts; or
	URL       string   `yaml:"url"`       // an https address
	TLSCACert string   `yaml:"tlsCACert"` // PEM file: who certifies the web server of url
	Ledger    Key      `yaml:"ledger"`    // besides: where a channel holds the next ones; peers only
	PublicKey string   `yaml:"publicKey"` // PEM file: public key or certificate, on P-256
	KeyID     string   `yaml:"keyId"`     // what signatures must call that key, if they name it
	Scope     string   `yaml:"scope"`     // what signatures must be for
	Poll      Duration `yaml:"poll"`      // how often to look for a new one; 10s if left out
}

// Key is a key of a chaincode's namespace on a channel.
type Key struct {
	Channel   string `yaml:"channel"`
	Chaincode string `yaml:"chaincode"`
	Key       string `yaml:"key"`
}

// Configured tells whether any field is set.
func (b Bundle) Configured() bool { return b != Bundle{} }

func (b *Bundle) validate() error {
	if !b.Configured() {
		return nil
	}
	errs := []error{required("policy.bundle.publicKey", b.PublicKey), required("policy.bundle.keyId", b.KeyID)}
	sources := 0
	for _, s := range []string{b.File, b.Folder, b.URL} {
		if s != "" {
			sources++
		}
	}
	if sources != 1 {
		errs = append(errs, errors.New("policy.bundle: set either file or folder or url"))
	}
	if (b.URL == "") != (b.TLSCACert == "") {
		errs = append(errs, errors.New("policy.bundle: url and tlsCACert belong together: give both or neither"))
	}
	if k := b.Ledger; k != (Key{}) && (k.Channel == "" || k.Chaincode == "" || k.Key == "") {
		errs = append(errs, errors.New("policy.bundle.ledger needs channel, chaincode and key"))
	}
	if b.Poll < 0 {
		errs = append(errs, errors.New("policy.bundle.poll is negative: leave it out or write it as 10s"))
	}
	return errors.Join(errs...)
}

// Log says how to log.
type Log struct {
	Format string `yaml:"format"` // text or json
	Level  string `yaml:"level"`  // debug, info, warn, error
}

// Duration is a time.Duration that YAML writes as "10s".
type Duration time.Duration

// UnmarshalText reads a duration as time.ParseDuration does.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("duration %q: write it as 500ms, 10s or 2m", text)
	}
	*d = Duration(v)
	return nil
}

// Or returns the duration, or def when it is zero.
func (d Duration) Or(def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return time.Duration(d)
}

// LoadPeer reads and checks a peer's configuration.
func LoadPeer(path string) (*Peer, error) {
	c := &Peer{}
	if err := load(path, c); err != nil {
		return nil, err
	}
	return c, wrap(path, errors.Join(
		c.Node.validate("node", true),
		c.Token.validate("token"),
		validateVerifiers(c.Token, c.Verifiers),
		c.Listen.validate("listen"),
		required("data", c.Data),
		c.Ordering.validate(),
		validateRemotes("peers", c.Peers, true),
		c.Policy.validate(),
		c.Audit.validate(),
		c.Log.validate(),
	))
}

// LoadOrderer reads and checks an ordering node's configuration.
func LoadOrderer(path string) (*Orderer, error) {
	c := &Orderer{}
	if err := load(path, c); err != nil {
		return nil, err
	}
	return c, wrap(path, errors.Join(
		c.Node.validate("node", false),
		c.Token.validate("token"),
		validateVerifiers(c.Token, c.Verifiers),
		c.Listen.validate("listen"),
		required("data", c.Data),
		c.Policy.validate(),
		c.Audit.validate(),
		c.Policy.validateOrderer(),
		c.Log.validate(),
	))
}

// LoadClient reads and checks the configuration of an operator's command.
func LoadClient(path string) (*Client, error) {
	c := &Client{}
	if err := load(path, c); err != nil {
		return nil, err
	}
	return c, wrap(path, errors.Join(
		c.Node.validate("node", false),
		c.Token.validate("token"),
		validateVerifiers(c.Token, c.Verifiers),
		c.Peer.validate("peer"),
	))
}

func (n *Node) validate(at string, needMSP bool) error {
	errs := []error{
		required(at+".mspId", n.MSPID),
		required(at+".certificate", n.Certificate),
		required(at+".key", n.Key),
	}
	if needMSP {
		errs = append(errs, required(at+".msp", n.MSP))
	}
	return errors.Join(errs...)
}

func (t *Token) validate(at string) error {
	errs := []error{required(at+".module", t.Module)}
	if t.URI == "" && (t.Label == "") == (t.Serial == "") {
		errs = append(errs, fmt.Errorf("%s: set either label or serial, or uri", at))
	}
	set := 0
	for _, s := range []string{t.PIN.File, t.PIN.Env, t.PIN.Credential} {
		if s != "" {
			set++
		}
	}
	if set != 1 {
		errs = append(errs, fmt.Errorf("%s.pin: set exactly one of file, env and credential", at))
	}
	if t.Sessions < 0 {
		errs = append(errs, fmt.Errorf("%s.sessions is %d: leave it out or set at least 1", at, t.Sessions))
	}
	return errors.Join(errs...)
}

func validateVerifiers(own Token, tokens []Token) error {
	var errs []error
	wraps := own.WrappingKey
	for i := range tokens {
		at := fmt.Sprintf("verifiers[%d]", i)
		errs = append(errs, tokens[i].validate(at))
		if tokens[i].WrappingKey != "" && wraps != "" {
			errs = append(errs, fmt.Errorf("%s.wrappingKey: leave it out: another token wraps the keys", at))
		}
		wraps = cmp.Or(wraps, tokens[i].WrappingKey)
	}
	return errors.Join(errs...)
}

// Reachable is the address that clients and other peers are told.
func (l *Listen) Reachable() string {
	if l.ExternalAddress != "" {
		return l.ExternalAddress
	}
	return l.Address
}

func (l *Listen) validate(at string) error {
	var external error
	if host, port, err := net.SplitHostPort(l.ExternalAddress); l.ExternalAddress != "" && (err != nil || host == "" || port == "") {
		external = fmt.Errorf("%s.externalAddress is %q: write it as host:port", at, l.ExternalAddress)
	}
	return errors.Join(
		external,
		required(at+".address", l.Address),
		required(at+".tlsCertificate", l.TLSCertificate),
		required(at+".tlsKey", l.TLSKey),
		l.validateNetworks(at),
	)
}

func (l *Listen) validateNetworks(at string) error {
	for i, n := range l.Networks {
		if _, err := netip.ParsePrefix(n); err != nil {
			return fmt.Errorf("%s.networks[%d]: %q is no network: write it as 10.0.0.0/8 or ::1/128", at, i, n)
		}
	}
	return nil
}

func (o *Ordering) validate() error {
	if o.Embedded && len(o.Genesis) == 0 {
		return errors.New("ordering.genesis: name the genesis block of each channel that the embedded ordering service serves")
	}
	return validateRemotes("ordering.endpoints", o.Endpoints, false)
}

func validateRemotes(at string, remotes []Remote, needMSP bool) error {
	var errs []error
	for i := range remotes {
		place := fmt.Sprintf("%s[%d]", at, i)
		errs = append(errs, remotes[i].validate(place))
		if needMSP {
			errs = append(errs, required(place+".mspId", remotes[i].MSPID))
		}
	}
	return errors.Join(errs...)
}

func (r *Remote) validate(at string) error {
	return errors.Join(required(at+".address", r.Address), required(at+".tlsCACert", r.TLSCACert))
}

// Layers that a policy file can be given for, in the order in which they are asked.
var Layers = []string{"connection", "appliance", "ordering", "channel", "chaincode", "function"}

func (p *Policy) validate() error {
	for layer := range p.Layers {
		known := false
		for _, l := range Layers {
			known = known || l == layer
		}
		if !known {
			return fmt.Errorf("policy.layers: %q is not a layer: use %s", layer, strings.Join(Layers, ", "))
		}
	}
	if p.Bundle.Configured() && (len(p.Layers) > 0 || p.Guard != "" || p.Mask != "") {
		return errors.New("policy: give either bundle, or layers and guard, and mask: a bundle holds them all")
	}
	return p.Bundle.validate()
}

func (p *Policy) validateOrderer() error {
	if p.Guard != "" {
		return errors.New("policy.guard: an ordering node endorses nothing: leave it out")
	}
	if p.Bundle.Ledger != (Key{}) {
		return errors.New("policy.bundle.ledger: an ordering node reads no chaincode's state: use file, folder or url")
	}
	return nil
}

func (l *Log) validate() error {
	switch l.Format {
	case "", "text", "json":
	default:
		return fmt.Errorf("log.format is %q: use text or json", l.Format)
	}
	switch l.Level {
	case "", "debug", "info", "warn", "error":
	default:
		return fmt.Errorf("log.level is %q: use debug, info, warn or error", l.Level)
	}
	return nil
}

func required(field, value string) error {
	if value == "" {
		return fmt.Errorf("%s is missing", field)
	}
	return nil
}

func wrap(path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("configuration %s: %w", path, err)
}

// load decodes a file strictly, applies the environment, and makes the paths in it
// absolute.
func load(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil {
		return wrap(path, err)
	}
	if err := override(reflect.ValueOf(into).Elem(), "STRONGROOM", os.LookupEnv); err != nil {
		return err
	}
	if err := wrap(path, applyURI(into)); err != nil {
		return err
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return err
	}
	resolve(into, dir)
	return nil
}

// override sets each scalar field whose environment variable is present.
func override(v reflect.Value, prefix string, lookup func(string) (string, bool)) error {
	t := v.Type()
	for i := range t.NumField() {
		name := prefix + "_" + strings.ToUpper(t.Field(i).Tag.Get("yaml"))
		field := v.Field(i)
		if field.Kind() == reflect.Struct {
			if err := override(field, name, lookup); err != nil {
				return err
			}
			continue
		}
		value, ok := lookup(name)
		if !ok {
			continue
		}
		var err error
		switch p := field.Addr().Interface().(type) {
		case *string:
			*p = value
		case *int:
			*p, err = strconv.Atoi(value)
		case *bool:
			*p, err = strconv.ParseBool(value)
		case *Duration:
			err = p.UnmarshalText([]byte(value))
		default:
			err = errors.New("lists and maps are set in the file only")
		}
		if err != nil {
			return fmt.Errorf("environment variable %s: %w", name, err)
		}
	}
	return nil
}

// resolve makes the file names of a configuration absolute.
func resolve(c any, dir string) {
	abs := func(paths ...*string) {
		for _, p := range paths {
			if *p != "" && !filepath.IsAbs(*p) {
				*p = filepath.Join(dir, *p)
			}
		}
	}
	list := func(paths []string) {
		for i := range paths {
			abs(&paths[i])
		}
	}
	token := func(t *Token) {
		abs(&t.PIN.File)
		if ext := filepath.Ext(t.Profile); ext == ".yaml" || ext == ".yml" {
			abs(&t.Profile)
		}
		for k, v := range t.Environment {
			if strings.HasPrefix(v, "./") {
				t.Environment[k] = filepath.Join(dir, v)
			}
		}
	}
	node := func(n *Node, t *Token, verifiers ...Token) {
		abs(&n.MSP, &n.Certificate)
		token(t)
		for i := range verifiers {
			token(&verifiers[i])
		}
	}
	remotes := func(rs []Remote) {
		for i := range rs {
			abs(&rs[i].TLSCACert)
		}
	}
	layers := func(p *Policy) {
		for k, v := range p.Layers {
			abs(&v)
			p.Layers[k] = v
		}
		abs(&p.Guard, &p.Mask, &p.Bundle.File, &p.Bundle.Folder, &p.Bundle.PublicKey, &p.Bundle.TLSCACert)
	}
	switch c := c.(type) {
	case *Peer:
		node(&c.Node, &c.Token, c.Verifiers...)
		abs(&c.Listen.TLSCertificate, &c.Data)
		list(c.Listen.ClientCAs)
		list(c.Ordering.Genesis)
		remotes(c.Ordering.Endpoints)
		remotes(c.Peers)
		layers(&c.Policy)
	case *Orderer:
		node(&c.Node, &c.Token, c.Verifiers...)
		abs(&c.Listen.TLSCertificate, &c.Data)
		list(c.Listen.ClientCAs)
		list(c.Genesis)
		layers(&c.Policy)
	case *Client:
		node(&c.Node, &c.Token, c.Verifiers...)
		abs(&c.Peer.TLSCACert, &c.Orderer.TLSCACert)
	}
}
