package main

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"strongroom/bccsp/provision"
)

// provisioner opens the token of the flags for commands that make keys and
// certificates.
func (f *tokenFlags) provisioner() (*provision.Provisioner, error) {
	if err := f.environment(); err != nil {
		return nil, err
	}
	return provision.Open(provision.Config{Module: f.module, TokenLabel: f.label, PIN: f.pin()})
}

func caCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "ca", Short: "Run a small certification authority whose key lives in a token"}
	cmd.AddCommand(caNewCommand(), caIssueCommand())
	return cmd
}

func caNewCommand() *cobra.Command {
	var f tokenFlags
	var key, name, organization, out string
	var lifetime time.Duration
	cmd := &cobra.Command{
		Use:     "new",
		Short:   "Make a root CA: a key in the token and a certificate for it",
		Example: "  strongroom ca new --module M --token org1-ca --pin-file pin --key ca --name ca.org1 --organization org1 --out ca.pem",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			p, err := f.provisioner()
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, p.Close()) }()
			ca, err := p.NewCA(key, subject(name, organization), lifetime)
			if err != nil {
				return err
			}
			return writeCertificate(cmd, out, ca.Certificate)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&key, "key", "", "`LABEL` of the key to make")
	cmd.Flags().StringVar(&name, "name", "", "the CA's common `NAME`")
	cmd.Flags().StringVar(&organization, "organization", "", "the CA's `ORGANIZATION`")
	cmd.Flags().DurationVar(&lifetime, "lifetime", provision.DefaultCALifetime, "how long the certificate is valid")
	cmd.Flags().StringVar(&out, "out", "ca.pem", "`FILE` to write")
	mustMark(cmd, "key", "name")
	return cmd
}

func caIssueCommand() *cobra.Command {
	var f tokenFlags
	var key, certificate, csr, public, name, profile, out string
	var request provision.Request
	cmd := &cobra.Command{
		Use:   "issue",
		Short: "Issue a certificate for a request or for a public key",
		Long: `Issues a certificate. Profiles client, peer, admin and orderer set the OU by which
Fabric's MSPs tell roles; tls-server needs the names or addresses by which it is
dialled, of the request or of --host.`,
		Example: "  strongroom ca issue --module M --token org1-ca --pin-file pin --key ca --certificate ca.pem --csr peer0.csr --profile peer --out peer0.pem",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			request.Profile = provision.Profile(profile)
			owner, err := readOwner(csr, public, name, &request)
			if err != nil {
				return err
			}
			issuer, err := readCertificate(certificate)
			if err != nil {
				return fmt.Errorf("--certificate: %w", err)
			}
			p, err := f.provisioner()
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, p.Close()) }()
			ca, err := p.OpenCA(key, issuer)
			if err != nil {
				return err
			}
			issued, err := p.IssueFor(ca, owner, request)
			if err != nil {
				return err
			}
			return writeCertificate(cmd, out, issued)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&key, "key", "", "`LABEL` of the CA's key")
	cmd.Flags().StringVar(&certificate, "certificate", "", "the CA's certificate `FILE`")
	cmd.Flags().StringVar(&csr, "csr", "", "certificate request `FILE`")
	cmd.Flags().StringVar(&public, "public-key", "", "public key `FILE` (PEM), in place of a request")
	cmd.Flags().StringVar(&name, "name", "", "the owner's common `NAME`; default the request's")
	cmd.Flags().StringVar(&profile, "profile", "", "client, peer, admin, orderer, tls-server or tls-client")
	cmd.Flags().StringSliceVar(&request.Hosts, "host", nil, "DNS `NAME` or IP address, for tls-server; default the request's")
	cmd.Flags().DurationVar(&request.Lifetime, "lifetime", provision.DefaultLifetime, "how long the certificate is valid")
	cmd.Flags().StringVar(&out, "out", "cert.pem", "`FILE` to write")
	mustMark(cmd, "key", "certificate", "profile")
	return cmd
}

// readOwner reads whom a certificate is for: the public key, and what the request
// says that the flags do not.
func readOwner(csr, public, name string, request *provision.Request) (any, error) {
	if (csr == "") == (public == "") {
		return nil, errors.New("give either --csr or --public-key")
	}
	request.Subject = subject(name, "")
	if public != "" {
		if name == "" {
			return nil, errors.New("--public-key needs --name: a key does not say whose it is")
		}
		data, err := os.ReadFile(public)
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(data)
		if block == nil || block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("%s holds no PEM block PUBLIC KEY", public)
		}
		return x509.ParsePKIXPublicKey(block.Bytes)
	}
	text, err := os.ReadFile(csr)
	if err != nil {
		return nil, err
	}
	parsed, err := provision.ParseCSR(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", csr, err)
	}
	if name == "" {
		request.Subject = pkix.Name{CommonName: parsed.Subject.CommonName, Organization: parsed.Subject.Organization}
	}
	if request.Profile == provision.TLSServer && len(request.Hosts) == 0 {
		request.Hosts = append(request.Hosts, parsed.DNSNames...)
		for _, ip := range parsed.IPAddresses {
			request.Hosts = append(request.Hosts, ip.String())
		}
	}
	return parsed.PublicKey, nil
}

func subject(name, organization string) pkix.Name {
	s := pkix.Name{CommonName: name}
	if organization != "" {
		s.Organization = []string{organization}
	}
	return s
}

func readCertificate(file string) (*x509.Certificate, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s holds no PEM certificate", file)
	}
	return x509.ParseCertificate(block.Bytes)
}

func writeCertificate(cmd *cobra.Command, file string, certificate *x509.Certificate) error {
	if err := os.WriteFile(file, provision.Encode(certificate), 0o644); err != nil {
		return err
	}
	result := map[string]any{"file": file, "subject": certificate.Subject.String(), "serial": fmt.Sprintf("%x", certificate.SerialNumber), "notAfter": certificate.NotAfter}
	return show(cmd, result, func(w io.Writer) {
		fmt.Fprintf(w, "wrote\t%s\nsubject\t%s\nserial\t%x\nvalid until\t%s\n", file, certificate.Subject, certificate.SerialNumber, certificate.NotAfter.Format(time.RFC3339))
	})
}
