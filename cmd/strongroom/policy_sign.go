package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"strongroom/appliance"
	"strongroom/policy/bundle"
)

// signedBundle is what `policy sign` prints.
type signedBundle struct {
	File      string `json:"file"`
	Digest    string `json:"digest"`
	PublicKey string `json:"publicKey,omitempty"`
	checked
}

func policySignCommand() *cobra.Command {
	var f tokenFlags
	var key, keyID, scope, out, publicKey string
	var revision uint64
	cmd := &cobra.Command{
		Use:   "sign PATH",
		Short: "Sign a folder of rules, or an archive of opa build, with a key in the token",
		Long: `Checks the rules and runs their tests as a node would, and only then signs them:
the archive is a standard bundle of Open Policy Agent with an ES256 signature, which
opa build --verification-key takes too. The revision must grow with each bundle.`,
		Example: "  strongroom policy sign --module M --token org1 --pin-file pin --key security --key-id team --scope fabric --revision 12 --out b.tar.gz policy",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			files, err := readBundle(args[0], revision, false)
			if err != nil {
				return err
			}
			result := signedBundle{File: out, PublicKey: publicKey}
			c, err := checkBundle(cmd.Context(), files)
			if err != nil {
				return err
			}
			result.checked = *c
			tokenConfig, err := f.config()
			if err != nil {
				return err
			}
			token, err := appliance.OpenToken(cmd.Context(), tokenConfig, nil)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, token.Close()) }()
			signer, err := token.Signer(cmd.Context(), key)
			if err != nil {
				return err
			}
			archive, err := bundle.Sign(cmd.Context(), signer, keyID, scope, files)
			if err != nil {
				return err
			}
			opened, err := bundle.Open(cmd.Context(), token, bundle.Key{Public: signer.PublicKey(), ID: keyID, Scope: scope}, archive)
			if err != nil {
				return fmt.Errorf("what was signed does not verify: %w", err)
			}
			result.Digest = opened.Digest.String()
			if err := os.WriteFile(out+".new", archive, 0o644); err != nil {
				return err
			}
			if err := os.Rename(out+".new", out); err != nil {
				return err
			}
			if publicKey != "" {
				block := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: signer.PublicKey().SPKI()})
				if err := os.WriteFile(publicKey, block, 0o644); err != nil {
					return err
				}
			}
			return show(cmd, result, func(w io.Writer) {
				fmt.Fprintf(w, "bundle\t%s\nrevision\t%d\ndigest\t%s\ntests\t%d passed\n", out, result.Revision, result.Digest, result.Tests)
			})
		},
	}
	f.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&key, "key", "", "`LABEL` of the signing key in the token: one of its own, on P-256")
	flags.StringVar(&keyID, "key-id", "", "what nodes call the key (policy.bundle.keyId)")
	flags.StringVar(&scope, "scope", "", "what the bundle is for (policy.bundle.scope)")
	flags.Uint64Var(&revision, "revision", 0, "the bundle's revision; without it the folder's .manifest or the archive has it")
	flags.StringVar(&out, "out", "", "`FILE` of the archive")
	flags.StringVar(&publicKey, "public-key-out", "", "`FILE` for the key's public half in PEM (policy.bundle.publicKey)")
	mustMark(cmd, "key", "key-id", "out")
	return cmd
}
