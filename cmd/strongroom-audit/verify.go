package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"strongroom/bccsp"
	"strongroom/channel/configtx"
	"strongroom/ledger/evidence"
	"strongroom/ledger/provenance"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

func verifyCommand() *cobra.Command {
	var output, genesis string
	cmd := &cobra.Command{
		Use:   "verify FOLDER",
		Short: "Verify an exported range of blocks",
		Long: `Checks what "strongroom ledger export" wrote:

  - the hash chain: each block's header names the hash of the one before and of its data;
  - the ordering service's signatures, under the channel's BlockValidation policy;
  - for every transaction that the peer called valid, its creator's signature and its
    endorsements, with certificate chains and revocation lists of the channel's MSPs;
  - configuration updates, under the channel's own modification policies;
  - for every block, the statement that the peer's HSM signed: its signature, its
    subject, its chain, and that it says of the block what the block says of itself.

What the channel's organisations are is taken from config.block; compare its hash, which
the report prints, with one that you know from elsewhere, or name that with
--config-hash.`,
		Example: "  strongroom-audit verify export/\n  strongroom-audit verify export/ --config-hash 3f2a… --output json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := verify(cmd.Context(), args[0], genesis, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if err := report.print(cmd.OutOrStdout(), output); err != nil {
				return err
			}
			if len(report.Findings) > 0 {
				return fmt.Errorf("%d findings: the range does not verify", len(report.Findings))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&output, "output", "text", "how to print the report: text or json")
	cmd.Flags().StringVar(&genesis, "config-hash", "", "block hash, in `HEX`, that config.block must have")
	return cmd
}

// Report is the outcome of a verification.
type Report struct {
	Channel      string         `json:"channel"`
	From         uint64         `json:"from"`
	To           uint64         `json:"to"`
	ConfigHash   string         `json:"configHash"` // block hash of config.block: the root of trust
	LastHash     string         `json:"lastHash"`
	Signer       string         `json:"signer"` // who signed the statements
	Transactions int64          `json:"transactions"`
	Codes        map[string]int `json:"codes"`
	Signatures   int64          `json:"signatures"` // that were checked and are good
	Ignored      int64          `json:"ignored"`    // false endorsements of valid transactions, which policies do not count
	Findings     []Finding      `json:"findings"`
}

// Finding is something that does not verify.
type Finding struct {
	Block  uint64 `json:"block"`
	Detail string `json:"detail"`
}

func (r *Report) print(w io.Writer, format string) error {
	if format == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	if format != "text" {
		return fmt.Errorf("--output is %q: use text or json", format)
	}
	fmt.Fprintf(w, "channel       %s, blocks %d to %d\n", r.Channel, r.From, r.To)
	fmt.Fprintf(w, "trust root    config.block with hash %s\n", r.ConfigHash)
	fmt.Fprintf(w, "last block    %s\n", r.LastHash)
	fmt.Fprintf(w, "statements    signed by %s\n", r.Signer)
	fmt.Fprintf(w, "transactions  %d %v\n", r.Transactions, r.Codes)
	fmt.Fprintf(w, "signatures    %d good", r.Signatures)
	if r.Ignored > 0 {
		fmt.Fprintf(w, ", %d false endorsements that no policy counts", r.Ignored)
	}
	fmt.Fprintln(w)
	for _, f := range r.Findings {
		fmt.Fprintf(w, "FINDING       block %d: %s\n", f.Block, f.Detail)
	}
	if len(r.Findings) == 0 {
		fmt.Fprintln(w, "VERIFIED      every block, signature and statement of the range holds")
	}
	return nil
}

// auditor walks a range.
type auditor struct {
	folder   *evidence.Folder
	report   *Report
	config   *configtx.Config
	deps     configtx.Deps
	signer   *msp.Identity
	chain    provenance.Chain
	previous []byte // hash of the block before, nil at the first
}

