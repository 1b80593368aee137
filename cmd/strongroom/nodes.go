package main

import (
	"github.com/spf13/cobra"

	"strongroom/appliance"
	"strongroom/appliance/config"
)

func peerCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "peer",
		Short: "Run a peer",
		Long: `Runs a peer until it is told to stop: it endorses proposals, offers the Gateway,
Deliver and system chaincode services, pulls blocks from the ordering service,
validates and commits them, and signs their provenance.`,
		Example: "  strongroom peer --config peer.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.LoadPeer(file)
			if err != nil {
				return err
			}
			return appliance.RunPeer(cmd.Context(), c, cmd.ErrOrStderr())
		},
	}
	configFlag(cmd, &file, "peer.yaml")
	return cmd
}

func ordererCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "orderer",
		Short:   "Run an ordering node",
		Long:    `Runs a single-node ordering service until it is told to stop.`,
		Example: "  strongroom orderer --config orderer.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.LoadOrderer(file)
			if err != nil {
				return err
			}
			return appliance.RunOrderer(cmd.Context(), c, cmd.ErrOrStderr())
		},
	}
	configFlag(cmd, &file, "orderer.yaml")
	return cmd
}

func configFlag(cmd *cobra.Command, file *string, example string) {
	cmd.Flags().StringVarP(file, "config", "c", example, "configuration `FILE`")
}
