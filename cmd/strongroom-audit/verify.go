package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"strongroom/channel/configtx"
	"strongroom/ledger/evidence"
	"strongroom/ledger/provenance"
	"strongroom/ledger/translog"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/wire"
	"strongroom/wire/commonpb"
)

func verifyCommand() *cobra.Command {
	var output, configHash, html string
	cmd := &cobra.Command{
		Use:   "verify PACK",
		Short: "Verify an evidence pack",
		Long: `Checks what "strongroom audit export" wrote, the archive or the folder that it was
unpacked to, in one pass:

  - every file, against SHA256SUMS, which the peer's HSM signed;
  - the hash chain: each block's header names the hash of the one before and of its data;
  - the ordering service's signatures, under the channel's BlockValidation policy;
  - for every transaction that the peer called valid, its creator's signature and its
    endorsements, with certificate chains and revocation lists of the channel's MSPs;
  - if the pack begins with block 0, every verdict: endorsement policies, chaincode
    definitions, versions and phantoms are decided again on a temporary ledger, and the
    commit hash with them;
  - configuration updates, under the channel's own modification policies;
  - for every block, the statement that the peer's HSM signed: its signature, its
    subject, its chain, and that it says of the block what the block says of itself;
  - the transparency log's checkpoint, and that every statement is in the log.

What the channel's organisations are is taken from config.block; compare its hash, which
the report prints, with one that you know from elsewhere, or name that with
--config-hash.`,
		Example: "  strongroom-audit verify pack.tar.zst --html report.html\n  strongroom-audit verify pack.tar.zst --config-hash 3f2a… --output json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output is %q: use text or json", output)
			}
			report, err := verify(cmd.Context(), args[0], configHash, cmd.ErrOrStderr(), nil)
			if err != nil {
				return err
			}
			if html != "" {
				var page bytes.Buffer
				if err := report.html(&page); err != nil {
					return err
				}
				if err := os.WriteFile(html, page.Bytes(), 0o644); err != nil {
					return err
				}
			}
			if err := report.print(cmd.OutOrStdout(), output); err != nil {
				return err
			}
			if len(report.Findings) > 0 {
				return fmt.Errorf("%d findings: the pack does not verify", len(report.Findings))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&output, "output", "text", "how to print the report: text or json")
	cmd.Flags().StringVar(&configHash, "config-hash", "", "block hash, in `HEX`, that config.block must have")
	cmd.Flags().StringVar(&html, "html", "", "also write the report as a page to `FILE`, to read or to print")
	return cmd
}

// auditor walks a pack.
type auditor struct {
	report   *Report
	progress io.Writer
	expected string // --config-hash
	deps     configtx.Deps
	good     *memo // is deps.Verifier

	sums   sums
	once   map[string][]byte // the files that stand once, until they are used
	info   *evidence.Info    // nil before the first block
	config *configtx.Config
	signer *msp.Identity            // of the key in force when the pack was made
	former map[string]*msp.Identity // of the keys before, by key id
	log    *translog.Checkpoint
	note   []byte

	chain    provenance.Chain
	previous []byte // hash of the block before, nil at the first
	next     uint64 // block to check next
	parts    [4][]byte
	members  members
	replay   *replay // nil where it is not possible, or not any more
	found    blockEvidence
	watch    watch // nil if nobody asks
}

// verify checks a pack, and tells of each block if watch is not nil. An error means that
// it could not be checked; what does not verify is a finding.
func verify(ctx context.Context, path, configHash string, progress io.Writer, watch watch) (_ *Report, err error) {
	pack, err := evidence.Open(path)
	if err != nil {
		return nil, err
	}
	defer pack.Close()
	engine, err := policy.NewEngine(policy.Config{})
	if err != nil {
		return nil, err
	}
	good := &memo{}
	good.forget()
	a := &auditor{
		report:   &Report{Codes: map[string]int{}, Policies: []PolicyUse{}, Findings: []Finding{}},
		progress: progress,
		expected: configHash,
		deps:     configtx.Deps{Verifier: good, Engine: engine},
		good:     good,
		sums:     sums{},
		once:     map[string][]byte{},
		watch:    watch,
	}
	defer func() { err = errors.Join(err, a.endReplay()) }()
	for {
		file, err := pack.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = a.file(ctx, file)
		}
		if err != nil {
			return nil, err
		}
	}
	return a.report, a.finish(ctx)
}

