package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"strongroom/acl/bundles"
	"strongroom/acl/decisions"
	again "strongroom/acl/replay"
	"strongroom/bccsp"
	"strongroom/ledger/auditlog"
)

func decisionsCommand() *cobra.Command {
	var signer, output string
	var rules []string
	cmd := &cobra.Command{
		Use:   "decisions FILE",
		Short: "Verify a slice of a node's audit log, and decide its decisions again",
		Long: `Checks what "strongroom policy log export" wrote: that its records follow each other
without a gap, that the node's key signed the checkpoint and that the records are in its
log; each salted hash of an input whose salt is there. It counts decisions and acts, and
lists gaps that the node recorded itself.

With --rules, bundles or folders of Rego, every decision that these rules made is made
again from the recorded input, as "opa eval" does, and compared.

Whose log it is, is as good as the certificate: name it with --signer, or compare the
key's fingerprint that is printed.`,
		Example: "  strongroom-audit decisions decisions.jsonl --signer peer0.pem --rules bundle-12.tar.gz --rules bundle-13.tar.gz",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output is %q: use text or json", output)
			}
			known := again.Rules{}
			for _, path := range rules {
				r, err := bundles.ReadRules(cmd.Context(), path)
				if err != nil {
					return fmt.Errorf("--rules %s: %w", path, err)
				}
				known.Add(r)
			}
			var certificate []byte
			if signer != "" {
				var err error
				if certificate, err = os.ReadFile(signer); err != nil {
					return fmt.Errorf("--signer: %w", err)
				}
			}
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			report, err := verifyDecisions(cmd.Context(), f, certificate, known)
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
			if output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(report)
			} else {
				err = report.print(cmd.OutOrStdout())
			}
			if err == nil && len(report.Findings) > 0 {
				err = fmt.Errorf("%d findings: the slice does not verify", len(report.Findings))
			}
			return err
		},
	}
	cmd.Flags().StringVar(&signer, "signer", "", "`FILE` with the node's certificate, in PEM, as you know it")
	cmd.Flags().StringArrayVar(&rules, "rules", nil, "`PATH` of a bundle or a folder of Rego to decide with again; may stand several times")
	cmd.Flags().StringVar(&output, "output", "text", "how to print the report: text or json")
	return cmd
}

// LogSlice is what was found of a slice of an audit log.
type LogSlice struct {
	Origin   string         `json:"origin"`
	Signer   string         `json:"signer"`
	KeyID    string         `json:"keyId"`
	From     uint64         `json:"from"`
	To       uint64         `json:"to"`
	Records  uint64         `json:"records"`
	LogSize  uint64         `json:"logSize"` // of the whole log, at the checkpoint
	Allowed  int            `json:"allowed"`
	Denied   int            `json:"denied"`
	Dropped  uint64         `json:"dropped"` // as the node recorded
	Acts     map[string]int `json:"acts"`
	Again    int            `json:"decidedAgain"` // with the rules that were given
	NotAgain map[string]int `json:"notDecidedAgain"`
	Hashes   int            `json:"inputHashes"` // of inputs, that were checked by their salts
	Gaps     []auditlog.Gap `json:"gaps"`
	Findings []string       `json:"findings"`
	last     *decisions.Recorded
}

// verifyDecisions checks a slice. certificate is nil to take the slice's own.
func verifyDecisions(ctx context.Context, r io.Reader, certificate []byte, rules again.Rules) (*LogSlice, error) {
	out := &LogSlice{Acts: map[string]int{}, NotAgain: map[string]int{}, Gaps: []auditlog.Gap{}, Findings: []string{}}
	verified, err := auditlog.VerifySlice(r, auditlog.Visitor{
		Head: func(h *auditlog.Head) ([]byte, func(text, sig []byte) error, error) {
			return out.signer(h, certificate)
		},
		Record: func(r *auditlog.Record, _ []byte) error { return out.record(ctx, r, rules) },
		Private: func(number uint64, private []byte) error {
			out.private(number, private)
			return nil
		},
		Finding: func(what string) { out.Findings = append(out.Findings, what) },
	})
	if err != nil {
		return nil, err
	}
	out.Origin, out.From, out.To, out.Records, out.LogSize = verified.Head.Origin, verified.Head.From, verified.Head.To, verified.Records, verified.Size
	return out, nil
}

