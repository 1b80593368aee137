package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/bccsp"
	"strongroom/bccsp/ceremony"
	"strongroom/ledger/provenance"
)

func ceremonyCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "ceremony FILE",
		Short: "Verify the record of a key ceremony",
		Long: `Checks what "strongroom token ceremony" wrote: that each key signed the record, that the
record agrees with itself, and that the device called each key made there, sensitive and
not extractable. Compare the fingerprints with those the witnesses wrote down: the
record cannot show that they were there. Attachments are not judged; their digests
are printed.`,
		Example: "  strongroom-audit ceremony ceremony.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := readRecord(args[0])
			if err != nil {
				return err
			}
			d, err := verifyCeremony(cmd.Context(), raw)
			if err != nil {
				return fmt.Errorf("%s does not verify: %w", args[0], err)
			}
			return printCeremony(cmd.OutOrStdout(), d, output)
		},
	}
	cmd.Flags().StringVar(&output, "output", "text", "how to print: text or json")
	return cmd
}

func readRecord(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, ceremony.MaxBytes+1))
}

func verifyCeremony(ctx context.Context, raw []byte) (*ceremony.Document, error) {
	return ceremony.Verify(raw, func(key *bccsp.PublicKey, payloadType string, payload, sig []byte) error {
		digest := sha256.Sum256(provenance.PAE(payloadType, payload))
		return software{}.Verify(ctx, key, digest[:], sig)
	})
}

func printCeremony(w io.Writer, d *ceremony.Document, format string) error {
	if format == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(d)
	}
	if format != "text" {
		return fmt.Errorf("--output is %q: use text or json", format)
	}
	fmt.Fprintf(w, "time          %s by the %s\n", d.Time.Format(time.RFC3339), d.ClockSource)
	fmt.Fprintf(w, "operator      %q\n", d.Operator)
	for _, name := range d.Witnesses {
		fmt.Fprintf(w, "witness       %q\n", name)
	}
	if d.Purpose != "" {
		fmt.Fprintf(w, "purpose       %q\n", d.Purpose)
	}
	fmt.Fprintf(w, "device        %q by %q, serial %q, firmware %q, token %q\n", d.Device.Model, d.Device.Manufacturer, d.Device.Serial, d.Device.Firmware, d.Device.Label)
	fmt.Fprintf(w, "library       %q %q, sha256 %q\n", d.Library.Description, d.Library.Version, d.Library.Digest)
	for _, k := range d.Keys {
		var set []string
		for _, name := range []string{"CKA_ALWAYS_SENSITIVE", "CKA_NEVER_EXTRACTABLE"} {
			if k.Attributes[name] {
				set = append(set, name)
			}
		}
		fmt.Fprintf(w, "key           %q %s %s %s\n", k.Label, k.Curve, k.Digest, strings.Join(set, " "))
	}
	for _, a := range d.Attachments {
		fmt.Fprintf(w, "attachment    %q sha256 %q (not judged)\n", a.Name, a.Digest)
	}
	fmt.Fprintf(w, "VERIFIED      %d keys signed this record\n", len(d.Keys))
	return nil
}
