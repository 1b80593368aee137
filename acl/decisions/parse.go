package decisions

import (
	"encoding/json"
	"fmt"
	"time"
)

// Recorded is a decision as its record shows it.
type Recorded struct {
	Labels      map[string]string `json:"labels"`
	ID          string            `json:"decision_id"`
	Bundles     map[string]Origin `json:"bundles,omitempty"`
	Path        string            `json:"path"`
	Input       json.RawMessage   `json:"input"`
	Result      Result            `json:"result"`
	Erased      []string          `json:"erased,omitempty"`
	Masked      []string          `json:"masked,omitempty"`
	RequestedBy string            `json:"requested_by,omitempty"`
	Time        time.Time         `json:"timestamp"`
	Metrics     map[string]int64  `json:"metrics"`
	Custom      Custom            `json:"custom"`
}

// Origin names the revision of a bundle.
type Origin struct {
	Revision string `json:"revision"`
}

// Custom is what EventV1 has no member for.
type Custom struct {
	Engine       string `json:"engine"`
	OPAVersion   string `json:"opa_version"`
	InputSHA256  string `json:"input_sha256"`            // InputHash, in hex
	BundleSHA256 string `json:"bundle_sha256,omitempty"` // of the archive
	MaskError    string `json:"mask_error,omitempty"`
}

// Parse reads the decision of a record.
func Parse(decision []byte) (*Recorded, error) {
	r := &Recorded{}
	if err := json.Unmarshal(decision, r); err != nil {
		return nil, fmt.Errorf("decision: %w", err)
	}
	return r, nil
}

// Whole tells whether nothing of the decision's input and result was masked.
func (r *Recorded) Whole() bool { return len(r.Erased) == 0 && len(r.Masked) == 0 }