func (s *LogSlice) signer(h *auditlog.Head, certificate []byte) ([]byte, func(text, sig []byte) error, error) {
	if certificate == nil {
		certificate = []byte(h.Certificate)
	}
	block, _ := pem.Decode(certificate)
	if block == nil {
		return nil, nil, errors.New("the signer's certificate is not PEM")
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("the signer's certificate: %w", err)
	}
	key, err := bccsp.NewPublicKey(parsed.PublicKey)
	if err != nil {
		return nil, nil, fmt.Errorf("the signer's certificate: %w", err)
	}
	s.Signer, s.KeyID = parsed.Subject.String(), key.ID().String()
	if h.Origin != auditlog.Origin(s.KeyID) {
		s.Findings = append(s.Findings, fmt.Sprintf("the slice is of the log %q, which is not the log of the key %s", h.Origin, s.KeyID))
	}
	return key.SPKI(), func(text, sig []byte) error {
		digest := sha256.Sum256(text)
		return software{}.Verify(context.Background(), key, digest[:], sig)
	}, nil
}

func (s *LogSlice) record(ctx context.Context, r *auditlog.Record, rules again.Rules) error {
	s.last = nil
	switch r.Kind() {
	case auditlog.Action:
		s.Acts[r.Act.Name]++
		return nil
	case auditlog.Missing:
		s.Dropped += r.Gap.Dropped
		s.Gaps = append(s.Gaps, *r.Gap)
		return nil
	}
	d, err := decisions.Parse(r.Decision)
	if err != nil {
		s.Findings = append(s.Findings, fmt.Sprintf("record %d: %v", r.Number, err))
		return nil
	}
	s.last = d
	if d.Result.Allow {
		s.Allowed++
	} else {
		s.Denied++
	}
	if len(rules) == 0 {
		return nil
	}
	differences, err := rules.Again(ctx, d)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.NotAgain[cause(err)]++
		return nil
	}
	s.Again++
	for _, difference := range differences {
		s.Findings = append(s.Findings, fmt.Sprintf("record %d, decision %s: decided again, %s", r.Number, d.ID, difference))
	}
	return nil
}

// cause is the sentinel of an error, so that equal ones are counted together.
func cause(err error) string {
	for _, known := range []error{again.ErrMasked, again.ErrNoInput, again.ErrNoRules, again.ErrNoRego} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return err.Error()
}

// private checks the hash of the input of the record before.
func (s *LogSlice) private(number uint64, raw []byte) {
	if s.last == nil || !s.last.Whole() {
		return
	}
	var p decisions.Private
	err := json.Unmarshal(raw, &p)
	var salt, input []byte
	if err == nil {
		salt, err = hex.DecodeString(p.Salt)
	}
	if err == nil {
		input, err = decisions.CanonicalInput(s.last.Input)
	}
	if err != nil {
		s.Findings = append(s.Findings, fmt.Sprintf("record %d: its salt: %v", number, err))
		return
	}
	if sum := decisions.InputHash(salt, input); hex.EncodeToString(sum[:]) != s.last.Custom.InputSHA256 {
		s.Findings = append(s.Findings, fmt.Sprintf("record %d: the hash of its input is not %s: the salt or the record was changed", number, s.last.Custom.InputSHA256))
		return
	}
	s.Hashes++
}

func (s *LogSlice) print(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 4, 2, ' ', 0)
	verdict := "VERIFIED"
	if len(s.Findings) > 0 {
		verdict = "DOES NOT VERIFY"
	}
	fmt.Fprintf(w, "%s\nlog\t%s, %d records at the checkpoint\nsigned by\t%s, key %s\nrecords\t%d to %d\n", verdict, s.Origin, s.LogSize, s.Signer, s.KeyID, s.From, s.To)
	fmt.Fprintf(w, "decisions\t%d allowed, %d denied, %d dropped by the node\n", s.Allowed, s.Denied, s.Dropped)
	for name, n := range s.Acts {
		fmt.Fprintf(w, "act %s\t%d\n", name, n)
	}
	for _, g := range s.Gaps {
		fmt.Fprintf(w, "gap\t%d decisions from %s to %s: %s\n", g.Dropped, g.From, g.To, g.Reason)
	}
	if s.Again > 0 {
		fmt.Fprintf(w, "decided again\t%d\n", s.Again)
	}
	for why, n := range s.NotAgain {
		fmt.Fprintf(w, "not decided again\t%d: %s\n", n, why)
	}
	for _, f := range s.Findings {
		fmt.Fprintf(w, "finding\t%s\n", f)
	}
	return w.Flush()
}