// file takes the pack's next file.
func (a *auditor) file(ctx context.Context, f *evidence.File) error {
	if f.Name != evidence.SumsFile && f.Name != evidence.SignatureFile {
		a.sums.add(f)
	}
	kind, number, ofBlock := evidence.ParseName(f.Name)
	if !ofBlock {
		a.once[f.Name] = f.Data
		return nil
	}
	if a.info == nil {
		if err := a.trust(ctx); err != nil {
			return err
		}
	}
	if number < a.info.From || number > a.info.To {
		a.find(number, "%s lies outside the pack's range and was not checked", f.Name)
		return nil
	}
	if err := a.upTo(ctx, number); err != nil {
		return err
	}
	a.parts[kind] = f.Data
	return nil
}

// upTo checks the blocks before a number, whose files have all been read.
func (a *auditor) upTo(ctx context.Context, number uint64) error {
	for ; a.next < number; a.next++ {
		a.found = blockEvidence{}
		a.good.forget()
		if err := a.block(ctx, a.next); err != nil {
			return fmt.Errorf("block %d: %w", a.next, err)
		}
		a.parts = [4][]byte{}
		if done := a.next - a.info.From + 1; done%1000 == 0 {
			fmt.Fprintf(a.progress, "%d of %d blocks\n", done, a.info.To-a.info.From+1)
		}
	}
	return nil
}

// finish checks what can be checked only when everything was read.
func (a *auditor) finish(ctx context.Context) error {
	if a.info == nil {
		if err := a.trust(ctx); err != nil {
			return err
		}
	}
	if err := a.upTo(ctx, a.info.To+1); err != nil {
		return err
	}
	for _, problem := range a.sums.compare(a.once[evidence.SumsFile]) {
		a.finding(problem)
	}
	a.report.Files = len(a.sums)
	statement, err := provenance.VerifyPack(a.once[evidence.SignatureFile], sha256.Sum256(a.once[evidence.SumsFile]), a.check(ctx))
	switch {
	case a.once[evidence.SignatureFile] == nil:
		a.finding("SHA256SUMS.sigstore.json is missing: the pack is not signed")
	case err != nil:
		a.finding(fmt.Sprintf("SHA256SUMS.sigstore.json: %v", err))
	default:
		a.report.Signatures++
		p := &statement.Predicate
		a.report.Exported = fmt.Sprintf("%s by %s of %s", p.Time.Value.Format("2006-01-02 15:04:05 MST"), p.Requester.Subject, p.Requester.MSPID)
		if p.Channel != a.info.Channel || p.From != a.info.From || p.To != a.info.To {
			a.finding(fmt.Sprintf("SHA256SUMS.sigstore.json is about blocks %d to %d of %q, pack.json about %d to %d of %q",
				p.From, p.To, p.Channel, a.info.From, a.info.To, a.info.Channel))
		}
	}
	a.report.Members = a.members.sorted()
	return nil
}

// check verifies a signature of the signer of the pack.
func (a *auditor) check(ctx context.Context) func(message, sig []byte) error {
	return func(message, sig []byte) error {
		digest := sha256.Sum256(message)
		return a.deps.Verifier.Verify(ctx, a.signer.PublicKey, digest[:], sig)
	}
}

// trust reads what the verification starts from: the configuration, the signer of the
// statements, who must be a valid member of one of its organisations, and the log's
// checkpoint.
func (a *auditor) trust(ctx context.Context) error {
	for _, name := range []string{evidence.InfoFile, evidence.SignerFile, evidence.CheckpointFile, evidence.ConfigFile} {
		if a.once[name] == nil {
			return fmt.Errorf("%s is missing or not at its place: this is no evidence pack, or it is not whole", name)
		}
	}
	info, err := evidence.ParseInfo(a.once[evidence.InfoFile])
	if err != nil {
		return err
	}
	a.report.Channel, a.report.From, a.report.To = info.Channel, info.From, info.To
	block := &commonpb.Block{}
	if err := proto.Unmarshal(a.once[evidence.ConfigFile], block); err != nil {
		return fmt.Errorf("config.block: %w", err)
	}
	a.report.ConfigHash = hex.EncodeToString(wire.BlockHash(block.GetHeader()))
	if a.expected != "" && a.expected != a.report.ConfigHash {
		return fmt.Errorf("config.block has hash %s, you expect %s: this is not the channel you know", a.report.ConfigHash, a.expected)
	}
	if got := wire.DataHash(block.GetData()); !bytes.Equal(got, block.GetHeader().GetDataHash()) {
		return fmt.Errorf("config.block: its data has hash %x, its header says %x", got, block.GetHeader().GetDataHash())
	}
	if a.config, err = configtx.FromBlock(ctx, a.deps, block); err != nil {
		return fmt.Errorf("config.block: %w", err)
	}
	if a.config.ID != info.Channel {
		return fmt.Errorf("config.block is of channel %q, pack.json says %q", a.config.ID, info.Channel)
	}
	if err := a.signers(ctx, info); err != nil {
		return err
	}
	a.report.Signer = fmt.Sprintf("%s of %s", a.signer.Certificate.Subject, info.MSPID)
	a.info, a.next = info, info.From
	a.checkpoint(ctx)
	if err := a.organisations(block); err != nil {
		return err
	}
	if info.From > 0 {
		a.report.Replay.Reason = "the pack does not begin with block 0"
		return nil
	}
	a.replay, err = newReplay(ctx, info.Channel, a.deps.Engine)
	return err
}

