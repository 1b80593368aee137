package decisions

import (
	"context"
	"errors"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"strongroom/policy"
)

// Paths of what decides, as Open Policy Agent names them: data below the root.
const (
	AccessPath      = "strongroom/acl"            // the access layers
	ConnectionPath  = "strongroom/acl/connection" // the layer that is asked about each call
	EndorsementPath = "strongroom/endorse"        // the endorsement guard
)

// Event is one decision. It must not change after it was handed over, and neither may
// what About reads.
type Event struct {
	ID          string
	Path        string
	Time        time.Time
	Took        time.Duration
	RequestedBy string // address of who asked, "" if it is not known
	// Size is about how many bytes the event keeps in memory until it is rendered.
	Size int
	// Bundle is where the rules came from, zero for rules of files.
	Bundle policy.BundleRef
	// About is what was decided about what. Its methods are called later, at most once each,
	// on another goroutine.
	About Subject

	log *Log
}

// Subject is what a decision was about, and its outcome.
type Subject interface {
	// Input makes what the rules saw. A nil value stands for an input that could not be made.
	Input() (ast.Value, error)
	Result() Result
	// Same, unless it is nil, is comparable; two events for which it is equal are equal in
	// path, input, result and bundle.
	Same() any
}

// Result is what was decided.
type Result struct {
	Allow  bool     `json:"allow"`
	Deny   []string `json:"deny,omitempty"`          // the reasons
	Public []string `json:"public_reason,omitempty"` // what the caller was told
	// Layers are what each layer said that was asked, in order; of an access decision.
	Layers []Layer `json:"layers,omitempty"`
	// Policy is the digest of what decided; of an endorsement decision.
	Policy string `json:"policy,omitempty"`
	// Limited says that a condition of time or rate did not hold, which the rules set and do
	// not see themselves: they alone would have said yes.
	Limited bool `json:"limited,omitempty"`
	// Failed says that an evaluation did not come to an end, so that the answer was no.
	Failed bool `json:"failed,omitempty"`
}

// Layer is the verdict of one access layer.
type Layer struct {
	Layer   string   `json:"layer"`
	Allow   bool     `json:"allow"`
	Reasons []string `json:"reasons,omitempty"`
	Policy  string   `json:"policy,omitempty"` // digest of what decided
}

// Sink takes events. It is safe for concurrent use.
type Sink interface {
	// Decided takes an event. An error means that the event cannot be kept: the decision
	// must not be acted on. It wraps ErrNotKept.
	Decided(ctx context.Context, e *Event) error
}

// ErrNotKept says that a decision cannot be kept, so that it does not count.
var ErrNotKept = errors.New("the decision cannot be recorded, so it does not count")
