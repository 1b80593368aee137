package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"strongroom/appliance"
	"strongroom/appliance/config"
	"strongroom/ledger"
)

// atRestFlags are those of commands that open a stopped peer's ledger.
type atRestFlags struct{ file, data string }

func (f *atRestFlags) add(cmd *cobra.Command) {
	configFlag(cmd, &f.file, "peer.yaml")
	cmd.Flags().StringVar(&f.data, "data", "", "data `FOLDER` in place of the configuration's, such as a copy or a backup of it")
}

func (f *atRestFlags) load() (*config.Peer, error) {
	c, err := config.LoadPeer(f.file)
	if err == nil && f.data != "" {
		c.Data = f.data
	}
	return c, err
}

// careProgress prints how far a long command is, once a second at most.
func careProgress(cmd *cobra.Command) func(what string, done, of uint64) {
	var last time.Time
	return func(what string, done, of uint64) {
		if time.Since(last) < time.Second {
			return
		}
		last = time.Now()
		if of > 0 {
			progress(cmd, "%s: %d of %d", what, done, of)
		} else {
			progress(cmd, "%s: %d", what, done)
		}
	}
}

func ledgerStatsCommand() *cobra.Command {
	var f atRestFlags
	cmd := &cobra.Command{
		Use:   "stats CHANNEL",
		Short: "Count what a ledger holds and what takes the bytes",
		Long: `Counts blocks, transactions, keys in each namespace, terms of the keyring, and the bytes of
each part: of a running peer by asking it (as the user that it runs as), of a stopped one by opening
its ledger for reading alone.`,
		Example: "  strongroom ledger stats main --config peer.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.load()
			if err != nil {
				return err
			}
			s, err := appliance.RunningStats(cmd.Context(), c.Data, args[0])
			if errors.Is(err, appliance.ErrNotRunning) {
				s, err = appliance.LedgerStats(cmd.Context(), c, args[0], cmd.ErrOrStderr())
			}
			if err != nil {
				return err
			}
			return show(cmd, s, func(w io.Writer) { printStats(w, s) })
		},
	}
	f.add(cmd)
	return cmd
}

func printStats(w io.Writer, s *ledger.Stats) {
	fmt.Fprintf(w, "channel\t%s\nformat version\t%s\nheight\t%d\ntransactions\t%d\nblocks compressed\t%d\nblocks not compressed\t%d\n\nPART\tFILES\tBYTES\tFOR A TRANSACTION\n",
		s.Channel, s.Format, s.Height, s.Transactions, s.Compressed, s.Plain)
	each := func(n int64) string {
		if s.Transactions == 0 {
			return "-"
		}
		return fmt.Sprintf("%.1f", float64(n)/float64(s.Transactions))
	}
	files := 0
	for _, p := range s.Parts {
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", p.Name, p.Files, p.Bytes, each(p.Bytes))
		files += p.Files
	}
	fmt.Fprintf(w, "all\t%d\t%d\t%s\n\nNAMESPACE\tKEYS\tPRIVATE KEYS\tBYTES\n", files, s.Bytes, each(s.Bytes))
	for _, name := range slices.Sorted(maps.Keys(s.Namespaces)) {
		n := s.Namespaces[name]
		fmt.Fprintf(w, "%q\t%d\t%d\t%d\n", name, n.Keys, n.PrivateKeys, n.Bytes)
	}
	fmt.Fprint(w, "\nTERM\tSEALED BLOCKS AND VALUES\n")
	for _, term := range slices.Sorted(maps.Keys(s.Terms)) {
		fmt.Fprintf(w, "%d\t%d\n", term, s.Terms[term])
	}
}

func ledgerVerifyCommand() *cobra.Command {
	var f atRestFlags
	var temp string
	cmd := &cobra.Command{
		Use:   "verify CHANNEL",
		Short: "Read a ledger again as a whole and compare everything with everything",
		Long: `Opens the ledger of a stopped peer and changes nothing of it. Reads every byte of its
files through the seal; checks the chain of blocks, the hashes of their transactions, the
orderers' signatures against the configuration at each block and the statements of provenance, in the
token; commits the blocks once more into an empty ledger in a temporary folder, and compares
verdicts, commit hashes and each row of index, state and history; compares private values with their
hashes. Creators' and endorsers' signatures are not checked again: "strongroom ledger replay" does
that. What is wrong is printed with file and byte, or by the row's key, and the command fails.`,
		Example: "  strongroom ledger verify main --config peer.yaml\n  strongroom ledger verify main --config peer.yaml --data /backup/peer",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.load()
			if err != nil {
				return err
			}
			v, err := appliance.VerifyLedger(cmd.Context(), c, args[0], temp, careProgress(cmd), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if err := show(cmd, v, func(w io.Writer) { printVerification(w, v) }); err != nil {
				return err
			}
			if n := len(v.Problems) + v.More; n > 0 {
				return fmt.Errorf("the ledger has %d problems", n)
			}
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&temp, "temp", "", "`FOLDER` for the second ledger (default: the system's)")
	return cmd
}

func printVerification(w io.Writer, v *appliance.LedgerVerification) {
	fmt.Fprintf(w, "channel\t%s\nheight\t%d\ntransactions\t%d\nrows compared\t%d\nblocks with good signatures of orderers\t%d\nstatements of provenance found good\t%d\n",
		v.Channel, v.Height, v.Transactions, v.Rows, v.Signed, v.Statements)
	for _, note := range v.Notes {
		fmt.Fprintf(w, "note\t%s\n", note)
	}
	for _, p := range v.Problems {
		fmt.Fprintf(w, "problem\t%s\n", p)
	}
	if v.More > 0 {
		fmt.Fprintf(w, "problem\tand %d more\n", v.More)
	}
	if len(v.Problems) == 0 {
		fmt.Fprint(w, "problems\tnone\n")
	}
}

func ledgerRebuildCommand() *cobra.Command {
	var f atRestFlags
	cmd := &cobra.Command{
		Use:   "rebuild CHANNEL",
		Short: "Make index, state and history of a ledger anew from its blocks",
		Long: `Makes, with the peer stopped, what follows from the blocks and the private writes once
more, beside what is there, and puts it in its place in one step. A rebuild that was interrupted
goes on where it was when the command is run again; until it is done, the ledger is as it was.`,
		Example: "  strongroom ledger rebuild main --config peer.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.load()
			if err != nil {
				return err
			}
			height, err := appliance.RebuildLedger(cmd.Context(), c, args[0], careProgress(cmd), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return show(cmd, map[string]any{"channel": args[0], "height": height}, func(w io.Writer) {
				fmt.Fprintf(w, "rebuilt\t%s at height %d\n", args[0], height)
			})
		},
	}
	f.add(cmd)
	return cmd
}
