package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"strongroom/acl/bundles"
	"strongroom/acl/decisions"
	"strongroom/acl/replay"
	"strongroom/appliance"
	"strongroom/policy"
)

// change is a decision that other rules would make otherwise.
type change struct {
	Decision string         `json:"decision"`
	Record   uint64         `json:"record"`
	Path     string         `json:"path"`
	Before   replay.Outcome `json:"before"`
	After    replay.Outcome `json:"after"`
}

// simulated is what `policy simulate` prints.
type simulated struct {
	Decisions int            `json:"decisions"`
	Changes   []change       `json:"changes"`
	Skipped   map[string]int `json:"skipped"` // why a decision could not be made again
}

func policySimulateCommand() *cobra.Command {
	var file string
	var last int
	cmd := &cobra.Command{
		Use:   "simulate PATH",
		Short: "Show what a bundle or a folder of rules would change of the node's last decisions",
		Long: `Makes the last decisions in the node's audit log again, under the rules given, and lists
those whose outcome differs. Fabric's own policies are taken as they decided, and so is a
refusal by a condition of time or rate. Nothing changes in the node.`,
		Example: "  strongroom policy simulate policy --config peer.yaml --last 10000",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rules, err := bundles.ReadRules(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return withAudit(cmd, file, func(ctx context.Context, log *appliance.AuditFile) error {
				recent, err := recentDecisions(ctx, log, last)
				if err != nil {
					return err
				}
				s := simulated{Changes: []change{}, Skipped: map[string]int{}}
				for _, d := range recent {
					s.add(ctx, d, recordedOutcome(d.Recorded), func() (replay.Outcome, error) { return replay.Under(ctx, rules, d.Recorded) })
				}
				return show(cmd, s, s.print)
			})
		},
	}
	configFlag(cmd, &file, "peer.yaml")
	cmd.Flags().IntVar(&last, "last", 10000, "how many decisions, counted from the end")
	return cmd
}

// numbered is a decision and its record's number.
type numbered struct {
	*decisions.Recorded
	number uint64
}

// recentDecisions are the last n decisions of a log, oldest first.
func recentDecisions(ctx context.Context, log *appliance.AuditFile, n int) ([]numbered, error) {
	if n < 1 {
		return nil, errors.New("--last: at least 1")
	}
	var ring []numbered
	err := each(log, 0, func(number uint64, d *decisions.Recorded) error {
		if len(ring) == n {
			ring = ring[1:]
		}
		ring = append(ring, numbered{d, number})
		return ctx.Err()
	})
	return ring, err
}

func recordedOutcome(d *decisions.Recorded) replay.Outcome {
	if d.Result.Allow {
		return replay.Outcome{Allow: true}
	}
	o := replay.Outcome{Reasons: d.Result.Deny}
	if n := len(d.Result.Layers); n > 0 {
		o.Layer = d.Result.Layers[n-1].Layer
	}
	return o
}

func (s *simulated) add(_ context.Context, d numbered, before replay.Outcome, under func() (replay.Outcome, error)) {
	s.Decisions++
	if d.Result.Limited {
		s.Skipped["a condition of time or rate refused it"]++
		return
	}
	after, err := under()
	switch {
	case err != nil:
		s.Skipped[err.Error()]++
	case before.Allow != after.Allow || !before.Allow && d.Path != decisions.EndorsementPath && before.Layer != after.Layer || !reflect.DeepEqual(before.Reasons, after.Reasons):
		s.Changes = append(s.Changes, change{d.ID, d.number, d.Path, before, after})
	}
}

func (s *simulated) print(w io.Writer) {
	fmt.Fprintf(w, "decisions\t%d\nchanges\t%d\n", s.Decisions, len(s.Changes))
	for _, why := range slices.Sorted(maps.Keys(s.Skipped)) {
		fmt.Fprintf(w, "not made again\t%d\t%s\n", s.Skipped[why], why)
	}
	for _, c := range s.Changes {
		fmt.Fprintf(w, "%s\t%s\t%s → %s\n", c.Decision, c.Path, text(c.Before), text(c.After))
	}
}

func text(o replay.Outcome) string {
	if o.Allow {
		return "allowed"
	}
	return strings.TrimSpace("denied " + o.Layer + ": " + strings.Join(o.Reasons, "; "))
}

// difference is what `policy diff` prints.
type difference struct {
	Removed  []policy.RuleText `json:"removed"`
	Added    []policy.RuleText `json:"added"`
	Data     bool              `json:"dataDiffers"`
	Outcomes *simulated        `json:"outcomes,omitempty"`
}

func policyDiffCommand() *cobra.Command {
	var file string
	var last int
	cmd := &cobra.Command{
		Use:   "diff BEFORE AFTER",
		Short: "Compare two bundles or folders of rules: their rules and, over recorded decisions, their outcomes",
		Long: `Lists the rules that only one of them has; how a rule is laid out and where it stands
does not matter. With --config it also makes the last decisions of the node's audit log
under both, and lists those that differ.`,
		Example: "  strongroom policy diff bundle-12.tar.gz policy --config peer.yaml",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var d difference
			before, err := bundles.ReadBundle(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			after, err := bundles.ReadBundle(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			if d.Removed, d.Added, err = policy.DiffRules(before.Rego, after.Rego); err != nil {
				return err
			}
			d.Data = !reflect.DeepEqual(before.Data, after.Data)
			if file == "" {
				return show(cmd, d, d.print)
			}
			return withAudit(cmd, file, func(ctx context.Context, log *appliance.AuditFile) error {
				var rules [2]*bundles.Rules
				for i, path := range args {
					if rules[i], err = bundles.ReadRules(ctx, path); err != nil {
						return err
					}
				}
				recent, err := recentDecisions(ctx, log, last)
				if err != nil {
					return err
				}
				d.Outcomes = &simulated{Changes: []change{}, Skipped: map[string]int{}}
				for _, r := range recent {
					was, err := replay.Under(ctx, rules[0], r.Recorded)
					d.Outcomes.add(ctx, r, was, func() (replay.Outcome, error) {
						if err != nil {
							return replay.Outcome{}, err
						}
						return replay.Under(ctx, rules[1], r.Recorded)
					})
				}
				return show(cmd, d, d.print)
			})
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration `FILE` of the node whose decisions to compare over")
	cmd.Flags().IntVar(&last, "last", 10000, "how many decisions, counted from the end")
	return cmd
}

func (d *difference) print(w io.Writer) {
	for _, part := range []struct {
		sign  string
		rules []policy.RuleText
	}{{"-", d.Removed}, {"+", d.Added}} {
		for _, r := range part.rules {
			fmt.Fprintf(w, "%s %s\t%s\n", part.sign, r.Place, r.Rule)
			for line := range strings.Lines(r.Text) {
				fmt.Fprintf(w, "%s\t\t%s\n", part.sign, strings.TrimRight(line, "\n"))
			}
		}
	}
	if d.Data {
		fmt.Fprintln(w, "data.json differs")
	}
	if d.Outcomes != nil {
		d.Outcomes.print(w)
	} else if len(d.Removed)+len(d.Added) == 0 && !d.Data {
		fmt.Fprintln(w, "the same rules and data")
	}
}
