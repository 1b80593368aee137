package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"strongroom/appliance/client"
	"strongroom/channel/configtx"
	"strongroom/ledger/evidence"
	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
)

func ledgerCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "ledger", Short: "Look at a channel's ledger and export it for auditors"}
	cmd.AddCommand(ledgerInfoCommand(), ledgerExportCommand(), ledgerReplayCommand())
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

func ledgerExportCommand() *cobra.Command {
	var file, out string
	var from uint64
	var to int64
	cmd := &cobra.Command{
		Use:   "export CHANNEL",
		Short: "Export blocks with their provenance for strongroom-audit",
		Long: `Writes a folder with the blocks as the peer keeps them, the statement that its HSM
signed about each, the configuration in force at the first block, and the peer's
certificate. "strongroom-audit verify" checks it without the peer.

Blocks hold what transactions wrote, in clear: protect the folder accordingly.`,
		Example: "  strongroom ledger export main --config admin.yaml --from 100 --to 200 --out export",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withPeer(cmd, file, func(ctx context.Context, c *client.Client) error {
				last := uint64(to)
				if to < 0 {
					info, err := chainInfo(ctx, c, args[0])
					if err != nil {
						return err
					}
					last = info.GetHeight() - 1
				}
				if from > last {
					return fmt.Errorf("--from %d is after the last block, %d", from, last)
				}
				e := exporter{client: c, channel: args[0], from: from, to: last}
				if err := e.export(ctx, out, func(done uint64) { progress(cmd, "%d of %d blocks", done, last-from+1) }); err != nil {
					return err
				}
				result := map[string]any{"folder": out, "channel": args[0], "from": from, "to": last}
				return show(cmd, result, func(w io.Writer) {
					fmt.Fprintf(w, "exported blocks %d to %d of %s to %s\n", from, last, args[0], out)
				})
			})
		},
	}
	configFlag(cmd, &file, "admin.yaml")
	cmd.Flags().Uint64Var(&from, "from", 0, "first block")
	cmd.Flags().Int64Var(&to, "to", -1, "last block, included; -1 is the newest")
	cmd.Flags().StringVar(&out, "out", "export", "`FOLDER` to write")
	return cmd
}

// exporter reads a range of a channel through a peer's system chaincodes.
type exporter struct {
	client   *client.Client
	channel  string
	from, to uint64
}

func (e *exporter) export(ctx context.Context, out string, progress func(done uint64)) error {
	folder, err := evidence.Create(out)
	if err != nil {
		return err
	}
	mspID, err := e.signer(ctx, folder)
	if err != nil {
		return err
	}
	for n := e.from; n <= e.to; n++ {
		raw, err := e.query(ctx, "qscc", "GetBlockByNumber", n)
		if err != nil {
			return err
		}
		block := &commonpb.Block{}
		if err := proto.Unmarshal(raw, block); err != nil {
			return fmt.Errorf("block %d: %w", n, err)
		}
		if n == e.from {
			if err := e.config(ctx, folder, block, raw); err != nil {
				return err
			}
		}
		statement, err := e.query(ctx, "provenance", "GetStatement", n)
		if err != nil {
			return err
		}
		if err := folder.WriteBlock(raw, block.GetHeader(), statement); err != nil {
			return err
		}
		if done := n - e.from + 1; done%500 == 0 {
			progress(done)
		}
	}
	return folder.WriteManifest(evidence.Manifest{Channel: e.channel, From: e.from, To: e.to, MSPID: mspID})
}

func (e *exporter) query(ctx context.Context, chaincode, function string, number uint64) ([]byte, error) {
	return e.client.Call(ctx, client.Invocation{Channel: e.channel, Chaincode: chaincode,
		Args: [][]byte{[]byte(function), []byte(e.channel), []byte(strconv.FormatUint(number, 10))}})
}

// signer writes the certificate of the peer's statements and returns its MSP's id.
func (e *exporter) signer(ctx context.Context, folder *evidence.Folder) (string, error) {
	raw, err := e.client.Call(ctx, client.Invocation{Channel: e.channel, Chaincode: "provenance",
		Args: [][]byte{[]byte("GetSigner"), []byte(e.channel)}})
	if err != nil {
		return "", err
	}
	identity := &msppb.SerializedIdentity{}
	if err := proto.Unmarshal(raw, identity); err != nil {
		return "", err
	}
	return identity.GetMspid(), folder.WriteSigner(identity.GetIdBytes())
}

// config writes the configuration block in force before the first block of the
// range; for the genesis block, that block itself.
func (e *exporter) config(ctx context.Context, folder *evidence.Folder, first *commonpb.Block, raw []byte) error {
	if first.GetHeader().GetNumber() == 0 {
		return folder.WriteConfig(raw)
	}
	before, err := e.query(ctx, "qscc", "GetBlockByNumber", first.GetHeader().GetNumber()-1)
	if err != nil {
		return err
	}
	block := &commonpb.Block{}
	if err := proto.Unmarshal(before, block); err != nil {
		return err
	}
	index := uint64(0)
	if block.GetHeader().GetNumber() > 0 {
		if index, err = configtx.LastConfigIndex(block); err != nil {
			return err
		}
	}
	config, err := e.query(ctx, "qscc", "GetBlockByNumber", index)
	return errors.Join(err, folder.WriteConfig(config))
}
