package replay

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"time"

	"strongroom/channel"
	"strongroom/ledger/provenance"
)

// keptDifferences bounds the differences that a report lists; all are counted.
const keptDifferences = 100

// Report is what a replay found. Rates leave out the time of the baselines.
type Report struct {
	Channel      string `json:"channel"`
	Blocks       int    `json:"blocks"` // after the genesis block
	Transactions int    `json:"transactions"`
	Checks       uint64 `json:"signatureChecks"` // in the token: creators, endorsements, orderers, certificates
	Provenance   bool   `json:"provenanceSigned"`

	Seconds               float64 `json:"seconds"`
	TransactionsPerSecond float64 `json:"transactionsPerSecond"`
	ChecksPerSecond       float64 `json:"checksPerSecond"`
	BareChecksPerSecond   float64 `json:"bareChecksPerSecond"` // C_VerifyInit and C_Verify, without the pool; 0: not measured
	PoolChecksPerSecond   float64 `json:"poolChecksPerSecond"` // one key, one signature, through the pool
	OfBareRate            float64 `json:"ofBareRate"`          // ChecksPerSecond of BareChecksPerSecond

	Stages          map[string]*Stage `json:"stages"`
	PeakMemoryBytes uint64            `json:"peakMemoryBytes"` // of this process, unpacking included
	DiskBytes       int64             `json:"diskBytes"`       // of the ledger: blocks, index, state, history
	LoadBefore      float64           `json:"loadAverageBefore"`
	LoadAfter       float64           `json:"loadAverageAfter"`

	DifferenceCount int                  `json:"differenceCount"`
	Differences     []channel.Difference `json:"differences,omitempty"` // the first of them
}

func (r *Report) differ(d channel.Difference) {
	r.DifferenceCount++
	if len(r.Differences) < keptDifferences {
		r.Differences = append(r.Differences, d)
	}
}

// Stage is how long a stage took over all blocks. Stages overlap, so their sums
// exceed the time of the whole.
type Stage struct {
	Count    int
	Sum, Max time.Duration
}

func (s *Stage) add(d time.Duration) {
	s.Count++
	s.Sum += d
	s.Max = max(s.Max, d)
}

// Mean is the time of one.
func (s *Stage) Mean() time.Duration {
	if s.Count == 0 {
		return 0
	}
	return s.Sum / time.Duration(s.Count)
}

// MarshalJSON gives times in milliseconds.
func (s *Stage) MarshalJSON() ([]byte, error) {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return json.Marshal(map[string]any{"count": s.Count, "sumMs": ms(s.Sum), "meanMs": ms(s.Mean()), "maxMs": ms(s.Max)})
}

// recorder tells the provenance recorder what the pipeline knows of a block.
type recorder struct{ *provenance.Recorder }

func (r recorder) Record(ctx context.Context, blocks ...channel.CommittedBlock) error {
	facts := make([]provenance.Facts, len(blocks))
	for i, b := range blocks {
		facts[i] = provenance.Facts{Block: b.Block, Policies: map[string]string{}}
		for namespace, digest := range b.Policies {
			facts[i].Policies[namespace] = hex.EncodeToString(digest[:])
		}
	}
	return r.Recorder.Record(ctx, facts...)
}
