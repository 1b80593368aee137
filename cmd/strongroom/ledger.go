package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"strongroom/appliance/client"
	"strongroom/wire/commonpb"
)

func ledgerCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "ledger", Short: "Look at a channel's ledger"}
	cmd.AddCommand(ledgerInfoCommand(), ledgerReplayCommand(), ledgerAcceptRollbackCommand(), ledgerShredCommand(), ledgerStatsCommand(),
		ledgerVerifyCommand(), ledgerRebuildCommand(), ledgerBackupCommand())
	return cmd
}

func ledgerInfoCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "info CHANNEL",
		Short:   "Print a ledger's height and hashes",
		Example: "  strongroom ledger info main --config admin.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withPeer(cmd, file, func(ctx context.Context, c *client.Client) error {
				info, err := chainInfo(ctx, c, args[0])
				if err != nil {
					return err
				}
				current, previous := hex.EncodeToString(info.GetCurrentBlockHash()), hex.EncodeToString(info.GetPreviousBlockHash())
				result := map[string]any{"channel": args[0], "height": info.GetHeight(), "currentBlockHash": current, "previousBlockHash": previous}
				return show(cmd, result, func(w io.Writer) {
					fmt.Fprintf(w, "channel\t%s\nheight\t%d\nlast block\t%s\nbefore it\t%s\n", args[0], info.GetHeight(), current, previous)
				})
			})
		},
	}
	configFlag(cmd, &file, "admin.yaml")
	return cmd
}

func chainInfo(ctx context.Context, c *client.Client, channel string) (*commonpb.BlockchainInfo, error) {
	info := &commonpb.BlockchainInfo{}
	return info, c.Query(ctx, channel, "qscc", "GetChainInfo", info, channel)
}
