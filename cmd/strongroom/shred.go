package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"strongroom/appliance"
	"strongroom/appliance/config"
)

func ledgerShredCommand() *cobra.Command {
	var file, confirm string
	cmd := &cobra.Command{
		Use:   "shred CHANNEL NAMESPACE",
		Short: "Destroy the keys of a namespace, and with them its values",
		Long: `With the peer stopped, destroys the data keys of a chaincode's namespace on this node: its
values in the state, in the history and in the blocks, and its private data, can never be read
again here. Names of keys, versions, ids, signatures and hashes stay, and commits go on.
Other peers and the ordering service keep their copies, and so do backups of this
node while the token has the wrapping key.

Without --confirm it destroys nothing and tells what would be lost.`,
		Example: "  strongroom ledger shred main asset --config peer.yaml --confirm main/asset",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := config.LoadPeer(file)
			if err != nil {
				return err
			}
			s, err := appliance.Shred(cmd.Context(), c, args[0], args[1], confirm, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			err = show(cmd, s, func(w io.Writer) {
				fmt.Fprintf(w, "channel\t%s\nnamespace\t%s\nkeys in the state\t%d\nprivate keys\t%d\ndata keys\t%d\nheight\t%d\n",
					s.Channel, s.Namespace, s.Keys, s.PrivateKeys, s.DataKeys, s.Height)
				if s.Record != nil {
					fmt.Fprintf(w, "destroyed\t%s\nrecord\t%s\nstatement\t%s\n", s.Record.Time.Format("2006-01-02T15:04:05Z07:00"), s.Record.Digest, s.Statement)
				}
			})
			if err == nil && s.Record == nil {
				err = fmt.Errorf("nothing was destroyed: the values of %d keys and %d private keys of namespace %q, their history, and the namespace's part of the %d blocks of channel %q would be lost on this node for ever; to do it add --confirm %s",
					s.Keys, s.PrivateKeys, s.Namespace, s.Height, s.Channel, s.Confirmation())
			}
			return err
		},
	}
	configFlag(cmd, &file, "peer.yaml")
	cmd.Flags().StringVar(&confirm, "confirm", "", "`CHANNEL/NAMESPACE` whose values are to be lost for ever")
	return cmd
}
