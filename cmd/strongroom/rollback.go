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
	var ordering bool
	cmd := &cobra.Command{
		Use:   "accept-rollback CHANNEL",
		Short: "Accept a ledger that is older than the token remembers",
		Long: `A peer refuses to start on a data folder that is an older copy: its token remembers
how many blocks each ledger had, and the hash of the last. This command, with the
peer stopped, has the token remember the ledger as it is. The token keeps a line about it,
with both heights and the time; the command prints all such lines.

With --ordering it does the same for the log of an ordering node (orderer.yaml), or of the ordering service
inside a peer (peer.yaml). Think twice: the node then makes other blocks under numbers that
it has signed before. Peers that have the lost blocks refuse them and stop following.`,
		Example: "  strongroom ledger accept-rollback main --config peer.yaml\n  strongroom ledger accept-rollback main --ordering --config orderer.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := acceptRollback(cmd, file, args[0], ordering)
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
	cmd.Flags().BoolVar(&ordering, "ordering", false, "the log of an ordering node in place of a peer's ledger")
	return cmd
}

func acceptRollback(cmd *cobra.Command, file, channel string, ordering bool) (*appliance.RollbackAccepted, error) {
	if !ordering {
		c, err := config.LoadPeer(file)
		if err != nil {
			return nil, err
		}
		return appliance.AcceptRollback(cmd.Context(), c, channel, cmd.ErrOrStderr())
	}
	c, err := config.LoadOrderer(file)
	if err != nil {
		p, peerErr := config.LoadPeer(file)
		if peerErr != nil || !p.Ordering.Embedded {
			return nil, err
		}
		c = &config.Orderer{Node: p.Node, Token: p.Token, Verifiers: p.Verifiers, Data: p.Data, Log: p.Log}
	}
	return appliance.AcceptOrderingRollback(cmd.Context(), c, channel, cmd.ErrOrStderr())
}