// signers reads who signed: the key in force first, then the keys before it.
func (a *auditor) signers(ctx context.Context, info *evidence.Info) error {
	a.former = map[string]*msp.Identity{}
	rest := a.once[evidence.SignerFile]
	for len(bytes.TrimSpace(rest)) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return errors.New("signer.pem is not PEM throughout")
		}
		serialized, err := msp.Serialize(msp.ID(info.MSPID), pem.EncodeToMemory(block))
		if err != nil {
			return fmt.Errorf("signer.pem: %w", err)
		}
		id, err := a.config.MSPs.Identity(ctx, serialized)
		if err != nil {
			return fmt.Errorf("signer.pem is no valid identity of %s on this channel: %w", info.MSPID, err)
		}
		if a.signer == nil {
			a.signer = id
		}
		a.former[id.PublicKey.ID().String()] = id
	}
	if a.signer == nil {
		return errors.New("signer.pem holds no certificate")
	}
	return nil
}

// checkStatement checks a statement's signature by the key that it names, which must be
// one of the signers'.
func (a *auditor) checkStatement(ctx context.Context, bundle []byte, header *commonpb.BlockHeader) (*provenance.Checked, error) {
	b, err := provenance.ParseBundle(bundle)
	if err != nil {
		return nil, err
	}
	hint := b.VerificationMaterial.PublicKey.Hint
	by := a.former[hint]
	if by == nil {
		return nil, fmt.Errorf("it is signed by key %.64q, of which signer.pem has no certificate", hint)
	}
	checked, err := provenance.Verify(bundle, header, func(message, sig []byte) error {
		digest := sha256.Sum256(message)
		return a.deps.Verifier.Verify(ctx, by.PublicKey, digest[:], sig)
	})
	if err != nil {
		return nil, err
	}
	if said := checked.Statement.Predicate.HSM.KeyID; said != hint {
		return nil, fmt.Errorf("it is signed by key %s and says that it is by %.64q", hint, said)
	}
	return checked, nil
}

// checkpoint checks the log's checkpoint. Without a good one no proof holds.
func (a *auditor) checkpoint(ctx context.Context) {
	a.note = a.once[evidence.CheckpointFile]
	c, sig, err := translog.ParseNote(a.note, a.signer.PublicKey.SPKI())
	if err == nil {
		err = a.check(ctx)(c.Text(), sig)
	}
	if err == nil && c.Origin != translog.Origin(a.info.Channel, a.signer.PublicKey.ID().String()) {
		err = fmt.Errorf("it is of the log %q", c.Origin)
	}
	if err != nil {
		a.finding(fmt.Sprintf("checkpoint: %v", err))
		return
	}
	a.log = c
	a.report.Signatures++
	a.report.Log = &LogReport{Origin: c.Origin, Size: c.Size, Root: hex.EncodeToString(c.Root[:])}
}

// organisations holds the files below msp/ against config.block.
func (a *auditor) organisations(block *commonpb.Block) error {
	files, err := evidence.MSPFiles(block)
	if err != nil {
		return err
	}
	for _, f := range files {
		if got, ok := a.once[f.Name]; !ok || !bytes.Equal(got, f.Data) {
			a.finding(f.Name + " is not what config.block says")
		}
	}
	return nil
}

func (a *auditor) find(block uint64, format string, args ...any) {
	a.report.Findings = append(a.report.Findings, Finding{Block: &block, Detail: fmt.Sprintf(format, args...)})
}

// finding is one about no block in particular.
func (a *auditor) finding(detail string) {
	a.report.Findings = append(a.report.Findings, Finding{Detail: detail})
}
