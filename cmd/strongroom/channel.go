package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"strongroom/appliance/client"
	"strongroom/channel/configtx"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

func channelCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "channel", Short: "Make, join and look at channels"}
	cmd.AddCommand(channelGenesisCommand(), channelJoinCommand(), channelListCommand(), channelShowCommand())
	return cmd
}

func channelGenesisCommand() *cobra.Command {
	var description, out string
	cmd := &cobra.Command{
		Use:     "genesis",
		Short:   "Build a channel's genesis block from a YAML description",
		Example: "  strongroom channel genesis --description main.yaml --out main.block",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := os.ReadFile(description)
			if err != nil {
				return err
			}
			described, err := configtx.LoadDescription(text)
			if err != nil {
				return fmt.Errorf("%s: %w", description, err)
			}
			if err := described.Resolve(filepath.Dir(description)); err != nil {
				return fmt.Errorf("%s: %w", description, err)
			}
			block, err := configtx.BuildGenesis(described)
			if err != nil {
				return fmt.Errorf("%s: %w", description, err)
			}
			data, err := proto.MarshalOptions{Deterministic: true}.Marshal(block)
			if err != nil {
				return err
			}
			if err := os.WriteFile(out, data, 0o644); err != nil {
				return err
			}
			result := map[string]any{"file": out, "bytes": len(data), "blockHash": fmt.Sprintf("%x", wire.BlockHash(block.Header))}
			return show(cmd, result, func(w io.Writer) {
				fmt.Fprintf(w, "wrote\t%s\nbytes\t%d\nblock hash\t%s\n", out, len(data), result["blockHash"])
			})
		},
	}
	cmd.Flags().StringVar(&description, "description", "", "YAML `FILE` that describes the channel")
	cmd.Flags().StringVar(&out, "out", "genesis.block", "`FILE` to write")
	mustMark(cmd, "description")
	return cmd
}

func channelJoinCommand() *cobra.Command {
	var file, genesis string
	cmd := &cobra.Command{
		Use:     "join",
		Short:   "Make a peer join a channel",
		Example: "  strongroom channel join --config admin.yaml --genesis main.block",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			block, err := os.ReadFile(genesis)
			if err != nil {
				return err
			}
			return withPeer(cmd, file, func(ctx context.Context, c *client.Client) error {
				if err := c.Join(ctx, block); err != nil {
					return err
				}
				return show(cmd, map[string]string{"joined": genesis}, func(w io.Writer) { fmt.Fprintln(w, "joined the channel of", genesis) })
			})
		},
	}
	configFlag(cmd, &file, "admin.yaml")
	cmd.Flags().StringVar(&genesis, "genesis", "", "the channel's genesis block `FILE`")
	mustMark(cmd, "genesis")
	return cmd
}

func channelListCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the channels that a peer has joined",
		Example: "  strongroom channel list --config admin.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withPeer(cmd, file, func(ctx context.Context, c *client.Client) error {
				result := &peerpb.ChannelQueryResponse{}
				if err := c.Query(ctx, "", "cscc", "GetChannels", result); err != nil {
					return err
				}
				names := []string{}
				for _, ch := range result.GetChannels() {
					names = append(names, ch.GetChannelId())
				}
				return show(cmd, names, func(w io.Writer) {
					for _, n := range names {
						fmt.Fprintln(w, n)
					}
				})
			})
		},
	}
	configFlag(cmd, &file, "admin.yaml")
	return cmd
}

func channelShowCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "show CHANNEL",
		Short:   "Print a channel's configuration as JSON",
		Example: "  strongroom channel show main --config admin.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withPeer(cmd, file, func(ctx context.Context, c *client.Client) error {
				config := &commonpb.Config{}
				if err := c.Query(ctx, args[0], "cscc", "GetChannelConfig", config, args[0]); err != nil {
					return err
				}
				text, err := protojson.MarshalOptions{Multiline: true, Indent: "  ", UseProtoNames: true}.Marshal(config)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), string(text))
				return err
			})
		},
	}
	configFlag(cmd, &file, "admin.yaml")
	return cmd
}

func mustMark(cmd *cobra.Command, flags ...string) {
	for _, f := range flags {
		if err := cmd.MarkFlagRequired(f); err != nil {
			panic(err) // the flag's name is misspelt in this file
		}
	}
}
