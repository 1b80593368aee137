package acl

import (
	"errors"
	"strings"
	"time"

	"strongroom/msp"
	"strongroom/policy"
)

// ErrDenied is what errors.Is finds in the error of every refused request.
var ErrDenied = errors.New("access denied")

// deniedError is what a caller may be told: that it was denied, and the id under
// which the log says why.
type deniedError struct{ id string }

func (e *deniedError) Error() string { return "access denied: decision " + e.id }

func (e *deniedError) Is(target error) bool { return target == ErrDenied }

// Layer is a place where a team's own Rego may deny.
type Layer string

// The layers, in the order in which they are asked; Fabric is Fabric's own policy.
const (
	Connection Layer = "connection" // asked for each gRPC call, before a service sees it
	Fabric     Layer = "fabric"
	Appliance  Layer = "appliance"
	Ordering   Layer = "ordering"
	Channel    Layer = "channel"
	Chaincode  Layer = "chaincode"
	Function   Layer = "function"
)

// Layers lists the layers that may have a Rego file, in order.
func Layers() []Layer {
	return []Layer{Connection, Appliance, Ordering, Channel, Chaincode, Function}
}

// layerCount is how many Layers lists.
const layerCount = 6

// Package is the Rego package of the layer's file.
func (l Layer) Package() string { return "strongroom.acl." + string(l) }

// Program is what to give to package policy for rules of the layer, besides their source.
func (l Layer) Program(deadline time.Duration) policy.ProgramConfig {
	schema := InputSchema
	if l == Connection {
		schema = ConnectionSchema
	}
	return policy.ProgramConfig{Package: l.Package(), Schema: schema, Deadline: deadline, Conditions: true}
}

// Request is what a caller asks to do. All of it must be verified: the caller's
// identity by its signature, the address and the certificate by the connection.
type Request struct {
	Resource  Resource
	Channel   string // "" for the channel of the configuration given with the request
	Chaincode string // "" when the request is not about a chaincode
	Function  string // of the chaincode: its first argument, whatever it holds
	// Args are what follows the function. Nothing may change them during a check.
	Args   [][]byte
	Caller *msp.Identity
	// RemoteAddr is the address of the connection. A port is cut off: it changes
	// with each connection and identifies nobody.
	RemoteAddr string
	// TLSCertHash is the SHA-256 of the client's TLS certificate in DER, or empty.
	TLSCertHash []byte
}

// Verdict is what one layer said.
type Verdict struct {
	Layer   Layer
	Allowed bool
	Reasons []string      // why not; for Fabric's policy also why
	Policy  policy.Digest // what decided
	// Conditions must hold besides; they are checked at each request, also for a
	// decision that is remembered.
	Conditions []policy.Condition
}

// Decision is the outcome of a check. Nothing may change its slices: they are shared.
type Decision struct {
	Allowed bool
	ID      string
	Layers  []Verdict // those that were asked, in order; the last one denied, if any did
}

// Reason says why the request was denied, for logs: it must not be told to the
// caller. It is "" when the request was allowed.
func (d *Decision) Reason() string {
	if d.Allowed || len(d.Layers) == 0 {
		return ""
	}
	last := d.Layers[len(d.Layers)-1]
	return string(last.Layer) + ": " + strings.Join(last.Reasons, "; ")
}
