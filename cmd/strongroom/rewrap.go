package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"strongroom/appliance"
	"strongroom/appliance/config"
)

func tokenRewrapCommand() *cobra.Command {
	var file, to string
	var orderer bool
	cmd := &cobra.Command{
		Use:   "rewrap",
		Short: "Wrap a node's data keys with a new wrapping key",
		Long: `With the node stopped, has the token unwrap every data key with the present wrapping key
and wrap it with the one that --to names, which is made when it is not there. The
keyring is exchanged in one step; run the command again if it was interrupted. Then set
token.wrappingKey to the new label: the old wrapping key is refused from then on. When it is not
needed for backups any more, destroy it with the token's own tool.`,
		Example: "  strongroom token rewrap --config peer.yaml --to strongroom-kek-2",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var data string
			var own config.Token
			var verifiers []config.Token
			if orderer {
				c, err := config.LoadOrderer(file)
				if err != nil {
					return err
				}
				data, own, verifiers = c.Data, c.Token, c.Verifiers
			} else {
				c, err := config.LoadPeer(file)
				if err != nil {
					return err
				}
				data, own, verifiers = c.Data, c.Token, c.Verifiers
			}
			n, err := appliance.Rewrap(cmd.Context(), data, own, verifiers, to)
			if err != nil {
				return err
			}
			return show(cmd, map[string]any{"dataKeys": n, "wrappingKey": to}, func(w io.Writer) {
				if n == 0 {
					fmt.Fprintf(w, "nothing to wrap\tthe data keys are under %s already\n", to)
				} else {
					fmt.Fprintf(w, "data keys\t%d\nwrapping key\t%s\n", n, to)
				}
				fmt.Fprintf(w, "next\tset token.wrappingKey to %s\n", to)
			})
		},
	}
	configFlag(cmd, &file, "peer.yaml")
	cmd.Flags().BoolVar(&orderer, "orderer", false, "the configuration is an ordering node's")
	cmd.Flags().StringVar(&to, "to", "", "`LABEL` of the new wrapping key")
	mustMark(cmd, "to")
	return cmd
}
