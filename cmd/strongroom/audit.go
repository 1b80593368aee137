package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"strongroom/appliance/client"
	"strongroom/appliance/statements"
	"strongroom/channel/configtx"
	"strongroom/ledger/evidence"
	"strongroom/ledger/translog"
	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
)

func auditCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "Export evidence for auditors"}
	cmd.AddCommand(auditExportCommand())
	return cmd
}

func auditExportCommand() *cobra.Command {
	var file, out string
	var from uint64
	var to int64
	cmd := &cobra.Command{
		Use:   "export CHANNEL",
		Short: "Export blocks with their evidence as one archive",
		Long: `Writes an evidence pack: the blocks as the peer keeps them, the statement that its
HSM signed about each, the transparency log's checkpoint with the proof that each
statement is in it, the configuration in force at the first block, its organisations'
certificates and revocation lists, and the SHA-256 of every file, signed by the HSM.
"strongroom-audit verify" checks it without the peer; VERIFY.md in the pack says how to
do so with openssl alone.

Blocks hold what transactions wrote, in clear: protect the pack accordingly.`,
		Example: "  strongroom audit export main --config admin.yaml --from 100 --to 200 --out pack.tar.zst",
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
				result := map[string]any{"pack": out, "channel": args[0], "from": from, "to": last}
				return show(cmd, result, func(w io.Writer) {
					fmt.Fprintf(w, "exported blocks %d to %d of %s to %s\n", from, last, args[0], out)
				})
			})
		},
	}
	configFlag(cmd, &file, "admin.yaml")
	cmd.Flags().Uint64Var(&from, "from", 0, "first block")
	cmd.Flags().Int64Var(&to, "to", -1, "last block, included; -1 is the newest")
	cmd.Flags().StringVar(&out, "out", "pack.tar.zst", "`FILE` to write: .tar.zst or .tar.gz")
	return cmd
}

// exporter reads a range of a channel through a peer's system chaincodes.
type exporter struct {
	client   *client.Client
	channel  string
	from, to uint64
	signers  []byte // certificates in PEM, of the key in force first
}

func (e *exporter) export(ctx context.Context, out string, progress func(done uint64)) (err error) {
	w, err := evidence.Create(out)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Abort())
		}
	}()
	note, size, err := e.begin(ctx, w)
	if err != nil {
		return err
	}
	for n := e.from; n <= e.to; n++ {
		if err := e.block(ctx, w, n, size, note); err != nil {
			return fmt.Errorf("block %d: %w", n, err)
		}
		if done := n - e.from + 1; done%500 == 0 {
			progress(done)
		}
	}
	return w.Finish(func(sums [sha256.Size]byte) ([]byte, error) {
		signed, err := e.call(ctx, "provenance", "SignPack", strconv.FormatUint(e.from, 10), strconv.FormatUint(e.to, 10), fmt.Sprintf("%x", sums))
		if err != nil {
			return nil, err
		}
		signers, err := e.call(ctx, "provenance", "GetSigners")
		if err == nil && !bytes.Equal(signers, e.signers) {
			err = errors.New("the peer's certificate or key changed meanwhile: export again")
		}
		return signed, err
	})
}

// begin writes what stands once, and returns the checkpoint and its size.
func (e *exporter) begin(ctx context.Context, w *evidence.Writer) ([]byte, uint64, error) {
	raw, err := e.call(ctx, "provenance", "GetSigner")
	if err != nil {
		return nil, 0, err
	}
	identity := &msppb.SerializedIdentity{}
	if err := proto.Unmarshal(raw, identity); err != nil {
		return nil, 0, err
	}
	if e.signers, err = e.call(ctx, "provenance", "GetSigners"); err != nil {
		return nil, 0, err
	}
	// The log must cover the last block: fail now if its statement is not there yet.
	if _, err := e.query(ctx, "provenance", "GetStatement", e.to); err != nil {
		return nil, 0, err
	}
	note, err := e.call(ctx, "provenance", "GetCheckpoint")
	if err != nil {
		return nil, 0, err
	}
	size, err := translog.NoteSize(note)
	if err != nil {
		return nil, 0, err
	}
	config, err := e.config(ctx)
	if err != nil {
		return nil, 0, err
	}
	info := evidence.Info{Channel: e.channel, From: e.from, To: e.to, MSPID: identity.GetMspid()}
	return note, size, w.Begin(info, e.signers, note, config)
}

func (e *exporter) block(ctx context.Context, w *evidence.Writer, n, size uint64, note []byte) error {
	raw, err := e.query(ctx, "qscc", "GetBlockByNumber", n)
	if err != nil {
		return err
	}
	block := &commonpb.Block{}
	if err := proto.Unmarshal(raw, block); err != nil {
		return err
	}
	statement, err := e.query(ctx, "provenance", "GetStatement", n)
	if err != nil {
		return err
	}
	answer, err := e.call(ctx, "provenance", "GetInclusionProof", strconv.FormatUint(n, 10), strconv.FormatUint(size, 10))
	if err != nil {
		return err
	}
	var proof statements.InclusionProof
	if err := json.Unmarshal(answer, &proof); err != nil {
		return fmt.Errorf("inclusion proof: %w", err)
	}
	hashes := make([]translog.Hash, len(proof.Hashes))
	for i, h := range proof.Hashes {
		if len(h) != translog.HashSize {
			return fmt.Errorf("inclusion proof: hash %d has %d bytes", i, len(h))
		}
		hashes[i] = translog.Hash(h)
	}
	return w.Block(raw, block.GetHeader(), statement, translog.FormatProof(proof.Index, hashes, note))
}

func (e *exporter) query(ctx context.Context, chaincode, function string, number uint64) ([]byte, error) {
	return e.call(ctx, chaincode, function, strconv.FormatUint(number, 10))
}

func (e *exporter) call(ctx context.Context, chaincode, function string, args ...string) ([]byte, error) {
	inv := client.Invocation{Channel: e.channel, Chaincode: chaincode, Args: [][]byte{[]byte(function), []byte(e.channel)}}
	for _, a := range args {
		inv.Args = append(inv.Args, []byte(a))
	}
	return e.client.Call(ctx, inv)
}

// config reads the configuration block in force before the first block of the range;
// for the genesis block, that block itself.
func (e *exporter) config(ctx context.Context) ([]byte, error) {
	index := uint64(0)
	if e.from > 0 {
		before, err := e.query(ctx, "qscc", "GetBlockByNumber", e.from-1)
		if err != nil {
			return nil, err
		}
		block := &commonpb.Block{}
		if err := proto.Unmarshal(before, block); err != nil {
			return nil, err
		}
		if e.from > 1 {
			if index, err = configtx.LastConfigIndex(block); err != nil {
				return nil, err
			}
		}
	}
	return e.query(ctx, "qscc", "GetBlockByNumber", index)
}