// verify checks a folder. An error means that it could not be checked; what does
// not verify is a finding.
func verify(ctx context.Context, dir, configHash string, progress io.Writer) (*Report, error) {
	folder, manifest, err := evidence.Open(dir)
	if err != nil {
		return nil, err
	}
	engine, err := policy.NewEngine(policy.Config{})
	if err != nil {
		return nil, err
	}
	a := &auditor{
		folder: folder,
		deps:   configtx.Deps{Verifier: software{}, Engine: engine},
		report: &Report{Channel: manifest.Channel, From: manifest.From, To: manifest.To, Codes: map[string]int{}, Findings: []Finding{}},
	}
	if err := a.trust(ctx, manifest, configHash); err != nil {
		return nil, err
	}
	extra, err := folder.Extra(manifest)
	if err != nil {
		return nil, err
	}
	for _, name := range extra {
		a.find(manifest.To, "%s lies outside the manifest's range and was not checked", name)
	}
	for n := manifest.From; n <= manifest.To; n++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := a.block(ctx, n); err != nil {
			return nil, fmt.Errorf("block %d: %w", n, err)
		}
		if done := n - manifest.From + 1; done%1000 == 0 {
			fmt.Fprintf(progress, "%d of %d blocks\n", done, manifest.To-manifest.From+1)
		}
	}
	return a.report, nil
}

// trust reads what the verification starts from: the configuration and the signer
// of the statements, who must be a valid member of one of its organisations.
func (a *auditor) trust(ctx context.Context, m *evidence.Manifest, configHash string) error {
	block, err := a.folder.Config()
	if err != nil {
		return err
	}
	a.report.ConfigHash = hex.EncodeToString(wire.BlockHash(block.GetHeader()))
	if configHash != "" && configHash != a.report.ConfigHash {
		return fmt.Errorf("config.block has hash %s, you expect %s: this is not the channel you know", a.report.ConfigHash, configHash)
	}
	if got := wire.DataHash(block.GetData()); !bytes.Equal(got, block.GetHeader().GetDataHash()) {
		return fmt.Errorf("config.block: its data has hash %x, its header says %x", got, block.GetHeader().GetDataHash())
	}
	if a.config, err = configtx.FromBlock(ctx, a.deps, block); err != nil {
		return fmt.Errorf("config.block: %w", err)
	}
	if a.config.ID != m.Channel {
		return fmt.Errorf("config.block is of channel %q, the manifest says %q", a.config.ID, m.Channel)
	}
	certificate, err := a.folder.Signer()
	if err != nil {
		return err
	}
	serialized, err := msp.Serialize(msp.ID(m.MSPID), certificate)
	if err != nil {
		return err
	}
	if a.signer, err = a.config.MSPs.Identity(ctx, serialized); err != nil {
		return fmt.Errorf("signer.pem is no valid identity of %s on this channel: %w", m.MSPID, err)
	}
	a.report.Signer = fmt.Sprintf("%s of %s", a.signer.Certificate.Subject, m.MSPID)
	return nil
}

func (a *auditor) find(block uint64, format string, args ...any) {
	a.report.Findings = append(a.report.Findings, Finding{Block: block, Detail: fmt.Sprintf(format, args...)})
}

// block checks one block and its statement.
func (a *auditor) block(ctx context.Context, n uint64) error {
	raw, err := a.folder.Block(n)
	if err != nil {
		a.find(n, "block cannot be read: %v", err)
		a.previous = nil
		return nil
	}
	header := raw.GetHeader()
	if header.GetNumber() != n {
		a.find(n, "the file holds block %d", header.GetNumber())
	}
	if a.previous != nil && !bytes.Equal(header.GetPreviousHash(), a.previous) {
		a.find(n, "names %x as the block before it, which is %x", header.GetPreviousHash(), a.previous)
	}
	a.previous = wire.BlockHash(header)
	a.report.LastHash = hex.EncodeToString(a.previous)
	if der, err := a.folder.Header(n); err != nil || !bytes.Equal(der, wire.HeaderBytes(header)) {
		a.find(n, "headers/%020d.der is not this block's header", n)
	}
	if n > 0 { // the genesis block carries no signature; config.block vouches for it
		if err := configtx.VerifyBlock(ctx, a.config, raw); err != nil {
			a.find(n, "ordering service: %v", err)
		} else {
			a.report.Signatures++
		}
	} else if got := wire.DataHash(raw.GetData()); !bytes.Equal(got, header.GetDataHash()) {
		a.find(n, "its data has hash %x, its header says %x", got, header.GetDataHash())
	} else if a.report.LastHash != a.report.ConfigHash {
		a.find(n, "is not the genesis block of config.block")
	}
	a.statement(ctx, n, raw)
	return a.transactions(ctx, raw)
}

