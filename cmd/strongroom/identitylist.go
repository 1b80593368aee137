package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"strongroom/appliance"
	"strongroom/appliance/config"
	"strongroom/bccsp"
)

// Use is what a listed certificate is for.
const (
	useIdentity = "identity"
	useTLS      = "TLS"
)

// listedIdentity is a certificate of a node and its key, as `identity list` prints it.
type listedIdentity struct {
	Use       string    `json:"use"`
	File      string    `json:"file"`
	Key       string    `json:"key"` // label in the token
	KeyID     string    `json:"keyId"`
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	DaysLeft  int       `json:"daysLeft"` // whole days; negative once it has ended
	// Matches tells that the certificate is of the key in the token.
	Matches bool   `json:"matches"`
	Problem string `json:"problem,omitempty"`
}

func identityListCommand() *cobra.Command {
	var file string
	var orderer bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List a node's certificates with their keys and the days left",
		Long: `Reads a node's configuration and logs in to its token as the node does, finds the
key of each certificate there and compares them. It fails when a certificate is not
of its key or is not valid today, so that a timer can run it.`,
		Example: "  strongroom identity list --config peer.yaml\n  strongroom identity list --config orderer.yaml --orderer --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			node, token, verifiers, listen, err := nodeConfiguration(file, orderer)
			if err != nil {
				return err
			}
			t, err := appliance.OpenTokens(cmd.Context(), token, verifiers, nil, nil)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, t.Close()) }()
			now := time.Now()
			list := []listedIdentity{
				listIdentity(cmd.Context(), t, useIdentity, node.Certificate, node.Key, now),
				listIdentity(cmd.Context(), t, useTLS, listen.TLSCertificate, listen.TLSKey, now),
			}
			if err := show(cmd, list, func(w io.Writer) { printIdentities(w, list) }); err != nil {
				return err
			}
			for _, l := range list {
				if l.Problem != "" {
					err = errors.Join(err, fmt.Errorf("%s certificate: %s", l.Use, l.Problem))
				}
			}
			return err
		},
	}
	configFlag(cmd, &file, "peer.yaml")
	cmd.Flags().BoolVar(&orderer, "orderer", false, "the configuration is an ordering node's")
	return cmd
}

// nodeConfiguration reads what a peer's and an ordering node's configuration share.
func nodeConfiguration(file string, orderer bool) (config.Node, config.Token, []config.Token, config.Listen, error) {
	if orderer {
		c, err := config.LoadOrderer(file)
		if err != nil {
			return config.Node{}, config.Token{}, nil, config.Listen{}, err
		}
		return c.Node, c.Token, c.Verifiers, c.Listen, nil
	}
	c, err := config.LoadPeer(file)
	if err != nil {
		return config.Node{}, config.Token{}, nil, config.Listen{}, err
	}
	return c.Node, c.Token, c.Verifiers, c.Listen, nil
}

// keyHolder finds signing keys: a token, or the tokens of a configuration.
type keyHolder interface {
	SignerOf(ctx context.Context, public *bccsp.PublicKey, name string) (*bccsp.Signer, error)
	TLSKeyOf(ctx context.Context, public *bccsp.PublicKey, name string) (*bccsp.TLSKey, error)
}

// listIdentity describes one certificate; what is wrong with it is its Problem.
func listIdentity(ctx context.Context, t keyHolder, use, file, label string, now time.Time) listedIdentity {
	l := listedIdentity{Use: use, File: file, Key: label}
	certificate, err := readCertificate(file)
	if err != nil {
		l.Problem = err.Error()
		return l
	}
	l.Subject, l.Issuer = certificate.Subject.String(), certificate.Issuer.String()
	l.NotBefore, l.NotAfter = certificate.NotBefore, certificate.NotAfter
	l.DaysLeft = daysLeft(certificate, now)
	certified, err := bccsp.NewPublicKey(certificate.PublicKey)
	if err != nil {
		l.Problem = err.Error()
		return l
	}
	l.KeyID = certified.ID().String()
	if err := holds(ctx, t, use, certified, label); err != nil {
		l.Problem = fmt.Sprintf("%s: %v", file, err)
		return l
	}
	l.Matches = true
	switch {
	case now.After(certificate.NotAfter):
		l.Problem = fmt.Sprintf("%s ended at %s: renew it", file, certificate.NotAfter.Format(time.RFC3339))
	case now.Before(certificate.NotBefore):
		l.Problem = fmt.Sprintf("%s begins at %s only: check this machine's clock", file, certificate.NotBefore.Format(time.RFC3339))
	}
	return l
}

// holds checks that the token has the key, as a node that starts does. It asks for the
// key by its use: the token keeps identities' and TLS keys apart.
func holds(ctx context.Context, t keyHolder, use string, key *bccsp.PublicKey, label string) error {
	var err error
	if use == useTLS {
		_, err = t.TLSKeyOf(ctx, key, label)
	} else {
		_, err = t.SignerOf(ctx, key, label)
	}
	return err
}

// daysLeft rounds down, so that a certificate in its last day has 0 and one that has
// ended has less.
func daysLeft(c *x509.Certificate, now time.Time) int {
	const day = 24 * time.Hour
	left := c.NotAfter.Sub(now)
	days := int(left / day)
	if left < 0 && left%day != 0 {
		days--
	}
	return days
}

func printIdentities(w io.Writer, list []listedIdentity) {
	fmt.Fprintln(w, "USE\tKEY\tVALID UNTIL\tDAYS LEFT\tSUBJECT\tKEY ID\tPROBLEM")
	for _, l := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", l.Use, l.Key, l.NotAfter.Format(time.DateOnly), l.DaysLeft, l.Subject, l.KeyID, l.Problem)
	}
}
