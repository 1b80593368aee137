package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"strongroom/appliance"
	"strongroom/appliance/client"
	"strongroom/appliance/config"
)

// withPeer opens the operator's token and identity, connects to the peer that the
// configuration names, and hands both to do.
func withPeer(cmd *cobra.Command, file string, do func(ctx context.Context, c *client.Client) error) (err error) {
	ctx := cmd.Context()
	c, err := config.LoadClient(file)
	if err != nil {
		return err
	}
	token, err := appliance.OpenTokens(ctx, c.Token, c.Verifiers, nil, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, token.Close()) }()
	identity, err := appliance.LoadIdentity(ctx, token, c.Node)
	if err != nil {
		return err
	}
	conn, err := appliance.Dial(c.Peer, token)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	return do(ctx, client.New(identity, conn))
}