func (a *auditor) statement(ctx context.Context, n uint64, raw *commonpb.Block) {
	bundle, err := a.folder.Statement(n)
	if err != nil {
		a.find(n, "statement: %v", err)
		return
	}
	checked, err := provenance.Verify(bundle, raw.GetHeader(), func(pae, sig []byte) error {
		digest := sha256.Sum256(pae)
		return a.deps.Verifier.Verify(ctx, a.signer.PublicKey, digest[:], sig)
	})
	if err == nil {
		err = checked.Statement.CheckBlock(raw)
	}
	if err == nil {
		err = a.chain.Add(checked)
	}
	if err != nil {
		a.find(n, "statement: %v", err)
		return
	}
	a.report.Signatures++
}

// transactions checks every transaction that the peer called valid, in parallel.
func (a *auditor) transactions(ctx context.Context, raw *commonpb.Block) error {
	block, err := wire.ParseBlock(raw)
	if err != nil {
		a.find(raw.GetHeader().GetNumber(), "%v", err)
		return nil
	}
	var flags []byte
	if m := raw.GetMetadata().GetMetadata(); len(m) > int(commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER) {
		flags = m[commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER]
	}
	if len(flags) != len(block.Txs) {
		a.find(block.Number(), "%d verdicts for %d transactions", len(flags), len(block.Txs))
		return nil
	}
	findings := make([]error, len(block.Txs))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, tx := range block.Txs {
		code := peerpb.TxValidationCode(flags[i])
		a.report.Codes[code.String()]++
		a.report.Transactions++
		if code != peerpb.TxValidationCode_VALID || block.Number() == 0 {
			continue
		}
		group.Go(func() error {
			findings[i] = a.transaction(groupCtx, tx)
			return groupCtx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, err := range findings {
		if err != nil {
			a.find(block.Number(), "transaction %d (%s) is called valid: %v", i, block.Txs[i].TxID(), err)
		}
	}
	return a.configure(ctx, block, flags)
}

// configure makes a valid configuration transaction of the block the configuration
// of the blocks after it.
func (a *auditor) configure(ctx context.Context, block *wire.Block, flags []byte) error {
	for i, tx := range block.Txs {
		if tx.Config == nil || block.Number() == 0 || flags[i] != byte(peerpb.TxValidationCode_VALID) {
			continue
		}
		next, err := a.config.Apply(ctx, a.deps, tx.Config)
		if err != nil {
			a.find(block.Number(), "configuration update: %v", err)
			continue
		}
		a.config = next
	}
	return nil
}

// transaction returns what is wrong with one transaction, or nil.
func (a *auditor) transaction(ctx context.Context, tx *wire.Tx) error {
	for _, fault := range []*wire.Fault{tx.HeaderFault, tx.BodyFault} {
		if fault != nil {
			return fault
		}
	}
	creator, err := a.config.MSPs.Identity(ctx, tx.SignatureHeader.GetCreator())
	if err != nil {
		return fmt.Errorf("creator: %w", err)
	}
	if err := creator.Verify(ctx, tx.Payload, tx.Signature); err != nil {
		return fmt.Errorf("creator: %w", err)
	}
	atomic.AddInt64(&a.report.Signatures, 1)
	if tx.Endorsed == nil {
		return nil
	}
	good := 0
	var last error
	for _, e := range tx.Endorsed.Endorsements {
		if last = a.endorsement(ctx, tx.Endorsed.ResponsePayload, e); last == nil {
			good++
			continue
		}
		if !msp.IsInvalid(last) && !errors.Is(last, bccsp.ErrBadSignature) {
			return fmt.Errorf("endorsement: %w", last)
		}
		atomic.AddInt64(&a.report.Ignored, 1)
	}
	if good == 0 {
		return fmt.Errorf("none of its %d endorsements is good: %w", len(tx.Endorsed.Endorsements), last)
	}
	atomic.AddInt64(&a.report.Signatures, int64(good))
	return nil
}

func (a *auditor) endorsement(ctx context.Context, payload []byte, e *peerpb.Endorsement) error {
	endorser, err := a.config.MSPs.Identity(ctx, e.GetEndorser())
	if err != nil {
		return err
	}
	return endorser.Verify(ctx, append(payload[:len(payload):len(payload)], e.GetEndorser()...), e.GetSignature())
}
