package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"strongroom/ledger/evidence"
)

// question is what somebody wants to know of a pack. see is called for each block, in
// order, and answers whether the block matters; print writes what it found.
type question interface {
	see(b *seenBlock) bool
	print(w io.Writer)
}

// Answer is what a pack says, with the verification that it rests on.
type Answer struct {
	Channel    string    `json:"channel"`
	From       uint64    `json:"from"`
	To         uint64    `json:"to"`
	ConfigHash string    `json:"configHash"` // block hash of config.block: the root of trust
	Signer     string    `json:"signer"`
	Verified   bool      `json:"verified"` // the whole pack
	Findings   []Finding `json:"findings"`
	Answer     any       `json:"answer"`
}

// askFlags are those of every question.
type askFlags struct{ pack, configHash, output, extract string }

func (f *askFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.pack, "pack", "", "evidence pack `FILE`, or the folder that it was unpacked to")
	cmd.Flags().StringVar(&f.configHash, "config-hash", "", "block hash, in `HEX`, that config.block must have")
	cmd.Flags().StringVar(&f.output, "output", "text", "how to print the answer: text or json")
	cmd.Flags().StringVar(&f.extract, "extract", "", "also write the files that prove the answer below the new folder `DIR`")
	if err := cmd.MarkFlagRequired("pack"); err != nil {
		panic(err) // the flag is not there: a mistake of this file
	}
}

const askLong = `

The whole pack is verified on the way, as "strongroom-audit verify" does, and the answer
is worth what the verification finds: with findings the exit status is 1.`

// ask verifies a pack and prints what it says.
func (f *askFlags) ask(cmd *cobra.Command, q question) error {
	if f.output != "text" && f.output != "json" {
		return fmt.Errorf("--output is %q: use text or json", f.output)
	}
	if f.extract != "" {
		if err := os.Mkdir(f.extract, 0o755); err != nil {
			return fmt.Errorf("--extract: %w", err)
		}
	}
	report, err := verify(cmd.Context(), f.pack, f.configHash, cmd.ErrOrStderr(), func(b *seenBlock, files *[4][]byte) error {
		if !q.see(b) || f.extract == "" {
			return nil
		}
		return extractBlock(f.extract, b.Number(), files)
	})
	if err != nil {
		return err
	}
	if f.extract != "" {
		if err := extractOnce(cmd.Context(), f.pack, f.extract); err != nil {
			return err
		}
	}
	out := cmd.OutOrStdout()
	if f.output == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(Answer{
			Channel: report.Channel, From: report.From, To: report.To, ConfigHash: report.ConfigHash, Signer: report.Signer,
			Verified: len(report.Findings) == 0, Findings: report.Findings, Answer: q,
		}); err != nil {
			return err
		}
	} else {
		q.print(out)
		fmt.Fprintf(out, "\npack          %s, blocks %d to %d, statements signed by %s\ntrust root    config.block with hash %s\n",
			report.Channel, report.From, report.To, report.Signer, report.ConfigHash)
		for _, finding := range report.Findings {
			fmt.Fprintf(out, "FINDING       %s\n", finding)
		}
		if len(report.Findings) == 0 {
			fmt.Fprintln(out, "VERIFIED      every file, block, signature and statement of the range holds")
		}
	}
	if n := len(report.Findings); n > 0 {
		return fmt.Errorf("%d findings: the pack does not verify", n)
	}
	return nil
}

// ofChannel refuses a pack of another channel than the one that is asked about.
func ofChannel(pack, channel string) error {
	r, err := evidence.Open(pack)
	if err != nil {
		return err
	}
	defer r.Close()
	first, err := r.Next()
	if err != nil {
		return fmt.Errorf("%s: %w", pack, err)
	}
	if first.Name != evidence.InfoFile {
		return fmt.Errorf("%s begins with %s, not with %s: this is no evidence pack", pack, first.Name, evidence.InfoFile)
	}
	info, err := evidence.ParseInfo(first.Data)
	if err != nil {
		return err
	}
	if info.Channel != channel {
		return fmt.Errorf("%s is of channel %q, you ask about %q", pack, info.Channel, channel)
	}
	return nil
}

// extractBlock writes the files of a block.
func extractBlock(dir string, number uint64, files *[4][]byte) error {
	for kind := evidence.Header; kind <= evidence.Proof; kind++ {
		if data := files[kind]; data != nil {
			if err := extractFile(dir, kind.Name(number), data); err != nil {
				return err
			}
		}
	}
	return nil
}

// extractOnce writes what stands once in a pack and proves every block. SHA256SUMS and
// its signature go along: sha256sum --ignore-missing checks the files that are there.
func extractOnce(ctx context.Context, pack, dir string) error {
	r, err := evidence.Open(pack)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		file, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		switch file.Name {
		case evidence.InfoFile, evidence.VerifyFile, evidence.SignerFile, evidence.CheckpointFile, evidence.ConfigFile, evidence.SumsFile, evidence.SignatureFile:
			if err := extractFile(dir, file.Name, file.Data); err != nil {
				return err
			}
		}
	}
}

func extractFile(dir, name string, data []byte) error {
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

// print writes an entry for a reader.
func (e *Entry) print(w io.Writer) {
	fmt.Fprintf(w, "transaction   %s\n", e.TxID)
	fmt.Fprintf(w, "  where       block %d, number %d in it: %s", e.Block, e.Index, e.Kind)
	if e.Chaincode != "" {
		fmt.Fprintf(w, " of chaincode %s", e.Chaincode)
	}
	fmt.Fprintf(w, "\n  verdict     %s\n", e.Code)
	if e.Creator != "" {
		fmt.Fprintf(w, "  submitted   by %s\n", e.Creator)
	} else {
		fmt.Fprintf(w, "  signatures  not checked: the transaction has no effect\n")
	}
	for _, endorser := range e.Endorsers {
		fmt.Fprintf(w, "  endorsed    by %s\n", endorser)
	}
	for _, p := range e.Policies {
		fmt.Fprintf(w, "  under       endorsement policy %s of %s\n", p.Digest, p.Namespace)
	}
	if e.Claimed != "" {
		fmt.Fprintf(w, "  time        %s, as the client claims\n", e.Claimed)
	}
	fmt.Fprintf(w, "  block       hash %s\n", e.BlockHash)
	if e.Statement != "" {
		fmt.Fprintf(w, "  statement   %s, signed %s", e.Statement, e.Stated)
		if e.LogIndex != nil {
			fmt.Fprintf(w, ", number %d in the transparency log", *e.LogIndex)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "  proven by   %s", e.Files[0])
	for _, f := range e.Files[1:] {
		fmt.Fprintf(w, ", %s", f)
	}
	fmt.Fprintln(w)
	if e.Problem != "" {
		fmt.Fprintf(w, "  PROBLEM     %s\n", e.Problem)
	}
}
