package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"strongroom/appliance"
	"strongroom/appliance/config"
)

func ledgerBackupCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "backup TARGET",
		Short: "Copy the data folder of a running peer, so that it can be restored",
		Long: `Has the peer that runs here copy its data folder to the new folder TARGET, each channel as
it is at one height: the blocks and private writes, sealed as they are, the statements, the packages,
and the keyring with its wrapped keys. What follows from the blocks is not copied; the first start on
the copy makes it. Needs the user that the peer runs as. With the peer stopped, copy the data folder.

To restore, stop the peer and put TARGET in the place of its data folder. If the peer committed blocks
after the backup, its token remembers them, and the peer starts only after
"strongroom ledger accept-rollback". The ordering service inside a peer is not in the backup.`,
		Example: "  strongroom ledger backup /backup/2026-11-23 --config peer.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := config.LoadPeer(file)
			if err != nil {
				return err
			}
			b, err := appliance.BackupRunning(cmd.Context(), c.Data, args[0], func(line string) { progress(cmd, "%s", line) })
			if errors.Is(err, appliance.ErrNotRunning) {
				return fmt.Errorf("%w: copy the folder %s as it is, with cp -a or any other program", err, c.Data)
			}
			if err != nil {
				return err
			}
			return show(cmd, b, func(w io.Writer) {
				fmt.Fprintf(w, "backup\t%s\n", b.Target)
				for _, done := range b.Channels {
					fmt.Fprintf(w, "channel\t%s at height %d, %d bytes of blocks\n", done.Channel, done.Height, done.Bytes)
				}
			})
		},
	}
	configFlag(cmd, &file, "peer.yaml")
	return cmd
}
