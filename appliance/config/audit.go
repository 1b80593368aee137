package config

import (
	"errors"
	"fmt"
	"time"
)

// Audit configures the node's audit log: its decisions, and what is done to it.
type Audit struct {
	// Strict has each decision wait until its record is on disk.
	Strict bool `yaml:"strict"`
	// WhenFull says what happens to decisions that cannot be recorded: stop (the default)
	// refuses them, drop counts them.
	WhenFull   string   `yaml:"whenFull"`
	SegmentMiB int      `yaml:"segmentMiB"` // size of a file of the log; 64 if left out
	Keep       Duration `yaml:"keep"`       // how long records are kept; for ever if left out
}

// The values of Audit.WhenFull.
const (
	AuditStop = "stop"
	AuditDrop = "drop"
)

func (a *Audit) validate() error {
	var errs []error
	if a.WhenFull != "" && a.WhenFull != AuditStop && a.WhenFull != AuditDrop {
		errs = append(errs, fmt.Errorf("audit.whenFull is %q: use %s or %s", a.WhenFull, AuditStop, AuditDrop))
	}
	if a.Strict && a.WhenFull == AuditDrop {
		errs = append(errs, errors.New("audit: strict waits for each record, whenFull: drop does without: choose one"))
	}
	if a.SegmentMiB < 0 || a.SegmentMiB > 4096 {
		errs = append(errs, fmt.Errorf("audit.segmentMiB is %d: leave it out or set 1 to 4096", a.SegmentMiB))
	}
	if a.Keep != 0 && time.Duration(a.Keep) < time.Hour {
		errs = append(errs, fmt.Errorf("audit.keep is %s: leave it out or set at least 1h", time.Duration(a.Keep)))
	}
	return errors.Join(errs...)
}
