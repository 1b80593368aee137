package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"strongroom/appliance"
	"strongroom/appliance/config"
)

func ledgerAcceptRollbackCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "accept-rollback CHANNEL",
		Short: "Accept a ledger that is older than the token remembers",
		Long: `A peer refuses to start on a data folder that is an older copy: its token remembers
how many blocks each ledger had, and the hash of the last. This command, with the
peer stopped, has the token remember the ledger as it is. The token keeps a line about it,
with both heights and the time; the command prints all such lines.`,
		Example: "  strongroom ledger accept-rollback main --config peer.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := config.LoadPeer(file)
			if err != nil {
				return err
			}
			r, err := appliance.AcceptRollback(cmd.Context(), c, args[0], cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			result := map[string]any{"channel": args[0], "height": r.Height, "acceptedNow": r.New, "accepted": r.Accepted}
			return show(cmd, result, func(w io.Writer) {
				if r.New {
					fmt.Fprintf(w, "accepted\t%s at height %d\n", args[0], r.Height)
				} else {
					fmt.Fprintf(w, "nothing to accept\t%s at height %d is not behind\n", args[0], r.Height)
				}
				for _, line := range r.Accepted {
					fmt.Fprintf(w, "remembered, found, time\t%s\n", line)
				}
			})
		},
	}
	configFlag(cmd, &file, "peer.yaml")
	return cmd
}
