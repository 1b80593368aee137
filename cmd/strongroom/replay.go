package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"strongroom/appliance"
	"strongroom/appliance/replay"
	"strongroom/bccsp/pkcs11"
)

func ledgerReplayCommand() *cobra.Command {
	var f tokenFlags
	var c replay.Config
	var wrappingKey, key, profile, temp string
	var sessions int
	cmd := &cobra.Command{
		Use:   "replay FOLDER",
		Short: "Time validation and commit of a folder of blocks, beside the token's own rate",
		Long: `Validates and commits blocks, from the genesis block on, on a scratch ledger in a
temporary folder: every signature is checked in the token, everything is sealed under
its wrapping key, and with --key each block's provenance is signed. In turns with that
it measures how fast the token verifies through the peer's session pool, and through
the bare module. Validation codes and commit hashes that the blocks record are compared;
a difference makes the command fail. The scratch ledger is removed in the end.

FOLDER has files block-NNNNNN.pb (common.Block), or is a .tar or .tar.zst of such files.`,
		Example: "  strongroom ledger replay blocks.tar.zst --module /usr/lib/softhsm/libsofthsm2.so --token org1 --pin-file pin",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if _, err := f.config(); err != nil {
				return err
			}
			if err := f.environment(); err != nil {
				return err
			}
			appliance.CollectEarly() // as a peer does
			ctx := cmd.Context()
			if c.Token, err = pkcs11.Open(ctx, pkcs11.Config{
				Module: f.module, TokenLabel: f.label, PIN: f.pin(), Sessions: sessions, WrappingKeyLabel: wrappingKey,
			}); err != nil {
				return fmt.Errorf("token: %w", err)
			}
			defer func() { err = errors.Join(err, c.Token.Close()) }()
			if key != "" {
				if c.Signer, err = c.Token.Signer(ctx, key); err != nil {
					return fmt.Errorf("--key: %w", err)
				}
			}
			if c.Dir, err = os.MkdirTemp(temp, "strongroom-replay-"); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, os.RemoveAll(c.Dir)) }()
			stop, err := profileTo(profile)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, stop()) }()
			c.Blocks = args[0]
			c.Progress = func(blocks, transactions int, elapsed time.Duration) {
				progress(cmd, "%d blocks, %d transactions, %.0f tx/s", blocks, transactions, float64(transactions)/elapsed.Seconds())
			}
			report, err := replay.Run(ctx, c)
			if err != nil {
				return err
			}
			if err := show(cmd, report, func(w io.Writer) { printReplay(w, report) }); err != nil {
				return err
			}
			if report.DifferenceCount > 0 {
				return fmt.Errorf("%d codes or commit hashes differ from what the blocks record", report.DifferenceCount)
			}
			return nil
		},
	}
	f.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&wrappingKey, "wrapping-key", "strongroom-kek", "`LABEL` of the token's wrapping key")
	flags.StringVar(&key, "key", "", "`LABEL` of a signing key of the token for the provenance; without it none is signed")
	flags.IntVar(&sessions, "sessions", 0, "sessions of the pool; 0 is the default of a peer")
	flags.IntVar(&c.Turn, "turn", 0, "transactions between two measurements of the token; 0 is 9000")
	flags.DurationVar(&c.Baseline, "baseline", 0, "time of each measurement of the token; 0 is 300ms, negative none")
	flags.StringVar(&profile, "cpu-profile", "", "`FILE` to write a CPU profile to")
	flags.StringVar(&temp, "temp", "", "`FOLDER` for the scratch ledger (default: the system's)")
	return cmd
}

// profileTo starts a CPU profile, unless file is empty; the result ends it.
func profileTo(file string) (stop func() error, err error) {
	if file == "" {
		return func() error { return nil }, nil
	}
	out, err := os.OpenFile(filepath.Clean(file), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(out); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return out.Close()
	}, nil
}

func printReplay(w io.Writer, r *replay.Report) {
	fmt.Fprintf(w, "channel\t%s\nblocks\t%d\ntransactions\t%d\nsignatures checked\t%d\nprovenance signed\t%t\ntime\t%.2f s\n\n",
		r.Channel, r.Blocks, r.Transactions, r.Checks, r.Provenance, r.Seconds)
	fmt.Fprintf(w, "transactions/s\t%.0f\nsignatures/s\t%.0f\n", r.TransactionsPerSecond, r.ChecksPerSecond)
	if r.BareChecksPerSecond > 0 {
		fmt.Fprintf(w, "bare module\t%.0f signatures/s in the same run\nthrough the pool\t%.0f\nreplay of bare module\t%.2f\n",
			r.BareChecksPerSecond, r.PoolChecksPerSecond, r.OfBareRate)
	}
	fmt.Fprintf(w, "peak memory\t%.0f MB\nledger on disk\t%d bytes", float64(r.PeakMemoryBytes)/1e6, r.DiskBytes)
	if r.Transactions > 0 {
		fmt.Fprintf(w, ", %d for each transaction", r.DiskBytes/int64(r.Transactions))
	}
	fmt.Fprintf(w, "\nload average\t%.2f before, %.2f after\n\nSTAGE\tBLOCKS\tMEAN\tMAX\tSUM\n", r.LoadBefore, r.LoadAfter)
	for _, name := range slices.Sorted(maps.Keys(r.Stages)) {
		s := r.Stages[name]
		round := func(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", name, s.Count, round(s.Mean()), round(s.Max), round(s.Sum))
	}
	fmt.Fprintf(w, "\ndifferences\t%d\n", r.DifferenceCount)
	for _, d := range r.Differences {
		fmt.Fprintln(w, d)
	}
}
