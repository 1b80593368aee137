package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/spf13/cobra"

	"strongroom/acl"
	"strongroom/acl/bundles"
	"strongroom/acl/decisions"
	"strongroom/acl/endorsement"
	"strongroom/acl/replay"
	"strongroom/appliance"
	"strongroom/appliance/config"
	"strongroom/ledger/auditlog"
	"strongroom/policy"
)

// explained is what `policy explain` prints.
type explained struct {
	Record   uint64                         `json:"record"`
	Decision *decisions.Recorded            `json:"decision"`
	Layers   map[string]*policy.Explanation `json:"layers"`
	Notes    []string                       `json:"notes,omitempty"` // why a layer is not explained
}

func policyExplainCommand() *cobra.Command {
	var file string
	var rules []string
	cmd := &cobra.Command{
		Use:   "explain DECISION",
		Short: "Say why a decision was made: what it was about, the rules that spoke, the lines that failed",
		Long: `Finds a decision by its id in the node's audit log and evaluates the rules that made it
once more, over the recorded input. They are those that the node has now, or those of
--rules; only rules whose digest the record names are taken.`,
		Example: "  strongroom policy explain 5f0c9a1b2c3d-2a --config peer.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withAudit(cmd, file, func(ctx context.Context, log *appliance.AuditFile) error {
				e := &explained{Layers: map[string]*policy.Explanation{}}
				if err := each(log, 0, func(n uint64, d *decisions.Recorded) error {
					if d.ID == args[0] {
						e.Record, e.Decision = n, d
					}
					return ctx.Err()
				}); err != nil {
					return err
				}
				if e.Decision == nil {
					return fmt.Errorf("the audit log of %s has no decision %q: ask the node that made it", log.Config.Node.Name, args[0])
				}
				known, err := rulesOf(ctx, log.Config, rules)
				if err != nil {
					return err
				}
				if err := e.explain(ctx, known); err != nil {
					return err
				}
				return show(cmd, e, e.print)
			})
		},
	}
	configFlag(cmd, &file, "peer.yaml")
	cmd.Flags().StringArrayVar(&rules, "rules", nil, "`PATH` of a bundle or a folder of Rego that made the decision; may stand several times")
	return cmd
}

// withAudit opens the audit log of a node's configuration.
func withAudit(cmd *cobra.Command, file string, do func(ctx context.Context, log *appliance.AuditFile) error) (err error) {
	c, err := config.LoadNode(file)
	if err != nil {
		return err
	}
	log, err := appliance.OpenAuditFile(cmd.Context(), c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	return do(cmd.Context(), log)
}

// each gives the decisions of a log from a record on.
func each(log *appliance.AuditFile, from uint64, do func(number uint64, d *decisions.Recorded) error) (err error) {
	r, err := log.Read(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		s, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		record, err := auditlog.ParseRecord(s.Line)
		if err != nil {
			return fmt.Errorf("record %d: %w", s.Number, err)
		}
		if record.Kind() != auditlog.Decision {
			continue
		}
		d, err := decisions.Parse(record.Decision)
		if err != nil {
			return fmt.Errorf("record %d: %w", s.Number, err)
		}
		if err := do(s.Number, d); err != nil {
			return err
		}
	}
}

// rulesOf are the programs of paths or, without any, those that a node has now.
func rulesOf(ctx context.Context, c *config.NodeFile, paths []string) (replay.Rules, error) {
	known := replay.Rules{}
	if len(paths) == 0 && c.Policy.Bundle.Configured() {
		paths = []string{filepath.Join(c.Data, "policy", "bundle.tar.gz")}
	}
	for _, path := range paths {
		r, err := bundles.ReadRules(ctx, path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		known.Add(r)
	}
	if len(paths) > 0 {
		return known, nil
	}
	var files []policy.ProgramConfig
	for l, path := range c.Policy.Layers {
		p := acl.Layer(l).Program(0)
		p.Path = path
		files = append(files, p)
	}
	if c.Policy.Guard != "" {
		p := endorsement.Program(0)
		p.Path = c.Policy.Guard
		files = append(files, p)
	}
	for _, f := range files {
		p, err := policy.LoadProgram(ctx, f)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil {
			known[p.Digest().String()] = p
		}
	}
	return known, nil
}

func (e *explained) explain(ctx context.Context, known replay.Rules) error {
	d := e.Decision
	verdicts := d.Result.Layers
	if d.Path == decisions.EndorsementPath {
		verdicts = []decisions.Layer{{Layer: endorsement.Layer, Allow: d.Result.Allow, Reasons: d.Result.Deny, Policy: d.Result.Policy}}
	}
	if !d.Whole() {
		e.Notes = append(e.Notes, "fields are masked: without them the rules cannot be evaluated again")
		return nil
	}
	in, err := ast.ValueFromReader(bytes.NewReader(d.Input))
	if err != nil {
		return fmt.Errorf("input of decision %s: %w", d.ID, err)
	}
	for _, v := range verdicts {
		if v.Layer == string(acl.Fabric) {
			continue
		}
		p := known[v.Policy]
		if p == nil {
			e.Notes = append(e.Notes, fmt.Sprintf("layer %s: the rules with the digest %s are not at hand: name their bundle with --rules", v.Layer, v.Policy))
			continue
		}
		if e.Layers[v.Layer], err = p.Explain(ctx, in); err != nil {
			return err
		}
	}
	return nil
}

func (e *explained) print(w io.Writer) {
	d := e.Decision
	verdict := "denied"
	if d.Result.Allow {
		verdict = "allowed"
	}
	fmt.Fprintf(w, "decision\t%s, record %d, %s\nverdict\t%s\npath\t%s\n", d.ID, e.Record, d.Time.Format("2006-01-02 15:04:05.000 MST"), verdict, d.Path)
	if d.Bundles != nil {
		fmt.Fprintf(w, "bundle\trevision %s\n", d.Bundles["policy"].Revision)
	}
	for _, r := range d.Result.Deny {
		fmt.Fprintf(w, "reason\t%s\n", r)
	}
	if d.Result.Limited {
		fmt.Fprintf(w, "condition\tthe rules allowed it; a condition of time or rate did not hold\n")
	}
	for _, v := range d.Result.Layers {
		word := "no"
		if v.Allow {
			word = "yes"
		}
		fmt.Fprintf(w, "layer %s\t%s\t%s\n", v.Layer, word, strings.Join(v.Reasons, "; "))
	}
	for layer, x := range e.Layers {
		for _, l := range x.Spoke {
			fmt.Fprintf(w, "spoke (%s)\t%s\t%s\n", layer, l.Place, l.Text)
		}
		for _, l := range x.Failed {
			fmt.Fprintf(w, "failed (%s)\t%s\t%s\n", layer, l.Place, l.Text)
		}
	}
	for _, n := range e.Notes {
		fmt.Fprintf(w, "note\t%s\n", n)
	}
	fmt.Fprintf(w, "input\t%s\n", d.Input)
}
