package main

import (
	"crypto/elliptic"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"strongroom/appliance"
	"strongroom/bccsp"
)

func identityCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "identity", Short: "Make keys in the token and bind certificates to them"}
	cmd.AddCommand(identityNewCommand(), identityImportCommand(), identityListCommand())
	return cmd
}

func identityNewCommand() *cobra.Command {
	var f tokenFlags
	var key, curve, name, organization, out string
	var hosts []string
	curves := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384()}
	cmd := &cobra.Command{
		Use:     "new",
		Short:   "Make a key in the token and a certificate request for it",
		Example: "  strongroom identity new --module M --token org1 --pin-file pin --key peer0 --name peer0.org1 --out peer0.csr",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			c, ok := curves[curve]
			if !ok {
				return fmt.Errorf("--curve is %q: use P-256 or P-384", curve)
			}
			p, err := f.provisioner()
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, p.Close()) }()
			public, err := p.GenerateKey(key, c)
			if err != nil {
				return err
			}
			csr, err := p.CSR(key, subject(name, organization), hosts)
			if err != nil {
				return err
			}
			if err := os.WriteFile(out, csr, 0o644); err != nil {
				return err
			}
			result := map[string]string{"key": key, "keyId": public.ID().String(), "file": out}
			return show(cmd, result, func(w io.Writer) {
				fmt.Fprintf(w, "key\t%s\nkey id\t%s\nrequest\t%s\n", key, public.ID(), out)
			})
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&key, "key", "", "`LABEL` of the key to make")
	cmd.Flags().StringVar(&curve, "curve", "P-256", "P-256 or P-384")
	cmd.Flags().StringVar(&name, "name", "", "the owner's common `NAME`")
	cmd.Flags().StringVar(&organization, "organization", "", "the owner's `ORGANIZATION`")
	cmd.Flags().StringSliceVar(&hosts, "host", nil, "DNS `NAME` or IP address, for a TLS server")
	cmd.Flags().StringVar(&out, "out", "request.csr", "`FILE` to write")
	mustMark(cmd, "key", "name")
	return cmd
}

func identityImportCommand() *cobra.Command {
	var f tokenFlags
	var key, certificate string
	cmd := &cobra.Command{
		Use:     "import",
		Short:   "Prove that a certificate is of a key in the token",
		Long:    `Finds the key in the token and compares it with the certificate's. Run it on what a CA sent back, before a node's configuration names it.`,
		Example: "  strongroom identity import --module M --token org1 --pin-file pin --key peer0 --certificate peer0.pem",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			parsed, err := readCertificate(certificate)
			if err != nil {
				return err
			}
			c, err := f.config()
			if err != nil {
				return err
			}
			token, err := appliance.OpenToken(cmd.Context(), c, nil)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, token.Close()) }()
			signer, err := token.Signer(cmd.Context(), key)
			if err != nil {
				return err
			}
			certified, err := bccsp.NewPublicKey(parsed.PublicKey)
			if err != nil {
				return err
			}
			if !certified.Equal(signer.PublicKey()) {
				return fmt.Errorf("%s is of key %s, but %q in the token is key %s: give the certificate that was issued for it",
					certificate, certified.ID(), key, signer.PublicKey().ID())
			}
			result := map[string]any{"key": key, "keyId": certified.ID().String(), "subject": parsed.Subject.String(), "issuer": parsed.Issuer.String(), "notAfter": parsed.NotAfter}
			return show(cmd, result, func(w io.Writer) {
				fmt.Fprintf(w, "key\t%s\nkey id\t%s\nsubject\t%s\nissuer\t%s\nvalid until\t%s\n", key, certified.ID(), parsed.Subject, parsed.Issuer, parsed.NotAfter.Format("2006-01-02"))
			})
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&key, "key", "", "`LABEL` of the key in the token")
	cmd.Flags().StringVar(&certificate, "certificate", "", "certificate `FILE` (PEM)")
	mustMark(cmd, "key", "certificate")
	return cmd
}
