package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/bccsp/probe"
	profiles "strongroom/firmware-profiles"
)

// probeOutput is what `token probe --output json` prints.
type probeOutput struct {
	Report   *probe.Report   `json:"report"`
	Envelope *probe.Envelope `json:"envelope,omitempty"`
}

func tokenProbeCommand() *cobra.Command {
	var f tokenFlags
	var profile, reserved, draft, report, key string
	var quick bool
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Run the conformance suite on a live token, and measure it",
		Long: `Holds a device against what Strongroom needs: signatures, key wrap, what protects
keys, sessions; measures it with 1 to 64 sessions and recommends a size for the pool. It
works with test keys of its own and leaves none in the token. The report is signed by
the token. The command fails when a check fails that the profile does not declare, or
when the device does what the profile says that it does not.

Run it while nothing else of this process uses the library, and not on a device in use:
it takes as many sessions as there are, and logs out.`,
		Example: "  strongroom token probe --module /usr/lib/softhsm/libsofthsm2.so --token org1 --pin-file pin --profile softhsm-2.6 --report probe-org1",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if _, err := f.config(); err != nil {
				return err
			}
			expect, err := expectations(profile)
			if err != nil {
				return err
			}
			if err := f.environment(); err != nil {
				return err
			}
			bench, err := probe.Open(probe.Options{Module: f.module, Label: f.label, PIN: f.pin(), Reserved: reserved})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, bench.Close()) }()
			r, signed, err := bench.Probe(cmd.Context(), probe.Config{Expect: expect, Quick: quick, KeyLabel: key, Now: time.Now})
			out := probeOutput{Report: r}
			if signed != nil {
				out.Envelope = &signed.Envelope
			}
			if shown := show(cmd, out, func(w io.Writer) { printReport(w, r) }); shown != nil || err != nil {
				return errors.Join(err, shown)
			}
			if report != "" && signed == nil {
				return errors.New("--report: the token makes no signatures, so that it cannot sign the report")
			}
			if report != "" {
				if err := writeReport(report, signed); err != nil {
					return err
				}
			}
			if draft != "" {
				if err := writeDraft(draft, r); err != nil {
					return err
				}
			}
			if failed := r.Failed(); len(failed) > 0 {
				return fmt.Errorf("%d checks failed: %s", len(failed), strings.Join(failed, ", "))
			}
			return nil
		},
	}
	f.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&profile, "profile", "", "firmware profile: an `ID`, or a YAML file")
	flags.StringVar(&reserved, "reserved", "", "`TEXT` that the library needs in C_Initialize's pReserved, as NSS does")
	flags.StringVar(&draft, "draft", "", "write a first profile of the device to a new `FILE`")
	flags.StringVar(&report, "report", "", "write the signed report into a new `FOLDER`")
	flags.StringVar(&key, "key", "", "`LABEL` of the token's key that signs the report; without it one is made and destroyed")
	flags.BoolVar(&quick, "quick", false, "fewer rounds and shorter measurements")
	return cmd
}

// expectations are what the suite takes from a profile.
func expectations(name string) (probe.Expectations, error) {
	if name == "" {
		return probe.Expectations{}, nil
	}
	p, err := profiles.Load(name)
	if err != nil {
		return probe.Expectations{}, err
	}
	return probe.Expectations{Profile: p.ID, Gaps: p.Gaps, MaxSessions: p.Sessions.Max}, nil
}

func printReport(w io.Writer, r *probe.Report) {
	profile := r.Profile
	if profile == "" {
		profile = "none"
	}
	fmt.Fprintf(w, "token\t%s, serial %s\nmodel\t%s by %s, firmware %s\nprofile\t%s\n\nCHECK\tRESULT\tDETAIL\n",
		r.Token.Label, r.Token.Serial, r.Token.Model, r.Token.Manufacturer, r.Token.Firmware, profile)
	for _, c := range r.Results {
		fmt.Fprintf(w, "%s\t%s\t%s\n", c.Check, c.Status, c.Detail)
	}
	if len(r.Rates) == 0 {
		return
	}
	fmt.Fprintf(w, "\nSESSIONS\tSIGN/S\tVERIFY/S\n")
	for _, rate := range r.Rates {
		fmt.Fprintf(w, "%d\t%.0f\t%.0f\n", rate.Sessions, rate.Sign, rate.Verify)
	}
	fmt.Fprintf(w, "\nrecommended\tsessions: %d\n", r.Sessions)
}

// writeReport makes a folder with the signed report: the DSSE envelope, and for openssl
// the signed bytes, the signature and the public key.
func writeReport(folder string, signed *probe.Signed) error {
	envelope, err := json.MarshalIndent(signed.Envelope, "", "  ")
	if err != nil {
		return err
	}
	if err := os.Mkdir(folder, 0o755); err != nil {
		return fmt.Errorf("--report: %w", err)
	}
	for name, data := range map[string][]byte{"report.dsse.json": envelope, "report.pae": signed.PAE, "report.sig": signed.Signature, "report.pub": signed.PublicKey} {
		if err := os.WriteFile(filepath.Join(folder, name), data, 0o644); err != nil {
			return fmt.Errorf("--report: %w", err)
		}
	}
	return nil
}

func writeDraft(path string, r *probe.Report) error {
	text, err := r.Draft()
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("--draft: %w", err)
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Close())
}
